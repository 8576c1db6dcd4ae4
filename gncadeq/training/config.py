"""What a training run is made of; written to ``config.json`` in its folder."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gncadeq.choices import (
    AnyGradient,
    DatasetName,
    DynamicsName,
    Injection,
    Optimizer,
    Schedule,
    StartName,
    Update,
)
from gncadeq.training.recipes import recipe_options
from gncadeq.training.run_config import MAX_SEED, RunConfig, device_option, option


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
    separable: bool = option(
        False, "Pyramids: one window for each channel and one matrix in the place of a stencil."
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
    device: str = device_option()
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
        if self.levels is None and self.separable:
            raise ValueError("Expected separable=False without 'levels' (got True)")
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
        """A recipe's configuration for a dataset, with ``options`` in the place of some of its own.

        Args:
            name: ``"pyramid"``, a cascade up a pyramid of pixels; ``"conv"``, the essay's cell with
                a bound; or ``"essay"``, the essay's own recipe.
            options: Fields of the configuration.
        """
        return cls(**{**recipe_options(name, options.get("dataset", cls.dataset)), **options})

    @classmethod
    def essay(cls, **options: Any) -> Self:
        """The essay's recipe, exactly; ``options`` add what it leaves open."""
        return cls.recipe("essay", **options)

    def base(self) -> tuple[list[str], dict[str, Any]]:
        """The recipe that this is a variant of, as words of the command, and its options."""
        name = "conv" if self.levels is None else "pyramid"
        words = [] if name == "pyramid" else ["--recipe", name]
        return words, recipe_options(name, self.dataset)

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
            "channels": channels, "contraction": self.contraction, "separable": self.separable,
            "transform": transform, "deq": {"start": self.start},
        }  # fmt: skip


_ESSAYS_CELL = ("channels", "hidden_channels", "update", "injection", "standardize")
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
