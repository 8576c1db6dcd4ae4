"""Solvers on the shipped MNIST model: graphs converged, evaluations, wall time, compaction.

    python -m benchmarks mnist_solvers --data-root DATA

Every way solves the same test graphs, in turn, several rounds; times are medians. Writes
``runs/benchmarks/mnist_solvers.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from gncadeq import GraphDEQ, PixelGraphClassifier, __version__
from gncadeq.datasets import PixelGraphs
from gncadeq.models.pretrained import write_atomically

WAYS = [
    (solver, compact) for solver in ("picard", "anderson", "broyden") for compact in (True, False)
] + [("torchdeq:fixed_point_iter", False), ("torchdeq:anderson", False)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-3, 1e-6])
    parser.add_argument("--out", default="runs/benchmarks/mnist_solvers.json")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    test_set = PixelGraphs(args.data_root, "mnist", False, model.to_graph)
    index = torch.arange(min(args.graphs, len(test_set)))
    batches = [test_set.batch(part) for part in torch.split(index, args.batch_size)]
    rows = []
    for tol in args.tol:
        seconds: dict[tuple[str, bool], list[float]] = {way: [] for way in WAYS}
        solutions = {}
        for _ in tqdm(range(args.rounds), desc=f"rounds at {tol:g}", leave=False):
            for way in WAYS:
                solver, compact = way
                deq = GraphDEQ(
                    model.dynamics.cell, solver, tol=tol, max_steps=100, compact=compact,
                    on_failure="ignore",
                )  # fmt: skip
                begin = time.perf_counter()
                solutions[way] = [solve(model, deq, data) for data in batches]
                seconds[way].append(time.perf_counter() - begin)
        for way in WAYS:
            converged = torch.cat([s.converged for s in solutions[way]])
            evaluations = torch.cat([s.num_evaluations for s in solutions[way]]).double()
            rows.append(
                {
                    "tol": tol, "solver": way[0], "compact": way[1],
                    "converged": float(converged.double().mean()),
                    "evaluations_mean": float(evaluations.mean()),
                    "evaluations_max": int(evaluations.max()),
                    "ms_per_graph": 1e3 * median(seconds[way]) / len(index),
                }
            )  # fmt: skip
    table = Table("tol", "solver", "compaction", "converged", "evaluations", "most", "ms a graph")
    for r in rows:
        table.add_row(
            f"{r['tol']:g}", r["solver"], "yes" if r["compact"] else "no",
            f"{100 * r['converged']:.1f} %", f"{r['evaluations_mean']:.1f}",
            str(r["evaluations_max"]), f"{r['ms_per_graph']:.2f}",
        )  # fmt: skip
    Console().print(table)
    machine = {
        "gncadeq": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    write_atomically(Path(args.out), json.dumps({"machine": machine, "rows": rows}).encode())


@torch.no_grad()
def solve(model, deq, data):
    """The solution of a batch."""
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    return deq(u, data.edge_index, data.edge_attr, data.batch, return_solution=True)[1]


if __name__ == "__main__":
    main()
