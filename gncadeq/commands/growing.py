"""``gncadeq grow`` and ``gncadeq run``: growing automata on the command line."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

out = Console()
err = Console(stderr=True)


class Method(StrEnum):
    """The ways to train."""

    bptt = "bptt"
    implicit = "implicit"


class GradientName(StrEnum):
    """The gradients of implicit training."""

    phantom = "phantom"
    one_step = "one_step"
    ift = "ift"


class KernelsName(StrEnum):
    """What the nodes of a surface sense."""

    tangent = "tangent"
    harmonics = "harmonics"
    isotropic = "isotropic"


class Axis(StrEnum):
    """The axes of a mesh."""

    x = "x"
    y = "y"
    z = "z"


class ProjectionName(StrEnum):
    """How a picture gets onto a surface."""

    auto = "auto"
    front = "front"
    side = "side"
    top = "top"
    sphere = "sphere"


class DamageName(StrEnum):
    """The injuries."""

    third = "third"
    disc = "disc"
    none = "none"


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
            help="'grid'; a mesh file; 'icosphere', 'torus', 'cylinder', 'moebius', 'plane' or "
            "'delaunay_blob', or with its size, 'icosphere:4', 'torus:64,32'; or a graph file with "
            "colours (a run's target.safetensors)."
        ),
    ] = "grid",
    size: Annotated[
        str, typer.Option(help="Side of the grid into which the picture is shrunk; none keeps it.")
    ] = "40",
    kernels: Annotated[
        KernelsName, typer.Option(help="What the nodes of a surface sense.")
    ] = KernelsName.tangent,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Length of these kernels in the mesh's units, so that the rule fits other "
            "resolutions.",
            show_default="one ring of neighbours",
        ),
    ] = None,
    up: Annotated[Axis, typer.Option(help="The axis of the mesh that points up.")] = Axis.y,
    projection: Annotated[
        ProjectionName,
        typer.Option(
            help="How a picture gets onto a surface; auto: around it, if its box is a cube, or "
            "else along the box's shortest side."
        ),
    ] = ProjectionName.auto,
    out_folder: Annotated[
        str | None, typer.Option("--out", help="The run's folder.", show_default="runs/grow/TARGET")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in the folder.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    method: Annotated[
        Method, typer.Option(help="Through the steps, or at the state where they settle.")
    ] = Method.bptt,
    pretrain: Annotated[
        float, typer.Option(help="Share of implicit training that begins through the steps.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    channels: Annotated[int, typer.Option(help="Channels of the state.")] = 16,
    hidden: Annotated[int, typer.Option(help="Width of the rule's MLP.")] = 96,
    seed_node: Annotated[
        str, typer.Option(help="The node that lives at first, or none for the one in the middle.")
    ] = "none",
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
        str, typer.Option(help="Recompute in segments of so many steps, for less memory (bptt).")
    ] = "none",
    gradient: Annotated[
        GradientName, typer.Option(help="The gradient (implicit).")
    ] = GradientName.ift,
    phantom_steps: Annotated[int, typer.Option(help="Steps of the phantom gradient.")] = 16,
    tol: Annotated[float, typer.Option(help="Relative residual to reach (implicit).")] = 1e-3,
    max_steps: Annotated[int, typer.Option(help="Most iterations to it (implicit).")] = 96,
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

    given: dict[str, Any] = {
        "on": on, "size": _count("size", size), "kernels": kernels.value, "scale": scale,
        "up": up.value, "projection": projection.value, "steps": steps, "method": method.value,
        "pretrain": pretrain, "seed": seed, "channels": channels, "hidden_channels": hidden,
        "seed_node": _count("seed-node", seed_node), "fire_rate": fire_rate, "anchor": anchor,
        "min_rollout": min_rollout, "max_rollout": max_rollout, "settle": settle,
        "checkpoint_every": _count("checkpoint-every", checkpoint_every),
        "gradient": gradient.value, "phantom_steps": phantom_steps, "tol": tol,
        "max_steps": max_steps, "pool_size": pool_size, "elders": elders, "batch_size": batch_size,
        "reset_every": reset_every, "damage": damage, "damage_from": damage_from, "rest": rest,
        "overflow": overflow, "overflow_bound": overflow_bound, "lr": lr,
        "save_every": save_every,
    }  # fmt: skip
    name = Path(target).stem if on == "grid" else f"{_folder(on)}-{Path(target).stem}"
    place: dict[str, Any] = {"target": target, "out": out_folder or f"runs/grow/{name}"}
    option_of = {"hidden_channels": "hidden"}
    explicit: dict[str, Any] = {
        k: v for k, v in given.items()
        if (source := ctx.get_parameter_source(option_of.get(k, k))) is not None
        and source.name not in ("DEFAULT", "DEFAULT_MAP")
    }  # fmt: skip
    if resume:
        config = GrowConfig.load(Path(place["out"]) / "config.json")
        config = dataclasses.replace(config, **place, **explicit)
    else:
        config = GrowConfig(**place, **explicit)
    out.print(f"[dim]{config.command_line()}[/dim]", highlight=False, soft_wrap=True)
    try:
        cell = train(config, resume=resume)
    except KeyboardInterrupt:
        err.print(
            f"Interrupted; at most {config.save_every} training steps are lost. Continue with\n"
            f"  gncadeq grow {target} --out {config.out} --resume",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        raise typer.Exit(130) from None
    parameters = sum(p.numel() for p in cell.parameters())
    out.print(
        f"{parameters:,} parameters. The run is in {config.out}\n"
        f"Look at it with: gncadeq run {config.out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _folder(on: str) -> str:
    """A surface's name as a folder's: ``torus:64,32`` is in ``torus-64-32``."""
    return Path(on).stem.replace(":", "-").replace(",", "-")


def _count(option: str, value: str) -> int | None:
    try:
        return None if value.lower() == "none" else int(value)
    except ValueError:
        raise ValueError(
            f"Expected a whole number or 'none' for --{option} (got {value!r})"
        ) from None


def run(
    run: Annotated[str, typer.Argument(help="The folder of a run of 'gncadeq grow'.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps from the seed.")] = 200,
    damage: Annotated[
        DamageName, typer.Option(help="Then cut off a third, or a disc of it, or nothing.")
    ] = DamageName.third,
    recovery: Annotated[int, typer.Option(min=1, help="Steps after the injury.")] = 200,
    fire_rate: Annotated[
        float | None,
        typer.Option(help="Probability that a node updates in a step.", show_default="the run's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of update masks and injury.")] = 0,
    frames: Annotated[int, typer.Option(min=2, help="Pictures in the animation.")] = 80,
    on: Annotated[
        str | None,
        typer.Option(
            help="Another surface or mesh file for the rule of a run on a surface.",
            show_default="the run's",
        ),
    ] = None,
    out_folder: Annotated[
        str | None,
        typer.Option("--out", help="Folder for the pictures.", show_default="RUN, or RUN/on-NAME"),
    ] = None,
) -> None:
    """Grow a run's target from its seed, injure it, and watch it mend: a strip and a GIF.

    On surfaces and graphs also a page to turn it, viewer.html, and trajectory.safetensors, of
    which 'gncadeq render' makes other pictures and coloured meshes.
    """
    from gncadeq.growth import Trial
    from gncadeq.models.pretrained import write_atomically
    from gncadeq.training import GrowConfig
    from gncadeq.training.grow import load_grown
    from gncadeq.viz.growth import save_animation, save_moments, save_strip, save_viewer

    cell, data, z0, card = load_grown(run, on)
    up = GrowConfig.load(Path(run) / "config.json").up
    rate = card.get("fire_rate", 0.5) if fire_rate is None else fire_rate
    trial = Trial(cell, data, z0, rate, seed)
    every = max(1, (steps + recovery) // frames)
    for _ in trial.film(steps, every):
        pass
    if damage != DamageName.none:
        trial.damage("third" if damage == DamageName.third else "disc")
        for _ in trial.film(recovery, every, "recovery"):
            pass
    table = Table(box=None, pad_edge=False)
    for name in ("", "steps", "error", "residual", "alive"):
        table.add_column(name, justify="left" if not name else "right")
    last = {m.event: m for m in trial.moments}
    for event, title in (("growth", "grown"), ("damage", "injured"), ("recovery", "recovered")):
        if event in last:
            m = last[event]
            table.add_row(
                title, str(m.steps), f"{m.error:.5f}", f"{m.residual:.1e}", f"{m.alive:.1%}"
            )
    out.print(table)
    folder = Path(out_folder or (run if on is None else Path(run) / f"on-{_folder(on)}"))
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "on": on, "num_nodes": data.num_nodes, "fire_rate": rate, "seed": seed,
        "moments": [m.summary() for m in trial.moments],
    }  # fmt: skip
    write_atomically(folder / "trial.json", json.dumps(report, indent=2).encode())
    written = [
        folder / "trial.json",
        save_strip(trial.moments, data, folder / "strip.png", up=up),
        save_animation(trial.moments, data, folder / "growth.gif", up=up),
    ]
    if data.get("image_size") is None:
        title = f"{Path(run).name} on {on}" if on else Path(run).name
        written.append(save_viewer(trial.moments, data, folder / "viewer.html", up, title))
        written.append(save_moments(trial.moments, data, folder / "trajectory.safetensors"))
    for path in written:
        out.print(str(path), highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(
        epilog="Examples:\n\n"
        "    python datasets/draw_emoji.py lizard\n\n"
        "    gncadeq grow datasets/emoji/lizard.png --out runs/lizard\n\n"
        "    gncadeq grow datasets/emoji/lizard.png --out runs/lizard --resume\n\n"
        "    gncadeq grow photo.png --size 48 --method implicit --steps 1000\n\n"
        "    gncadeq grow spots --on icosphere --scale 0.15 --out runs/spots\n\n"
        "    gncadeq grow photo.png --on torus\n\n"
        "    gncadeq grow color --on mesh.ply"
    )(grow)
    app.command(
        epilog="Examples:\n\n"
        "    gncadeq run runs/lizard\n\n"
        "    gncadeq run runs/lizard --steps 1000 --damage disc --fire-rate 1.0\n\n"
        "    gncadeq run runs/spots --on icosphere:4"
    )(run)


__all__ = ["register"]
