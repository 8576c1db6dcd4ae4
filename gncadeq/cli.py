"""The ``gncadeq`` command."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer
from rich.markup import escape

from gncadeq.commands import (
    analyze,
    doctor,
    evaluate,
    export,
    grow,
    predict,
    render,
    run,
    show,
    train,
)
from gncadeq.commands.printing import errors

app = typer.Typer(
    help="Train a local rule on a graph as an equilibrium, run it as a cellular automaton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (train, evaluate, show, analyze, predict, grow, run, render, export, doctor):
    command.register(app)


def main() -> None:
    """Run the command; what a user can mend is one line, not a traceback."""
    warnings.showwarning = _warn
    try:
        app(standalone_mode=True)
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    errors.print(
        f"[yellow]Warning:[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
