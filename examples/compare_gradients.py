"""One recipe, four gradients: IFT, phantom, one step, and BPTT through the automaton's steps.

    python examples/compare_gradients.py --data-root DATA
    python examples/compare_gradients.py --smoke     # a minute, on scikit-learn's digits

Every run is a process of its own, one after the other, so that its peak memory is its own.
Accuracy is measured at true equilibrium on the whole test set, and as an automaton of 32 and of 500
steps on its first 1,000 images.
Writes ``runs/compare_gradients/table.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

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
    model, result = train(config, progress=sys.stderr.isatty())
    # Data, activations and solver history of training and test.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    card = json.loads((Path(out) / "evaluation.json").read_text())
    row = {
        "accuracy": result.accuracy,
        "converged": card["test"]["converged"],
        "residual_max": card["test"]["residual_max"],
        "seconds": card["training_seconds"],
        "peak_mb_over_imports": peak - before,
    }
    test_set = PixelGraphs(data_root, dataset, False, model.to_graph)
    index = torch.arange(min(1000, len(test_set)))
    for steps in (32, 500):
        model.dynamics = GraphNCA(model.dynamics.cell, steps, start="normal")
        automaton = evaluate(model, test_set, index=index, progress=False)
        row[f"accuracy_{steps}_steps"] = automaton.accuracy
    print(json.dumps(row))


def main() -> None:
    """Run all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default="runs/compare_gradients")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--limit", type=int, help="use only so many training images")
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
    rows = {}
    for way in args.ways:
        command = [sys.executable, "-W", "ignore", __file__, "--one", way, "--out", args.out]
        command += ["--epochs", str(1 if args.smoke else args.epochs)]
        command += ["--data-root", args.data_root] if args.data_root else []
        command += ["--limit", str(args.limit)] if args.limit else []
        command += ["--smoke"] if args.smoke else []
        folder = Path(args.out) / way
        if (folder / "config.json").exists():
            raise SystemExit(f"Expected a new folder (got {folder}, which holds a run)")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, json.dumps(rows[way]), flush=True)
    write_json(Path(args.out) / "table.json", rows)
    print(
        f"\n{'':10s}{'accuracy':>10s}{'32 steps':>10s}{'500 steps':>10s}{'time':>9s}{'memory':>10s}"
    )
    for way, r in rows.items():
        print(
            f"{way:10s}{100 * r['accuracy']:9.2f}%{100 * r['accuracy_32_steps']:9.2f}%"
            f"{100 * r['accuracy_500_steps']:9.2f}%{r['seconds']:8.0f}s"
            f"{r['peak_mb_over_imports']:7.0f} MB"
        )


if __name__ == "__main__":
    main()
