"""A coordinate network at equilibrium: what a node knows of its place, filtered again and again."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count, check_flag, check_number
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

Filter = Literal["fourier", "gabor", "siren"]


@dataclass(eq=False)
class CoordinateStep(Restrictable):
    """One step of a :class:`CoordinateCell` with graph and places bound."""

    weight: Tensor
    bias: Tensor
    heard: OptTensor
    adjacency: Any
    filter: Tensor
    outside: bool
    per_node = ("filter",)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # g(x) ⊙ (W z + B Â z + b), or sin(W z + B Â z + b + A x + φ)
        y = F.linear(z, self.weight, self.bias)
        if self.heard is not None:
            y = y + self.adjacency(F.linear(z, self.heard))
        return (y + self.filter).sin() if self.outside else self.filter * y


class CoordinateCell(Cell):
    r"""The implicit coordinate network of `"(Implicit)²: Implicit Layers for Implicit
    Representations" <https://openreview.net/forum?id=AcoMwAU5c0s>`_ (Huang et al. 2021), whose
    nodes also hear their neighbours.

    .. math::
        \mathbf{z}_i' = g(\mathbf{x}_i) \odot \Big( \mathbf{W} \mathbf{z}_i + \sum_j \hat{A}_{ij}
        \mathbf{B} \mathbf{z}_j + \mathbf{b} \Big)
        \qquad \text{or} \qquad
        \mathbf{z}_i' = \sin \Big( \mathbf{W} \mathbf{z}_i + \sum_j \hat{A}_{ij} \mathbf{B}
        \mathbf{z}_j + \mathbf{b} + \mathbf{A} \mathbf{x}_i + \boldsymbol\varphi \Big)

    The injection is the place of a node, in :math:`[-1, 1]`. Filters (``"fourier"``, ``"gabor"``)

    .. math::
        g(\mathbf{x}) = \sin(\mathbf{A} \mathbf{x} + \boldsymbol\varphi), \qquad
        g(\mathbf{x}) = e^{-\frac{1}{2} \gamma_c^2 \lVert \mathbf{x} - \boldsymbol\mu_c \rVert^2}
        \sin(\mathbf{A} \mathbf{x} + \boldsymbol\varphi)

    are those of Fathony et al. 2021; ``"siren"`` is the form on the right. A picture, or a colour
    on a surface, is a linear map of the equilibrium.

    Both matrices are scaled by :math:`\min(1, \kappa / (\lVert \mathbf{W} \rVert_2 + \lVert
    \mathbf{B} \rVert_2))`. :math:`\hat{\mathbf{A}} = \mathbf{D}^{-1/2} \mathbf{A}
    \mathbf{D}^{-1/2}` has a norm of at most one where edges go both ways, and neither filters nor
    the sine stretch distances: a contraction by :math:`\kappa` in the Euclidean norm, on every
    undirected graph.

    Args:
        in_channels: Coordinates of a place.
        channels: Channels :math:`C` of the state.
        filter: ``"fourier"``, ``"gabor"`` or ``"siren"``.
        frequency: Standard deviation of the entries of :math:`\mathbf{A}` at the start, in half
            periods over the whole extent: about half the number of pixels along a side is the
            finest that a picture shows.
        neighbors: Whether nodes hear their neighbours; otherwise edges are not looked at.
        kappa: The bound :math:`\kappa` in (0, 1).

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, places :math:`(|\mathcal{V}|, D)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge weights :math:`(|\mathcal{E}|)` or none
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> deq = GraphDEQ(CoordinateCell(in_channels=2, channels=8), tol=1e-5)
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> deq(torch.rand(3, 2) * 2 - 1, edge_index).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        filter: Filter = "fourier",
        frequency: float = 16.0,
        neighbors: bool = True,
        kappa: float = 0.97,
    ) -> None:
        super().__init__()
        self.in_channels = check_count("in_channels", in_channels, 1)
        self.channels = check_count("channels", channels, 1)
        self.filter: Filter = check_choice("filter", filter, get_args(Filter))
        self.frequency = check_number("frequency", frequency, above=0.0)
        hint = "An equilibrium is certain there"
        self.kappa = check_number("kappa", kappa, above=0.0, below=1.0, hint=hint)
        neighbors = check_flag("neighbors", neighbors)
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.heard = nn.Parameter(torch.empty(channels, channels)) if neighbors else None
        self.bias = nn.Parameter(torch.empty(channels))
        self.wave = nn.Parameter(torch.empty(channels, in_channels))
        self.phase = nn.Parameter(torch.empty(channels))
        gabor = filter == "gabor"
        self.center = nn.Parameter(torch.empty(channels, in_channels)) if gabor else None
        self.width = nn.Parameter(torch.empty(channels)) if gabor else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        size = self.channels**-0.5
        for matrix in (self.weight, self.heard):
            if matrix is not None:
                nn.init.uniform_(matrix, -size, size)
        nn.init.uniform_(self.bias, -size, size)
        nn.init.normal_(self.wave, std=pi / 2 * self.frequency)
        nn.init.uniform_(self.phase, -pi, pi)
        if self.center is not None and self.width is not None:
            nn.init.uniform_(self.center, -1.0, 1.0)
            nn.init.uniform_(self.width, 0.5, 3.0)

    def state_weights(self) -> tuple[Tensor, OptTensor]:
        r"""The matrices :math:`\mathbf{W}` and :math:`\mathbf{B}`, within their bound."""
        size = torch.linalg.matrix_norm(self.weight, 2)
        if self.heard is not None:
            size = size + torch.linalg.matrix_norm(self.heard, 2)
        scale = self.kappa / size.clamp(min=self.kappa)
        return self.weight * scale, None if self.heard is None else self.heard * scale

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r""":math:`\lVert \mathbf{W} \rVert_2 + \lVert \mathbf{B} \rVert_2`; undirected graphs."""
        size = sum(torch.linalg.matrix_norm(w, 2) for w in self.state_weights() if w is not None)
        return torch.as_tensor(size)

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        r"""The contraction in the Euclidean norm, where edges go both ways with equal weights."""
        if self.heard is not None:
            adjacency = WeightedAdjacency(edge_index, edge_attr, num_nodes, like=self.bias.detach())
            if not adjacency.is_symmetric():
                return None
        return Certificate(float(self.lipschitz_bound()))

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> CoordinateStep:
        """Bind graph and places; see :class:`Cell`. ``edge_attr`` holds the edge weights."""
        check_graph(x, edge_index, self.in_channels, self.bias.dtype)
        weight, heard = self.state_weights()
        adjacency = None
        if heard is not None:
            matrix = WeightedAdjacency(edge_index, edge_attr, x.size(0), like=x)
            adjacency, _ = matrix.normalized("sym")
        angle = F.linear(x, self.wave, self.phase)
        if self.filter == "siren":
            return CoordinateStep(weight, self.bias, heard, adjacency, angle, True)
        value = angle.sin()
        if self.center is not None and self.width is not None:
            away = torch.cdist(x, self.center).square()
            value = value * torch.exp(-0.5 * self.width.square() * away)
        return CoordinateStep(weight, self.bias, heard, adjacency, value, False)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"{self.in_channels}, {self.channels}, filter={self.filter!r}, "
            f"neighbors={self.heard is not None}, kappa={self.kappa:g}"
        )
