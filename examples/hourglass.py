"""A cascade up a pyramid and down again: contractions that know what is far, on every graph."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.utils import add_self_loops, scatter

from gncadeq import CascadeCell, ConvCell, GraphDEQ, Part
from gncadeq.cells import Cell, FeedForwardCell, StencilDrive, separate
from gncadeq.graph.levels import Level, Pyramid
from gncadeq.transforms import ImageToGraph, SoftDirections
from gncadeq.typing import Adj, OptTensor, Step

LEVELS = 4


class Turned(Cell):
    """A cell on the pyramid upside down: it starts at the coarsest level, and edges between levels
    lead to the finer one."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.in_channels, self.channels = cell, cell.in_channels, cell.channels

    def driven(self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None) -> Any:
        """Bind the graph."""
        down = turned(Pyramid.of(edge_index, edge_attr, num_nodes))
        return lambda x: self.cell.prepare(x, down)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Step:
        """Bind graph and injection."""
        return self.driven(x.size(0), edge_index, edge_attr)(x)

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Any:
        """That of the cell."""
        down = turned(Pyramid.of(edge_index, edge_attr, num_nodes))
        return self.cell.certificate(down, num_nodes=num_nodes, **context)


def turned(pyramid: Pyramid) -> Pyramid:
    """The same levels from the coarsest on, with the edges between them turned round."""
    new, ups = copy(pyramid), [level.up for level in pyramid.levels[1:]]
    edges = [None if up is None else up.reversed() for up in [*ups, None]]
    levels = [Level(v.rows, v.within, e) for v, e in zip(pyramid.levels, edges, strict=True)]
    new.levels = levels[::-1]
    return new


class Pooled(nn.Module):
    """The drive by all of the other level that edges come from: their largest, or their mean."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, y: Tensor, edge_index: Any, edge_attr: OptTensor) -> Tensor:
        """``[num_nodes, channels]`` of the nodes that edges lead to."""
        e, size = edge_index.incoming, edge_index.num_nodes
        y, to = y[e.sender.long()], e.receiver.long()
        if self.reduce == "max" or e.weight is None:
            return scatter(y, to, 0, size, self.reduce)
        total = scatter(e.weight, to, 0, size, "sum")[:, None]
        return scatter(y * e.weight[:, None], to, 0, size, "sum") / total


class Chosen(nn.Module):
    """The drive by some of the channels that are read, through a stencil if there is one."""

    def __init__(self, channels: Sequence[int], drive: nn.Module | None = None) -> None:
        super().__init__()
        self.channels, self.drive = list(channels), drive

    def forward(self, y: Tensor, edge_index: Any, edge_attr: OptTensor) -> Tensor:
        """The drive of the nodes."""
        y = y[:, self.channels]
        return y if self.drive is None else self.drive(y, edge_index, edge_attr)


def hourglass(in_channels: int, width: int, levels: int = LEVELS, kappa: float = 0.9) -> Cell:
    """Up the levels and down again; each level on the way down reads that on the way up, too.

    With pooled states ``p``, the largest of a window on the way up and means on the way down,

        up:    z_0' = relu(BN(U_0 * x)),   z_l' = relu(K_l * z_l + BN(U_l * p_l))
        down:  y_l' = relu(L_l * y_l + BN(V_l * [z_l, p_l])),    y_l = z_l on the coarsest

    The separable stencils ``K`` and ``L`` are contractions by ``kappa`` on every graph whose edges
    :class:`SoftDirections` weighs, or on pixels; ``L`` of the finest level is zero. All else is
    free, so that far nodes are heard as strongly as near ones.
    """
    w, identity = width, "identity"

    def rule() -> Cell:
        cell = ConvCell(w, w, injection="additive", contraction=kappa, scale_spread=0.0,
                        activation="relu", bias=False, bound="rows")  # fmt: skip
        separate(cell, "weight_z")
        return cell

    parts = [Part(FeedForwardCell(w), StencilDrive(in_channels, w), ["x"])]
    for level in range(1, levels):
        last = len(parts) - 1
        parts += [Part(FeedForwardCell(w, identity), Pooled("max"), [last], level),
                  Part(rule(), StencilDrive(w, w), [last + 1], level)]  # fmt: skip
    up = CascadeCell(parts, in_channels)
    own = range(w, 2 * w)  # after the channels that were pooled, but on the finest level
    parts = [Part(FeedForwardCell(w, identity), Chosen(own), ["x"])]
    for level in range(1, levels):
        last, finest = len(parts) - 1, level == levels - 1
        read = [*(range(w) if finest else own), *range(2 * w, 3 * w)]
        parts += [Part(FeedForwardCell(w, identity), Pooled("mean"), [last], level),
                  Part(FeedForwardCell(w) if finest else rule(),
                       Chosen(read, StencilDrive(2 * w, w)), ["x", last + 1], level)]  # fmt: skip
    down = Turned(CascadeCell(parts, up.channels))
    return CascadeCell([Part(up, None, ["x"]), Part(down, None, [0])], in_channels)


class Hourglass(nn.Module):
    """The cascade at equilibrium, and a linear readout of its finest level."""

    def __init__(self, in_channels: int, classes: int, width: int = 10) -> None:
        super().__init__()
        self.deq = GraphDEQ(hourglass(in_channels, width), "picard", max_steps=200,
                            on_failure="ignore")  # fmt: skip
        self.readout = nn.Linear(width, classes)
        self.tol = 1e-3  # in evaluation
        self.pixels: dict[tuple[int, int], Batch] = {}

    def forward(self, data: Batch, dynamics: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """Logits of the nodes of the finest level, and how the solve went."""
        self.deq.tol = 1e-2 if self.training else self.tol
        if "level" in data:
            graph, x, finest = data, data.x, data.level == 0
        else:
            graph = self._above_pixels(data)
            finest = graph.edge_index.levels[0].rows
            x = torch.zeros_like(graph.x, dtype=data.x.dtype).index_copy(0, finest, data.x)
        z, solution = (dynamics or self.deq)(
            x, graph.edge_index, graph.edge_attr, graph.batch, batch_size=graph.num_graphs,
            return_solution=True, **options,
        )  # fmt: skip
        return self.readout(z[finest, -self.readout.in_features :]), solution

    def _above_pixels(self, data: Batch) -> Batch:
        side = round((len(data.x) // data.num_graphs) ** 0.5)
        key = data.num_graphs, side
        if key not in self.pixels:
            to_graph = ImageToGraph(living_threshold=None, levels=LEVELS)
            self.pixels[key] = to_graph.prepared(torch.zeros(key[0], 1, side, side))
        return self.pixels[key]


def above_points(data: Data, scale: float = 2.0) -> Data:
    """Squares above the nodes of a graph in the plane, whose edges get weights of nine directions.

    What is further than ``scale`` counts as if it were at that distance.
    """
    edge_index = add_self_loops(data.edge_index, num_nodes=len(data.pos))[0]
    far = (data.pos[edge_index[0]] - data.pos[edge_index[1]]) / scale
    hat = 1 - (far.clamp(-1, 1)[:, :, None] - torch.tensor([-1.0, 0.0, 1.0])).abs()
    weight = (hat.clamp(min=0)[:, 1, :, None] * hat.clamp(min=0)[:, 0, None, :]).flatten(1)
    total = scatter(weight, edge_index[1], 0, len(data.pos), "sum")
    weight = weight / total.clamp(min=1.0)[edge_index[1]]
    boxes = [scale * 2**level for level in range(1, LEVELS)]
    out = SoftDirections(scale, boxes)(Data(x=data.x, pos=data.pos))
    coarse = (out.level[out.edge_index] > 0).any(0)
    out.edge_index = torch.cat([edge_index, out.edge_index[:, coarse]], 1)
    out.edge_attr = torch.cat([torch.nn.functional.pad(weight, (0, 9)), out.edge_attr[coarse]])
    return out
