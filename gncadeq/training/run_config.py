"""What the configurations of all kinds of runs have in common.

The fields of a configuration are the options of its command as well. Nothing heavy is imported, so
that ``gncadeq --help`` waits for no torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shlex
from dataclasses import Field
from inspect import cleandoc
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from gncadeq.check import check_value
from gncadeq.files.json_files import write_json

T = TypeVar("T")
MAX_SEED = 2**32 - 1
_RUN, _BEFORE = "run", "extended_from"
_PLACES = ("data_root", "out")


def option(default: T, help: str, *, name: str = "", shown: str = "", **limits: Any) -> T:
    """A field of a configuration: an option in the library and on the command line.

    Args:
        default: Its default.
        help: What it means, for ``--help`` and for the docstring of the configuration.
        name: Its name on the command line, if it is not the field's.
        shown: The default as ``--help`` shows it, if it is not the value.
        limits: Of a number, as keywords of :func:`gncadeq.check.check_count` or ``check_number``;
            whole numbers without limits aren't negative.
    """
    metadata = {"help": help, "name": name, "shown": shown, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)  # type: ignore[no-any-return]


def device_option() -> str:
    """The field that says where to compute."""
    return option("cpu", "Where to compute: cpu, cuda, cuda:1 or mps. Run on CPUs only so far.")


def option_name(field: Field[Any]) -> str:
    """The name of a field on the command line."""
    return field.metadata.get("name") or field.name.replace("_", "-")


class RunConfig:
    """What the configurations of all kinds of runs have in common; they are dataclasses.

    The ``Args`` of their docstrings are written from the fields that :func:`option` makes.

    Attributes:
        command: The command that makes such a run, and the field that is its argument.
        length: The field that says how long it trains.
    """

    command: ClassVar[tuple[str, str]]
    length: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        options = {name: f for name, f in vars(cls).items() if isinstance(f, Field)}
        if options:
            lines = [f"    {name}: {f.metadata['help']}" for name, f in options.items()]
            summary, *sections = re.split(
                r"\n(?=(?:Raises|Example):)", cleandoc(cls.__doc__ or ""), maxsplit=1
            )
            cls.__doc__ = "\n".join([summary.rstrip(), "", "Args:", *lines, "", *sections])

    def command_line(self, data_root: bool = True) -> str:
        """The command that makes this run again, to be pasted into a shell.

        Args:
            data_root: Whether to name the data root, which is this machine's.
        """
        name, argument = self.command
        recipe, usual = self.base()
        words = ["gncadeq", name, str(getattr(self, argument)), *recipe]
        left_out = (argument,) if data_root else (argument, "data_root")
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        for field in sorted(fields, key=lambda field: field.name in _PLACES):
            value = getattr(self, field.name)
            default = usual.get(field.name, field.default)
            if field.name in left_out or (value == default and field.name != "out"):
                continue
            name = option_name(field)
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{name}")
            else:
                words += [f"--{name}", "none" if value is None else str(value)]
        return shlex.join(words)

    def base(self) -> tuple[list[str], dict[str, Any]]:
        """Words of the command that name other defaults, and those defaults."""
        return [], {}

    def check_values(self) -> None:
        """Make every value one of the field's type, or refuse it, as a value out of its limits."""
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            limits = field.metadata.get("limits", {})
            value = check_value(field.name, getattr(self, field.name), kinds[field.name], **limits)
            setattr(self, field.name, value)

    def save(self, path: Path) -> str:
        """Write the configuration as JSON, and return the id of the run.

        The id ties checkpoints to the run. A run that is resumed keeps the one it has, and the
        lengths that it had before.
        """
        run = run_id(path) or secrets.token_hex(8)
        options = {_RUN: run, **dataclasses.asdict(self)}  # type: ignore[call-overload]
        if _checkpoints(path.parent):
            before, saved = extended_from(path), _read(path)[self.length]
            options[_BEFORE] = before if saved == options[self.length] else [*before, saved]
        write_json(path, options)
        return run

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a configuration.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it isn't one of this version's.
        """
        options = _read(path)
        for name in (_RUN, _BEFORE):
            options.pop(name, None)
        if "accelerator" in options:  # as it was called before
            options["device"] = options.pop("accelerator")
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a configuration of gncadeq's (got {path}: {error})"
            ) from error

    def check_folder(self, folder: Path, resume: bool, places: tuple[str, ...]) -> None:
        """Refuse to overwrite a run, or to resume one with other options than a larger length.

        Args:
            folder: The run's folder.
            resume: Whether an interrupted run is to be continued.
            places: Options that say where things are, and may change.

        Raises:
            FileExistsError: If the folder holds a run already and ``resume`` is false.
            FileNotFoundError: If it holds none and ``resume`` is true.
            ValueError: If the options are not those of the run, or it is of an earlier version.
        """
        if not resume:
            # A run that failed before its first checkpoint has left nothing to lose.
            if (folder / "model.safetensors").exists() or _checkpoints(folder):
                raise FileExistsError(
                    f"Expected a new folder for the run (got {folder}, which holds one). Use "
                    "--resume to continue it, or another --out"
                )
            return
        path = folder / "config.json"
        saved = dataclasses.asdict(type(self).load(path))  # type: ignore[call-overload]
        if not run_id(path):
            raise ValueError(
                f"Expected a run of this version to resume (got {path} without the id of a run). "
                "Train anew into another folder; the weights can be used as they are"
            )
        mine = dataclasses.asdict(self)  # type: ignore[call-overload]
        if mine[self.length] > saved[self.length]:
            places = (*places, self.length)
        changed = [k for k, v in mine.items() if k not in places and saved[k] != v]
        if changed:
            raise ValueError(
                f"Expected the options of the run in {folder} to resume it, or more {self.length} "
                f"than its {saved[self.length]} to extend it (got other {', '.join(changed)}). "
                "Leave them out, or train into another folder"
            )


def run_id(path: Path) -> str:
    """The id in a run's ``config.json``, or an empty string if there is none."""
    try:
        return str(_read(path).get(_RUN, ""))
    except (FileNotFoundError, ValueError):
        return ""


def extended_from(path: Path) -> list[int]:
    """The lengths in a run's ``config.json`` from which it was extended, the first one first."""
    try:
        return list(_read(path).get(_BEFORE, []))
    except (FileNotFoundError, ValueError):
        return []


def _checkpoints(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*.ckpt"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a training run with {path} (got no such file)")
    try:
        options = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a configuration of gncadeq's (got {path}: {error})") from error
    if not isinstance(options, dict):
        raise ValueError(f"Expected a configuration of gncadeq's (got {path}, which is no object)")
    return options
