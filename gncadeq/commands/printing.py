"""What commands print with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gncadeq.evaluation import Evaluation

console = Console()
errors = Console(stderr=True)
_SHARES = ("accuracy", "converged", "agreement")


def say(*lines: object) -> None:
    """Print lines as they are and unbroken, to be pasted or piped."""
    for line in lines:
        console.print(str(line), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def resumable(lost: str, *command: str) -> Iterator[None]:
    """Say, when interrupted, what is saved or lost, and which command goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        done = str(error) or f"Interrupted; {lost} lost"
        line = f"{done}. Continue with\n  {shlex.join(['gncadeq', *command])}"
        errors.print(line, highlight=False, markup=False, soft_wrap=True)
        code = 143 if type(error).__name__ == "Terminated" else 130
        raise typer.Exit(code) from None


def table(*columns: str) -> Table:
    """A table whose first column holds names and whose others hold numbers."""
    made = Table(box=None, pad_edge=False)
    for k, name in enumerate(columns):
        made.add_column(name, justify="right" if k else "left")
    return made


def print_summary(columns: dict[str, dict[str, Any]]) -> None:
    """Print what :meth:`gncadeq.evaluation.Evaluation.summary` returned, side by side."""
    made = table("", *columns)
    for key in dict.fromkeys(k for column in columns.values() for k in column):
        values = (_shown(key, column.get(key)) for column in columns.values())
        made.add_row(key.replace("_", " "), *values)
    console.print(made)


def unanswered(result: Evaluation, expected: str = "an equilibrium") -> str:
    """A sentence if graphs have no answer, else an empty string."""
    count, total = result.without_answer, len(result.label)
    if not count:
        return ""
    return (
        f"Expected {expected} for every graph (got none for {count} of {total}: these have no "
        "answer, and count as wrong). Raise --max-steps or --tol, or train with --contraction"
    )


def _shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in _SHARES:
        return f"{100 * value:.2f} %"
    if key.startswith("residual"):
        return f"{value:.1e}"
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["console", "errors", "print_summary", "resumable", "say", "table", "unanswered"]
