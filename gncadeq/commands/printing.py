"""What commands print with: results, remarks, numbers as JSON, and progress.

Results are printed always, remarks and progress not after ``--quiet``. Where standard output is to
be JSON, all else goes to standard error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from gncadeq.cell_labels import CellEvaluation
    from gncadeq.evaluation import Evaluation

console = Console()
remarks = Console()
errors = Console(stderr=True)
_SHARES = (
    "accuracy", "converged", "agreement", "cell_accuracy", "total_agreement", "majority",
    "right_and_agreed", "same_label",
)  # fmt: skip


def begin(quiet: bool) -> None:
    """Set what is printed where, before a command reads its options."""
    remarks.quiet = quiet
    console.stderr = remarks.stderr = False


def _make_way(place: str | None) -> str | None:
    """Keep standard output for the JSON, if it goes there."""
    if place == "-":
        console.stderr = remarks.stderr = True
    return place


Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_make_way,
        show_default=False,
        help="Also write the numbers to this file as JSON; - is standard output, and all else "
        "then goes to standard error.",
    ),
]


def write_numbers(place: str | None, value: Any) -> None:
    """Write numbers where the option ``--json`` says."""
    from gncadeq.files.json_files import to_json, write_json

    if place == "-":
        typer.echo(to_json(value))
    elif place:
        write_json(place, value)


def say(*lines: object, to: Console = console) -> None:
    """Print lines as they are and unbroken, to be pasted or piped."""
    for line in lines:
        to.print(str(line), highlight=False, markup=False, soft_wrap=True)


def remark(*lines: object) -> None:
    """Print lines that are no results."""
    say(*lines, to=remarks)


def progress() -> bool:
    """Whether progress is to be shown, where it can be."""
    return not remarks.quiet


def busy(what: str) -> AbstractContextManager[Any]:
    """On a terminal, say what is being done, for work whose length isn't known."""
    return errors.status(escape(what)) if progress() and errors.is_terminal else nullcontext()


@contextmanager
def resumable(lost: str, *command: str) -> Iterator[None]:
    """Say, when interrupted, what is saved or lost, and which command goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        done = str(error) or f"Interrupted; {lost} lost"
        line = f"{done}. Continue with\n  {shlex.join(['gncadeq', *command])}"
        say(line, to=errors)
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


def unanswered(result: Evaluation | CellEvaluation, expected: str = "an equilibrium") -> str:
    """A sentence if graphs have no answer, else an empty string."""
    count, total = result.without_answer, len(result.converged)
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
