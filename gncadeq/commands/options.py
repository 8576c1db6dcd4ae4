"""Arguments of several commands, and what of them a user has given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from gncadeq.choices import DatasetName
from gncadeq.training.config import TrainConfig
from gncadeq.training.run_config import RunConfig, option_name

Config = TypeVar("Config", bound=RunConfig)

RunArgument = Annotated[
    str, typer.Argument(help="A run's folder, a .safetensors file, or the name of shipped weights.")
]
_ROOT = next(f.metadata for f in dataclasses.fields(TrainConfig) if f.name == "data_root")
DataRoot = Annotated[
    str | None, typer.Option("--data-root", help=_ROOT["help"], show_default=_ROOT["shown"])
]
_DEVICE = next(f.metadata for f in dataclasses.fields(TrainConfig) if f.name == "device")
Device = Annotated[str, typer.Option("--device", help=_DEVICE["help"])]
OtherDataset = Annotated[
    DatasetName | None, typer.Option(help="Another dataset than the run's own.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the interrupted run in the folder; with a larger number of steps or epochs, "
        "any run, for longer.",
    ),
]


def with_options(kind: type[RunConfig]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a configuration as options.

    The command has ``**options``: there it receives the fields that the user gave. Its other
    parameters are options of its own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(signature(command, eval_str=True).parameters.values())[:-1]
        always = {p.name for p in own}

        @wraps(command)
        def run(ctx: typer.Context, **values: Any) -> None:
            given = always | explicit(ctx).keys()
            command(**{name: value for name, value in values.items() if name in given})

        taken = [
            Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *_parameters(kind),
            *(p.replace(kind=Parameter.KEYWORD_ONLY) for p in own),
        ]
        run.__signature__ = Signature(taken)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in taken}
        return run

    return decorate


def _parameters(kind: type[RunConfig]) -> Iterator[Parameter]:
    """The parameters of a command, made from the fields of a configuration."""
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        words: dict[str, Any] = {"help": field.metadata["help"]}
        if field.name == kind.command[1]:
            info: Any = typer.Argument(metavar=field.name.upper(), **words)
        else:
            if number := {float, int} & set(get_args(types[field.name])):
                words |= {"parser": _or_none(number.pop()), "metavar": "NUMBER|none"}
            shown = field.metadata["shown"] or ("none" if field.default is None else True)
            name = option_name(field)
            names = f"--{name}/--no-{name}" if types[field.name] is bool else f"--{name}"
            info = typer.Option(field.default, names, show_default=shown, **words)
        yield Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=info, annotation=types[field.name]
        )


def _or_none(kind: type[float] | type[int]) -> Callable[[Any], float | None]:
    """The parser of a number of which ``"none"`` is None."""
    expected = {float: "a number", int: "a whole number"}[kind]

    def parse(value: Any) -> float | None:
        try:
            return None if str(value).lower() == "none" else kind(value)
        except ValueError:
            raise typer.BadParameter(f"expected {expected} or 'none' (got {value!r})") from None

    return parse


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
