"""The ``gncadeq`` command."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from itertools import islice
from typing import Annotated, Any

import typer
from rich.markup import escape

from gncadeq.commands import (
    analyze,
    doctor,
    evaluate,
    export,
    grow,
    play,
    predict,
    render,
    run,
    show,
    train,
    zoo,
)
from gncadeq.commands.failure import sentence
from gncadeq.commands.printing import begin, errors
from gncadeq.commands.threads import set_defaults, use_threads

app = typer.Typer(
    help="Train a local rule on a graph as an equilibrium, run it as a cellular automaton.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    train,
    evaluate,
    show,
    analyze,
    predict,
    grow,
    run,
    play,
    zoo,
    render,
    export,
    doctor,
):
    name = module.__name__.rpartition(".")[2]
    epilog = "\n\n".join(["Examples:", *(f"    {line}" for line in module.EXAMPLES)])
    app.command(epilog=epilog)(getattr(module, name))


def _print_version(value: bool) -> None:
    if value:
        from gncadeq import __version__

        typer.echo(f"gncadeq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            help="Print results and warnings alone, and no progress; goes after any command, too.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show where an error came from; goes after any command, too."),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            show_default="OMP_NUM_THREADS, else 1",
            help="Threads of torch's operations, shared by --devices; goes after any command, too. "
            "Several gain on large graphs and an idle machine alone.",
        ),
    ] = None,
) -> None:
    """Options of every command; ``main`` reads ``--debug`` itself, to know of it in any case."""
    begin(quiet)
    if threads is not None:
        use_threads(threads)


def main() -> None:
    """Run the command; whatever goes wrong is one sentence, not a traceback."""
    warnings.showwarning = _warn
    set_defaults()
    words = _general_first(sys.argv[1:])
    try:
        app(args=words, prog_name="gncadeq", standalone_mode=True)
    except KeyboardInterrupt:
        errors.print("Interrupted")
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        _print("[red]Error:[/red]", sentence(error))
        sys.exit(1)


def _general_first(words: list[str]) -> list[str]:
    """Options of every command before the command, where typer looks for them."""
    first, rest, left = [], [], iter(words)
    for word in left:
        if word in ("--debug", "--quiet") or word.startswith("--threads="):
            first.append(word)
        elif word == "--threads":
            first += [word, *islice(left, 1)]
        else:
            rest.append(word)
    return first + rest


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, DeprecationWarning | FutureWarning):
        return  # a dependency's word to developers
    _print("[yellow]Warning:[/yellow]", str(message))


def _print(head: str, message: str) -> None:
    errors.print(f"{head} {escape(message)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
