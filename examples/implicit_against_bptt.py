"""Growing a picture: trained through the steps of the automaton, or implicitly where it settles.

    python examples/implicit_against_bptt.py             # datasets/gecko.png
    python examples/implicit_against_bptt.py --smoke     # two of the four, a small flag

The same rule, target, pool and number of training steps. ``bptt`` differentiates through 14 to 26
steps. The others begin like it (the first half of the training), and then run the automaton without
gradient to a relative residual of 1e-3, or for 26 to 64 steps, and differentiate there: through
some steps more (``phantom``), by the implicit function theorem (``ift``), or through a single step
(``one_step``).

Every run is a process of its own, one after the other, so that its peak memory is its own. Writes
``table.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gncadeq.files.json_files import write_json

METHODS: dict[str, dict[str, Any]] = {
    "bptt": {"method": "bptt"},
    "phantom": {"method": "implicit", "gradient": "phantom"},
    "ift": {"method": "implicit", "gradient": "ift"},
    "one_step": {"method": "implicit", "gradient": "one_step"},
}


def saved_megabytes(run: Any, steps: int = 6) -> float:
    """Most memory that one of some training steps keeps for its backward pass."""
    from gncadeq.analysis import saved_bytes

    return max(saved_bytes(run.train_step) for _ in range(steps)) / 2**20


def one(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure by one method."""
    import resource

    from grow_and_regenerate import TINY, flag

    from gncadeq.growth import Trial
    from gncadeq.training import GrowConfig
    from gncadeq.training.grow import Growth, grow, load_grown
    from gncadeq.training.targets import load_target, picture_target

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    place = {"out": f"{args.out}/{name}", "seed": args.seed, **METHODS[name]}
    if args.smoke:
        config = GrowConfig("flag", **{**TINY, "steps": 40, "max_steps": 16}, **place)
        data = picture_target(flag())
    else:
        config = GrowConfig(
            args.target, size=args.size, steps=args.steps, min_rollout=14, max_rollout=26,
            max_steps=64, phantom_steps=args.phantom_steps, **place,
        )  # fmt: skip
        data = load_target(config.target, config.on, config.size)
    before = peak()
    began, worked = time.perf_counter(), time.process_time()
    try:
        cell = grow(config, data, progress=sys.stderr.isatty())
    except FloatingPointError as error:
        return {"command": config.command_line(), "failed": str(error)}
    seconds, memory = time.perf_counter() - began, peak() - before
    cpu_seconds = time.process_time() - worked  # what counts on a machine that is busy otherwise
    _, data, z0, _ = load_grown(config.out)
    trial = Trial(cell, data, z0, fire_rate=1.0, seed=args.seed, keep_colors=False)
    short, settled = trial.run(config.max_rollout), trial.run(200 - config.max_rollout)
    late = trial.run(10_000 - 200)
    trial.damage("third")
    mended = trial.run(400, "recovery")
    run = Growth(config, data)
    run.step = config.steps - 10  # the last of the training's steps, of the kind that it ends with
    return {
        "command": config.command_line(), "seconds": seconds, "cpu_seconds": cpu_seconds,
        "peak_megabytes": memory,
        "saved_megabytes": saved_megabytes(run),
        "error_trained": short.error, "error_200": settled.error, "error_10000": late.error,
        "residual_200": settled.residual, "residual_10000": late.residual,
        "error_mended": mended.error,
    }  # fmt: skip


def main() -> None:
    """Run every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="datasets/gecko.png")
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--phantom-steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", default="runs/implicit_against_bptt")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args)))
        return
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(prefix="implicit_")
    rows = {}
    columns = ("seconds", "on the CPU", "saved MB", "peak MB", "error", "at 200", "at 10,000",
               "mended", "residual at 200", "at 10,000")  # fmt: skip
    print(f"{'':10s}" + "".join(f"{c:>16s}" for c in columns))
    for name in ["bptt", "ift"] if args.smoke else args.methods:
        command = [sys.executable, "-W", "ignore", __file__, args.target, "--one", name,
                   "--out", args.out, "--size", str(args.size),
                   "--steps", str(args.steps), "--seed", str(args.seed),
                   "--phantom-steps", str(args.phantom_steps)]  # fmt: skip
        done = subprocess.run(
            [*command, *(["--smoke"] if args.smoke else [])],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        rows[name] = row = json.loads(done.stdout.splitlines()[-1])
        if "failed" in row:
            print(f"{name:10s}{row['failed']}", flush=True)
            continue
        print(
            f"{name:10s}{row['seconds']:16.0f}{row['cpu_seconds']:16.0f}"
            f"{row['saved_megabytes']:16.1f}{row['peak_megabytes']:16.0f}"
            f"{row['error_trained']:16.5f}{row['error_200']:16.5f}"
            f"{row['error_10000']:16.5f}{row['error_mended']:16.5f}"
            f"{row['residual_200']:16.1e}{row['residual_10000']:16.1e}", flush=True,
        )  # fmt: skip
        write_json(Path(args.out) / "table.json", rows)


if __name__ == "__main__":
    main()
