"""What a training run is made of; written to ``config.json`` in its folder."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_origin, get_type_hints

from gncadeq.check import check_value
from gncadeq.choices import (
    Accelerator,
    AnyGradient,
    DynamicsName,
    Injection,
    Optimizer,
    Schedule,
    StartName,
    Update,
)
from gncadeq.files.json_files import write_json

POSITIVE: dict[str, Any] = {"above": 0.0}
SOME: dict[str, Any] = {"least": 1}
SHARE: dict[str, Any] = {"least": 0.0, "most": 1.0}
SEED: dict[str, Any] = {"most": 2**32 - 1}
_RUN = "run"
_PLACES = ("data_root", "out")
_OPTIONS = {"living_threshold": "living", "hidden_channels": "hidden"}


class RunConfig:
    """What the configurations of all kinds of runs have in common; they are dataclasses.

    Attributes:
        command: The command that makes such a run, and the field that is its argument.
        limits: Of numbers, as keywords of :func:`gncadeq.check.check_count` or ``check_number``;
            whole numbers without limits aren't negative.
    """

    command: ClassVar[tuple[str, str]]
    limits: ClassVar[dict[str, dict[str, Any]]] = {}

    def command_line(self, data_root: bool = True) -> str:
        """The command that makes this run again, to be pasted into a shell.

        Args:
            data_root: Whether to name the data root, which is this machine's.
        """
        name, argument = self.command
        words = ["gncadeq", name, str(getattr(self, argument))]
        left_out = (argument,) if data_root else (argument, "data_root")
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        for field in sorted(fields, key=lambda field: field.name in _PLACES):
            value = getattr(self, field.name)
            if field.name in left_out or (value == field.default and field.name != "out"):
                continue
            option = _OPTIONS.get(field.name, field.name.replace("_", "-"))
            if field.name == "living_threshold" and value is None:
                words += ["--pixels", "all"]
            elif isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{option}")
            else:
                words += [f"--{option}", "none" if value is None else str(value)]
        return shlex.join(words)

    def check_values(self) -> None:
        """Refuse a value that isn't of the field's type, or is out of its limits."""
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is not ClassVar:
                check_value(name, getattr(self, name), kind, **self.limits.get(name, {}))

    def save(self, path: Path) -> str:
        """Write the configuration as JSON, and return the id of the run.

        The id ties checkpoints to the run. A run that is resumed keeps the one it has.
        """
        run = run_id(path) or secrets.token_hex(8)
        options = {_RUN: run, **dataclasses.asdict(self)}  # type: ignore[call-overload]
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
        options.pop(_RUN, None)
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a configuration of gncadeq's (got {path}: {error})"
            ) from error

    def check_folder(self, folder: Path, resume: bool, places: tuple[str, ...]) -> None:
        """Refuse to overwrite a run, or to resume one with other options.

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
            if (folder / "model.safetensors").exists() or any(folder.glob("checkpoints/*.ckpt")):
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
        changed = [k for k, v in mine.items() if k not in places and saved[k] != v]
        if changed:
            raise ValueError(
                f"Expected the options of the run in {folder} to resume it (got other "
                f"{', '.join(changed)}). Leave them out, or train into another folder"
            )


def run_id(path: Path) -> str:
    """The id in a run's ``config.json``, or an empty string if there is none."""
    try:
        return str(_read(path).get(_RUN, ""))
    except (FileNotFoundError, ValueError):
        return ""


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
        >>> TrainConfig(dataset="digits", epochs=3).model_arguments()["channels"]
        24
    """

    command: ClassVar[tuple[str, str]] = ("train", "dataset")
    limits: ClassVar[dict[str, dict[str, Any]]] = {
        "epochs": SOME, "channels": SOME, "hidden_channels": SOME, "max_steps": SOME,
        "phantom_steps": SOME, "nca_steps": SOME, "batch_size": SOME, "train_limit": SOME,
        "devices": SOME, "seed": SEED, "contraction": POSITIVE, "tol": POSITIVE, "lr": POSITIVE,
        "clip": POSITIVE, "warm_start_mb": POSITIVE, "crop": SHARE,
        "living_threshold": {"least": 0.0, "below": 1.0},
        "fire_rate": {"above": 0.0, "most": 1.0}, "momentum": {"least": 0.0, "below": 1.0},
    }  # fmt: skip

    dataset: str = "mnist"
    data_root: str | None = None
    out: str = "runs/mnist"
    epochs: int = 10
    seed: int = 0
    channels: int = 24
    hidden_channels: int = 128
    update: Update = "direct"
    injection: Injection = "superposed"
    contraction: float | None = 0.99
    standardize: bool = True
    living_threshold: float | None = 0.02
    dynamics: DynamicsName = "deq"
    solver: str = "picard"
    tol: float = 1e-2
    max_steps: int = 60
    gradient: AnyGradient = "ift"
    phantom_steps: int = 5
    nca_steps: int = 32
    fire_rate: float = 1.0
    start: StartName = "zeros"
    optimizer: Optimizer = "adam"
    lr: float = 1e-2
    momentum: float = 0.9
    schedule: Schedule = "one_cycle"
    batch_size: int = 64
    clip: float | None = 1.0
    augment: bool = False
    crop: float = 0.0
    warm_start: bool = False
    warm_start_mb: float = 512.0
    validation: int = 0
    train_limit: int | None = None
    accelerator: Accelerator = "cpu"
    devices: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done.

        Raises:
            ValueError: If options are out of range or contradict each other.
        """
        self.check_values()
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
    def essay(cls, **options: Any) -> TrainConfig:
        """The essay's recipe, exactly; ``options`` add what it leaves open."""
        recipe: dict[str, Any] = {
            "update": "residual", "contraction": None, "standardize": False,
            "living_threshold": None, "solver": "broyden", "tol": 1e-3, "max_steps": 30,
            "start": "normal", "optimizer": "sgd", "lr": 5e-3, "momentum": 0.9,
            "schedule": "constant", "clip": None, "epochs": 10,
        }  # fmt: skip
        return cls(**{**recipe, **options})

    def model_arguments(self) -> dict[str, Any]:
        """The arguments of the :class:`gncadeq.PixelGraphClassifier`."""
        return {
            "channels": self.channels, "hidden_channels": self.hidden_channels,
            "update": self.update, "injection": self.injection, "contraction": self.contraction,
            "standardize": self.standardize,
            "transform": {"living_threshold": self.living_threshold},
            "deq": {"start": self.start},
        }  # fmt: skip


__all__ = ["POSITIVE", "SEED", "SHARE", "SOME", "RunConfig", "TrainConfig", "run_id"]
