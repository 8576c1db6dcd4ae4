"""Cells in an order, each driven by earlier ones: together one cell, at rest if each of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.drives import FeedForwardCell, drive_bound
from gncadeq.certificate import Certificate, CertifiedPart, StructuralCertificate
from gncadeq.check import check_choice, check_count, check_type
from gncadeq.graph.levels import Pyramid
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.stateful import has_statistics, scratch_buffers
from gncadeq.typing import Adj, OptTensor, Step

Read = int | Literal["x"]
Relations = Sequence[int] | Literal["all"] | None


class Part(nn.Module):
    """A cell of a :class:`CascadeCell`, and what drives it.

    Args:
        cell: The rule of the part.
        drive: From what is read to the injection of the cell: a module called as ``drive(y,
            edge_index, edge_attr)``, or as ``drive(y)`` if its ``forward`` needs no more, as that
            of a linear map or an MLP. ``None`` passes it on.
        reads: The parts that are read, by their numbers, ``"x"`` for the injection of the cascade;
            their channels are concatenated. By default ``"x"`` and all earlier parts. Those of
            level :math:`l` read parts of the same level, or a part of the level below.
        level: The level of a pyramid on which the part lives, 0 unless given.
        relations: Which edges the part and its drive read, by the relations in ``edge_attr``;
            ``"all"`` for all, whatever their relations, for cells that would take these for
            weights. By default edges and their attributes are read as they come. Prepared
            neighbourhoods are, too.
    """

    def __init__(
        self,
        cell: Cell,
        drive: nn.Module | None = None,
        reads: Sequence[Read] | None = None,
        level: int = 0,
        relations: Relations = None,
    ) -> None:
        super().__init__()
        check_type("cell", cell, Cell)
        if isinstance(relations, str):
            check_choice("relations", relations, ("all",))
        self.relations: Relations = relations
        self.cell, self.drive, self.level = cell, drive, check_count("level", level)
        self.reads = None if reads is None else tuple(reads)

    def edges(self, edge_index: Adj, edge_attr: OptTensor) -> tuple[Adj, OptTensor]:
        """The edges that the part reads, and what it is told of them."""
        if self.relations is None or not isinstance(edge_index, Tensor):
            return edge_index, edge_attr
        if isinstance(self.relations, str):
            return edge_index, None
        if edge_attr is None or edge_attr.is_floating_point() or edge_attr.dim() != 1:
            raise ValueError(
                f"Expected relations [num_edges] in 'edge_attr' for a part of relations="
                f"{list(self.relations)} (got {None if edge_attr is None else edge_attr.dtype})"
            )
        read = torch.isin(edge_attr, edge_attr.new_tensor(list(self.relations)))
        return edge_index[:, read], edge_attr[read]


@dataclass
class Stage:
    """A part of a cascade on a graph.

    Attributes:
        cell: Its rule.
        rows: The rows of the state that are its own, ``None`` for all.
        channels: Its channels.
        graph: Its edges and what is known of them.
        edges: The edges of its drive, which may come from the level below.
        bind: From the states of earlier parts to its step, on its own rows and channels.
    """

    cell: Cell
    rows: OptTensor
    channels: slice
    graph: tuple[Adj, OptTensor]
    edges: tuple[Adj, OptTensor]
    bind: Callable[[Sequence[Tensor]], Step]

    def take(self, z: Tensor) -> Tensor:
        """The part's own state."""
        z = z if self.rows is None else z.index_select(0, self.rows)
        return z[:, self.channels]


class CascadeStep:
    """One step of a :class:`CascadeCell` with graph and injection bound.

    Args:
        stages: The parts, in order.
        num_nodes: Rows of the state.
        width: Channels of the state.
    """

    def __init__(self, stages: list[Stage], num_nodes: int, width: int) -> None:
        self.stages, self.num_nodes, self.width = stages, num_nodes, width

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state: every part takes a step at once."""
        states = [stage.take(z) for stage in self.stages]
        return self.join([s.bind(states)(own) for s, own in zip(self.stages, states, strict=True)])

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """The state of all parts, zero where there is none."""
        if all(stage.rows is None for stage in self.stages):
            pairs = sorted(zip(self.stages, states, strict=True), key=lambda p: p[0].channels.start)
            return torch.cat([own for _, own in pairs], 1)
        out = states[0].new_zeros(self.num_nodes, self.width)
        for stage, own in zip(self.stages, states, strict=True):
            out[stage.rows, stage.channels] = own
        return out


class CascadeCell(Cell):
    r"""Cells in an order, each driven by the injection and by earlier ones.

    .. math::
        \mathbf{z}_p' = f_p \big( \mathbf{z}_p, \, \mathbf{U}_p (\mathbf{x}, \mathbf{z}_1, \ldots,
        \mathbf{z}_{p-1}); \mathcal{G} \big)

    is a cascade of contracting systems (`Lohmiller & Slotine 1998
    <https://doi.org/10.1016/S0005-1098(98)00019-3>`_, sect. 3.8): the Jacobian of a step is
    block-triangular. If every :math:`f_p` is a contraction of its own state, there is one
    equilibrium, and every start reaches it at every fire rate, however strong the drives
    :math:`\mathbf{U}_p` are. The norm of a whole step may be far above one.

    :class:`gncadeq.GraphDEQ` solves part after part; :class:`gncadeq.GraphNCA` updates all at once.

    Args:
        parts: A :class:`Part` each, or cells alone, which read all that comes before.
        in_channels: Channels of the injection of the cascade.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)` with the channels of the parts one after the
          other, injection :math:`(|\mathcal{V}|, F)`, edge indices :math:`(2, |\mathcal{E}|)`,
          edge attributes of the parts. With several levels each row holds the channels of its own
          level, and the edges are those of :class:`gncadeq.transforms.ImageToGraph`.
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> from gncadeq import ConvCell, GraphDEQ
        >>> from gncadeq.transforms import ImageToGraph
        >>> first, second = ConvCell(1, 4, contraction=0.5), ConvCell(5, 6, contraction=0.5)
        >>> cell = CascadeCell([first, second], in_channels=1)
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> GraphDEQ(cell)(data.x, data.edge_index, data.edge_attr).shape
        torch.Size([25, 10])
    """

    def __init__(self, parts: Sequence[Part | Cell], in_channels: int) -> None:
        super().__init__()
        if not parts:
            raise ValueError("Expected at least one part (got none)")
        made = [p if isinstance(p, Part) else Part(p) for p in parts]
        self.parts: Any = nn.ModuleList(made)
        self.in_channels = check_count("in_channels", in_channels, 1)
        self.reads = [self._check_reads(p, part) for p, part in enumerate(made)]
        used: dict[int, int] = {}
        self.places: list[slice] = []
        for part in made:
            first = used.get(part.level, 0)
            used[part.level] = first + part.cell.channels
            self.places.append(slice(first, used[part.level]))
        if sorted(used) != list(range(len(used))):
            raise ValueError(f"Expected parts on the levels 0, 1, … (got {sorted(used)})")
        self.levels, self.channels = len(used), max(used.values())
        context = {n for p in made for n in p.cell.required}
        if context:
            raise TypeError(
                f"Expected parts that take the graph alone (got one that takes {sorted(context)})"
            )

    def _check_reads(self, p: int, part: Part) -> tuple[Read, ...]:
        reads: tuple[Read, ...] = ("x", *range(p)) if part.reads is None else part.reads
        earlier = [q for q in reads if q != "x"]
        if not reads or not all(isinstance(q, int) and 0 <= q < p for q in earlier):
            raise ValueError(
                f"Expected part {p} to read 'x' or parts before it, 0 to {p - 1} (got {reads})"
            )
        below = {int(self.parts[q].level) for q in earlier} - {part.level}
        if below and (len(reads) > 1 or below != {part.level - 1} or part.drive is None):
            raise ValueError(
                f"Expected part {p} of level {part.level} to read its own level, or through a "
                f"drive one part of the level below (got parts of levels {sorted(below)})"
            )
        width = sum(self.in_channels if q == "x" else self.parts[q].cell.channels for q in reads)
        if part.drive is None and width != part.cell.in_channels:
            raise ValueError(
                f"Expected part {p} to take the {width} channels that it reads (got in_channels="
                f"{part.cell.in_channels}). Give it a drive"
            )
        return reads

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> CascadeStep:
        """Bind graph and injection; see :class:`Cell`."""
        dtype = next((p.dtype for p in self.parameters()), None)
        check_graph(x, edge_index, self.in_channels, dtype)
        if self.levels == 1:
            levels = [_Level(x, None, edge_index, edge_attr)]
        else:
            pyramid = Pyramid.of(edge_index, edge_attr, x.size(0))
            if len(pyramid.levels) != self.levels:
                raise ValueError(
                    f"Expected a pyramid of {self.levels} levels (got {len(pyramid.levels)}). "
                    f"Use ImageToGraph(levels={self.levels})"
                )
            levels = [_Level(x[v.rows], v.rows, v.within, None, v.up) for v in pyramid.levels]
        stages = [
            _stage(
                part, reads, min(self.parts[q].level for q in (p, *reads) if q != "x"), at, levels
            )
            for p, (part, reads, at) in enumerate(
                zip(self.parts, self.reads, self.places, strict=True)
            )
        ]
        return CascadeStep(stages, x.size(0), self.channels)

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> StructuralCertificate | None:
        """One equilibrium for every start, if each part has one; see
        :class:`gncadeq.certificate.StructuralCertificate`."""
        like = next(self.parameters(), torch.empty(0))
        x = like.new_zeros(num_nodes, self.in_channels)
        with scratch_buffers(m for m in self.modules() if has_statistics(m)):
            stages = self.prepare(x, edge_index, edge_attr).stages
        batch = context.get("batch")
        parts, steps, rates = [], [], []
        for part, stage, reads in zip(self.parts, stages, self.reads, strict=True):
            rows, own = stage.rows, {}
            if batch is not None:
                own = {"batch": batch if rows is None else batch[rows]}
            size = num_nodes if rows is None else rows.numel()
            found = part.cell.certificate(*stage.graph, num_nodes=size, **own)
            if not isinstance(found, Certificate | StructuralCertificate) or not found.promises:
                return None  # what earlier parts end in must not depend on their start
            gain = part.cell.injection_bound(*stage.graph, num_nodes=size)
            gain *= drive_bound(part.drive, *stage.edges, size)
            drives = {q: gain * reads.count(q) for q in reads if q != "x"}
            parts.append(CertifiedPart(found, stage.take, rows, drives))
            rates.append(torch.as_tensor(found.rate, dtype=torch.double))
            feeds = isinstance(part.cell, FeedForwardCell)
            steps.append(torch.ones(()) if feeds else getattr(found, "steps", None))
        size = max(rate.numel() for rate in rates)
        rate = torch.stack([r.expand(size) if r.dim() == 0 else r for r in rates]).amax(0)
        total = None if any(s is None for s in steps) else torch.stack(
            torch.broadcast_tensors(*steps)  # type: ignore[arg-type, no-untyped-call]
        ).sum(0).long()  # fmt: skip
        return StructuralCertificate(rate, total, tuple(parts))

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"in_channels={self.in_channels}, channels={self.channels}"


@dataclass
class _Level:
    """A level of a pyramid: its own nodes and edges, and those from the level below."""

    x: Tensor
    rows: OptTensor
    edge_index: Adj
    edge_attr: OptTensor
    up: Neighborhood | None = None


def _stage(
    part: Part, reads: Sequence[Read], source: int, channels: slice, levels: list[_Level]
) -> Stage:
    """A part on its level; what does not depend on states is computed once."""
    level = levels[part.level]
    graph = edges = part.edges(level.edge_index, level.edge_attr)
    if source < part.level:
        assert level.up is not None
        edges = (level.up, None)
    bind = part.cell.driven(level.x.size(0), *graph)
    with_edges = part.drive is not None and takes_edges(part.drive)

    def driven(states: Sequence[Tensor]) -> Step:
        read = [level.x if q == "x" else states[q] for q in reads]
        y = read[0] if len(read) == 1 else torch.cat(read, 1)
        if part.drive is not None:
            y = part.drive(y, *edges) if with_edges else part.drive(y)
        expected = [level.x.size(0), part.cell.in_channels]
        if list(y.shape) != expected:
            raise ValueError(
                "Expected a drive to what its part takes, [num_nodes, in_channels] = "
                f"{expected} (got {list(y.shape)}). Only a module called with edges leads from a "
                "level to the next"
            )
        return bind(y)

    if all(q == "x" for q in reads):
        step = driven([])
        return Stage(part.cell, level.rows, channels, graph, edges, lambda states: step)
    return Stage(part.cell, level.rows, channels, graph, edges, driven)


def takes_edges(drive: nn.Module) -> bool:
    """Whether a module's ``forward`` needs more than the values of nodes."""
    more = list(signature(drive.forward).parameters.values())[1:]
    return any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in more)
