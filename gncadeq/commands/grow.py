"""``gncadeq grow``: a rule that grows a picture from one cell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gncadeq.choices import Gradient, GrowMethod, Kernels, Projection, Up
from gncadeq.commands.options import configure, count_or_none, explicit, folder_name
from gncadeq.commands.printing import resumable, say


def grow(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="A picture (its transparency is kept); 'stripes', 'spots' or 'gradient'; or "
            "'color', the colours of the file after --on."
        ),
    ],
    on: Annotated[
        str,
        typer.Option(
            help="'grid'; a file of a mesh or of points; 'icosphere', 'torus', 'cylinder', "
            "'moebius', 'plane' or 'delaunay_blob', or with its size, 'icosphere:4', "
            "'torus:64,32'; a graph, as GraphML, GML or a list of edges; or a graph with colours "
            "(a run's target.safetensors)."
        ),
    ] = "grid",
    size: Annotated[
        int | None,
        typer.Option(
            parser=count_or_none,
            metavar="NUMBER|none",
            help="Side of the grid into which the picture is shrunk; none keeps it.",
        ),
    ] = 40,
    kernels: Annotated[
        Kernels, typer.Option(help="What the nodes of a surface sense.")
    ] = "tangent",
    scale: Annotated[
        float | None,
        typer.Option(
            help="Length of these kernels in the mesh's units, so that the rule fits other "
            "resolutions.",
            show_default="one ring of neighbours",
        ),
    ] = None,
    up: Annotated[Up, typer.Option(help="The axis of the mesh that points up.")] = "y",
    projection: Annotated[
        Projection,
        typer.Option(
            help="How a picture gets onto a surface; auto: around it, if its box is a cube, or "
            "else along the box's shortest side."
        ),
    ] = "auto",
    out: Annotated[
        str | None, typer.Option("--out", help="The run's folder.", show_default="runs/grow/TARGET")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in the folder.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    method: Annotated[
        GrowMethod, typer.Option(help="Through the steps, or at the state where they settle.")
    ] = "bptt",
    pretrain: Annotated[
        float, typer.Option(help="Share of implicit training that begins through the steps.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    channels: Annotated[int, typer.Option(help="Channels of the state.")] = 16,
    hidden_channels: Annotated[int, typer.Option("--hidden", help="Width of the rule's MLP.")] = 96,
    seed_node: Annotated[
        int | None,
        typer.Option(
            parser=count_or_none,
            metavar="NUMBER|none",
            help="The node that lives at first.",
            show_default="none: the one in the middle",
        ),
    ] = None,
    anchor: Annotated[
        bool, typer.Option(help="Mark the seed node for ever, which holds the pattern in place.")
    ] = True,
    fire_rate: Annotated[
        float, typer.Option(help="Probability that a node updates in a step (bptt).")
    ] = 1.0,
    min_rollout: Annotated[int, typer.Option(help="Fewest steps to train through (bptt).")] = 20,
    max_rollout: Annotated[int, typer.Option(help="Most steps to train through (bptt).")] = 32,
    settle: Annotated[
        int, typer.Option(help="Let drawn states age by up to so many steps first (bptt).")
    ] = 100,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            parser=count_or_none,
            metavar="NUMBER|none",
            show_default="none",
            help="Recompute in segments of so many steps, for less memory (bptt).",
        ),
    ] = None,
    gradient: Annotated[Gradient, typer.Option(help="The gradient (implicit).")] = "ift",
    phantom_steps: Annotated[int, typer.Option(help="Steps of the phantom gradient.")] = 16,
    tol: Annotated[float, typer.Option(help="Relative residual to reach (implicit).")] = 1e-3,
    max_steps: Annotated[int, typer.Option(help="Most iterations to it (implicit).")] = 96,
    variants: Annotated[
        int, typer.Option(help="Other triangulations of a surface to train on beside it.")
    ] = 7,
    pool_size: Annotated[int, typer.Option(help="States in the pool.")] = 16,
    elders: Annotated[
        float, typer.Option(help="Share of them that never return to the seed, and grow old.")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(help="States a training step.")] = 4,
    reset_every: Annotated[
        int, typer.Option(help="The worst starts again from the seed every so many steps.")
    ] = 2,
    damage: Annotated[int, typer.Option(help="How many of the best are injured.")] = 1,
    damage_from: Annotated[
        float, typer.Option(help="Share of the training before injuries.")
    ] = 0.1,
    rest: Annotated[float, typer.Option(help="Weight of the pressure to be still.")] = 30.0,
    overflow: Annotated[float, typer.Option(help="Weight of the penalty on large states.")] = 1.0,
    overflow_bound: Annotated[float, typer.Option(help="What is large.")] = 2.0,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    save_every: Annotated[int, typer.Option(help="Training steps between checkpoints.")] = 100,
) -> None:
    """Train a rule that grows a picture from one living cell, keeps it and mends it."""
    from gncadeq.training import GrowConfig
    from gncadeq.training.grow import grow as train

    options = explicit(ctx)
    options.pop("resume", None)
    name = Path(target).stem if on == "grid" else f"{folder_name(on)}-{Path(target).stem}"
    options["out"] = out or f"runs/grow/{name}"
    config = configure(GrowConfig, options, resume)
    say(config.command_line())
    lost = f"at most {config.save_every} training steps are"
    with resumable(lost, "grow", target, "--out", config.out, "--resume"):
        cell = train(config, resume=resume)
    parameters = sum(p.numel() for p in cell.parameters())
    say(
        f"{parameters:,} parameters. The run is in {config.out}",
        "Look at it with: " + shlex.join(["gncadeq", "run", config.out]),
    )


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Examples:\n\n"
        "    python datasets/draw_emoji.py lizard\n\n"
        "    gncadeq grow datasets/emoji/lizard.png --out runs/lizard\n\n"
        "    gncadeq grow datasets/emoji/lizard.png --out runs/lizard --resume\n\n"
        "    gncadeq grow photo.png --size 48 --method implicit --steps 1000\n\n"
        "    gncadeq grow spots --on icosphere --scale 0.15 --out runs/spots\n\n"
        "    gncadeq grow photo.png --on torus\n\n"
        "    gncadeq grow color --on mesh.ply\n\n"
        "    gncadeq grow stripes --on graph.graphml"
    )(grow)


__all__ = ["register"]
