"""Growing a target: trained through the steps of the automaton, or implicitly where it settles.

    python examples/implicit_against_bptt.py             # datasets/gecko.png
    python examples/implicit_against_bptt.py spots --on spot.obj --hidden 50
    python examples/implicit_against_bptt.py --steps 20 --sweep-steps 20 --long 201    # their costs
    python examples/implicit_against_bptt.py --smoke     # three of the five, a small flag

``sweeps`` is a rule that is at rest by construction (``SweepGrower``), trained as an equilibrium.
The others are one rule (``GrowingCell``), with the same target, pool and number of training steps.
``bptt`` differentiates through 14 to 26 of its steps. ``phantom``, ``ift`` and ``one_step`` begin
like it (the first half of the training), and then run the automaton without gradient to a relative
residual of 1e-3, or for 26 to 64 steps, and differentiate there: through some steps more, by the
implicit function theorem, or through a single step. With ``--hidden 72`` on pixels, and 50 on
surfaces, both rules have the same number of parameters to 2 %.

Every run is a process of its own, one after the other, so that its peak memory is its own. Prints
a Markdown table and writes ``table.json``.
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
    "sweeps": {"method": "sweeps"},
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
    from gncadeq.training.grow_sweeps import SweepGrowth
    from gncadeq.training.targets import load_target, picture_target

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    place = {"out": f"{args.out}/{name}-{args.seed}", "seed": args.seed, **METHODS[name]}
    swept = name == "sweeps"
    if args.smoke:
        config = GrowConfig("flag", **{**TINY, "steps": 40, "max_steps": 16}, **place)
        data = picture_target(flag())
    else:
        options: dict[str, Any] = {"steps": args.sweep_steps, "lr": 5e-3, "hidden_channels": 48}
        if not swept:
            options = {
                "steps": args.steps, "hidden_channels": args.hidden, "min_rollout": 14,
                "max_rollout": 26, "max_steps": 64, "phantom_steps": args.phantom_steps,
                "variants": 0, "average": args.average,
            }  # fmt: skip
        config = GrowConfig(args.target, on=args.on, size=args.size, **options, **place)
        data = load_target(config.target, config.on, config.size)
    before = peak()
    worked = time.process_time()  # what counts on a machine that is busy otherwise
    try:
        cell = grow(config, data, progress=sys.stderr.isatty())
    except FloatingPointError as error:
        return {"command": config.command_line(), "failed": str(error)}
    seconds, memory = time.process_time() - worked, peak() - before
    _, data, z0, _ = load_grown(config.out)
    trial = Trial(cell, data, z0, fire_rate=1.0, seed=args.seed, keep_colors=False)
    settled = trial.run(200)
    late = trial.run(args.long - 200)
    hurt = trial.damage("third")
    mended = trial.run(400, "recovery")
    run: Any = (SweepGrowth if swept else Growth)(config, load_grown(config.out)[1])
    run.step = config.steps - 10  # the last of the training's steps, of the kind that it ends with
    return {
        "command": config.command_line(), "parameters": sum(p.numel() for p in cell.parameters()),
        "CPU s": seconds, "kept MB": saved_megabytes(run), "peak MB": memory,
        "error at 200": settled.error, "at the end": late.error, "residual": late.residual,
        "cut": hurt.error, "400 later": mended.error,
    }  # fmt: skip


def main() -> None:
    """Run every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="datasets/gecko.png")
    parser.add_argument("--on", default="grid", help="a surface, as of gncadeq grow")
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--sweep-steps", type=int, default=1000, help="training steps of sweeps")
    parser.add_argument("--hidden", type=int, default=72, help="width of the MLP, but of sweeps")
    parser.add_argument("--phantom-steps", type=int, default=12)
    parser.add_argument("--average", type=float, default=0.98, help="of weights, but of sweeps")
    parser.add_argument("--long", type=int, default=10_000, help="steps of the automaton")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", default="runs/implicit_against_bptt")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        args.seed = args.seeds[0]
        print(json.dumps(one(args.one, args)))
        return
    if args.smoke:
        args.methods = ["sweeps", "bptt", "ift"]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="implicit_")
    rows: dict[str, Any] = {}
    given = (
        "on", "size", "steps", "sweep_steps", "hidden", "phantom_steps", "average", "long", "out",
    )  # fmt: skip
    options = [str(w) for k in given for w in (f"--{k.replace('_', '-')}", getattr(args, k))]
    for name in args.methods:
        for seed in args.seeds:
            command = [sys.executable, "-W", "ignore", __file__, args.target, "--one", name,
                       "--seeds", str(seed), *options]  # fmt: skip
            done = subprocess.run(
                [*command, *(["--smoke"] if args.smoke else [])],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            row = json.loads(done.stdout.splitlines()[-1])
            rows[f"{name} {seed}"] = row
            columns = [k for k in row if k != "command"]
            if len(rows) == 1:
                print(f"| | seed | {' | '.join(columns)} |\n{'|---' * (len(columns) + 2)}|")
            shown = (row[k] if isinstance(row[k], str | int) else f"{row[k]:.3g}" for k in columns)
            print(f"| {name} | {seed} | {' | '.join(map(str, shown))} |", flush=True)
            write_json(Path(args.out) / "table.json", rows)


if __name__ == "__main__":
    main()
