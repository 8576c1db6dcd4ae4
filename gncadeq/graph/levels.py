"""Pyramids: graphs whose nodes stand on levels, with edges within a level and to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gncadeq.graph.grid import GridShape
from gncadeq.graph.neighborhood import Neighborhood, check_range, checked_edges
from gncadeq.graph.relations import weighted_relations

UP = 9
"""The first of the nine relations from a level to the next: 9 is up-left, 17 down-right."""
_OWN = (4, 5, 7, 8)  # of the nine below, the 2 × 2 pixels that a coarser one stands for


@dataclass(frozen=True)
class Level:
    """A level of a pyramid.

    Attributes:
        rows: ``[num_nodes]``, which of all nodes are on it.
        within: The edges between them.
        up: The edges from the level below; ``None`` on level 0.
    """

    rows: Tensor
    within: Neighborhood
    up: Neighborhood | None = None


class Pyramid(Neighborhood):
    """The edges of a batch of pyramids, prepared for stencil convolutions level by level.

    Args:
        edge_index: Edge indices ``[2, num_edges]``.
        relation: ``[num_edges]``, 0 to 8 within a level and 9 to 17 from the level below, as
            :class:`gncadeq.transforms.ImageToGraph` writes them; or the weights ``[num_edges, 18]``
            of each relation, as :class:`gncadeq.transforms.SoftDirections` does.
        num_nodes: Number of nodes.

    Raises:
        ValueError: If an edge doesn't stay on its level or lead to the next.
    """

    def __init__(self, edge_index: Tensor, relation: Tensor | None, num_nodes: int) -> None:
        edge_index, weight = checked_edges(edge_index, num_nodes), None
        if relation is not None and relation.dim() == 2 and relation.is_floating_point():
            edge_index, relation, weight = weighted_relations(edge_index, relation, 2 * UP)
        if relation is None or relation.shape != (edge_index.size(1),):
            raise ValueError(
                "Expected 'edge_attr' with the relation of every edge, [num_edges] (got "
                f"{None if relation is None else list(relation.shape)}). "
                "gncadeq.transforms.ImageToGraph(levels=...) writes it"
            )
        check_range("edge_attr", relation, 2 * UP, "num_relations")
        level = node_levels(edge_index, relation, num_nodes)
        source, target = edge_index
        is_up = relation >= UP
        if bool((level[target] != level[source] + is_up.long()).any()):
            raise ValueError(
                "Expected edges within a level (relations 0 to 8) or from a level to the next (9 "
                "to 17) (got others). gncadeq.transforms.ImageToGraph(levels=...) writes them"
            )
        place = torch.empty_like(level)
        self.levels: list[Level] = []
        for number in range(int(level.max()) + 1 if num_nodes else 1):
            rows = (level == number).nonzero().flatten()
            place[rows] = torch.arange(rows.numel(), device=rows.device)
            mine = level[target] == number
            here, up = (mine & ~is_up).nonzero().flatten(), None
            own = relation[here]
            if number:
                edges = (mine & is_up).nonzero().flatten()
                up = Neighborhood(
                    torch.stack([place[source[edges]], place[target[edges]]]),
                    relation[edges] - UP, rows.numel(), UP,
                    num_sources=self.levels[-1].rows.numel(),
                    weight=None if weight is None else weight[edges], checked=True,
                )  # fmt: skip
            ends = torch.stack([place[source[here]], place[target[here]]])
            if weight is None:  # every node senses itself
                ends = torch.cat([ends, place[rows].expand(2, -1)], 1)
                own = torch.cat([own, own.new_full((rows.numel(),), UP // 2)])
            own_weight = None if weight is None else weight[here]
            within = Neighborhood(ends, own, rows.numel(), UP, weight=own_weight, checked=True)
            self.levels.append(Level(rows, within, up))
        self.num_nodes = self.num_sources = num_nodes
        self._ends = source, target

    @classmethod
    def of(cls, edge_index: Tensor | Neighborhood, relation: Tensor | None, size: int) -> Pyramid:
        """The pyramids of edges, or those that are prepared already.

        Raises:
            TypeError: If it is a neighbourhood of one level.
        """
        if isinstance(edge_index, Tensor):
            return cls(edge_index, relation, size)
        if not isinstance(edge_index, Pyramid):
            raise TypeError(
                "Expected edge indices or a Pyramid for several levels (got a neighborhood)"
            )
        return edge_index

    @classmethod
    def of_grids(cls, grids: Sequence[GridShape], rows: Sequence[Tensor]) -> Pyramid:
        """Pyramids of pixels, whose edges are never written down.

        Args:
            grids: The pixels of every level, half as many in each direction as on the one before.
            rows: Which of all nodes they are.
        """
        new = object.__new__(cls)
        new.num_nodes = new.num_sources = sum(r.numel() for r in rows)
        new.levels = []
        for number, (grid, own) in enumerate(zip(grids, rows, strict=True)):
            up = Neighborhood.of_pixels(grid, grids[number - 1]) if number else None
            new.levels.append(Level(own, Neighborhood.of_pixels(grid), up))
        graph = torch.empty(new.num_nodes, dtype=torch.long)
        for grid, own in zip(grids, rows, strict=True):
            graph[own] = grid.graph()
        first = (graph[1:] == graph[:-1]).nonzero().flatten()
        new._ends = first, first + 1
        return new

    num_relations = 2 * UP
    grid = None

    def ends(self) -> tuple[Tensor, Tensor]:
        """Pairs of nodes that must be of one graph."""
        return self._ends

    def edges(self) -> tuple[Tensor, Tensor]:
        """Edge indices and relations, sorted by target; no node has an edge to itself."""
        parts = []
        for number, level in enumerate(self.levels):
            e = level.within.incoming
            other = e.relation != UP // 2
            rows = level.rows
            parts.append((rows[e.sender[other]], rows[e.receiver[other]], e.relation[other]))
            if level.up is not None:
                e, below = level.up.incoming, self.levels[number - 1].rows
                parts.append((below[e.sender], rows[e.receiver], e.relation + UP))
        source, target, relation = (torch.cat(p).long() for p in zip(*parts, strict=True))
        order = (target * 2 * UP + relation).argsort()
        return torch.stack([source[order], target[order]]), relation[order]

    def restrict(self, nodes: Tensor, sources: Tensor | None = None) -> Pyramid:
        """The pyramids of ``nodes``, the ascending indices of whole graphs."""
        keep = torch.zeros(self.num_nodes, dtype=torch.bool, device=nodes.device)
        keep[nodes] = True
        position = keep.cumsum(0) - 1
        new = object.__new__(Pyramid)
        new.num_nodes = new.num_sources = nodes.numel()
        kept = [keep[level.rows].nonzero().flatten() for level in self.levels]
        new.levels = []
        for number, level in enumerate(self.levels):
            up = level.up
            if up is not None:
                up = up.restrict(kept[number], kept[number - 1])
            own = position[level.rows[kept[number]]]
            new.levels.append(Level(own, level.within.restrict(kept[number]), up))
        inside = keep[self._ends[0]]
        new._ends = position[self._ends[0][inside]], position[self._ends[1][inside]]
        return new

    def top(self) -> Tensor:
        """``[num_nodes]``, which node of the top level is above every node."""
        above = torch.arange(self.levels[-1].rows.numel(), device=self.levels[-1].rows.device)
        out = torch.empty(self.num_nodes, dtype=torch.long, device=above.device)
        out[self.levels[-1].rows] = above
        for upper, lower in zip(self.levels[:0:-1], self.levels[-2::-1], strict=True):
            assert upper.up is not None
            edges = upper.up.incoming
            own = torch.isin(edges.relation, edges.relation.new_tensor(_OWN))
            here = torch.empty_like(lower.rows)
            here[edges.sender[own].long()] = above[edges.receiver[own].long()]
            out[lower.rows] = above = here
        return out

    def __repr__(self) -> str:
        sizes = [level.rows.numel() for level in self.levels]
        return f"{self.__class__.__name__}(nodes={sizes}, kind={self.levels[0].within.kind!r})"


def node_levels(edge_index: Tensor, relation: Tensor, num_nodes: int) -> Tensor:
    """``[num_nodes]``, the level of every node, read off the edges from level to level.

    Raises:
        ValueError: If they run in a circle.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 2], [2, 2, 3]])
        >>> node_levels(edge_index, torch.tensor([13, 14, 13]), 4)
        tensor([0, 0, 1, 2])
    """
    up = relation >= UP
    source, target = edge_index[0, up], edge_index[1, up]
    level = torch.zeros(num_nodes, dtype=torch.long, device=edge_index.device)
    here = torch.ones_like(level, dtype=torch.bool)
    for height in range(1, num_nodes + 1):
        above = torch.zeros_like(here)
        above[target[here[source]]] = True
        if not bool(above.any()):
            return level
        level[above] = height
        here = above
    raise ValueError(
        "Expected relations 9 to 17 from each level of a pyramid to the next (got a circle of "
        "them). ImageToGraph(levels=...) writes them"
    )
