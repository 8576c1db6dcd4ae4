"""Solvers on a grown mesh cell: evaluations to rest from the seed, and after a third is cut off.

    python -m benchmarks grown_solvers --run runs/spots

The run is that of ``gncadeq grow spots --on icosphere:3 --scale 0.15 --average 0 --out
runs/spots``, made here (two minutes) if there is none. *seed* starts from the one living cell;
*wounded* (a warm start) from the pattern at rest, a third of it cut off. TorchDEQ's own solvers run
with one row a graph.
Writes ``runs/benchmarks/grown_solvers.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks._measure import save, show
from gncadeq import GraphDEQ, GraphNCA
from gncadeq.dynamics import Status
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.transforms.damage import cut

SOLVERS = ("picard", "anderson", "broyden", "torchdeq:fixed_point_iter", "torchdeq:anderson")


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="runs/spots", help="the folder of a run of gncadeq grow")
    parser.add_argument("--most", type=int, default=3000, help="solver steps")
    args = parser.parse_args()
    if not (Path(args.run) / "model.safetensors").is_file():
        with torch.enable_grad():
            config = GrowConfig("spots", on="icosphere:3", scale=0.15, average=0.0, out=args.run)
            grow(config)
    cell, data, seed, _ = load_grown(args.run)
    graph = (data.x, data.edge_index, data.edge_attr)
    rest = GraphNCA(cell, steps=2000)(*graph, z0=seed)
    wounded = rest.clone()
    wounded[cut(data.pos, 1 / 3, torch.Generator().manual_seed(0))] = 0.0
    rows = []
    for solver in SOLVERS:
        row = {"solver": solver}
        for tol in (1e-3, 1e-6):
            for name, start in (("seed", seed), ("wounded", wounded)):
                deq = GraphDEQ(cell, solver, tol=tol, max_steps=args.most, on_failure="ignore")
                _, solution = deq(*graph, z0=start, return_solution=True)
                count = int(solution.num_evaluations[0])
                end = Status(int(solution.status[0])).name.lower()
                good = bool(solution.converged)
                row[f"{name}, to {tol:g}"] = f"{count:,}" if good else f"{end}, {count:,}"
        rows.append(row)
    show("Solvers on a grown mesh cell", rows)
    save("grown_solvers", rows)


if __name__ == "__main__":
    main()
