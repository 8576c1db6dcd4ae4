"""The options of TorchDEQ that the core ``"graph"`` honours, and those that it refuses."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import cache
from typing import Any

from torchdeq.utils import add_deq_args

from gncadeq.check import did_you_mean
from gncadeq.dynamics.options import SolveOptions, check_option
from gncadeq.dynamics.torchdeq_bridge import PREFIX, check_stop_mode

_PICARD = ("fixed_point_iter", "simple_fixed_point_iter")  # TorchDEQ's names of plain steps
_OWN = ("criterion", "atol", "check_every", "compact", "on_failure", "solver_options")
_NAMES = {
    "f_tol": "tol", "f_max_iter": "max_steps", "b_tol": "backward_tol",
    "b_max_iter": "backward_max_steps", "tau": "phantom_damping", **{name: name for name in _OWN},
}  # fmt: skip
_MAX_STEPS = 40  # TorchDEQ's default


def solver_name(solver: str) -> str:
    """This library's name of a solver, given that name or TorchDEQ's."""
    return "picard" if solver in _PICARD else str(solver).removeprefix(PREFIX)


def to_solve_options(given: Mapping[str, Any]) -> SolveOptions:
    """The options of a solve in TorchDEQ's names, each checked under the name that it has there."""
    options = SolveOptions(solver_name(given.get("f_solver", "auto")), max_steps=_MAX_STEPS)
    for theirs, ours in _NAMES.items():
        if theirs in given:
            setattr(options, ours, check_option(ours, given[theirs], theirs))
    return options


def to_torchdeq_options(options: SolveOptions) -> dict[str, Any]:
    """The arguments of ``torchdeq.get_deq`` that make a core of such options."""
    return {
        "core": "graph", "f_solver": f"{PREFIX}{options.solver}",
        "ift": options.gradient == "ift", "grad": options.phantom_steps,
        **{theirs: getattr(options, ours) for theirs, ours in _NAMES.items()},
    }  # fmt: skip


@cache
def _parser_options() -> frozenset[str]:
    parser = argparse.ArgumentParser()
    add_deq_args(parser)
    return frozenset(vars(parser.parse_args([])))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that this core does not know, and values that it cannot follow."""
    names = _parser_options()
    if not names <= options.keys():
        known = names | {"no_stat", *_OWN}
        for name in options:
            if name not in known:
                hint = did_you_mean(name, known)
                raise TypeError(f"Unknown option {name!r} of core='graph'{hint}")
    for name in ("f_stop_mode", "b_stop_mode"):
        check_stop_mode(name, options.get(name, "rel"))
    remedies = {
        "hook_ift": "Use ift=True, whose memory doesn't grow with the number of steps either",
        "no_stat": "The residual of every graph is what its solve ends by",
        "sup_loc": "Use n_states or indexing for states on the way",
    }
    for name, remedy in remedies.items():
        if options.get(name):
            raise ValueError(
                f"Expected no {name!r} with core='graph' (got {options[name]!r}). {remedy}"
            )
    if (options.get("sup_gap") or 0) > 0:
        raise ValueError(
            f"Expected no 'sup_gap' with core='graph' (got {options['sup_gap']}). "
            f"{remedies['sup_loc']}"
        )
