"""The nodes of an acyclic graph in layers, each of which reads earlier ones alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Layer(NamedTuple):
    """A layer of :class:`Layers`.

    Attributes:
        nodes: Its nodes, ascending.
        shares: How many of them each of the copies has.
        edges: Which of the edges in :attr:`Layers.order` lead to them.
        place: To which of them each of these edges leads.
    """

    nodes: Tensor
    shares: list[int]
    edges: slice
    place: Tensor


def longest_paths(source: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    """``[num_nodes]``, the length of the longest path that leads to each node; -1 behind a cycle.

    Nodes are taken once all that leads to them was, as in topological sorting (Kahn 1962). Its many
    small operations are NumPy's, whose calls take a fraction of the time of PyTorch's.
    """
    ends = target[source.argsort(stable=True)].cpu().numpy()
    out = torch.bincount(source, minlength=num_nodes).cpu().numpy()
    waiting = torch.bincount(target, minlength=num_nodes).cpu().numpy()
    first = np.cumsum(out) - out
    layer = np.full(num_nodes, -1)
    front, count = np.flatnonzero(waiting == 0), 0
    while front.size:
        layer[front] = count
        count += 1
        number = out[front]
        starts = np.repeat(first[front] - (np.cumsum(number) - number), number)
        reached = ends[starts + np.arange(starts.size)]
        np.subtract.at(waiting, reached, 1)
        front = np.unique(reached[waiting[reached] == 0])
    return torch.from_numpy(layer).to(source.device)


class Layers:
    """Layers of an acyclic graph: a node's is the length of the longest path that leads to it.

    Args:
        edge_index: ``[2, num_edges]``.
        num_nodes: Number of nodes.
        copies: Number of graphs on the same nodes that these are, one after the other.

    Attributes:
        layer: ``[num_nodes]``.
        order: ``[num_edges]``, the edges layer by layer of their targets.
        source: ``[num_edges]``, their sources in this order.

    Raises:
        ValueError: If the edges have a cycle.

    Example:
        >>> Layers(torch.tensor([[0, 1, 0], [1, 2, 2]]), num_nodes=3).layer
        tensor([0, 1, 2])
        >>> Layers(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        Traceback (most recent call last):
        ValueError: Expected edges without a cycle (got one among 2 of 2 nodes). Orient them...
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, copies: int = 1) -> None:
        source, target = edge_index.long()
        self.layer = longest_paths(source, target, num_nodes)
        bad = self.layer < 0
        if bool(bad.any()):
            raise ValueError(
                "Expected edges without a cycle (got one among "
                f"{int(bad.view(copies, -1).any(0).sum())} of {num_nodes // copies} nodes). Orient "
                "them, as gncadeq.transforms.Sweeps does, or pass messages that don't turn back on "
                "a tree (gncadeq.transforms.NonBacktracking)"
            )
        count = int(self.layer.max()) + 1 if num_nodes else 0
        copy = torch.arange(num_nodes, device=source.device) // max(1, num_nodes // copies)
        shares = torch.bincount(self.layer * copies + copy, minlength=count * copies)
        shares = shares.view(-1, copies)
        sizes, nodes = shares.sum(1), self.layer.argsort(stable=True)
        place = torch.empty_like(nodes)
        place[nodes] = torch.arange(num_nodes, device=nodes.device)
        self.order = place[target].argsort(stable=True)
        self.source, target = source[self.order], target[self.order]
        layer = self.layer[target]
        within = place[target] - (sizes.cumsum(0) - sizes)[layer]
        edges = torch.bincount(layer, minlength=count).tolist()
        places = (slice(stop - n, stop) for n, stop in zip(edges, accumulate(edges), strict=True))
        parts = (
            torch.split(nodes, sizes.tolist()), shares.tolist(), places, torch.split(within, edges)
        )  # fmt: skip
        self._layers = [Layer(*one) for one in zip(*parts, strict=True)]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, k: int) -> Layer:
        return self._layers[k]
