"""A continuous Hopfield network on any graph: an energy decreases in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import EnergyCertificate
from gncadeq.check import check_count
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class HopfieldStep(Restrictable):
    """One step of a :class:`HopfieldCell` with graph and injection bound."""

    adjacency: Any
    weight: Tensor
    drive: Tensor
    step_size: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # z + s (tanh(Σ_j Â_ij W z_j + d_i) - z)
        goal = (self.adjacency(z @ self.weight) + self.drive).tanh()
        out: Tensor = z + self.step_size * (goal - z)
        return out

    def energy(self, z: Tensor) -> Tensor:
        """Every node's share of the energy ``[num_nodes]``; infinite outside of [-1, 1]."""
        entropy = 0.5 * (torch.xlogy(1 + z, 1 + z) + torch.xlogy(1 - z, 1 - z))
        coupled = 0.5 * z * self.adjacency(z @ self.weight)
        share: Tensor = (entropy - coupled - z * self.drive).sum(1)
        return share.masked_fill((z.abs() > 1).any(1), float("inf"))


class HopfieldCell(Cell):
    r"""The network of `"Neurons with graded response have collective computational properties like
    those of two-state neurons" <https://doi.org/10.1073/pnas.81.10.3088>`_ (Hopfield 1984) on a
    graph, in discrete time.

    .. math::
        \mathbf{z}_i' = \mathbf{z}_i + s \, \Big( \tanh \big( \sum_j \hat{A}_{ij} \mathbf{W}
        \mathbf{z}_j + \mathbf{U} \mathbf{x}_i + \mathbf{b} \big) - \mathbf{z}_i \Big) , \qquad
        \mathbf{W} = \tfrac12 (\mathbf{V} + \mathbf{V}^\top) , \qquad s = \min \Big( 1,
        \frac{1.9}{1 + \lVert \mathbf{W} \rVert_2} \Big)

    with :math:`\hat{\mathbf{A}} = \mathbf{D}^{-1/2} (\mathbf{A} + \mathbf{I}) \mathbf{D}^{-1/2}` as
    in :class:`gncadeq.PropagationCell`. On undirected graphs the couplings are symmetric, and the
    energy

    .. math::
        E(\mathbf{z}) = \sum_{i,c} \varphi(z_{ic}) - \tfrac12 \sum_{i,j} \hat{A}_{ij}
        \mathbf{z}_i^\top \mathbf{W} \mathbf{z}_j - \sum_i \mathbf{z}_i^\top \mathbf{d}_i , \qquad
        \varphi(z) = \int_0^z \mathrm{artanh}

    (:math:`\mathbf{d} = \mathbf{U} \mathbf{x} + \mathbf{b}`) falls whichever nodes are updated, by
    :math:`(2 - s (1 + \lVert \mathbf{W} \rVert)) / 2 s \cdot \lVert \mathbf{z}' - \mathbf{z}
    \rVert^2` at least: :math:`\varphi` is strongly convex, and :math:`\tanh` its minimiser. So
    every start in [-1, 1] comes to rest. With large weights there are many equilibria, which a
    start decides between: a memory.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge weights :math:`(|\mathcal{E}|)` or none
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> cell, edge_index = HopfieldCell(1, 2), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> cell.certificate(edge_index, num_nodes=3).kind
        'energy'
        >>> step = cell.prepare(torch.zeros(3, 1), edge_index)
        >>> z = torch.rand(3, 2)
        >>> bool(step.energy(step(z)).sum() <= step.energy(z).sum())
        True
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.in_channels = check_count("in_channels", in_channels, 1)
        self.channels = check_count("channels", channels, 1)
        self.state = nn.Parameter(torch.empty(channels, channels))
        self.input = nn.Linear(in_channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        nn.init.normal_(self.state, std=self.channels**-0.5)
        self.input.reset_parameters()

    def state_weight(self) -> Tensor:
        """The symmetric matrix :math:`W` ``[channels, channels]``."""
        return 0.5 * (self.state + self.state.T)

    def step_size(self) -> Tensor:
        """The step size :math:`s` in (0, 1]."""
        size: Tensor = torch.linalg.matrix_norm(self.state_weight().detach(), 2)
        return (1.9 / (1.0 + size)).clamp(max=1.0)

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> EnergyCertificate | None:
        """The energy falls in every step, on undirected graphs; else nothing is promised."""
        size = torch.linalg.matrix_norm(self.state_weight(), 2)
        if not bool(size.isfinite()):
            return None
        adjacency = WeightedAdjacency(edge_index, edge_attr, num_nodes, like=self.state)
        if not adjacency.is_symmetric():
            return None
        s = self.step_size()
        return EnergyCertificate(float((2.0 - s * (1.0 + size)) / (2.0 * s)))

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> HopfieldStep:
        """Bind graph and injection; see :class:`Cell`. ``edge_attr`` holds the edge weights."""
        check_graph(x, edge_index, self.in_channels, self.state.dtype)
        adjacency = WeightedAdjacency(edge_index, edge_attr, x.size(0), like=x)
        adjacency, _ = adjacency.with_self_loops().normalized("sym")
        return HopfieldStep(adjacency, self.state_weight(), self.input(x), self.step_size())

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.in_channels}, {self.channels}"
