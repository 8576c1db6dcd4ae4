"""One recipe, four gradients: IFT, phantom, one step, and BPTT through the automaton's steps.

    python examples/compare_gradients.py --data-root DATA
    python examples/compare_gradients.py --times --data-root DATA     # of a training step alone
    python examples/compare_gradients.py --smoke     # two of the four, on scikit-learn's digits

Every run is a process of its own, one after the other, so that its peak memory is its own. Times
are processor time of the process, not of the clock: other work on the machine counts little.
``--times`` takes training steps of all four in turn, in one process, with the weights that are
shipped, and prints the median of each, forward and backward.
Accuracy is measured at true equilibrium on the whole test set, and as an automaton of 32 and of 500
steps on its first 1,000 images.
Writes ``table.json`` and ``bars.png``, both to ``runs/compare_gradients``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bars import draw_bars

from gncadeq.files.json_files import write_json

WAYS = {
    "ift": {"gradient": "ift"},
    "phantom": {"gradient": "phantom", "phantom_steps": 5},
    "one_step": {"gradient": "one_step"},
    "bptt": {"gradient": "bptt", "dynamics": "nca", "nca_steps": 32, "start": "normal"},
}


def one(
    way: str, out: str, data_root: str | None, dataset: str, epochs: int, limit: int | None
) -> None:
    """Train one way and print what it took, as JSON."""
    import torch

    from gncadeq.datasets import PixelGraphs
    from gncadeq.dynamics import GraphNCA
    from gncadeq.evaluation import evaluate
    from gncadeq.training import TrainConfig
    from gncadeq.training.run import train

    config = TrainConfig(
        dataset=dataset, data_root=data_root, out=out, epochs=epochs, train_limit=limit,
        **WAYS[way],
    )  # fmt: skip
    import lightning  # noqa: F401  (so that its memory counts for nobody)

    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.process_time()
    model, result = train(config, progress=sys.stderr.isatty())
    seconds = time.process_time() - begin
    # Data, activations and solver history of training and test.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    card = json.loads((Path(out) / "evaluation.json").read_text())
    row = {
        "accuracy": result.accuracy,
        "converged": card["test"]["converged"],
        "residual_max": card["test"]["residual_max"],
        "cpu_seconds": seconds,
        "peak_mb_over_imports": peak - before,
    }
    test_set = PixelGraphs(data_root, dataset, False, model.to_graph)
    index = torch.arange(min(1000, len(test_set)))
    for steps in (32, 500):
        model.dynamics = GraphNCA(model.dynamics.cell, steps, start="normal")
        automaton = evaluate(model, test_set, index=index, progress=False)
        row[f"accuracy_{steps}_steps"] = automaton.accuracy
    print(json.dumps(row))


def step_times(data_root: str | None, rounds: int, tol: float) -> dict[str, tuple[float, float]]:
    """Median processor milliseconds of the forward and the backward pass of 64 digits."""
    import torch
    import torch.nn.functional as F

    from gncadeq import PixelGraphClassifier
    from gncadeq.datasets import PixelGraphs
    from gncadeq.training import TrainConfig
    from gncadeq.training.run import training_dynamics

    model = PixelGraphClassifier.from_pretrained("mnist")
    data = PixelGraphs(data_root, "mnist", True, model.to_graph).batch(torch.arange(64))
    dynamics = {
        way: training_dynamics(TrainConfig(data_root=data_root, tol=tol, **options), model)
        for way, options in WAYS.items()
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):  # the first warms up
        for way in WAYS:
            model.dynamics = dynamics[way]
            model.zero_grad()
            begin = time.process_time()
            logits = model(data.x, data.edge_index, data.edge_attr, data.batch)
            middle = time.process_time()
            F.cross_entropy(logits, data.y).backward()
            if turn:
                times[way].append((1e3 * (middle - begin), 1e3 * (time.process_time() - middle)))
    return {
        way: (median(t[0] for t in each), median(t[1] for t in each)) for way, each in times.items()
    }


def main() -> None:
    """Run all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default="runs/compare_gradients")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--limit", type=int, help="use only so many training images")
    parser.add_argument("--times", action="store_true", help="only time training steps, in turn")
    parser.add_argument("--rounds", type=int, default=30, help="training steps of each in --times")
    parser.add_argument("--tol", type=float, default=1e-2, help="of both solves in --times")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(
            prefix="compare_gradients_"
        )  # a rehearsal leaves the real place free
    dataset = "digits" if args.smoke else "mnist"
    if args.one:
        one(args.one, f"{args.out}/{args.one}", args.data_root, dataset, args.epochs, args.limit)
        return
    if args.times:
        times = step_times(args.data_root, args.rounds, args.tol)
        for way, (ahead, back) in times.items():
            print(f"{way:10s}{ahead:8.1f} ms forward{back:8.1f} ms backward")
        shown = {
            way: dict(zip(("forward", "backward"), t, strict=True)) for way, t in times.items()
        }
        draw_bars({"CPU ms of a training step": shown}, Path(args.out) / "bars.png")
        return
    rows = {}
    for way in ["ift", "bptt"] if args.smoke else args.ways:
        command = [sys.executable, "-W", "ignore", __file__, "--one", way, "--out", args.out]
        command += ["--epochs", str(1 if args.smoke else args.epochs)]
        command += ["--data-root", args.data_root] if args.data_root else []
        limit = 256 if args.smoke else args.limit
        command += ["--limit", str(limit)] if limit else []
        command += ["--smoke"] if args.smoke else []
        folder = Path(args.out) / way
        if (folder / "config.json").exists():
            raise SystemExit(f"Expected a new folder (got {folder}, which holds a run)")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, json.dumps(rows[way]), flush=True)
    write_json(Path(args.out) / "table.json", rows)
    draw_bars(
        {
            "accuracy": {way: {"": row["accuracy"]} for way, row in rows.items()},
            "CPU seconds of the training": {way: {"": r["cpu_seconds"]} for way, r in rows.items()},
        },
        Path(args.out) / "bars.png",
    )
    print(
        f"\n{'':10s}{'accuracy':>10s}{'32 steps':>10s}{'500 steps':>10s}{'CPU':>9s}{'memory':>10s}"
    )
    for way, r in rows.items():
        print(
            f"{way:10s}{100 * r['accuracy']:9.2f}%{100 * r['accuracy_32_steps']:9.2f}%"
            f"{100 * r['accuracy_500_steps']:9.2f}%{r['cpu_seconds']:8.0f}s"
            f"{r['peak_mb_over_imports']:7.0f} MB"
        )


if __name__ == "__main__":
    main()
