"""Growing neural cellular automata by the published recipe, and by the one that trains for rest.

    python examples/published_growing.py               # a gecko of 24 x 24 pixels
    python examples/published_growing.py --on delaunay_blob:200 --target spots --steps 350 950
    python examples/published_growing.py --smoke       # seconds

Trains a rule by each of the recipes of ``gncadeq grow`` (``--steps 240 600`` for about equal CPU
time), and measures both in the same way: errors at 100, 1,000 and 10,000 steps, after a third was
cut off, with the fire rate ½ of the published training and with all cells updating at once; what
the synchronous automaton settles into, and its leading Lyapunov exponents.

``--resume`` continues interrupted trainings; finished ones are only measured again. Writes
``published_growing.png`` and ``results.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image
from torchvision.transforms.functional import to_pil_image

from gncadeq.analysis import classify_attractor, lyapunov_exponents
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.growth import Moment, Trial
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.viz.images import png
from gncadeq.viz.surface import render_strip

RECIPES = ("distill", "rest")


def train(recipe: str, steps: int, args: argparse.Namespace) -> float:
    """Train by a recipe, or continue; the CPU seconds of this call."""
    folder = Path(args.out) / recipe
    options = {"on": args.on, "size": args.size, "seed": args.seed, "steps": steps, "padding": 0}
    options["average"] = 0.0  # the last weights of both
    if recipe == "distill":
        options["decay"] = 0.7  # the published step number is never reached
    if args.smoke:
        options |= {"channels": 6, "hidden_channels": 8, "min_rollout": 4, "max_rollout": 6}
        options |= {"pool_size": 16, "batch_size": 4}
    config = GrowConfig.recipe(recipe, args.target, out=str(folder), **options)
    print(config.command_line(), flush=True)
    begin = time.process_time()
    grow(config, resume=args.resume and (folder / "config.json").is_file())
    return time.process_time() - begin


def measure(recipe: str, args: argparse.Namespace) -> tuple[dict, list[Moment], tuple[int, int]]:
    """Errors, residuals, attractor and exponents of a trained rule; moments at fire rate ½."""
    cell, data, z0, _ = load_grown(Path(args.out) / recipe)
    row: dict = {"parameters": sum(p.numel() for p in cell.parameters())}
    kept: list[Moment] = []
    for rate in (1.0, 0.5):
        trial = Trial(cell, data, z0, rate, seed=args.seed)
        moments = {}
        for steps in args.looks:
            moments[f"{steps} steps"] = trial.run(steps - trial.steps)
        moments["a third cut off"] = trial.damage("third")
        for steps in args.recovery:
            since = trial.steps - args.looks[-1]
            moments[f"{steps} steps later"] = trial.run(steps - since, "recovery")
        row[f"fire rate {rate:g}"] = {name: m.summary() for name, m in moments.items()}
        kept = list(moments.values())
        for name, m in moments.items():
            print(
                f"  {rate:g} {name:18s} error {m.error:.5f} residual {m.residual:.1e}", flush=True
            )
    x = data.x if cell.in_channels else z0[:, :0]
    step = cell.prepare(x, data.edge_index, data.edge_attr)
    census = classify_attractor(step, z0, transient=args.looks[-1] // 2, max_period=args.period)
    row["attractor"] = census.names()[0]
    row["attractor residual"] = float(census.residual)
    if row["attractor"] != "diverged":
        found = lyapunov_exponents(step, census.state, args.period, k=3, warmup=args.period // 2)
        row["Lyapunov exponents"] = found.tolist()
    print(f"  {row['attractor']}, exponents {row.get('Lyapunov exponents')}", flush=True)
    size = data.get("image_size")
    return row, kept, (0, 0) if size is None else tuple(size.view(-1).tolist())


def frame(moment: Moment, size: tuple[int, int]) -> Image.Image:
    """The colours on white, where they are colours."""
    rgba = moment.color.nan_to_num(0.0, 0.0, 0.0).T.reshape(4, *size)
    rgb = (rgba[:3] + 1 - rgba[3:].clamp(0, 1)).clamp(0, 1)
    return to_pil_image(rgb).resize((144, 144), Image.Resampling.NEAREST)


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="datasets/gecko.png")
    parser.add_argument("--on", default="grid")
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--steps", type=int, nargs=2, default=[800, 600], help="of each recipe")
    parser.add_argument("--looks", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--recovery", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--period", type=int, default=512, help="longest period looked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/published_growing")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.size, args.steps, args.looks, args.recovery, args.period = 8, [2, 2], [8, 16], [4], 8
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="published_growing_")
    rows, frames, captions = {}, [], []
    for recipe, steps in zip(RECIPES, args.steps, strict=True):
        seconds = train(recipe, steps, args)
        row, moments, size = measure(recipe, args)
        rows[recipe] = {"CPU seconds of this call's training": round(seconds, 1), **row}
        if size != (0, 0):
            frames += [frame(m, size) for m in moments]
            captions += [f"{recipe}: {name}" for name in row["fire rate 0.5"]]
    out = Path(args.out)
    write_json(out / "results.json", {"arguments": vars(args), "recipes": rows})
    if frames:
        strip = render_strip(frames, captions, columns=len(frames) // 2)
        write_atomically(out / "published_growing.png", png(strip))
    print(f"results.json is in {out}")


if __name__ == "__main__":
    main()
