"""Plain steps first (auto) beside Anderson's method from the start: steps, and time of the process.

    python -m benchmarks plain_start --data-root DATA   # DATA/Planetoid/Cora/raw, DATA/MNIST/raw

Solves without gradients, of the three in turn in one process: ``auto``; ``anderson`` with as many
differences; ``picard``, plain steps throughout. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import MLP, GATConv, GCNConv, GINConv, SAGEConv

from gncadeq import Cell, ConvCell, GraphDEQ, PropagationCell, WrappedConvCell
from gncadeq.datasets import PixelGraphs
from gncadeq.models import ImageClassifier
from gncadeq.transforms import ImageToGraph

WAYS: dict[str, dict[str, Any]] = {
    "auto": {}, "anderson": {"solver_options": {"history": 10}}, "picard": {},
}  # fmt: skip


def cells(data_root: str) -> Iterator[tuple[str, Cell, tuple[Tensor | None, ...]]]:
    """Names, rules and graphs."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "Cora" / "raw"
        shutil.copytree(Path(data_root) / "Planetoid" / "Cora" / "raw", raw)
        edges = Planetoid(folder, "Cora")[0].edge_index
    x = torch.randn(2708, 64)
    convs: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "GCN": (GCNConv(64, 64), {}),
        "GCN from identities": (GCNConv(64, 64), {"init": "identity"}),
        "GCN, linear, 0.5": (
            GCNConv(64, 64), {"init": "identity", "activation": None, "contraction": 0.5},
        ),
        "SAGE from identities": (SAGEConv(64, 64), {"init": "identity"}),
        "GAT, held": (GATConv(64, 8, heads=8), {}),
        "GAT of the state": (GATConv(64, 8, heads=8), {"attention": "state"}),
        "GIN": (GINConv(MLP([64, 128, 64], norm=None)), {}),
    }  # fmt: skip
    for name, (conv, options) in convs.items():
        yield f"Cora, {name}", WrappedConvCell(conv, 64, **options), (x, edges)
    for alpha in (0.5, 0.1):
        yield f"Cora, PageRank, α = {alpha}", PropagationCell(64, alpha), (x, edges)
    model = ImageClassifier.from_pretrained("mnist").eval()
    images = PixelGraphs(data_root, "mnist", False, model.to_graph)
    for count in (1, 64):
        data = images.batch(torch.arange(count))
        graph = (data.edge_index, data.edge_attr)
        with torch.no_grad():
            u = model.encode(data.x, *graph)
        yield f"`mnist`, {count} images", model.dynamics.cell, (u, *graph, data.batch)
    grid = ImageToGraph()(torch.rand(1, 100, 100))
    yield "ConvCell, 100 × 100", ConvCell(1, 16, contraction=0.9), (
        grid.x, grid.edge_index, grid.edge_attr,
    )  # fmt: skip


def medians(ways: dict[str, Callable[[], Any]], rounds: int = 9) -> dict[str, float]:
    """Milliseconds of this process's CPU, in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if k:
                times[name].append(1e3 * (time.process_time() - begin))
    return {name: median(values) for name, values in times.items()}


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--tols", nargs="+", type=float, default=[1e-3, 1e-6])
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| rule | tol | steps: auto | anderson | picard | ms: auto | anderson | picard |")
    print(f"|{'---|' * 8}")
    for name, cell, graph in cells(args.data_root):
        for tol in args.tols:
            steps, ways = {}, {}
            for solver, options in WAYS.items():
                deq = GraphDEQ(cell, solver, tol=tol, max_steps=300, on_failure="ignore", **options)
                solution = deq(*graph, return_solution=True)[1]
                steps[solver] = f"{float(solution.num_steps.float().mean()):.1f}"
                ways[solver] = lambda deq=deq, graph=graph: deq(*graph)
            found = (f"{value:.1f}" for value in medians(ways).values())
            row = " | ".join([name, f"{tol:g}", *steps.values(), *found])
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
