"""What automata of zeros and ones share: the living nodes, and counts of living neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.graph.adjacency import plain_edges
from gncadeq.graph.rows import Restrictable
from gncadeq.graph.sparse import SparseRows
from gncadeq.typing import Adj

ALIVE = 0.5
"""A node lives where its state is above."""


class LivingNeighbors(Restrictable):
    r"""The number of living neighbours of every node, :math:`k_i = |\{j \to i : z_j > 1/2\}|`.

    An edge counts as often as it occurs; a loop makes no node its own neighbour.

    Args:
        edge_index: ``[2, num_edges]``, or a :class:`~gncadeq.graph.neighborhood.Neighborhood`.
        num_nodes: Number of nodes.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 1, 1]])
        >>> LivingNeighbors(edge_index, num_nodes=3)(torch.tensor([[True], [False], [True]]))
        tensor([[0],
                [2],
                [0]])
    """

    def __init__(self, edge_index: Adj, num_nodes: int) -> None:
        edge_index = plain_edges(edge_index, num_nodes)
        source, target = edge_index[:, edge_index[0] != edge_index[1]]
        self.rows, _ = SparseRows.sort(target, source, num_nodes, num_nodes)

    @property
    def degree(self) -> Tensor:
        """``[num_nodes]``, the number of neighbours."""
        return (self.rows.ptr[1:] - self.rows.ptr[:-1]).long()

    def __call__(self, alive: Tensor) -> Tensor:
        """Count where ``alive`` ``[num_nodes, channels]`` is true."""
        if not self.rows.col.numel():
            return torch.zeros_like(alive, dtype=torch.long)
        # Single precision counts up to 2 ** 24 without rounding, whatever the type of the state.
        count = F.embedding_bag(
            self.rows.col, alive.float(), self.rows.ptr, mode="sum", include_last_offset=True
        )
        return count.long()


def binary_state(alive: Tensor, z: Tensor) -> Tensor:
    """Ones where ``alive``, else zeros, and NaN where ``z``, which decided it, is NaN."""
    return torch.where(z.isnan(), z, alive.to(z.dtype))
