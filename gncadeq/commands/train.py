"""``gncadeq train``: a classifier of pixel graphs."""

from __future__ import annotations

import shlex
import warnings
from typing import Annotated, Any, Literal

import typer

from gncadeq.commands.options import Resume, configure, with_options
from gncadeq.commands.printing import (
    Json,
    print_summary,
    progress,
    remark,
    resumable,
    say,
    unanswered,
    write_numbers,
)
from gncadeq.training import TrainConfig
from gncadeq.training.recipes import recipe_options


@with_options(TrainConfig)
def train(
    resume: Resume = False,
    recipe: Annotated[
        Literal["pyramid", "conv", "essay"],
        typer.Option(
            help="'pyramid' is a cascade up a pyramid of pixels; 'conv' the essay's cell with a "
            "bound; 'essay' its own recipe: residual form, SGD 0.005 with momentum "
            "0.9, Gaussian start, Broyden, all pixels, 10 epochs."
        ),
    ] = "pyramid",
    pixels: Annotated[
        Literal["living", "all"] | None,
        typer.Option(help="Which are nodes; all is --living none.", show_default="living"),
    ] = None,
    json_file: Json = None,
    **options: Any,
) -> None:
    """Train a classifier of pixel graphs and measure it on the test set at true equilibrium."""
    if pixels == "all":
        options["living_threshold"] = None
    elif pixels == "living":
        options.setdefault("living_threshold", TrainConfig.living_threshold)
    if options.get("gradient") == "bptt":
        options.setdefault("dynamics", "nca")
    if options.get("dynamics") == "nca":
        options.setdefault("gradient", "bptt")
    options.setdefault("out", f"runs/{options['dataset']}")
    if not resume:
        options = {**recipe_options(recipe, options["dataset"]), **options}
    config = configure(TrainConfig, options, resume)
    _train(config, resume, json_file)


def _train(config: TrainConfig, resume: bool, json_file: str | None) -> None:
    from gncadeq.training.processes import Processes
    from gncadeq.training.run import train

    if Processes.here().rank > 0:  # the first process speaks for all
        train(config, resume=resume)
        return
    remark(config.command_line())
    again = ("train", config.dataset, "--out", config.out, "--resume")
    with resumable("at most one epoch is", *again):
        model, result = train(config, resume=resume, progress=progress())
    parameters = sum(p.numel() for p in model.parameters())
    print_summary({f"{config.dataset} test set, equilibrium": result.summary()})
    if missing := unanswered(result):
        warnings.warn(missing, stacklevel=2)
    say(f"{100 * result.accuracy:.2f} % with {parameters:,} parameters")
    numbers = {**result.summary(), "parameters": parameters, "run": config.out}
    write_numbers(json_file, numbers)
    remark(
        f"The run is in {config.out}",
        "Look at it with: " + shlex.join(["gncadeq", "show", config.out]),
    )


EXAMPLES = (
    "gncadeq train digits --epochs 10",
    "gncadeq train mnist --data-root ~/data --out runs/mnist",
    "gncadeq train mnist --out runs/mnist --resume",
    "gncadeq train mnist --recipe essay --out runs/essay",
)
