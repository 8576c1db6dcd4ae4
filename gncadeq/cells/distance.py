"""Distances to marked nodes, computed by local steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.max_propagation import rest
from gncadeq.certificate import StructuralCertificate
from gncadeq.check import check_count, check_number
from gncadeq.graph.neighborhood import checked_edges
from gncadeq.typing import Adj, OptTensor


class DistanceStep:
    """One step of a :class:`DistanceCell` with graph and injection bound."""

    def __init__(self, edge_index: Tensor, source: Tensor, ceiling: float) -> None:
        self.edge_index, self.source, self.ceiling = edge_index, source, ceiling

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # min(s_i, min_j z_j + 1), at most the ceiling
        sent = z[self.edge_index[0]] + 1.0
        target = self.edge_index[1].unsqueeze(1).expand_as(sent)
        return self.source.scatter_reduce(0, target, sent, "amin").clamp(max=self.ceiling)

    @property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps from the ceiling each node is at rest."""
        return rest(self, self.source)[1]

    @torch.no_grad()
    def substitute(self) -> Tensor:
        """The equilibrium, from the sources outwards."""
        return rest(self, self.source)[0]

    def substitute_adjoint(self, z: Tensor, cotangent: Tensor) -> Tensor:
        """Distances have no gradient: they are whole numbers."""
        return torch.zeros_like(cotangent)


class DistanceCell(Cell):
    r"""The number of edges to the nearest marked node, for each kind of mark.

    .. math::
        D_i' = \min \Big( s_i, \; \min_{j \in \mathcal{N}(i)} D_j + 1, \; D_{\max} \Big) , \qquad
        s_i = \begin{cases} 0 & x_i > 1/2 \\ D_{\max} & \text{else} \end{cases}

    is Bellman's equation of shortest ways, one step at a time. In :math:`v = e^{-D}` a step
    is :math:`v_i' = \max(u_i, e^{-1} \max_j v_j)`: a contraction in the largest entry, on every
    graph. So there is one equilibrium, and every start and every order of updates reaches it.
    Nodes that no mark reaches count up to the ceiling; from there (``z0`` filled with it) rest
    comes after as many steps as the largest distance.

    Args:
        marks: Kinds of marks: channels of ``x`` and of the state.
        ceiling: :math:`D_{\max}`.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> GraphDEQ(DistanceCell(1))(torch.tensor([[1.0], [0.0], [0.0]]), edge_index).flatten()
        tensor([0., 1., 2.])
    """

    def __init__(self, marks: int, ceiling: float = 1e4) -> None:
        super().__init__()
        self.in_channels = self.channels = check_count("marks", marks, 1)
        self.ceiling = check_number("ceiling", ceiling, least=1.0)

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> StructuralCertificate:
        """One equilibrium, on every graph."""
        return StructuralCertificate(math.exp(-1.0))

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> DistanceStep:
        """Bind graph and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels)
        edge_index = checked_edges(edge_index, x.size(0))
        source = torch.where(x > 0.5, 0.0, self.ceiling).to(x.dtype)
        return DistanceStep(edge_index, source.masked_fill(x.isnan(), float("nan")), self.ceiling)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.channels}"
