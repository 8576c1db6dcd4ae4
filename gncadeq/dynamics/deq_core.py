"""The core of a :class:`gncadeq.GraphDEQ`: made of its arguments, or given."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
import torchdeq
from torch import Tensor, nn

from gncadeq.check import check_choice, check_count, check_number
from gncadeq.choices import Gradient
from gncadeq.dynamics.core_options import OWN_OPTIONS
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.torchdeq_bridge import PREFIX
from gncadeq.graph.neighborhood import transforms_active

if TYPE_CHECKING:
    from collections.abc import Mapping

_HALF = (torch.float16, torch.bfloat16)
NO_GRAPH = (
    "a solve looks at residuals to decide when it ends. Export the steps of its rule "
    "(gncadeq.export.to_exported_program, gncadeq.export.to_onnx), or compile without "
    "fullgraph=True, or compile deq.as_nca()"
)


def of_core(name: str, doc: str) -> Any:
    """An attribute of :class:`gncadeq.GraphDEQ` that its core holds."""

    def get(deq: Any) -> Any:
        return getattr(deq.core, name)

    def set_(deq: Any, value: Any) -> None:
        setattr(deq.core, name, value)

    return property(get, set_, doc=doc)


def make_core(given: dict[str, Any]) -> GraphCore:
    """The core of ``GraphDEQ``'s own arguments, which are checked under their own names."""
    hint = "Train GraphNCA (deq.as_nca()) for 'bptt'" if str(given["gradient"]) == "bptt" else ""
    gradient = check_choice("gradient", given["gradient"], get_args(Gradient), hint)
    core: GraphCore = torchdeq.get_deq(
        core="graph", f_solver=f"{PREFIX}{given['solver']}",
        f_tol=check_number("tol", given["tol"], above=0),
        f_max_iter=check_count("max_steps", given["max_steps"]),
        ift=gradient == "ift",
        grad=check_count("phantom_steps", given["phantom_steps"], least=1),
        tau=check_number("phantom_damping", given["phantom_damping"], above=0, most=1),
        **{name: given[name] for name in OWN_OPTIONS},
    )  # fmt: skip
    core.gradient = gradient
    for name, option, check in (
        ("b_tol", "backward_tol", partial(check_number, above=0)),
        ("b_max_iter", "backward_max_steps", check_count),
    ):
        if given[option] is not None:
            setattr(core, name, check(option, given[option]))
    return core


def check_core(
    core: GraphCore, given: dict[str, Any], arguments: Mapping[str, inspect.Parameter]
) -> GraphCore:
    """Refuse other cores, and arguments that the core has already."""
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
    twice = [name for name, value in given.items() if value != arguments[name].default]
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
