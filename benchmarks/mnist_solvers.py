"""Solvers on the shipped MNIST model: graphs converged, evaluations, wall time, compaction.

    python -m benchmarks mnist_solvers --data-root DATA

Every way solves the same test graphs, in turn, several rounds; times are medians. *warm* rows solve
for the weights as they are after fifty more training steps (Adam, 1e-3), from the equilibria of the
shipped ones: what ``gncadeq train --warm-start`` does an epoch later; the cold rows beneath them
solve the same from zeros. Writes ``runs/benchmarks/mnist_solvers.json``.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import median

import torch
import torch.nn.functional as F
from tqdm import tqdm

from benchmarks._measure import save, show
from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs

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
        for solver, compact in WAYS:
            way = solver, compact
            rows.append(row(tol, solver, compact, solutions[way], median(seconds[way])))
    rows += warm_rows(model, args, batches)
    show(f"{len(index)} test graphs of MNIST", rows)
    save("mnist_solvers", rows)


def warm_rows(model, args, batches):
    """Solves after some training, from the equilibria before it and from zeros."""
    later = copy.deepcopy(model).train()
    train_set = PixelGraphs(args.data_root, "mnist", True, model.to_graph)
    optimizer = torch.optim.Adam(later.parameters(), lr=1e-3)
    for part in torch.arange(50 * 64).split(64):
        data = train_set.batch(part)
        optimizer.zero_grad()
        F.cross_entropy(
            later(data.x, data.edge_index, data.edge_attr, data.batch), data.y
        ).backward()
        optimizer.step()
    rows = []
    for tol in args.tol:
        fine = GraphDEQ(model.dynamics.cell, "picard", tol=min(tol, 1e-3), max_steps=100)
        before = [solve(model, fine, data).state.half().float() for data in batches]
        for solver in ("picard", "anderson"):
            deq = GraphDEQ(later.dynamics.cell, solver, tol=tol, max_steps=100)
            for name, starts in (("warm", before), ("cold", [None] * len(batches))):
                begin = time.perf_counter()
                found = [solve(later, deq, d, z0) for d, z0 in zip(batches, starts, strict=True)]
                seconds = time.perf_counter() - begin
                rows.append(row(tol, f"{solver}, {name}", True, found, seconds))
    return rows


def row(tol, solver, compact, solutions, seconds):
    """What is reported of the solves of all batches."""
    converged = torch.cat([s.converged for s in solutions])
    evaluations = torch.cat([s.num_evaluations for s in solutions]).double()
    return {
        "tol": f"{tol:g}", "solver": solver, "compaction": "yes" if compact else "no",
        "converged": float(converged.double().mean()),
        "evaluations": float(evaluations.mean()), "most": int(evaluations.max()),
        "ms a graph": 1e3 * seconds / len(converged),
    }  # fmt: skip


@torch.no_grad()
def solve(model, deq, data, z0=None):
    """The solution of a batch."""
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    return deq(u, data.edge_index, data.edge_attr, data.batch, z0=z0, return_solution=True)[1]


if __name__ == "__main__":
    main()
