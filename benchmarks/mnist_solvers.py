"""Solvers on the shipped MNIST model: graphs converged, evaluations, time.

    python -m benchmarks mnist_solvers --data-root DATA

Every solver solves the same test graphs, in turn, several rounds; times are medians. The last two
rows solve for the weights as they are after fifty more training steps (Adam, 1e-3), from zeros, and
from the equilibria of the shipped ones, as ``gncadeq train --warm-start`` does an epoch later.
Writes ``runs/benchmarks/mnist_solvers.json``.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from benchmarks._measure import Milliseconds, save, show, timed
from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs

SOLVERS = ("picard", "anderson", "broyden", "torchdeq:fixed_point_iter", "torchdeq:anderson")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-3, 1e-6])
    parser.add_argument("--whole", action="store_true", help="converged graphs stay in the batch")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    test_set = PixelGraphs(args.data_root, "mnist", False, model.to_graph)
    index = torch.arange(min(args.graphs, len(test_set)))
    batches = [test_set.batch(part) for part in torch.split(index, args.batch_size)]
    rows: dict[str, dict[str, Any]] = {}
    for tol in args.tol:
        found: dict[str, list[Any]] = {solver: [] for solver in SOLVERS}
        for _ in tqdm(range(args.rounds), desc=f"rounds at {tol:g}", leave=False):
            for solver in SOLVERS:
                deq = GraphDEQ(
                    model.dynamics.cell, solver, tol=tol, max_steps=100,
                    compact=not args.whole, on_failure="ignore",
                )  # fmt: skip
                found[solver].append(solved(model, deq, batches))
        for solver, results in found.items():
            add(rows, solver, tol, results[0][0], Milliseconds.middle([t for _, t in results]))
    warm_rows(rows, model, args, batches)
    show(f"{len(index)} test graphs of MNIST", list(rows.values()))
    save("mnist_solvers", list(rows.values()))


def warm_rows(rows, model, args, batches):
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
    for tol in args.tol:
        fine = GraphDEQ(model.dynamics.cell, "picard", tol=min(tol, 1e-3), max_steps=100)
        before = [solve(model, fine, data).state.half().float() for data in batches]
        deq = GraphDEQ(later.dynamics.cell, "picard", tol=tol, max_steps=100)
        for name, starts in (("from zeros", None), ("from the equilibria before", before)):
            solver = f"picard after 50 training steps, {name}"
            add(rows, solver, tol, *solved(later, deq, batches, starts))


def solved(model, deq, batches, starts=None):
    """The solutions of all batches, and the time that they took."""
    starts = [None] * len(batches) if starts is None else starts
    return timed(lambda: [solve(model, deq, *each) for each in zip(batches, starts, strict=True)])


def add(rows, solver, tol, solutions, time):
    """Add what is reported of the solves of all batches to the solver's row."""
    converged = torch.cat([s.converged for s in solutions])
    evaluations = torch.cat([s.num_evaluations for s in solutions]).double()
    row = rows.setdefault(solver, {"solver": solver})
    row[f"evaluations to {tol:g}"] = float(evaluations.mean())
    row[f"ms a graph to {tol:g}"] = time.over(len(converged))
    row[f"converged to {tol:g}"] = f"{float(converged.double().mean()):.1%}"


@torch.no_grad()
def solve(model, deq, data, z0=None):
    """The solution of a batch."""
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    return deq(u, data.edge_index, data.edge_attr, data.batch, z0=z0, return_solution=True)[1]


if __name__ == "__main__":
    main()
