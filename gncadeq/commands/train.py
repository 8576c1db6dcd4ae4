"""``gncadeq train``: a classifier of pixel graphs."""

from __future__ import annotations

import shlex
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
from gncadeq.commands.options import DataRoot, configure, count_or_none, explicit, number_or_none
from gncadeq.commands.printing import print_summary, resumable, say, unanswered

if TYPE_CHECKING:
    from gncadeq.training import TrainConfig


def train(
    ctx: typer.Context,
    dataset: Annotated[DatasetName, typer.Argument(metavar="DATASET", help="What to train on.")],
    data_root: DataRoot = None,
    out: Annotated[
        str | None, typer.Option("--out", help="The run's folder.", show_default="runs/DATASET")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in the folder.")
    ] = False,
    recipe: Annotated[
        Literal["default", "essay"],
        typer.Option(
            help="'essay' is the essay's: residual form, SGD 0.005 with momentum "
            "0.9, Gaussian start, Broyden, all pixels, 10 epochs."
        ),
    ] = "default",
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    channels: Annotated[int, typer.Option(help="Channels of encoder and state.")] = 24,
    hidden_channels: Annotated[
        int, typer.Option("--hidden", help="Width of the readout's MLP.")
    ] = 128,
    update: Annotated[Update, typer.Option(help="The cell's form.")] = "direct",
    injection: Annotated[
        Injection, typer.Option(help="How the input enters every step.")
    ] = "superposed",
    contraction: Annotated[
        float | None,
        typer.Option(
            parser=number_or_none, metavar="NUMBER|none", help="Bound on the state's stencil."
        ),
    ] = 0.99,
    standardize: Annotated[
        bool, typer.Option(help="Standardise the pooled state over the batch in training.")
    ] = True,
    pixels: Annotated[Literal["living", "all"], typer.Option(help="Which are nodes.")] = "living",
    living_threshold: Annotated[
        float, typer.Option("--living", help="Grey level above which a pixel lives.")
    ] = 0.02,
    dynamics: Annotated[
        DynamicsName, typer.Option(help="Train as equilibrium or automaton.")
    ] = "deq",
    solver: Annotated[
        str, typer.Option(help="auto, picard, anderson, broyden, newton, flow or torchdeq:NAME.")
    ] = "picard",
    tol: Annotated[float, typer.Option(help="Relative residual to reach in training.")] = 1e-2,
    max_steps: Annotated[int, typer.Option(help="Most solver steps in training.")] = 60,
    gradient: Annotated[
        AnyGradient, typer.Option(help="bptt goes with --dynamics nca, the others with deq.")
    ] = "ift",
    phantom_steps: Annotated[int, typer.Option(help="Steps of the phantom gradient.")] = 5,
    nca_steps: Annotated[int, typer.Option(help="Steps of the automaton in training.")] = 32,
    fire_rate: Annotated[float, typer.Option(help="Its fire rate in training.")] = 1.0,
    start: Annotated[StartName, typer.Option(help="Where dynamics start.")] = "zeros",
    optimizer: Annotated[Optimizer, typer.Option(help="The optimiser.")] = "adam",
    lr: Annotated[float, typer.Option(help="(Peak) learning rate.")] = 1e-2,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9,
    schedule: Annotated[
        Schedule, typer.Option(help="The course of the learning rate.")
    ] = "one_cycle",
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    clip: Annotated[
        float | None,
        typer.Option(
            parser=number_or_none, metavar="NUMBER|none", help="Bound on the gradient's norm."
        ),
    ] = 1.0,
    augment: Annotated[
        bool, typer.Option(help="Rotate, stretch and shear the training images a little.")
    ] = False,
    crop: Annotated[
        float, typer.Option(help="Share of the training images of which only a window is shown.")
    ] = 0.0,
    warm_start: Annotated[
        bool, typer.Option(help="Start every solve from the image's equilibrium an epoch ago.")
    ] = False,
    warm_start_mb: Annotated[float, typer.Option(help="Memory for these equilibria.")] = 512.0,
    validation: Annotated[
        int, typer.Option(help="Training images to hold out and measure every epoch.")
    ] = 0,
    train_limit: Annotated[
        int | None,
        typer.Option(
            parser=count_or_none, metavar="NUMBER|none", show_default="none: all",
            help="Use only so many training images.",
        ),
    ] = None,
    accelerator: Annotated[
        Accelerator, typer.Option(help="Where to train; measured on CPUs only so far.")
    ] = "cpu",
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Processes on this machine, each with a device and a share of every batch."
        ),
    ] = 1,
) -> None:  # fmt: skip
    """Train the essay's classifier and measure it on the test set at true equilibrium."""
    from gncadeq.training import TrainConfig

    options = explicit(ctx)
    for name in ("resume", "recipe", "pixels"):
        options.pop(name, None)
    if {"pixels", "living_threshold"} & explicit(ctx).keys():
        options["living_threshold"] = living_threshold if pixels == "living" else None
    if gradient == "bptt":
        options.setdefault("dynamics", "nca")
    if dynamics == "nca":
        options.setdefault("gradient", "bptt")
    options["out"] = out or f"runs/{dataset}"
    if recipe == "essay" and not resume:
        config = TrainConfig.essay(**options)
    else:
        config = configure(TrainConfig, options, resume)
    _train(config, resume)


def _train(config: TrainConfig, resume: bool) -> None:
    from gncadeq.training.processes import Processes
    from gncadeq.training.run import train

    if Processes.here().rank > 0:  # the first process speaks for all
        train(config, resume=resume)
        return
    say(config.command_line())
    again = ("train", config.dataset, "--out", config.out, "--resume")
    with resumable("at most one epoch is", *again):
        model, result = train(config, resume=resume)
    parameters = sum(p.numel() for p in model.parameters())
    print_summary({f"{config.dataset} test set, equilibrium": result.summary()})
    if missing := unanswered(result):
        warnings.warn(missing, stacklevel=2)
    say(
        f"{100 * result.accuracy:.2f} % with {parameters:,} parameters. The run is in {config.out}",
        "Look at it with: " + shlex.join(["gncadeq", "show", config.out]),
    )


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Examples:\n\n"
        "    gncadeq train digits --epochs 10\n\n"
        "    gncadeq train mnist --data-root ~/data --out runs/mnist\n\n"
        "    gncadeq train mnist --out runs/mnist --resume\n\n"
        "    gncadeq train mnist --recipe essay --out runs/essay"
    )(train)


__all__ = ["register"]
