"""The options of a solve and of its gradient: listed, checked and held once."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from gncadeq.check import check_value
from gncadeq.choices import Criterion, Gradient
from gncadeq.dynamics.solution import OnFailure


def _limited(default: Any, **limits: Any) -> Any:
    return field(default=default, metadata=limits)


@dataclass(eq=False)
class SolveOptions:
    """The options of a solve and of its gradient, with the meanings of :class:`gncadeq.GraphDEQ`.

    A value is checked when it is set. Whether the solver exists and takes its options is checked
    where the solver is made.

    Raises:
        TypeError: If a value is of another type.
        ValueError: If it is out of bounds.
    """

    solver: str = "auto"
    tol: float = _limited(1e-3, above=0)
    criterion: Criterion = "graph"
    max_steps: int = 60
    gradient: Gradient = "ift"
    backward_tol: float | None = _limited(None, above=0)
    backward_max_steps: int | None = None
    phantom_steps: int = _limited(5, least=1)
    phantom_damping: float = _limited(1.0, above=0, most=1)
    on_failure: OnFailure = "warn"
    solver_options: dict[str, Any] | None = None
    check_every: int = _limited(1, least=1)
    compact: bool = True
    atol: float | None = _limited(None, least=0)

    def __setattr__(self, name: str, value: Any) -> None:
        value = check_option(name, value)
        super().__setattr__(name, dict(value or {}) if name == "solver_options" else value)

    def current(self, name: str) -> Any:
        """The value of an option; where it is ``None``, that of the option which it follows."""
        value = getattr(self, name)
        return getattr(self, _FOLLOWED[name]) if value is None and name in _FOLLOWED else value

    @property
    def floor(self) -> float | None:
        """The bound from below of :class:`gncadeq.dynamics.residual.Residual` that ``atol`` is."""
        return None if self.atol is None else self.atol / self.tol

    def changed(self) -> list[str]:
        """The names of the options that don't have their defaults."""
        default = SolveOptions()
        return [name for name in _FIELDS if getattr(self, name) != getattr(default, name)]

    def but(self, **changes: Any) -> SolveOptions:
        """The same options but for ``changes``; what stays as it is isn't checked again."""
        new = copy(self)
        for name, value in changes.items():
            if getattr(self, name) != value:
                setattr(new, name, value)
        return new

    def backward(self, solver: str) -> SolveOptions:
        """The options by which the linear system of the gradient is solved."""
        return self.but(
            solver=solver, tol=self.current("backward_tol"), atol=None,
            max_steps=self.current("backward_max_steps"),
            criterion="graph" if self.criterion == "error" else self.criterion,
            solver_options=self.solver_options if solver == self.solver else None,
        )  # fmt: skip


_FOLLOWED = {"backward_tol": "tol", "backward_max_steps": "max_steps"}
_FIELDS = {each.name: each for each in fields(SolveOptions)}
_KINDS = get_type_hints(SolveOptions)


def check_option(name: str, value: Any, called: str | None = None) -> Any:
    """Return a value of an option, checked by the option's type and limits.

    Args:
        name: The option.
        value: The value.
        called: What the caller named it, if it has another name there.
    """
    limits = dict(_FIELDS[name].metadata)
    if name == "gradient" and value == "bptt":
        limits["hint"] = "Train GraphNCA (deq.as_nca()) for 'bptt'"
    return check_value(called or name, value, _KINDS[name], **limits)


def option_of(name: str) -> Any:
    """An attribute whose value is that of an option of ``self.options``."""

    def get(owner: Any) -> Any:
        return owner.options.current(name)

    def set_(owner: Any, value: Any) -> None:
        setattr(owner.options, name, value)

    return property(get, set_)


if TYPE_CHECKING:
    HasOptions = SolveOptions
else:

    class HasOptions:
        """An object that has the fields of its ``options`` as attributes."""

    for _name in _FIELDS:
        setattr(HasOptions, _name, option_of(_name))
