"""The convolutional cell: the essay's conv-DEQ on any pixel graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.separable import assign
from gncadeq.cells.stencil import (
    prepare_neighborhood,
    stencil_bound,
    stencil_to_conv2d,
)
from gncadeq.cells.window import present_relations, rows_rate, stencil_gain, window_rate
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count, check_flag, check_number, check_value
from gncadeq.choices import Injection, Update
from gncadeq.graph.neighborhood import Neighborhood, Stencil
from gncadeq.graph.recording import recorded
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor

StencilActivation = Literal["tanh", "relu"]
StencilBound = Literal["window", "rows"]


@dataclass(eq=False)
class ConvStep(Restrictable):
    """One step of a :class:`ConvCell` with graph and injection bound."""

    stencil: Stencil
    drive: Tensor
    residual: bool
    activation: StencilActivation = "tanh"

    @property
    def kind(self) -> str:
        """The form of the stencil; see :class:`~gncadeq.graph.neighborhood.Neighborhood`."""
        return self.stencil.neighborhood.kind

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # φ(K_z * z + d),  d = K_x * x + b computed once
        y = self.stencil(z)
        in_place = not recorded() and y.dtype == self.drive.dtype
        y = y.add_(self.drive) if in_place else y + self.drive
        if self.activation == "relu":
            return y.relu_() if in_place else y.relu()
        update = y.tanh_() if in_place else y.tanh()
        return z + update if self.residual else update

    def adjoint(self, z: Tensor, fz: Tensor) -> ConvAdjoint:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        # Jᵀ u = Kᵀ * (φ' u),  and + u in the residual form
        update = fz - z if self.residual else fz
        slope = (fz > 0).to(fz.dtype) if self.activation == "relu" else 1 - update.square()
        return ConvAdjoint(self.stencil.transposed(False), slope, self.residual)


@dataclass(eq=False)
class ConvAdjoint(Restrictable):
    """The transposed Jacobian of a :class:`ConvStep` at a state."""

    stencil: Stencil
    slope: Tensor
    residual: bool
    per_node = ("slope",)

    def __call__(self, u: Tensor) -> Tensor:
        """Multiply ``u`` ``[num_nodes, channels]``."""
        product = self.stencil(self.slope * u)
        return u + product if self.residual else product


class ConvCell(Cell):
    r"""The convolutional cell of `"Neural Cellular Automata and Deep Equilibrium Models"
    <https://arxiv.org/abs/2501.03573>`_, eq. (2), on any pixel graph.

    With one matrix :math:`\mathbf{K}_r` for each relative offset,

    .. math::
        (\mathbf{K} * \mathbf{y})_i = \mathbf{b} + \sum_{j \in \mathcal{N}(i) \cup \{i\}}
        \mathbf{K}_{r(i,j)}^\top \, \mathbf{y}_j , \qquad
        \mathbf{z}_i' = \begin{cases}
        \tanh\,(\mathbf{K} * [\mathbf{x} \,\Vert\, \mathbf{z}])_i & \text{direct} \\
        \mathbf{z}_i + \tanh\,(\mathbf{K} * [\mathbf{x} \,\Vert\, \mathbf{z}])_i
        & \text{residual, the essay's}
        \end{cases}

    or with ReLU in the place of tanh. At a fixed point of the residual form
    :math:`\mathbf{K} * [\mathbf{x} \Vert \mathbf{z}] = 0`: the tanh shapes the path, the
    equilibrium solves a linear system.

    With ``contraction`` :math:`\kappa`, the state's stencil is

    .. math::
        \mathbf{K}_z = \mathbf{D}^{-1} \hat{\mathbf{K}} \, \mathbf{D} \,
        \min \left(1, \kappa / \lVert \hat{\mathbf{K}} \rVert^+ \right), \qquad
        \mathbf{D} = \mathrm{diag}(1, \ldots, e^{s}),

    where :math:`\lVert \cdot \rVert^+` is :func:`~gncadeq.cells.stencil_bound`, so that the direct
    form shrinks distances in the norm :math:`\lVert \mathbf{D}^{-1} \cdot \rVert_2` by the factor
    :math:`\kappa` on *every* pixel graph that has all edges of the window: a von Neumann graph
    drops taps of a 3 × 3 stencil, and :meth:`lipschitz_bound` with the graph says by what.
    The channel scales, fixed and geometric with spread
    :math:`s`, let channels drive each other strongly one way, as the layers of a network do; with
    :math:`s = 0` the norm is the Euclidean one. The residual form's stencil is that minus the
    identity, so that :math:`\mathbf{z}^\star = \mathbf{K} * \mathbf{z}^\star + \mathbf{d}` has one
    solution, near which a step shrinks distances by :math:`\kappa`.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.
        update: ``"direct"`` or ``"residual"``.
        injection: ``"superposed"`` concatenates ``x`` to the state (the automaton's way);
            ``"additive"`` adds it within the tanh (the equilibrium model's way) and needs
            ``in_channels == channels``.
        contraction: Bound :math:`\kappa` on the state's stencil, or ``None`` for none. Below one
            the direct form has one equilibrium, which every start reaches.
        scale_spread: Spread :math:`s` of the channel scales; unused without a ``contraction``.
        kernel_size: Odd width of the window of offsets.
        activation: ``"tanh"``, the essay's, or ``"relu"``, for the direct form alone.
        bias: Whether to add :math:`\mathbf{b}`.
        bound: What ``contraction`` bounds: ``"window"``, the norm above; or ``"rows"``,
            :math:`\sum_r \lVert \mathbf{K}_r \rVert_2`, which is never smaller. It makes a
            contraction of the direct form on *every* graph on which the weights of each relation
            sum to at most one at a node, as those of
            :class:`gncadeq.transforms.SoftDirections` do. The norm is that of a node's channels,
            the largest over nodes.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`, or weights
          of every relation :math:`(|\mathcal{E}|, R)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 6, 6))
        >>> cell = ConvCell(in_channels=1, channels=4)
        >>> cell(torch.zeros(36, 4), data.x, data.edge_index, data.edge_attr).shape
        torch.Size([36, 4])
        >>> cell.to_conv2d()
        Conv2d(5, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    scale: Tensor
    hops = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        update: Update = "direct",
        injection: Injection = "superposed",
        contraction: float | None = None,
        scale_spread: float = 3.0,
        kernel_size: int = 3,
        activation: StencilActivation = "tanh",
        bias: bool = True,
        bound: StencilBound = "window",
    ) -> None:
        super().__init__()
        check_choice("bound", bound, get_args(StencilBound))
        check_choice("update", update, get_args(Update))
        check_choice("injection", injection, get_args(Injection))
        in_channels = check_count("in_channels", in_channels, 1)
        channels = check_count("channels", channels, 1)
        kernel_size = check_count("kernel_size", kernel_size, 1, odd=True)
        scale_spread = check_number("scale_spread", scale_spread, least=0.0, most=1e6)
        if injection == "additive" and in_channels != channels:
            raise ValueError(
                "Expected 'in_channels' equal to 'channels' with injection='additive' "
                f"(got {in_channels} and {channels})"
            )
        check_choice("activation", activation, get_args(StencilActivation))
        if bound == "rows" and update == "residual":
            raise ValueError("Expected update='direct' with bound='rows' (got 'residual')")
        if activation == "relu" and update == "residual":
            raise ValueError("Expected update='direct' with activation='relu' (got 'residual')")
        contraction = check_value("contraction", contraction, float | None, above=0.0)
        self.activation: StencilActivation = activation
        self.bound: StencilBound = bound
        self.in_channels, self.channels = in_channels, channels
        self.update, self.injection, self.contraction = update, injection, contraction
        self.num_relations = kernel_size**2
        if injection == "superposed":
            self.weight_x = nn.Parameter(torch.empty(self.num_relations, in_channels, channels))
        else:
            self.register_parameter("weight_x", None)
        self.weight_z = nn.Parameter(torch.empty(self.num_relations, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels)) if check_flag("bias", bias) else None
        spread = 0.0 if contraction is None else scale_spread
        self.register_buffer("scale", torch.linspace(0.0, spread, channels).exp(), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters; the residual form starts with a restoring central tap."""
        r, c = self.num_relations, self.channels
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.weight_x is not None:
            nn.init.uniform_(self.weight_x, -1.0, 1.0)
            self.weight_x.data *= _DRIVE_GAIN / math.sqrt(r * self.in_channels)
        weight = torch.empty_like(self.weight_z).uniform_(-1.0, 1.0) / math.sqrt(r * c)
        if self.update == "residual" and self.contraction is None:
            # z + tanh(K z) comes to rest only if K pulls back: start near K_z = -0.8 I.
            weight *= 0.5
            weight[r // 2] -= 0.8 * torch.eye(c).to(weight)
        assign(self, "weight_z", weight)

    def state_weight(self) -> Tensor:
        """The stencil that the state meets, ``[kernel², channels, channels]``, within its bound."""
        weight: Tensor = self.weight_z
        if self.contraction is None:
            return weight
        norm = stencil_bound(weight) if self.bound == "window" else _norms(weight).sum()
        weight = weight * (self.contraction / norm.clamp(min=self.contraction))
        weight = weight * (self.scale[None, :] / self.scale[:, None])
        if self.update == "residual":
            center = torch.zeros_like(weight)
            center[self.num_relations // 2] = torch.eye(self.channels, device=weight.device)
            weight = weight - center
        return weight

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound on the Lipschitz constant of one step.

        Direct form: the :func:`~gncadeq.cells.stencil_bound` :math:`\kappa` of the state's stencil,
        in the norm :math:`\lVert \mathbf{D}^{-1} \cdot \rVert_2` with a ``contraction`` and in the
        Euclidean one without. Residual form: :math:`\sqrt{1 + \kappa^2}`, with :math:`\kappa` the
        bound of the stencil plus the identity, which is the rate near the equilibrium. With
        ``bound="rows"`` the sum of the norms of its matrices, which holds where the weights of each
        relation sum to at most one at a node; with the graph what they sum to there.

        Args:
            graph: Data with the relations in ``edge_attr``. The stencil is then cut down to the
                relations that occur, and what is left may have a *larger* norm, as taps no longer
                cancel. ``None`` bounds every pixel graph whose pixels sense all the window's pixels
                that are present: Moore neighbourhoods for 3 × 3, not von Neumann ones. Graphs with
                edges missing here and there have no bound.
        """
        weight = self._scaled()
        if self.bound == "rows":
            if graph is None:
                return _norms(weight).sum()
            hood = self._hood(graph.edge_index, graph.edge_attr, int(graph.num_nodes))
            return torch.as_tensor(rows_rate(weight, hood))
        if graph is not None:
            weight = weight * present_relations(graph, self.num_relations)[:, None, None]
        if self.update == "direct":
            return stencil_bound(weight, 64)
        # I + T (K - I) with any diagonal 0 <= T <= 1 has the norm of a mix of rows of I and K.
        weight[self.num_relations // 2] += torch.eye(self.channels, device=weight.device)
        return (1 + stencil_bound(weight, 64) ** 2).sqrt()

    @torch.no_grad()
    def injection_bound(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int
    ) -> float:
        """One for the additive injection, else the bound of its stencil."""
        if self.weight_x is None:
            return 1.0
        return stencil_gain(self.weight_x, edge_index, edge_attr, num_nodes)

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        """The contraction by :meth:`lipschitz_bound` on pixel graphs, whose nodes sense all pixels
        that are present in their window, or in the part of it that occurs; with weights, or
        ``bound="rows"``, that of rows on any graph."""
        hood = self._hood(edge_index, edge_attr, num_nodes)
        if self.bound == "rows" or (hood.weighted and self.update == "direct"):
            sums = rows_rate(self._scaled(), hood, context.get("batch"))
            return Certificate(sums, "max", channel_weight=1.0 / self.scale)
        rate = window_rate(self, edge_index, edge_attr, num_nodes, context.get("batch"))
        return None if rate is None else Certificate(rate, channel_weight=1.0 / self.scale)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> ConvStep:
        """Bind graph and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels, self.weight_z.dtype)
        return self.driven(x.size(0), edge_index, edge_attr)(x)

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], ConvStep]:
        """Bind the graph; see :class:`Cell`."""
        hood = self._hood(edge_index, edge_attr, num_nodes)
        stencil = hood.stencil(self.state_weight())
        stencil_x = None if self.weight_x is None else hood.stencil(self.weight_x)

        def bind(x: Tensor) -> ConvStep:
            drive = x if stencil_x is None else stencil_x(x)
            drive = drive if self.bias is None else drive + self.bias
            return ConvStep(stencil, drive, self.update == "residual", self.activation)

        return bind

    def _hood(self, edge_index: Adj, edge_attr: OptTensor, num_nodes: int) -> Neighborhood:
        return prepare_neighborhood(edge_index, edge_attr, num_nodes, self.num_relations)

    def _scaled(self) -> Tensor:
        """The stencil as it is in the norm in which it is bounded."""
        return self.state_weight() * (self.scale[:, None] / self.scale[None, :])

    def to_conv2d(self) -> nn.Conv2d:
        """The ``Conv2d`` that ``[x, z]`` meets on a full pixel grid (superposed injection).

        Raises:
            ValueError: If the injection is additive; its convolution sees ``z`` alone.
        """
        if self.weight_x is None:
            raise ValueError(
                "Expected injection='superposed' for the convolution of [x, z] (got 'additive'). "
                "Use gncadeq.cells.stencil_to_conv2d(cell.state_weight(), cell.bias) for that of z"
            )
        return stencil_to_conv2d(torch.cat([self.weight_x, self.state_weight()], 1), self.bias)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"{self.in_channels}, {self.channels}, update={self.update!r}"
        if self.injection != "superposed":
            text += f", injection={self.injection!r}"
        if self.contraction is not None:
            text += f", contraction={self.contraction:g}"
        if self.activation != "tanh":
            text += f", activation={self.activation!r}"
        if self.bound != "window":
            text += f", bound={self.bound!r}"
        return text


def _norms(weight: Tensor) -> Tensor:
    """``[num_relations]``, the spectral norm of every matrix of a stencil."""
    return torch.linalg.matrix_norm(weight, 2)  # type: ignore[no-any-return]


_DRIVE_GAIN = 1.5  # drives the tanh out of its linear range, where the mean forgets all detail
