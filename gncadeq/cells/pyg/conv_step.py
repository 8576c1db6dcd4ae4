"""One step of a wrapped conv: the conv with its graph, its edges normalised once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gncadeq.cells.pyg.conv_bounds import is_exact, is_hooked
from gncadeq.cells.pyg.conv_rule import ConvRule
from gncadeq.cells.pyg.measured import recorded
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.recording import transforms_active
from gncadeq.graph.rows import Part
from gncadeq.typing import OptTensor

_EDGES = ("_cached_edge_index", "_cached_adj_t")
_STATES = ("_cached_x", "_cached_h")
_ABSENT = object()
_LOCK = threading.RLock()


_SLOPES: dict[type, Callable[[Tensor], Tensor]] = {  # by the value
    nn.Identity: lambda f: f.new_ones(()).expand_as(f),
    nn.ReLU: lambda f: (f > 0).to(f.dtype),
    nn.Tanh: lambda f: 1 - f.square(),
}


def knows_slope(cell: ConvRule) -> bool:
    """Whether nothing but an activation whose slope is known follows the conv of a cell."""
    plain = is_exact(cell.activation, _SLOPES) and not is_hooked(cell.activation)
    return plain and cell.norm is None


_T = TypeVar("_T")
# Of convs: their options and graphs, compared because versions don't tell of all changes, and what
# was made of them.
_LAST: MutableMapping[nn.Module, tuple[Any, tuple[OptTensor, ...], Any]] = WeakKeyDictionary()


def remembered(
    conv: nn.Module, options: Any, graph: tuple[OptTensor, ...], make: Callable[[], _T]
) -> _T:
    """What ``make()`` returns, made once for the options and the graph that came last."""
    if transforms_active():
        return make()
    known = _LAST.get(conv)
    if known is not None and known[0] == options and all(map(_same, known[1], graph)):
        made: _T = known[2]
        return made
    made = make()
    if not torch.is_inference_mode_enabled():  # whose tensors autograd may not save
        _LAST[conv] = options, tuple(None if v is None else v.clone() for v in graph), made
    return made


def _same(a: OptTensor, b: OptTensor) -> bool:
    return a is b or (
        a is not None and b is not None and a.device == b.device and torch.equal(a, b)
    )


class EdgeCache:
    """What a conv caches of its edges, kept by a step instead of by the conv.

    It is lent to the conv for the duration of a call, under a lock, since steps on several graphs
    may share one conv. The conv's own cache, of another graph or state, is set aside meanwhile. A
    conv that can cache its edges does so; those within it do if they are asked to.

    Args:
        conv: The conv.
    """

    def __init__(self, conv: nn.Module) -> None:
        self._lent: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.filled = False
        """Whether a call fills the cache, of the outermost conv at least."""
        compiling = torch.compiler.is_compiling()  # which finds by itself what every step repeats
        for module in conv.modules():
            mine = {name: None for name in (*_EDGES, *_STATES) if hasattr(module, name)}
            value: dict[str, Any] = dict(mine)
            asked = bool(getattr(module, "cached", False))
            if mine and hasattr(module, "cached"):
                wanted = module is conv and not compiling
                value["cached"] = _EDGES[0] in mine and (asked or wanted)
                self.filled = self.filled or (module is conv and value["cached"])
            if module is conv and hasattr(conv, "__norm__") and not compiling:
                laplacian: Any = conv.__norm__  # of ChebConv
                value["__norm__"] = functools.cache(laplacian)
                self.filled = True
            if value and (asked or not compiling):
                self._lent.append((vars(module), value))

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the conv use the cache within."""
        if not self._lent:
            yield
            return
        with nullcontext() if torch.compiler.is_compiling() else _LOCK:
            own = [
                (held, {name: held.get(name, _ABSENT) for name in value})
                for held, value in self._lent
            ]
            for held, value in self._lent:
                held.update(value)
            try:
                yield
            finally:
                for (held, value), (_, before) in zip(self._lent, own, strict=True):
                    value.update({name: held[name] for name in value})
                    held.update(before)
                    for name in [n for n, v in before.items() if v is _ABSENT]:
                        del held[name]


class WrappedConvStep:
    """One step of a :class:`gncadeq.WrappedConvCell` with graph and injection bound."""

    def __init__(
        self, cell: ConvRule, edge_index: Tensor, drive: Tensor, arguments: dict[str, Tensor]
    ) -> None:
        self.cell, self.edge_index, self.drive, self.arguments = cell, edge_index, drive, arguments
        self.scale: OptTensor = None
        self.cache = EdgeCache(cell.conv)

    @property
    def conv(self) -> nn.Module:
        """The conv of the cell."""
        return self.cell.conv

    @staticmethod
    def of(
        cell: ConvRule, edge_index: Tensor, drive: Tensor, arguments: dict[str, Tensor]
    ) -> WrappedConvStep:
        """With the method ``restrict``, if the graph can be cut down."""
        # Hyperedges, an explainer's mask of all edges and undeclared tensors cannot.
        whole = cell.signature.graph != "edge_index" or getattr(cell.conv, "explain", None)
        cut = not whole and all(cell.rows[name] is not None for name in arguments)
        kind = RestrictableConvStep if cut else WrappedConvStep
        return kind(cell, edge_index, drive, arguments)

    def recorded(self) -> WrappedConvStep:
        """The same step, apart from what it was computed from, on tensors that autograd may save.

        Those of inference mode it may not.
        """
        arguments = {name: recorded(value) for name, value in self.arguments.items()}
        edge_index, drive = recorded(self.edge_index), recorded(self.drive)
        return WrappedConvStep(self.cell, edge_index, drive, arguments)

    def call(self, z: Tensor, **more: Any) -> Any:
        """What the conv returns for a state, given ``more`` than it takes of the graph.

        Raises:
            ValueError: If it fails for want of an argument.
        """
        passed = {n: v for n, v in self.arguments.items() if n in self.cell.conv_names}
        if self.cell.signature.initial:
            passed["x_0"] = self.drive
        passed[self.cell.signature.graph] = self.edge_index
        try:
            with self.cache.lent():
                return self.conv(z, **passed, **more)
        except (AssertionError, TypeError, AttributeError) as error:
            edge = self.cell.signature.edge
            missing = edge is not None and edge not in passed
            if not missing and not isinstance(error, AssertionError):
                raise
            given = [name for name in self.cell.conv_names if name in passed]
            advice = f"Pass {edge}=..., or see" if missing else "See"
            raise ValueError(
                f"Expected other arguments for {self.conv} (got {given or 'the edges alone'}, and "
                f"its forward failed: {error or type(error).__name__}). {advice} its documentation"
            ) from error

    def check(self, z: Tensor, y: Any) -> Tensor:
        """Return ``y``, what the conv makes of the state ``z``.

        Raises:
            ValueError: If it is no state, or has no gradient.
        """
        if not isinstance(y, Tensor) or y.shape != z.shape:
            width = z.size(1)
            got = f"{width} → {y.size(-1)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise ValueError(
                f"Expected a conv that maps states [num_nodes, {width}] to the same shape (got "
                f"{got} from {type(self.conv).__name__}). Give it as many output as input channels "
                "(heads that are concatenated count), and project with 'in_channels'"
            )
        if z.requires_grad and torch.is_grad_enabled() and not y.requires_grad:
            raise ValueError(
                "Expected a conv that is differentiable to its state (got "
                f"{type(self.conv).__name__}, whose output has no gradient). An equilibrium of it "
                "could not be trained"
            )
        return y

    def output(self, z: Tensor) -> Tensor:
        """The conv of a state."""
        return self.check(z, self.call(z))

    def image(self, z: Tensor) -> Tensor:
        """The conv, and the norm if there is one, of a state."""
        y, norm = self.output(z), self.cell.norm
        if norm is None:
            return y
        batch = {"batch": self.arguments.get("batch")} if self.cell.norm_batch else {}
        return norm(y, **batch)  # type: ignore[no-any-return]

    def slope(self, fz: Tensor) -> Tensor:
        """The derivative of the next state to the conv's output, given its value ``fz``; of a cell
        that :func:`knows_slope`."""
        slope = _SLOPES[type(self.cell.activation)](fz)
        return slope if self.scale is None else self.scale * slope

    def components(self) -> tuple[Tensor, int]:
        """``[num_nodes]`` labels of what shares no messages, and their number."""
        edge_index, n = self.edge_index, self.drive.size(0)
        if "batch" in self.arguments:  # the conv may look at all nodes of a graph
            batch = self.arguments["batch"]
            return batch, int(batch.max()) + 1 if n else 0
        total = n
        if self.cell.hypergraph:  # a hyperedge joins nodes, and is one here
            total = n + (int(edge_index[1].max()) + 1 if edge_index.numel() else 0)
            edge_index = torch.stack([edge_index[0], edge_index[1] + n])
        for name, value in self.arguments.items():
            if self.cell.rows[name] == "index":
                edge_index = torch.cat([edge_index, value], dim=1)
        label, count = WeightedAdjacency(edge_index, None, total, like=self.drive).components()
        return label[:n], count

    def degree(self) -> Tensor:
        """``[num_nodes]``, the number of edges into every node."""
        backwards = getattr(self.conv, "flow", None) == "target_to_source"
        row = 0 if backwards or self.cell.hypergraph else 1
        return torch.bincount(self.edge_index[row], minlength=self.drive.size(0))

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # σ(s · norm(conv(z)) + d),  d = x Uᵀ + b computed once
        y, initial = self.image(z), self.cell.signature.initial
        if self.scale is None:
            y = y if initial else y + self.drive
        else:
            y = y * self.scale if initial else torch.addcmul(self.drive, y, self.scale)
        return self.cell.activation(y)  # type: ignore[no-any-return]


class RestrictableConvStep(WrappedConvStep):
    """A :class:`WrappedConvStep` on a graph that can be cut down."""

    def restrict(self, nodes: Tensor) -> RestrictableConvStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        keep = torch.zeros(self.drive.size(0), dtype=torch.bool, device=nodes.device)
        keep[nodes] = True
        part = Part(keep, self.edge_index, self.arguments.get("batch"))
        rows: Any = self.cell.rows
        arguments = {n: part.take(value, rows[n]) for n, value in self.arguments.items()}
        step = type(self)(self.cell, part.edges(), self.drive[nodes], arguments)  # type: ignore[arg-type]
        if self.scale is not None:
            step.scale = self.scale if self.scale.dim() == 0 else self.scale[nodes]
        return step
