"""What a training run is made of; written to ``config.json`` in its folder.

The fields of a configuration are the options of its command as well. Nothing heavy is imported, so
that ``gncadeq --help`` waits for no torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shlex
from dataclasses import Field, dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from gncadeq.check import check_value
from gncadeq.choices import (
    Accelerator,
    AnyGradient,
    DatasetName,
    DynamicsName,
    Injection,
    Optimizer,
    Schedule,
    StartName,
    Update,
)
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
        """Refuse a value that isn't of the field's type, or is out of its limits."""
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            limits = field.metadata.get("limits", {})
            check_value(field.name, getattr(self, field.name), kinds[field.name], **limits)

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


@dataclass
class TrainConfig(RunConfig):
    """The options of a training run, with the defaults of the best recipe.

    Example:
        >>> TrainConfig(dataset="digits", epochs=3).architecture()[0]
        'PixelGraphClassifier'
        >>> TrainConfig.recipe("pyramid").levels
        '8,16,27'
    """

    command: ClassVar[tuple[str, str]] = ("train", "dataset")
    length: ClassVar[str] = "epochs"

    dataset: DatasetName = option("mnist", "What to train on.")
    data_root: str | None = option(
        None, "Folder with MNIST/raw and so on.", shown="$GNCADEQ_DATA, else datasets/"
    )
    out: str = option("runs/mnist", "The run's folder.", shown="runs/DATASET")
    epochs: int = option(10, "Passes over the training set.", least=1)
    seed: int = option(0, "Seed of all randomness.", most=MAX_SEED)
    levels: str | None = option(
        None,
        "Channels of the levels of a pyramid, such as 8,16,27; with none the essay's cell.",
        shown="by the recipe",
    )
    channels: int = option(24, "Channels of encoder and state of the essay's cell.", least=1)
    hidden_channels: int = option(128, "Width of the readout's MLP.", name="hidden", least=1)
    update: Update = option("direct", "The cell's form.")
    injection: Injection = option("superposed", "How the input enters every step.")
    contraction: float | None = option(0.99, "Bound on the state's stencil.", above=0)
    standardize: bool = option(True, "Standardise the pooled state over the batch in training.")
    living_threshold: float | None = option(
        0.02,
        "Grey level above which a pixel is a node; with none all pixels are.",
        name="living",
        least=0,
        below=1,
    )
    dynamics: DynamicsName = option("deq", "Train as equilibrium or automaton.")
    solver: str = option(
        "picard", "auto, picard, anderson, broyden, newton, flow or torchdeq:NAME."
    )
    tol: float = option(1e-2, "Relative residual to reach in training.", above=0)
    max_steps: int = option(60, "Most solver steps in training.", least=1)
    gradient: AnyGradient = option("ift", "bptt goes with dynamics nca, the others with deq.")
    phantom_steps: int = option(5, "Steps of the phantom gradient.", least=1)
    nca_steps: int = option(32, "Steps of the automaton in training.", least=1)
    fire_rate: float = option(1.0, "Fire rate of the automaton in training.", above=0, most=1)
    start: StartName = option("zeros", "Where dynamics start.")
    optimizer: Optimizer = option("adam", "The optimiser.")
    lr: float = option(1e-2, "(Peak) learning rate.", above=0)
    momentum: float = option(0.9, "Momentum of SGD.", least=0, below=1)
    weight_decay: float = option(0.0, "Decoupled decay of matrices and stencils.", least=0)
    schedule: Schedule = option("one_cycle", "The course of the learning rate.")
    batch_size: int = option(64, "Images a step.", least=1)
    clip: float | None = option(1.0, "Bound on the gradient's norm.", above=0)
    augment: bool = option(False, "Rotate, stretch and shear the training images a little.")
    shift: float = option(0.0, "Shift the training images by up to so many pixels.", least=0)
    crop: float = option(
        0.0, "Share of the training images of which only a window is shown.", least=0, most=1
    )
    warm_start: bool = option(False, "Start every solve from the image's equilibrium an epoch ago.")
    warm_start_mb: float = option(512.0, "Memory for these equilibria, in MB.", above=0)
    validation: int = option(0, "Training images to hold out and measure every epoch.")
    train_limit: int | None = option(
        None, "Use only so many training images.", shown="none: all", least=1
    )
    accelerator: Accelerator = option("cpu", "Where to train; measured on CPUs only so far.")
    devices: int = option(
        1, "Processes on this machine, each with a device and a share of every batch.", least=1
    )

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done.

        Raises:
            ValueError: If options are out of range or contradict each other.
        """
        self.check_values()
        if self.levels is not None and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)+", self.levels):
            raise ValueError(
                "Expected 'levels' to be the channels of two levels or more, such as 8,16,27 (got "
                f"{self.levels!r})"
            )
        other = [name for name in _ESSAYS_CELL if getattr(self, name) != _DEFAULTS[name]]
        if self.levels is not None and other:
            raise ValueError(
                f"Expected {', '.join(map(repr, other))} with the essay's cell alone (got levels="
                f"{self.levels!r}). Use --recipe conv, or levels=None"
            )
        if self.levels is not None and (self.warm_start or self.living_threshold is None):
            raise ValueError(
                "Expected living pixels and no warm start with 'levels' (got living_threshold="
                f"{self.living_threshold}, warm_start={self.warm_start})"
            )
        self.check_shares(self.devices, self.train_limit)
        if self.batch_size < 2 and self.standardize:
            raise ValueError("Expected 'batch_size' of at least 2 to standardise over (got 1)")
        if self.warm_start and (self.dynamics == "nca" or self.augment or self.crop > 0):
            raise ValueError(
                "Expected an equilibrium of the same images in every epoch to start from (got "
                f"warm_start=True with dynamics={self.dynamics!r}, augment={self.augment}, "
                f"crop={self.crop:g}). Leave the distortions out, or warm_start"
            )
        if (self.gradient == "bptt") != (self.dynamics == "nca"):
            raise ValueError(
                f"Expected gradient='bptt' with dynamics='nca' and only there (got "
                f"{self.gradient!r} with {self.dynamics!r}). An automaton is trained through its "
                "steps, an equilibrium at its solution"
            )

    def check_shares(self, processes: int, images: int | None) -> None:
        """Refuse batches (of as many of the ``images`` as fit) that processes can't share equally.

        Raises:
            ValueError: If a process would have more images than another.
        """
        size = self.batch_size if images is None else min(self.batch_size, images)
        if processes > 1 and size % processes:
            raise ValueError(
                f"Expected batches that {processes} processes share equally (got {size} images, of "
                f"all processes together). Use a 'batch_size' such as "
                f"{-(-size // processes) * processes}"
            )

    @classmethod
    def recipe(cls, name: str = "pyramid", **options: Any) -> Self:
        """A recipe's configuration, with ``options`` in the place of some of its own.

        Args:
            name: ``"pyramid"``, a cascade up a pyramid of pixels; ``"conv"``, the essay's cell with
                a bound; or ``"essay"``, the essay's own recipe.
            options: Fields of the configuration.
        """
        return cls(**{**RECIPES[name], **options})

    @classmethod
    def essay(cls, **options: Any) -> Self:
        """The essay's recipe, exactly; ``options`` add what it leaves open."""
        return cls.recipe("essay", **options)

    def base(self) -> tuple[list[str], dict[str, Any]]:
        """The recipe that this is a variant of, as words of the command, and its options."""
        name = "conv" if self.levels is None else "pyramid"
        return [] if name == "pyramid" else ["--recipe", name], RECIPES[name]

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """The class of the model, of :mod:`gncadeq.models`, and its arguments."""
        if self.levels is None:
            return "PixelGraphClassifier", {
                "channels": self.channels, "hidden_channels": self.hidden_channels,
                "update": self.update, "injection": self.injection,
                "contraction": self.contraction, "standardize": self.standardize,
                "transform": {"living_threshold": self.living_threshold},
                "deq": {"start": self.start},
            }  # fmt: skip
        channels = [int(c) for c in self.levels.split(",")]
        transform = {"living_threshold": self.living_threshold, "halo": 1, "levels": len(channels)}
        return "PyramidClassifier", {
            "channels": channels, "contraction": self.contraction, "transform": transform,
            "deq": {"start": self.start},
        }  # fmt: skip


_ESSAYS_CELL = ("channels", "hidden_channels", "update", "injection", "standardize")
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
RECIPES: dict[str, dict[str, Any]] = {
    "pyramid": {
        "levels": "8,16,27", "contraction": 0.9, "optimizer": "adamw", "lr": 0.03,
        "weight_decay": 1e-3, "batch_size": 128, "augment": True, "shift": 1.5,
    },
    "conv": {},
    "essay": {
        "update": "residual", "contraction": None, "standardize": False,
        "living_threshold": None, "solver": "broyden", "tol": 1e-3, "max_steps": 30,
        "start": "normal", "optimizer": "sgd", "lr": 5e-3, "momentum": 0.9,
        "schedule": "constant", "clip": None, "epochs": 10,
    },
}  # fmt: skip
"""What the recipes of ``gncadeq train`` change of the defaults."""
