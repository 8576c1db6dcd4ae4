"""Fixed-point solvers for batches of graphs of any sizes, by name."""

from __future__ import annotations

from typing import Any

from gncadeq.check import check_type, did_you_mean
from gncadeq.dynamics.solvers.anderson import Anderson
from gncadeq.dynamics.solvers.auto import Auto
from gncadeq.dynamics.solvers.base import Picard, Solver
from gncadeq.dynamics.solvers.broyden import Broyden
from gncadeq.dynamics.solvers.flow import Flow
from gncadeq.dynamics.solvers.newton import Newton
from gncadeq.dynamics.solvers.safeguard import Safeguard

_SOLVERS: dict[str, type[Solver]] = {
    "anderson": Anderson,
    "auto": Auto,
    "broyden": Broyden,
    "flow": Flow,
    "newton": Newton,
    "picard": Picard,
}
_BUILT_IN = frozenset(_SOLVERS)


def register_solver(name: str, solver: type[Solver]) -> None:
    """Make a solver selectable by ``name``.

    Raises:
        ValueError: If that is the name of a solver of this library, or TorchDEQ's.
        TypeError: If ``solver`` isn't a subclass of :class:`Solver`.
    """
    if name in _BUILT_IN or name.startswith("torchdeq:"):
        raise ValueError(
            f"Expected a new name of a solver (got {name!r}, which is one of this library's)"
        )
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        raise TypeError(f"Expected a subclass of Solver (got {solver!r})")
    _SOLVERS[name] = solver


def solver_names() -> list[str]:
    """The names that ``solver=`` accepts, TorchDEQ's own aside."""
    return sorted(_SOLVERS)


def make_solver(name: str, options: dict[str, Any] | None = None) -> Solver:
    """Return a fresh solver.

    Raises:
        ValueError: If there is no such solver.
        TypeError: If it doesn't know one of the options.
    """
    if not isinstance(name, str) or name not in _SOLVERS:
        raise ValueError(
            f"Expected 'solver' to be one of {solver_names()} or 'torchdeq:NAME' "
            f"(got {name!r}){did_you_mean(name, _SOLVERS)}"
        )
    options = {} if options is None else options
    check_type("options", options, dict)
    try:
        return _SOLVERS[name](**options)
    except TypeError as error:
        if str(error).startswith("Expected"):
            raise
        raise TypeError(f"Expected options of the solver {name!r} (got {error})") from error


__all__ = [
    "Anderson",
    "Auto",
    "Broyden",
    "Flow",
    "Newton",
    "Picard",
    "Safeguard",
    "Solver",
    "make_solver",
    "register_solver",
    "solver_names",
]
