"""The core of a :class:`gncadeq.GraphDEQ`: made of its arguments, or given."""

from __future__ import annotations

import torch
import torchdeq
from torch import Tensor, nn

from gncadeq.dynamics.core_options import to_torchdeq_options
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.options import SolveOptions
from gncadeq.graph.recording import transforms_active

_HALF = (torch.float16, torch.bfloat16)
NO_GRAPH = (
    "a solve looks at residuals to decide when it ends. Export the steps of its rule "
    "(gncadeq.export.to_exported_program, gncadeq.export.to_onnx), or compile without "
    "fullgraph=True, or compile deq.as_nca()"
)


def choose_core(core: GraphCore | None, options: SolveOptions) -> GraphCore:
    """A core made of the options, or the given one.

    Raises:
        TypeError: If the given one is another core, or there are options beside it.
        ValueError: If it returns several states.
    """
    made: GraphCore = torchdeq.get_deq(**to_torchdeq_options(options))
    made.gradient = options.gradient
    if core is None:
        return made
    if not isinstance(core, GraphCore):
        raise TypeError(
            "Expected a core made by torchdeq.get_deq(core='graph', ...) (got "
            f"{type(core).__name__}): TorchDEQ's own take every node for a sample"
        )
    if core.n_states > 1 or core.indexing:
        raise ValueError(
            "Expected a core for one state, as GraphDEQ returns (got n_states="
            f"{core.n_states}, indexing={core.indexing}). Call the core itself for several"
        )
    twice = options.changed()
    if twice:
        raise TypeError(f"Expected {twice} from the core alone (got them as arguments as well)")
    return core


def check_transforms() -> None:
    """Refuse transforms and tracers, which have no values for a solve to end by."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
        raise RuntimeError(f"Expected a call that is not traced for export, as {NO_GRAPH}")
    if transforms_active():
        raise RuntimeError(
            "Expected plain tensors (got those of a torch.func transform or of forward-mode "
            "differentiation). Use torch.autograd.grad, with create_graph=True for higher orders "
            "and a batch of graphs instead of vmap; torch.func.functional_call works"
        )


def precision(cell: nn.Module) -> torch.dtype:
    """The floating-point type of a cell's parameters."""
    for parameter in cell.parameters():
        if parameter.dtype in _HALF:
            raise TypeError(
                f"Expected a cell in float32 or float64 (got {parameter.dtype} parameters, whose "
                "rounding hides the equilibrium). Use cell.float(), under torch.autocast if the "
                "rest of the model should be in half precision"
            )
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()


def widen(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A value of half precision in another type; others as they are."""
    return value.to(dtype) if value.dtype in _HALF else value
