"""The cell of implicit graph neural networks: one matrix for all edges, one equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count, check_flag, check_number
from gncadeq.graph.adjacency import Normalization, WeightedAdjacency
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor

Activation = Literal["relu", "tanh", "identity"]
Injection = Literal["node", "neighbors"]


@dataclass(eq=False)
class IGNNStep(Restrictable):
    """One step of an :class:`IGNNCell` with graph and injection bound."""

    adjacency: WeightedAdjacency
    weight: Tensor
    drive: Tensor
    activation: Activation

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # φ(Â z Wᵀ + d),  d = x Uᵀ + b computed once
        y = self.adjacency(F.linear(z, self.weight)) + self.drive
        if self.activation == "identity":
            return y
        return y.relu() if self.activation == "relu" else y.tanh()

    def adjoint(self, z: Tensor, fz: Tensor) -> IGNNAdjoint:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        if self.activation == "identity":
            slope = torch.ones_like(fz)
        else:
            slope = (fz > 0).to(z.dtype) if self.activation == "relu" else 1 - fz.square()
        return IGNNAdjoint(self.adjacency.transposed(), self.weight, slope)


@dataclass(eq=False)
class IGNNAdjoint(Restrictable):
    """The transposed Jacobian of an :class:`IGNNStep` at a state."""

    adjacency: WeightedAdjacency
    weight: Tensor
    slope: Tensor
    per_node = ("slope",)

    def __call__(self, u: Tensor) -> Tensor:
        """Multiply ``u`` ``[num_nodes, channels]``."""
        # Jᵀ u = Âᵀ (φ' u) W
        return self.adjacency(self.slope * u) @ self.weight


class IGNNCell(Cell):
    r"""The cell of `"Implicit Graph Neural Networks" <https://arxiv.org/abs/2009.06211>`_ (Gu et
    al. 2020), a contraction on any graph.

    .. math::
        \mathbf{z}_i' = \phi \Big( \sum_j \hat{A}_{ij} \, \mathbf{W} \mathbf{z}_j +
        \mathbf{U} \mathbf{x}_i + \mathbf{b} \Big), \qquad
        \lambda_{PF}(|\hat{\mathbf{A}}|) \, \lVert \mathbf{W} \rVert_\infty \le \kappa < 1 .

    :math:`A_{ij}` is the weight of the edge :math:`j \to i`, of any sign. Every row of the free
    parameter :math:`\mathbf{V}` is scaled into its :math:`\ell_1` ball wherever it is used,
    :math:`\mathbf{w}_c = \mathbf{v}_c \min(1, \kappa / \lVert \mathbf{v}_c \rVert_1)`, so no
    training step leaves the bound. The graph's part of the bound is made one:

    - ``"sym"``: :math:`\hat{\mathbf{A}} = \mathbf{D}^{-1/2} (\mathbf{A} + \mathbf{I})
      \mathbf{D}^{-1/2}`, and ``"row"``: :math:`\mathbf{D}^{-1} (\mathbf{A} + \mathbf{I})`, with
      :math:`d_i` the sum of the absolute weights into :math:`i`: exactly
      :math:`\lambda_{PF} = 1`, on directed graphs too.
    - ``None``: :math:`\hat{\mathbf{A}} = \mathbf{A} / \max(1, \lambda)` with the certified
      upper bound :math:`\lambda` of Collatz and Wielandt, by power steps on every connected
      component (:meth:`~gncadeq.cells.WeightedAdjacency.perron`), a number that is not local.

    Fresh parameters start at :math:`\mathbf{W} = \kappa \mathbf{I}`: states fade as slowly as the
    bound allows, and keep their direction over hundreds of nodes. The certificate holds in the norm

    .. math::
        \lVert \mathbf{z} \rVert_{\mathbf{v}} = \max_{i, c} |z_{ic}| / v_i , \qquad
        |\hat{\mathbf{A}}| \mathbf{v} \le \mathbf{v} ,

    not in the Euclidean one. :math:`\mathbf{v}` is :meth:`perron_vector`: :math:`\sqrt{d_i}` for
    ``"sym"``, one for ``"row"``. From any state,
    :math:`\lVert \mathbf{z} - \mathbf{z}^\star \rVert_{\mathbf{v}} \le
    \lVert f(\mathbf{z}) - \mathbf{z} \rVert_{\mathbf{v}} / (1 - \kappa)`.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.
        kappa: The bound :math:`\kappa` in (0, 1).
        activation: ``"relu"``, ``"tanh"`` or ``"identity"``, all non-expansive entry by entry.
        normalization: ``"sym"``, ``"row"`` (both give a loop of weight one to nodes without one)
            or ``None``.
        bias: Whether to add :math:`\mathbf{b}`; without it a node that no injection reaches stays
            exactly at zero.
        injection: ``"node"`` injects :math:`\mathbf{U} \mathbf{x}_i`, ``"neighbors"``, as the
            published code does, :math:`\sum_j \hat{A}_{ij} \mathbf{U} \mathbf{x}_j`.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge weights :math:`(|\mathcal{E}|)` or none
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> deq = GraphDEQ(IGNNCell(in_channels=2, channels=8), tol=1e-5)
        >>> deq(torch.randn(4, 2), edge_index).shape
        torch.Size([4, 8])
        >>> bool(deq.cell.lipschitz_bound() <= 0.95 + 1e-6)
        True
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kappa: float = 0.95,
        activation: Activation = "relu",
        normalization: Normalization | None = "sym",
        bias: bool = True,
        injection: Injection = "node",
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        channels = check_count("channels", channels, 1)
        hint = "Below 1 an equilibrium is certain"
        check_flag("bias", bias)
        kappa = check_number("kappa", kappa, above=0.0, below=1.0, hint=hint)
        check_choice("activation", activation, ("relu", "tanh", "identity"))
        check_choice("normalization", normalization, ("sym", "row", None))
        check_choice("injection", injection, ("node", "neighbors"))
        self.in_channels, self.channels, self.kappa = in_channels, channels, kappa
        self.activation: Activation = activation
        self.normalization: Normalization | None = normalization
        self.injection: Injection = injection
        self.weight_x = nn.Parameter(torch.empty(channels, in_channels))
        self.weight_z = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh injection; the state's matrix starts at the identity times its bound."""
        bound = self.in_channels**-0.5
        nn.init.uniform_(self.weight_x, -bound, bound)
        nn.init.eye_(self.weight_z)
        self.weight_z.data *= self.kappa
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def state_weight(self) -> Tensor:
        r"""The matrix :math:`\mathbf{W}` ``[channels, channels]``, within its bound."""
        size = self.weight_z.abs().sum(1, keepdim=True)
        return self.weight_z * (self.kappa / size.clamp(min=self.kappa))

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound on the Lipschitz constant of one step in the norm of the class.

        :math:`\lVert \mathbf{W} \rVert_\infty \le \kappa` on every graph; with
        ``normalization=None`` and a ``graph``, times the largest :math:`\min(1, \lambda)` of its
        components.

        Args:
            graph: Data with ``edge_index`` and, if its edges are weighted, ``edge_attr``.
        """
        bound = self.state_weight().abs().sum(1).max()
        if graph is None or self.normalization is not None:
            return bound
        _, most = self._adjacency(graph).perron()
        return bound * most.clamp(max=1.0).max() if most.numel() else 0.0 * bound

    @torch.no_grad()
    def perron_vector(self, graph: Data) -> Tensor:
        r"""The positive vector :math:`\mathbf{v}` ``[num_nodes]`` of the norm of the class.

        Args:
            graph: Data with ``edge_index`` and, if its edges are weighted, ``edge_attr``.
        """
        adjacency = self._adjacency(graph)
        if self.normalization is None:
            return adjacency.perron()[0]
        return adjacency.with_self_loops().normalized(self.normalization)[1]

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        r"""The contraction by :math:`\lVert \mathbf{W} \rVert_\infty` in the norm of the class."""
        graph = Data(edge_index=edge_index, edge_attr=edge_attr, num_nodes=num_nodes)
        v = self.perron_vector(graph)
        return Certificate(float(self.lipschitz_bound()), "max", self.channels, 1.0 / v)

    def _adjacency(self, graph: Data) -> WeightedAdjacency:
        return WeightedAdjacency(
            graph.edge_index, graph.edge_attr, int(graph.num_nodes), like=self.weight_z.detach()
        )

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> IGNNStep:
        """Bind graph and injection; see :class:`Cell`. ``edge_attr`` holds the edge weights."""
        check_graph(x, edge_index, self.in_channels, self.weight_x.dtype)
        return self.driven(x.size(0), edge_index, edge_attr)(x)

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], IGNNStep]:
        """Bind the graph; see :class:`Cell`."""
        like = self.weight_z.detach()
        adjacency = WeightedAdjacency(edge_index, edge_attr, num_nodes, like)
        if self.normalization is None:
            _, most = adjacency.perron()
            scale = most.clamp(min=1.0)[adjacency.receiver]
            adjacency = adjacency.with_weight(adjacency.weight / scale)
        else:
            adjacency, _ = adjacency.with_self_loops().normalized(self.normalization)
        weight = self.state_weight()

        def bind(x: Tensor) -> IGNNStep:
            drive = F.linear(x, self.weight_x)
            if self.injection == "neighbors":
                drive = adjacency(drive)
            if self.bias is not None:
                drive = drive + self.bias
            return IGNNStep(adjacency, weight, drive, self.activation)

        return bind

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"{self.in_channels}, {self.channels}, kappa={self.kappa:g}, "
            f"activation={self.activation!r}, normalization={self.normalization!r}"
            + (", injection='neighbors'" if self.injection == "neighbors" else "")
        )
