"""``gncadeq grow``: a rule that grows a picture from one cell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from gncadeq.choices import GrowRecipe
from gncadeq.commands.kinds import expect
from gncadeq.commands.options import Resume, configure, folder_name, with_options
from gncadeq.commands.printing import Json, progress, remark, resumable, write_numbers
from gncadeq.training import GrowConfig
from gncadeq.training.recipes import GROW_RECIPES, METHODS


@with_options(GrowConfig)
def grow(
    resume: Resume = False,
    recipe: Annotated[
        GrowRecipe,
        typer.Option(
            help="'rest' trains what stays as it is; 'distill' is the published recipe of growing "
            "neural cellular automata: --size 40 --padding 16, a pool of 1,024, 64 to 96 steps at "
            "fire rate ½, 8,000 training steps; 'isotropic' senses no directions and grows from "
            "three cells."
        ),
    ] = "rest",
    json_file: Json = None,
    **options: Any,
) -> None:
    """Train a rule that grows a picture from one living cell, keeps it and mends it."""
    from gncadeq.files.csv_rows import read_rows
    from gncadeq.training.grow import grow as train

    target, on = options["target"], options.get("on", GrowConfig.on)
    expect(target, "picture")
    expect(on, "shape", "graph", "colored")
    name = Path(target).stem if on == "grid" else f"{folder_name(on)}-{Path(target).stem}"
    options.setdefault("out", f"runs/grow/{name}")
    usual: dict[str, Any] = {}
    if not resume:
        usual = {**METHODS.get(options.get("method", ""), {}), **GROW_RECIPES[recipe]}
    config = configure(GrowConfig, {**usual, **options}, resume)
    remark(config.command_line())
    lost = f"at most {config.save_every} training steps are"
    with resumable(lost, "grow", target, "--out", config.out, "--resume"):
        cell = train(config, resume=resume, progress=progress())
    parameters = sum(p.numel() for p in cell.parameters())
    if json_file:
        numbers: dict[str, Any] = {"run": config.out, "parameters": parameters}
        for last in read_rows(Path(config.out) / "metrics.csv")[-1:]:
            numbers |= {name: float(value) for name, value in last.items() if value}
        write_numbers(json_file, numbers)
    remark(
        f"{parameters:,} parameters. The run is in {config.out}",
        "Look at it with: " + shlex.join(["gncadeq", "run", config.out]),
    )


EXAMPLES = (
    "python datasets/draw_emoji.py lizard",
    "gncadeq grow datasets/emoji/lizard.png --out runs/lizard",
    "gncadeq grow datasets/emoji/lizard.png --out runs/lizard --resume",
    "gncadeq grow photo.png --size 48 --method implicit --steps 1000",
    "gncadeq grow spots --on icosphere --scale 0.15 --out runs/spots",
    "gncadeq grow spots --on icosphere --method sweeps --out runs/sweeps",
    "gncadeq grow photo.png --on torus",
    "gncadeq grow color --on mesh.ply",
    "gncadeq grow stripes --on graph.graphml",
)
