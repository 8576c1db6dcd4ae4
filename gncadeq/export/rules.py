"""Cells on graphs that are inputs: the step of each, its constants computed beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cells import (
    Cell,
    ConvCell,
    EquivariantCell,
    GrowingCell,
    IGNNCell,
    MonotoneCell,
    PropagationCell,
    WrappedConvCell,
)
from gncadeq.cells.conv import ConvStep
from gncadeq.cells.growing import GrowingStep
from gncadeq.cells.ignn import IGNNStep
from gncadeq.cells.monotone import MonotoneStep
from gncadeq.cells.propagation import PropagationStep
from gncadeq.cells.pyg.conv_attention import HeldAttentionStep
from gncadeq.cells.pyg.conv_signature import conv_arguments
from gncadeq.cells.pyg.conv_step import WrappedConvStep
from gncadeq.export.plain import EdgeList, Graph, PlainAdjacency, PlainPerception, PlainStencil
from gncadeq.typing import OptTensor, Step


class Rule(nn.Module, ABC):
    """:meth:`gncadeq.Cell.prepare` without looking at the graph, whose step is the cell's own.

    Attributes:
        in_channels: Channels of the injection.
        only_scatter: Why the rule has no gather form, or ``None``.
        takes_scale: Whether ``scale`` is an input.
    """

    only_scatter: str | None = None
    takes_scale = False

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.in_channels = cell.in_channels

    @abstractmethod
    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        """Bind the injection and the graph."""

    @abstractmethod
    def example(self, edges: tuple[int, ...]) -> OptTensor:
        """An ``edge_attr`` of this kind for ``edges``, or ``None`` if it takes none."""

    def keep(self, **constants: Tensor) -> None:
        """Register constants as buffers."""
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone())


@singledispatch
def rule(cell: Cell, edge_attr: OptTensor = None) -> Rule:
    """The exportable rule of a cell; a cell of one's own is added by ``rule.register``.

    Args:
        cell: The cell.
        edge_attr: What its graphs have on edges, for cells that don't say it themselves.

    Raises:
        ValueError: If the cell can't be exported; the message tells why.
    """
    raise ValueError(
        "Expected a cell with an exportable rule: ConvCell, CascadeCell, GrowingCell, "
        "MonotoneCell, IGNNCell, PropagationCell or WrappedConvCell (got "
        f"{type(cell).__name__}). Teach it with "
        f"@gncadeq.export.rule.register({type(cell).__name__})"
    )


def same_steps(cell: Cell, registered: Any) -> None:
    """Refuse a cell whose steps are not those of the class that a registry knows.

    Raises:
        ValueError: If it overrides ``prepare`` of that class.
    """
    kinds = type(cell).__mro__
    kind: Any = next(kind for kind in kinds if kind in registered.registry or kind is Cell)
    if type(cell).prepare is not kind.prepare and kind is not Cell:
        name = type(cell).__name__
        raise ValueError(
            f"Expected a cell with the steps of {kind.__name__} (got {name}, which overrides its "
            f"'prepare'). Teach it with @{registered.__module__.removesuffix('.rules')}."
            f"{registered.__name__}.register({name})"
        )


def rule_of(cell: Cell, edge_attr: OptTensor = None) -> Rule:
    """:func:`rule`, but for cells whose steps are another's.

    Raises:
        ValueError: If the cell can't be exported, or only the cell that it overrides.
    """
    same_steps(cell, rule)
    return rule(cell, edge_attr)


@rule.register
def _(cell: EquivariantCell, edge_attr: OptTensor = None) -> Rule:
    raise ValueError(
        "Expected a cell with an exportable rule (got EquivariantCell, whose step sums messages by "
        "segments of sorted edges, which ONNX has no operator for)"
    )


class _Conv(Rule):
    weight_z: Tensor
    bias: Tensor

    def __init__(self, cell: ConvCell) -> None:
        super().__init__(cell)
        bias = cell.state_weight().new_zeros(cell.channels) if cell.bias is None else cell.bias
        self.keep(weight_z=cell.state_weight(), bias=bias)
        if cell.weight_x is not None:
            self.keep(weight_x=cell.weight_x)
        self.superposed, self.residual = cell.weight_x is not None, cell.update == "residual"
        self.activation = cell.activation

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert edge_attr is not None
        drive = PlainStencil(graph, edge_attr, self.weight_x)(x) if self.superposed else x  # type: ignore[arg-type]
        stencil: Any = PlainStencil(graph, edge_attr, self.weight_z)
        return ConvStep(stencil, drive + self.bias, self.residual, self.activation)

    def example(self, edges: tuple[int, ...]) -> Tensor:
        return torch.arange(edges[0]).view(-1, *[1] * (len(edges) - 1)).expand(edges).clone() % (
            self.weight_z.size(0)
        )


rule.register(ConvCell, lambda cell, edge_attr=None: _Conv(cell))


class _Monotone(Rule):
    only_scatter = (
        "its transposed stencils sum over the edges out of a node, and a table has those into it"
    )
    weight: Tensor
    weight_x: Tensor
    bias: Tensor
    step_size: Tensor

    def __init__(self, cell: MonotoneCell) -> None:
        super().__init__(cell)
        a, b = cell.operator_weights()
        self.keep(weight=torch.cat([a, b], dim=2), weight_x=cell.weight_x, bias=cell.bias)
        self.keep(step_size=cell.step_size())
        self.monotonicity = cell.monotonicity

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert edge_attr is not None
        assert isinstance(graph, EdgeList)
        drive = PlainStencil(graph, edge_attr, self.weight_x)(x) + self.bias
        there: Any = PlainStencil(graph, edge_attr, self.weight)
        back: Any = PlainStencil(graph.reversed(), edge_attr, self.weight.transpose(1, 2))
        return MonotoneStep(there, back, drive, self.monotonicity, self.step_size)

    def example(self, edges: tuple[int, ...]) -> Tensor:
        return torch.arange(edges[0]) % self.weight.size(0)


rule.register(MonotoneCell, lambda cell, edge_attr=None: _Monotone(cell))


class _Growing(Rule):
    inside: Tensor
    bias: Tensor
    outside: Tensor

    def __init__(self, cell: GrowingCell) -> None:
        super().__init__(cell)
        inside, weight_x, bias, outside = cell.layers()
        self.keep(inside=inside, bias=bias, outside=outside)
        if weight_x is not None:
            self.keep(weight_x=weight_x)
        self.driven, self.num_kernels = cell.weight_x is not None, cell.num_kernels
        channel = cell.alive_channel
        self.alive = None if channel is None else (channel, cell.alive_threshold)
        self.bound = cell.bound

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert edge_attr is not None
        perception: Any = PlainPerception(graph, edge_attr)
        drive = F.linear(x, self.weight_x, self.bias) if self.driven else None  # type: ignore[arg-type]
        weight = self.inside, self.bias, self.outside
        return GrowingStep(perception, weight, drive, self.alive, self.bound)

    def example(self, edges: tuple[int, ...]) -> Tensor:
        return torch.ones(*edges, self.num_kernels, dtype=self.inside.dtype)


rule.register(GrowingCell, lambda cell, edge_attr=None: _Growing(cell))


class _IGNN(Rule):
    weight: Tensor
    weight_x: Tensor
    bias: Tensor

    def __init__(self, cell: IGNNCell) -> None:
        super().__init__(cell)
        if cell.normalization is None:
            raise ValueError(
                "Expected IGNNCell(normalization='sym') or 'row' (got None, whose scaling iterates "
                "on every connected component of the graph)"
            )
        self.normalization = cell.normalization
        self.keep(weight=cell.state_weight(), weight_x=cell.weight_x)
        bias = cell.bias if cell.bias is not None else cell.weight_x.new_zeros(cell.channels)
        self.keep(bias=bias)
        self.activation, self.injection = cell.activation, cell.injection

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert edge_attr is not None
        adjacency: Any = PlainAdjacency(graph, edge_attr, self.normalization)
        drive = F.linear(x, self.weight_x)
        if self.injection == "neighbors":
            drive = adjacency(drive)
        return IGNNStep(adjacency, self.weight, drive + self.bias, self.activation)

    def example(self, edges: tuple[int, ...]) -> Tensor:
        return torch.ones(edges, dtype=self.weight.dtype)


rule.register(IGNNCell, lambda cell, edge_attr=None: _IGNN(cell))


class _Propagation(Rule):
    def __init__(self, cell: PropagationCell) -> None:
        super().__init__(cell)
        self.alpha, self.normalization = cell.alpha, cell.normalization

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert edge_attr is not None
        adjacency: Any = PlainAdjacency(graph, edge_attr, self.normalization)
        return PropagationStep(adjacency, 1.0 - self.alpha, self.alpha * x)

    def example(self, edges: tuple[int, ...]) -> Tensor:
        return torch.ones(edges)


rule.register(PropagationCell, lambda cell, edge_attr=None: _Propagation(cell))


class _Wrapped(Rule):
    only_scatter = "convs of PyTorch Geometric scatter their messages"

    def __init__(self, cell: WrappedConvCell, edge_attr: OptTensor = None) -> None:
        super().__init__(cell)
        name, needs = type(cell.conv).__name__, list(cell.signature.required)
        needs += ["batch"] if "batch" in cell.context and "batch" not in needs else []
        if needs or cell.signature.graph != "edge_index":
            raise ValueError(
                "Expected a conv that takes state, edges and what they carry (got "
                f"{name}, which needs {needs or cell.signature.graph} as well)"
            )
        if edge_attr is not None and cell.signature.edge is None:
            raise ValueError(f"Expected edge_attr=None, as {name} takes no attributes of edges")
        self.cell, self.like = cell, edge_attr
        bound = None if cell.contraction is None else cell.fixed_bound()
        self.takes_scale = cell.contraction is not None and bound is None
        if cell.contraction is not None and bound is not None:
            self.keep(scale=cell.contraction / bound.clamp(min=cell.contraction))

    def forward(self, graph: Graph, x: Tensor, edge_attr: OptTensor, scale: OptTensor) -> Step:
        assert isinstance(graph, EdgeList)
        cell = self.cell
        given = conv_arguments(cell.conv, cell.signature, x, graph.edge_index, edge_attr, {})
        step = WrappedConvStep(cell, graph.edge_index, cell.inject(x), given)
        if cell.holds_attention:
            step = HeldAttentionStep.at(step, cell.activation(step.drive))
        step.scale = scale if self.takes_scale else dict(self.named_buffers()).get("scale")
        return step

    def example(self, edges: tuple[int, ...]) -> OptTensor:
        return None if self.like is None else self.like.new_ones(*edges, *self.like.shape[1:])


rule.register(WrappedConvCell, _Wrapped)
