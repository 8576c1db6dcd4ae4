"""Batches of equal pixel grids: shapes, pictures of node values, and how edges tell them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

import torch
from torch import Tensor

from gncadeq.graph.relations import RelationEdges


@dataclass(frozen=True)
class GridShape:
    """A batch of ``num_graphs`` equal pixel grids, numbered row by row.

    Attributes:
        index: ``[num_nodes]``, which of all pixels are nodes; ``None`` if all are.
    """

    num_graphs: int
    height: int
    width: int
    periodic: bool = False
    index: Tensor | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        if self.index is not None:
            return self.index.numel()
        return self.num_graphs * self.height * self.width

    def paint(self, z: Tensor) -> Tensor:
        """Node values ``[num_nodes, channels]`` as images ``[num_graphs, channels, H, W]``."""
        if self.index is not None:
            size = self.num_graphs * self.height * self.width
            z = z.new_zeros(size, z.size(1)).index_copy(0, self.index, z)
        return z.view(self.num_graphs, self.height, self.width, z.size(1)).permute(0, 3, 1, 2)

    def read(self, images: Tensor) -> Tensor:
        """The nodes' values in images."""
        z = images.permute(0, 2, 3, 1).reshape(-1, images.size(1))
        return z if self.index is None else z.index_select(0, self.index)

    def graph(self) -> Tensor:
        """``[num_nodes]``, the grid of every node."""
        size = self.height * self.width
        if self.index is not None:
            return self.index // size
        return torch.arange(self.num_graphs).repeat_interleave(size)

    def count(self) -> Tensor:
        """``[num_graphs]``, how many nodes each grid has."""
        return torch.bincount(self.graph(), minlength=self.num_graphs)

    def restrict(self, nodes: Tensor) -> GridShape:
        """The grids of ``nodes``, the ascending indices of whole graphs."""
        size = self.height * self.width
        if self.index is None:
            return replace(self, num_graphs=nodes.numel() // size)
        graph, pixel = self.index[nodes] // size, self.index[nodes] % size
        kept, graph = torch.unique_consecutive(graph, return_inverse=True)
        return replace(self, num_graphs=kept.numel(), index=graph * size + pixel)


def detect_grid(e: RelationEdges) -> GridShape | None:
    """Recognise a batch of equal full ``H x W`` grids, all ``k x k`` relations present."""
    n, r = e.num_nodes, e.num_relations
    k = isqrt(r)
    if n == 0 or k * k != r or k % 2 == 0 or k == 1:
        return None
    table = e.sender.new_full((n * r,), -1, dtype=torch.long)
    table[e.receiver.long() * r + e.relation] = e.sender.long()
    table = table.view(n, r)
    node = torch.arange(n, device=table.device)
    center = r // 2
    width = _first_break(table[:, center + 1], node + 1) + 1
    down = table[::width, center + k]
    height = _first_break(down, node[::width] + width) + 1
    if n % (height * width) != 0:
        return None
    for periodic in (False, True):
        expected = _grid_table(n, height, width, k, periodic, table.device)
        if e.num_edges == int((expected >= 0).sum()) and torch.equal(table, expected):
            return GridShape(n // (height * width), height, width, periodic)
    return None


def _first_break(found: Tensor, expected: Tensor) -> int:
    differs = found != expected
    place = differs.int().argmax()
    first, there = torch.stack([place, differs[place].long()]).tolist()  # one question to a device
    return int(first) if there else found.numel() - 1


def _grid_table(n: int, h: int, w: int, k: int, periodic: bool, device: torch.device) -> Tensor:
    offset = torch.arange(k, device=device) - k // 2
    row = torch.arange(h, device=device)[:, None] + offset  # [H, k]
    col = torch.arange(w, device=device)[:, None] + offset  # [W, k]
    inside = ((row >= 0) & (row < h))[:, None, :, None] & ((col >= 0) & (col < w))[None, :, None]
    index = (row % h)[:, None, :, None] * w + (col % w)[None, :, None]
    index = index.reshape(h * w, k * k)
    first = torch.arange(0, n, h * w, device=device)[:, None, None]
    table = (index + first).reshape(n, k * k)
    if periodic:
        return table
    outside = ~inside.reshape(h * w, k * k).repeat(n // (h * w), 1)
    return table.masked_fill(outside, -1)
