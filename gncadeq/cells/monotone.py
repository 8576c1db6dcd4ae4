"""The monotone cell: one equilibrium for any weights, reached by forward-backward splitting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.stencil import prepare_neighborhood, stencil_bound
from gncadeq.cells.window import present_relations, window_rate
from gncadeq.certificate import Certificate
from gncadeq.check import check_count, check_number, check_value
from gncadeq.graph.neighborhood import Stencil
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(eq=False)
class MonotoneStep(Restrictable):
    """One forward-backward step of a :class:`MonotoneCell` with graph and injection bound."""

    there: Stencil
    back: Stencil
    drive: Tensor
    monotonicity: float
    step_size: Tensor

    @property
    def kind(self) -> str:
        """The form of the stencils; see :class:`~gncadeq.graph.neighborhood.Neighborhood`."""
        return self.there.neighborhood.kind

    def operator(self, z: Tensor) -> Tensor:
        r"""Apply :math:`\mathbf{I} - \mathbf{W}`, the monotone operator."""
        # G z = m z + Aᵀ(A z) - B z + Bᵀ z
        az, bz = self.there(z).chunk(2, dim=1)
        return self.monotonicity * z - bz + self.back(torch.cat([az, z], dim=1))

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        return torch.relu(z - self.step_size * (self.operator(z) - self.drive))

    def adjoint(self, z: Tensor, fz: Tensor) -> MonotoneAdjoint:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        return MonotoneAdjoint(self, (fz > 0).to(z.dtype))


@dataclass(eq=False)
class MonotoneAdjoint(Restrictable):
    """The transposed Jacobian of a :class:`MonotoneStep` at a state."""

    step: MonotoneStep
    slope: Tensor
    per_node = ("slope",)

    def __call__(self, u: Tensor) -> Tensor:
        """Multiply ``u`` ``[num_nodes, channels]``."""
        # Jᵀ u = D u - α Gᵀ D u,  Gᵀ v = m v + Aᵀ(A v) + B v - Bᵀ v
        v = self.slope * u
        av, bv = self.step.there(v).chunk(2, dim=1)
        transposed = self.step.monotonicity * v + bv + self.step.back(torch.cat([av, -v], dim=1))
        return v - self.step.step_size * transposed


class MonotoneCell(Cell):
    r"""A stencil form of `"Monotone operator equilibrium networks"
    <https://arxiv.org/abs/2006.08591>`_ (Winston & Kolter 2020) on any pixel graph: one
    equilibrium, whatever the weights.

    The equilibrium and its parametrisation (their proposition 1),

    .. math::
        \mathbf{z}^\star = \mathrm{ReLU} (\mathbf{W} \mathbf{z}^\star + \mathbf{d}), \quad
        \mathbf{d} = \mathbf{U} * \mathbf{x} + \mathbf{b}, \qquad
        \mathbf{I} - \mathbf{W} = m \mathbf{I} + \mathbf{A}^\top \mathbf{A} - \mathbf{B} +
        \mathbf{B}^\top \succeq m \mathbf{I} ,

    and a step of forward-backward splitting, whose fixed point is that for every step size
    :math:`\alpha`:

    .. math::
        \mathbf{z}' = \mathrm{ReLU} \big( \mathbf{z} - \alpha \, ((\mathbf{I} - \mathbf{W})
        \mathbf{z} - \mathbf{d}) \big) .

    :math:`\mathbf{A}, \mathbf{B}` are stencils *on the graph*, and the transposed ones run on its
    reversed edges. :math:`\mathbf{A}^\top \mathbf{A}` takes two passes, so it is positive
    semidefinite and :math:`\mathbf{B} - \mathbf{B}^\top` skew on every graph, borders and absent
    pixels included. :math:`\mathbf{A}` has the taps of one quadrant of the window (2 × 2 of 3 × 3):
    so :math:`\mathbf{A}^\top \mathbf{A}` fills the window and no more, and a step reaches one hop.

    The step follows the operator's norm. With :math:`q = \lVert \mathbf{A} \rVert^2 / 2`,
    :math:`k = \lVert \mathbf{B} - \mathbf{B}^\top \rVert` (:func:`~gncadeq.cells.stencil_bound`)
    and :math:`p = m + q`, the symmetric part of the operator lies within :math:`q` of
    :math:`p \mathbf{I}` and :math:`\lVert \cdot \rVert_2` shrinks by

    .. math::
        \rho(\alpha) = \sqrt{(1 - \alpha p)^2 + \alpha^2 k^2} + \alpha q , \qquad
        \alpha = \frac{1}{n^2} \Big( p - \frac{q k}{\sqrt{n^2 - q^2}} \Big), \quad
        n^2 = p^2 + k^2 ,

    the minimiser. :math:`\rho < 1` for any weights, and below the textbook's
    :math:`\sqrt{1 - m^2 / L^2}`. It tends to one as weights grow, unless ``contraction`` is given:
    :math:`\mathbf{A}` and :math:`\mathbf{B}` are then scaled down, wherever they are used, to the
    :math:`\lVert \mathbf{A} \rVert^2` and :math:`k` of at most :math:`s\,m` at which
    :math:`\rho` is the ``contraction``. Short steps also make small residuals:
    :math:`\lVert \mathbf{z} - \mathbf{z}^\star \rVert \le \lVert f(\mathbf{z}) - \mathbf{z} \rVert
    / (1 - \rho)`, so lower ``tol`` where :math:`\rho` is close to one.

    The norms are those of the infinite grid, and bound every graph whose pixels sense *all* the
    window's pixels that are present (``neighborhood="moore"``). Where whole relations are left out
    (``"von_neumann"``), :meth:`lipschitz_bound` with the graph tells; where single edges are
    (sampled neighbours) the equilibrium is as unique, but the step may be too long.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.
        monotonicity: The :math:`m > 0`. With ReLU it only sets the scale on which weights count
            as large: :math:`(m, \mathbf{A}, \mathbf{B}, \mathbf{d})` and :math:`(c\,m, \sqrt{c}\,
            \mathbf{A}, c\,\mathbf{B}, c\,\mathbf{d})` have the same equilibrium and steps.
        contraction: Bound on :math:`\rho` in (0, 1) that no weights exceed; ``None`` only promises
            :math:`\rho < 1`.
        kernel_size: Odd width of the window of offsets.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`
        - **output:** state :math:`(|\mathcal{V}|, C)`, non-negative

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph(living_threshold=0.3)(torch.rand(1, 6, 6))
        >>> deq = GraphDEQ(MonotoneCell(in_channels=1, channels=4), tol=1e-5)
        >>> deq(data.x, data.edge_index, data.edge_attr).size(1)
        4
        >>> bool(deq.cell.lipschitz_bound() < 1)
        True
    """

    taps: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        monotonicity: float = 1.0,
        contraction: float | None = None,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        channels = check_count("channels", channels, 1)
        hint = "Else there may be no equilibrium or many"
        monotonicity = check_number("monotonicity", monotonicity, above=0.0, most=1e30, hint=hint)
        contraction = check_value("contraction", contraction, float | None, above=0.0, below=1.0)
        kernel_size = check_count("kernel_size", kernel_size, 1, odd=True)
        self.in_channels, self.channels = in_channels, channels
        self.monotonicity, self.contraction = float(monotonicity), contraction
        self.limit = None if contraction is None else _norm_limit(contraction)
        self.num_relations = kernel_size**2
        window = torch.arange(self.num_relations).view(kernel_size, kernel_size)
        half = kernel_size // 2
        self.register_buffer("taps", window[half:, half:].flatten(), persistent=False)
        self.weight_a = nn.Parameter(torch.empty(self.taps.numel(), channels, channels))
        self.weight_b = nn.Parameter(torch.empty(self.num_relations, channels, channels))
        self.weight_x = nn.Parameter(torch.empty(self.num_relations, in_channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh parameters: both parts of the operator start with the norm ``m``."""
        for weight in (self.weight_a, self.weight_b, self.weight_x):
            nn.init.uniform_(weight, -1.0, 1.0)
        _, _, square, skew = self._parts()
        tiny = torch.finfo(skew.dtype).tiny
        self.weight_a.mul_((self.monotonicity / square.clamp(min=tiny)).sqrt())
        self.weight_b.mul_(self.monotonicity / skew.clamp(min=tiny))
        fan_in = self.num_relations * self.in_channels
        self.weight_x.mul_(1.5 * self.monotonicity / math.sqrt(fan_in))
        nn.init.zeros_(self.bias)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The stencils of ``A`` and ``B`` within their limit, and bounds on ‖A‖² and ‖B - Bᵀ‖."""
        a = self.weight_a.new_zeros(self.num_relations, self.channels, self.channels)
        a = a.index_copy(0, self.taps, self.weight_a)
        b: Tensor = self.weight_b
        square, skew = stencil_bound(a).square(), stencil_bound(b - _transposed(b))
        if self.limit is not None:
            most = self.limit * self.monotonicity
            a = a * (most / square.clamp(min=most)).sqrt()
            b = b * (most / skew.clamp(min=most))
            square, skew = square.clamp(max=most), skew.clamp(max=most)
        return a, b, square, skew

    def operator_weights(self) -> tuple[Tensor, Tensor]:
        r"""The stencils of :math:`\mathbf{A}` and :math:`\mathbf{B}`, ``[kernel², channels,
        channels]``, within the bound of ``contraction``.
        """
        a, b, _, _ = self._parts()
        return a, b

    def step_size(self) -> Tensor:
        r"""The step size :math:`\alpha`, differentiable: it follows the weights."""
        _, _, square, skew = self._parts()
        return _best_step(self.monotonicity, square / 2, skew)

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound :math:`\rho(\alpha) < 1` on the Lipschitz constant of one step in
        :math:`\lVert \cdot \rVert_2`.

        Args:
            graph: Data with ``edge_attr``, the relations. The stencils are then cut down to the
                relations that occur, as in von Neumann neighbourhoods, where the bound may exceed
                one; ``None`` is any graph with all edges of the window.
        """
        a, b, square, skew = self._parts()
        alpha = _best_step(self.monotonicity, square / 2, skew)
        k = b - _transposed(b)
        if graph is not None:
            present = present_relations(graph, self.num_relations)[:, None, None]
            a, k = a * present, k * present
        q = stencil_bound(a, 64).square() / 2
        return _rate(alpha, self.monotonicity, q, stencil_bound(k, 64))

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        """The contraction by :meth:`lipschitz_bound` on pixel graphs, whose nodes sense all pixels
        that are present in their window, or in the part of it that occurs."""
        rate = window_rate(self, edge_index, edge_attr, num_nodes, context.get("batch"))
        return None if rate is None else Certificate(rate)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> MonotoneStep:
        """Bind graph and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels, self.weight_x.dtype)
        hood = prepare_neighborhood(edge_index, edge_attr, x.size(0), self.num_relations)
        a, b, square, skew = self._parts()
        drive = hood.stencil(self.weight_x)(x) + self.bias
        there = hood.stencil(torch.cat([a, b], dim=2))
        alpha = _best_step(self.monotonicity, square / 2, skew)
        return MonotoneStep(there, there.transposed(), drive, self.monotonicity, alpha)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"{self.in_channels}, {self.channels}, monotonicity={self.monotonicity:g}"
        return text if self.contraction is None else f"{text}, contraction={self.contraction:g}"


def _best_step(m: float, q: Tensor, k: Tensor) -> Tensor:
    """The minimiser of :func:`_rate`."""
    p = m + q
    n2 = p.square() + k.square()
    return (p - q * k / (n2 - q.square()).sqrt()) / n2


def _rate(alpha: Tensor, m: float, q: Tensor, k: Tensor) -> Tensor:
    return ((1 - alpha * (m + q)).square() + (alpha * k).square()).sqrt() + alpha * q


def _norm_limit(contraction: float) -> float:
    """The ``‖A‖² = ‖B - Bᵀ‖``, in units of ``m``, at which the best rate is ``contraction``."""
    low, high = 0.0, 1e8
    for _ in range(100):
        middle = (low + high) / 2
        k = torch.tensor(middle, dtype=torch.float64)
        rate = _rate(_best_step(1.0, k / 2, k), 1.0, k / 2, k)
        low, high = (middle, high) if float(rate) < contraction else (low, middle)
    return low


def _transposed(weight: Tensor) -> Tensor:
    """The stencil of the transposed operator on a grid."""
    return weight.flip(0).transpose(1, 2)
