"""``gncadeq run``: a grown automaton, grown again, injured and mended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gncadeq.choices import Damage, Up
from gncadeq.commands.kinds import expect
from gncadeq.commands.options import Device, folder_name
from gncadeq.commands.printing import Json, busy, console, progress, say, table, write_numbers

if TYPE_CHECKING:
    from gncadeq.growth import Moment, Trial


def run(
    run: Annotated[str, typer.Argument(help="The folder of a run of 'gncadeq grow'.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps from the seed.")] = 200,
    damage: Annotated[
        Literal["third", "disc", "none"],
        typer.Option(help="Then cut off a third, or a disc of it, or nothing."),
    ] = "third",
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
            help="Another surface, mesh or points for the rule of a run on a surface, another "
            "graph file for that of a run on a graph.",
            show_default="the run's",
        ),
    ] = None,
    azimuth: Annotated[
        float, typer.Option(help="Degrees to the right around what is in space, in pictures.")
    ] = 30.0,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder for the pictures.", show_default="RUN, or RUN/on-NAME"),
    ] = None,
    device: Device = "cpu",
    json_file: Json = None,
) -> None:
    """Grow a run's target from its seed, injure it, and watch it mend: a strip and a GIF.

    On surfaces and graphs also a page to turn it, viewer.html, and trajectory.safetensors, of
    which 'gncadeq render' makes other pictures and coloured meshes.
    """
    expect(run, "growth")
    if on is not None:
        expect(on, "shape", "graph", "colored")
    from gncadeq.device import beside, usable_device
    from gncadeq.growth import Trial
    from gncadeq.training import GrowConfig
    from gncadeq.training.grow import load_grown

    where = usable_device(device)
    run = str(Path(run).parent) if Path(run).is_file() else run
    cell, data, z0, card = load_grown(run, on)
    up = GrowConfig.load(Path(run) / "config.json").up
    rate = card.get("fire_rate", 0.5) if fire_rate is None else fire_rate
    cell.to(where)
    trial = Trial(cell, beside(data, cell), z0.to(where), rate, seed)
    _film(trial, steps, None if damage == "none" else damage, recovery, frames)
    _print_moments(trial.moments)
    report = {
        "on": on, "num_nodes": data.num_nodes, "fire_rate": rate, "seed": seed,
        "moments": [m.summary() for m in trial.moments],
    }  # fmt: skip
    write_numbers(json_file, report)
    folder = Path(out or (run if on is None else Path(run) / f"on-{folder_name(on)}"))
    title = f"{Path(run).name} on {on}" if on else Path(run).name
    with busy("drawing"):
        written = _write(folder, report, trial, up, azimuth, title)
    say(*written)


def _film(trial: Trial, steps: int, damage: Damage | None, recovery: int, frames: int) -> None:
    """Grow, injure and mend, with a moment for every frame."""
    from gncadeq.progress import progress_bar

    every = max(1, (steps + recovery) // frames)
    total = steps + (recovery if damage else 0)
    with progress_bar(total=total, desc="run", leave=False, progress=progress()) as bar:

        def watch(count: int, event: str) -> None:
            for moment in trial.film(count, every, event):
                _check_finite(moment)
                bar.update(moment.steps - bar.n)

        watch(steps, "growth")
        if damage:
            trial.damage(damage)
            watch(recovery, "recovery")


def _print_moments(moments: list[Moment]) -> None:
    """Print the last moment of each event."""
    made = table("", "steps", "error", "residual", "alive")
    last = {m.event: m for m in moments}
    for event, title in (("growth", "grown"), ("damage", "injured"), ("recovery", "recovered")):
        if event in last:
            m = last[event]
            made.add_row(
                title, str(m.steps), f"{m.error:.5f}", f"{m.residual:.1e}", f"{m.alive:.1%}"
            )
    console.print(made)


def _write(
    folder: Path, report: dict[str, Any], trial: Trial, up: Up, azimuth: float, title: str
) -> list[Path]:
    """Write the numbers, the pictures and, off the grid, a page and the trajectory."""
    from gncadeq.files.json_files import write_json
    from gncadeq.viz.moments import save_animation, save_moments, save_strip, save_viewer

    folder.mkdir(parents=True, exist_ok=True)
    moments, data = trial.moments, trial.data.cpu()
    write_json(folder / "trial.json", report)
    written = [
        folder / "trial.json",
        save_strip(moments, data, folder / "strip.png", up=up, azimuth=azimuth),
        save_animation(moments, data, folder / "growth.gif", up=up, azimuth=azimuth),
    ]
    if data.get("image_size") is None:
        written.append(save_viewer(moments, data, folder / "viewer.html", up, title))
        written.append(save_moments(moments, data, folder / "trajectory.safetensors"))
    return written


def _check_finite(moment: Moment) -> None:
    if not (math.isfinite(moment.error) and math.isfinite(moment.residual)):
        raise FloatingPointError(
            f"Expected finite states (got NaN or infinity by step {moment.steps}). The rule grows "
            "without bound here: run it on the graph that it was trained on, or train it for longer"
        )


EXAMPLES = (
    "gncadeq run runs/lizard",
    "gncadeq run runs/lizard --steps 1000 --damage disc --fire-rate 1.0",
    "gncadeq run runs/spots --on icosphere:4",
)
