"""Grow a picture from one cell, leave it alone for 10,000 steps, cut off a third, watch it mend.

    python examples/grow_and_regenerate.py --size 24   # datasets/gecko.png
    python examples/grow_and_regenerate.py --smoke     # seconds, a small flag

Most neural cellular automata drift away sooner or later: a rule that senses only differences does
the same everywhere, and nothing holds its pattern in place. Here the seed cell stays marked
(``anchor``), half of the pool is never sent back to the seed (``elders``), and the loss asks for a
state that one more step leaves alone (``rest``): the picture becomes an equilibrium of the rule.

Writes ``strip.png``, ``growth.gif`` and ``results.json`` beside the run. With ``--resume`` an
interrupted training is continued, a finished one only measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from gncadeq.files.json_files import write_json
from gncadeq.growth import Trial
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.targets import load_target, picture_target
from gncadeq.viz.moments import save_animation, save_strip

TINY = {
    "size": None, "steps": 150, "channels": 8, "hidden_channels": 24, "min_rollout": 5,
    "max_rollout": 8, "settle": 20, "lr": 5e-3,
}  # fmt: skip


def flag() -> Tensor:
    """Red over green, 8 x 8 pixels."""
    rgba = torch.zeros(4, 8, 8)
    rgba[3, 2:6, 1:7] = rgba[0, 2:4, 1:7] = rgba[1, 4:6, 1:7] = 1.0
    return rgba


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="datasets/gecko.png")
    parser.add_argument("--size", type=int, default=40, help="side of the grid in pixels")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--long", type=int, default=10_000, help="steps of the long run")
    parser.add_argument("--recovery", type=int, default=400, help="steps after the injury")
    parser.add_argument("--average", type=float, default=0.98, help="0 keeps the last weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/grow_and_regenerate")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(prefix="grow_") + "/run"
    if args.smoke:
        config = GrowConfig("flag", out=args.out, seed=args.seed, **TINY)
        data = picture_target(flag())
    else:
        config = GrowConfig(
            args.target, out=args.out, size=args.size, steps=args.steps, seed=args.seed,
            average=args.average,
        )  # fmt: skip
        data = load_target(config.target, config.on, config.size)
    began = time.process_time()
    cell = grow(config, data, resume=args.resume)
    seconds = time.process_time() - began
    _, data, z0, _ = load_grown(args.out)
    results = {
        "command": config.command_line(), "training_cpu_seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in cell.parameters()), "trials": {},
    }  # fmt: skip
    for rate in (1.0, 0.5):  # an asynchronous automaton needs about twice the steps
        results["trials"][f"fire rate {rate:g}"] = measure(cell, data, z0, config, rate, args)
    draw(cell, data, z0, config, args)
    write_json(Path(args.out) / "results.json", results)
    print(f"Trained in {seconds:.0f} CPU seconds; pictures and results.json are in {args.out}")


def measure(cell, data, z0, config, rate, args) -> dict:  # type: ignore[no-untyped-def]
    """Errors and residuals at the moments that matter."""
    trial = Trial(cell, data, z0, rate, seed=args.seed, keep_colors=False)
    trained = round(config.max_rollout / rate)
    moments = {
        "seed": trial.moments[0],
        f"after {trained} steps, as in training": trial.run(trained),
        f"after {args.long} steps": trial.run(args.long - trained),
        "a third cut off": trial.damage("third"),
        f"{trained} steps later": trial.run(trained, "recovery"),
        f"{args.recovery} steps later": trial.run(args.recovery - trained, "recovery"),
    }
    print(f"fire rate {rate:g}:")
    for name, m in moments.items():
        print(f"  {name:38s} error {m.error:.5f}   residual {m.residual:.1e}   alive {m.alive:.0%}")
    ratio = moments[f"after {args.long} steps"].error / trial.moments[1].error
    print(f"  error after {args.long} steps / after {trained}: {ratio:.2f}", flush=True)
    return {"ratio": ratio, **{name: m.summary() for name, m in moments.items()}}


def draw(cell, data, z0, config, args) -> None:  # type: ignore[no-untyped-def]
    """The strip and the animation of a shorter life."""
    trial = Trial(cell, data, z0, fire_rate=1.0, seed=args.seed)
    for _ in trial.film(2 * config.max_rollout, every=2):
        pass
    trial.damage("third")
    for _ in trial.film(2 * config.max_rollout, every=2, event="recovery"):
        pass
    save_strip(trial.moments, data, Path(args.out) / "strip.png")
    save_animation(trial.moments, data, Path(args.out) / "growth.gif")


if __name__ == "__main__":
    main()
