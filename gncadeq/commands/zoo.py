"""``gncadeq zoo``: published systems, each with the commands that train, measure and draw it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gncadeq.commands.options import DataRoot, Device
from gncadeq.commands.printing import remark, say
from gncadeq.commands.systems import SYSTEMS, system

_COMPUTES = tuple(f"gncadeq {name} " for name in ("train", "evaluate", "show", "grow", "run"))


def zoo(
    name: Annotated[
        str | None, typer.Argument(help="The system to run; by default a list.")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    smoke: Annotated[bool, typer.Option("--smoke", help="Seconds, to see that it runs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands, run nothing.")
    ] = False,
) -> None:
    """List published systems, or train, measure and draw one of them.

    Results are those of the pages of the documentation, which say how they were measured. Systems
    whose commands begin with python need the examples of a checkout.
    """
    if name is None:
        _list()
        return
    one = system(name)
    say(f"{one.title} ({one.source}{', ' + one.url if one.url else ''})")
    say(f"published: {one.published}; here: {one.here} ({one.where})")
    if not smoke:
        say(f"CPU minutes: {one.duration}")
    for command in one.to_run(smoke):
        if device != "cpu" and command.startswith(_COMPUTES):
            command = f"{command} --device {shlex.quote(device)}"
        words = _with_data(shlex.split(command), data_root)
        say(f"$ {shlex.join(words)}")
        if not dry_run:
            _run(words)


def _list() -> None:
    wide = max(len(one.name) for one in SYSTEMS) + 2
    for one in SYSTEMS:
        say(
            f"{one.name:{wide}}{one.title} ({one.source}), {one.duration} min",
            f"{'':{wide}}published: {one.published}",
            f"{'':{wide}}here: {one.here}; {one.where}",
        )
    remark(
        "Minutes are CPU minutes on one thread, ≥ those of the training alone; – is not measured.",
        "gncadeq zoo NAME runs one, gncadeq zoo NAME --dry-run prints its commands.",
    )


def _run(command: Sequence[str]) -> None:
    """Run a command with this Python; end with its exit status if it fails."""
    first, *rest = command
    words = ["-m", "gncadeq.cli", *rest] if first == "gncadeq" else rest
    checkout = Path(__file__).parents[2]
    if first == "python" and not (checkout / words[0]).is_file():
        raise FileNotFoundError(
            f"Expected {words[0]} beside the package (not found). The examples are in a checkout "
            "of the repository: run the command there"
        )
    words = [str(checkout / w) if (checkout / w).is_file() else w for w in words]
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        raise typer.Exit(status)


def _with_data(words: list[str], data_root: str | None) -> list[str]:
    """With the folder of data, or without the option, so that the command's own default holds."""
    if data_root is not None:
        return [data_root if word == "DATA" else word for word in words]
    return [w for w in words if w != "DATA" and not (w == "--data-root" and "DATA" in words)]


EXAMPLES = (
    "gncadeq zoo",
    "gncadeq zoo life",
    "gncadeq zoo growing --smoke",
)
