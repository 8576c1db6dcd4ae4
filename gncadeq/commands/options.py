"""Arguments of several commands, and what of them a user has given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gncadeq.choices import DatasetName

if TYPE_CHECKING:
    from gncadeq.training.config import RunConfig

Config = TypeVar("Config", bound="RunConfig")

RunArgument = Annotated[
    str, typer.Argument(help="A run's folder, a .safetensors file, or the name of shipped weights.")
]
DataRoot = Annotated[
    str | None,
    typer.Option("--data-root", help="Folder with MNIST/raw and so on; by default $GNCADEQ_DATA, "
                 "else datasets/.", show_default=False),
]  # fmt: skip
OtherDataset = Annotated[
    DatasetName | None, typer.Option(help="Another dataset than the run's own.")
]


def number_or_none(value: Any) -> float | None:
    """``"none"`` is None."""
    try:
        return None if str(value).lower() == "none" else float(value)
    except ValueError:
        raise typer.BadParameter(f"expected a number or 'none' (got {value!r})") from None


def count_or_none(value: Any) -> int | None:
    """``"none"`` is None."""
    try:
        return None if str(value).lower() == "none" else int(value)
    except ValueError:
        raise typer.BadParameter(f"expected a whole number or 'none' (got {value!r})") from None


def folder_name(on: str) -> str:
    """A surface's name as a folder's: ``torus:64,32`` is in ``torus-64-32``."""
    return Path(on).stem.replace(":", "-").replace(",", "-")


def explicit(ctx: typer.Context) -> dict[str, Any]:
    """What the user gave, by the names of parameters, without defaults."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    given = {n for n, source in sources.items() if source and source.name == "COMMANDLINE"}
    return {name: value for name, value in ctx.params.items() if name in given}


def configure(kind: type[Config], options: dict[str, Any], resume: bool) -> Config:
    """A run's config: new, or the interrupted run's with what the user says anew."""
    if not resume:
        return kind(**options)
    interrupted: Any = kind.load(Path(options["out"]) / "config.json")
    return dataclasses.replace(interrupted, **options)  # type: ignore[no-any-return]


__all__ = [
    "DataRoot",
    "OtherDataset",
    "RunArgument",
    "configure",
    "count_or_none",
    "explicit",
    "folder_name",
    "number_or_none",
]
