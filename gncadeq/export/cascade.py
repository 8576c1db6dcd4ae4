"""Cascades on graphs that are inputs: a part is computed for all nodes, and kept on its level."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cells.cascade import CascadeCell, takes_edges
from gncadeq.cells.drives import FeedForwardCell, StencilDrive
from gncadeq.export.plain import Among, EdgeList, Graph, NeighborTable, PlainStencil, take
from gncadeq.export.rules import Rule, rule, rule_of
from gncadeq.graph.levels import UP
from gncadeq.typing import OptTensor, Step


def on_levels(graph: Graph, relation: Tensor, levels: int, like: Tensor) -> list[Tensor]:
    """Which nodes are on every level, ones and zeros ``[num_nodes, 1]``.

    Args:
        graph: Pyramids.
        relation: The relation of every edge, from 9 on up to the next level.
        levels: The number of levels.
        like: A tensor of the type of numbers.
    """
    up = (relation >= UP).to(like.dtype).unsqueeze(-1)
    found = [(graph.total(up) == 0).to(like.dtype)]
    for _ in range(levels - 1):
        found.append((graph.total(up * take(found[-1], graph.source)) > 0).to(like.dtype))
    return found


class _FeedForward(Rule):
    def __init__(self, cell: FeedForwardCell) -> None:
        super().__init__(cell)
        self.cell = cell

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        return self.cell.prepare(x, graph.source)  # edges count for nothing

    def example(self, edges: tuple[int, ...]) -> OptTensor:
        return None


rule.register(FeedForwardCell, lambda cell, edge_attr=None: _FeedForward(cell))


class _Cascade(Rule):
    def __init__(self, cell: CascadeCell) -> None:
        super().__init__(cell)
        self.levels, self.width = cell.levels, cell.channels
        self.level = [part.level for part in cell.parts]
        self.reads, self.places = cell.reads, cell.places
        rules = [rule_of(part.cell) for part in cell.parts]
        self.rules: Any = nn.ModuleList(rules)
        self.drives: Any = nn.ModuleList([_drive(part.drive) for part in cell.parts])
        if any(r.takes_scale for r in rules):
            raise ValueError(
                "Expected parts of a cascade without a scale of their graph (got a conv whose "
                "bound depends on it). Export its parts on their own"
            )
        reasons = [r.only_scatter for r in rules if r.only_scatter]
        self.only_scatter = reasons[0] if reasons else None

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        within, up, relation, on = graph, graph, edge_attr, [torch.ones_like(x[:, :1])]
        if self.levels > 1:
            assert edge_attr is not None
            assert isinstance(graph, EdgeList | NeighborTable)
            rises = edge_attr >= UP
            within, up = Among(graph, ~rises), Among(graph, rises)
            relation, on = edge_attr % UP, on_levels(graph, edge_attr, self.levels, x)

        def step(z: Tensor) -> Tensor:
            states = [z[:, place] for place in self.places]
            out: list[list[Tensor]] = [[] for _ in range(self.levels)]
            for p, level in enumerate(self.level):
                read = [x if q == "x" else states[q] for q in self.reads[p]]
                y, drive = torch.cat(read, 1), self.drives[p]
                if isinstance(drive, StencilDrive):
                    assert relation is not None
                    assert drive.conv.bias is not None
                    first = self.reads[p][0]
                    inside = level == (0 if first == "x" else self.level[first])
                    stencil = PlainStencil(
                        within if inside else up, relation, drive.conv.weight, center=inside
                    )
                    y = stencil(y) + drive.conv.bias
                else:
                    y = drive(y)
                out[level].append(self.rules[p](within, y, relation, None)(states[p]))
            rows = [torch.cat(parts, 1) for parts in out]
            return sum(  # type: ignore[return-value]
                torch.where(here > 0, nn.functional.pad(row, (0, self.width - row.size(1))), 0.0)
                for here, row in zip(on, rows, strict=True)
            )

        return step

    def example(self, edges: tuple[int, ...]) -> OptTensor:
        if self.levels > 1:
            count = torch.arange(edges[0]) * 5 % (2 * UP)
            return count.view(-1, *[1] * (len(edges) - 1)).expand(edges).clone()
        return next((e for r in self.rules if (e := r.example(edges)) is not None), None)


def folded(drive: StencilDrive) -> StencilDrive:
    """A copy of a drive, its normalisation moved into its stencil."""
    drive = copy.deepcopy(drive)
    drive.fold()
    return drive


def _drive(drive: nn.Module | None) -> nn.Module:
    """What a part is driven through, without normalisations."""
    if drive is None:
        return nn.Identity()
    if isinstance(drive, StencilDrive):
        return folded(drive)
    if takes_edges(drive):
        raise ValueError(
            "Expected drives of a cascade that can be exported: StencilDrive, or modules that take "
            f"no edges, as nn.Linear (got {type(drive).__name__})"
        )
    return drive


rule.register(CascadeCell, lambda cell, edge_attr=None: _Cascade(cell))
