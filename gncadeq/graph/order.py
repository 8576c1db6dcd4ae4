"""The nodes of an acyclic graph in layers, each of which reads earlier ones alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


class Layers:
    """Layers of an acyclic graph: a node's is the length of the longest path that leads to it.

    Args:
        edge_index: ``[2, num_edges]``.
        num_nodes: Number of nodes.

    Attributes:
        layer: ``[num_nodes]``.
        order: ``[num_edges]``, the edges layer by layer of their targets.

    Raises:
        ValueError: If the edges have a cycle.

    Example:
        >>> Layers(torch.tensor([[0, 1, 0], [1, 2, 2]]), num_nodes=3).layer
        tensor([0, 1, 2])
        >>> Layers(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        Traceback (most recent call last):
        ValueError: Expected edges without a cycle (got one among 2 of 2 nodes). Orient them...
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        source, target = edge_index.long()
        by_source = source.argsort(stable=True)
        out = torch.bincount(source, minlength=num_nodes)
        ptr = F.pad(out.cumsum(0), (1, 0))
        waiting = torch.bincount(target, minlength=num_nodes)
        self.layer = torch.full_like(waiting, -1)
        front, self.count, placed = (waiting == 0).nonzero().flatten(), 0, 0
        while front.numel():
            self.layer[front] = self.count
            placed += front.numel()
            self.count += 1
            number = out[front]
            first = (ptr[front] - (number.cumsum(0) - number)).repeat_interleave(number)
            reached = target[by_source[first + torch.arange(first.numel(), device=first.device)]]
            waiting.index_add_(0, reached, torch.full_like(reached, -1))
            front = torch.unique(reached)
            front = front[waiting[front] == 0]
        if placed < num_nodes:
            raise ValueError(
                f"Expected edges without a cycle (got one among {num_nodes - placed} of "
                f"{num_nodes} nodes). Orient them, as gncadeq.transforms.Sweeps does, or pass "
                "messages that don't turn back on a tree (gncadeq.transforms.NonBacktracking)"
            )
        self.nodes = self.layer.argsort(stable=True)
        self._node_ptr = _pointers(self.layer, self.count)
        self._place = torch.empty_like(self.nodes)
        self._place[self.nodes] = torch.arange(num_nodes, device=self.nodes.device)
        self.order = self._place[target].argsort(stable=True)
        self.source, self._target = source[self.order], self._place[target[self.order]]
        self._edge_ptr = _pointers(self.layer[target], self.count)

    def __iter__(self) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """For each layer its nodes; which of the edges in :attr:`order` lead to them; and to which
        of them each edge leads."""
        return (self[k] for k in range(self.count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> tuple[Tensor, slice, Tensor]:
        if not 0 <= k < self.count:
            raise IndexError(k)
        first, last = self._node_ptr[k], self._node_ptr[k + 1]
        edges = slice(self._edge_ptr[k], self._edge_ptr[k + 1])
        return self.nodes[first:last], edges, self._target[edges] - first


def _pointers(layer: Tensor, count: int) -> list[int]:
    pointers: list[int] = F.pad(torch.bincount(layer, minlength=count).cumsum(0), (1, 0)).tolist()
    return pointers
