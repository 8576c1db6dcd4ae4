"""Plain steps first (auto) beside Anderson's method from the start: steps, and time of the process.

    python -m benchmarks plain_start --data-root DATA   # DATA/Planetoid/Cora/raw, DATA/MNIST/raw

Solves without gradients, of the three in turn in one process: ``auto``; ``anderson`` with as many
differences; ``picard``, plain steps throughout. Writes ``runs/benchmarks/plain_start.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MLP, GATConv, GCNConv, GINConv, SAGEConv

from benchmarks._measure import alternate, cora, save, show
from gncadeq import Cell, ConvCell, GraphDEQ, PropagationCell, WrappedConvCell
from gncadeq.datasets import PixelGraphs
from gncadeq.models import ImageClassifier
from gncadeq.transforms import ImageToGraph

WAYS: dict[str, dict[str, Any]] = {
    "auto": {}, "anderson": {"solver_options": {"history": 10}}, "picard": {},
}  # fmt: skip


def cells(data_root: str) -> Iterator[tuple[str, Cell, tuple[Tensor | None, ...]]]:
    """Names, rules and graphs."""
    edges = cora(data_root).edge_index
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


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--tols", nargs="+", type=float, default=[1e-3, 1e-6])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name, cell, graph in cells(args.data_root):
        for tol in args.tols:
            row: dict[str, Any] = {"rule": name, "tol": f"{tol:g}"}
            ways = {}
            for solver, options in WAYS.items():
                deq = GraphDEQ(cell, solver, tol=tol, max_steps=300, on_failure="ignore", **options)
                solution = deq(*graph, return_solution=True)[1]
                row[f"steps: {solver}"] = f"{float(solution.num_steps.float().mean()):.1f}"
                ways[solver] = lambda deq=deq, graph=graph: deq(*graph)
            found = alternate(ways, args.rounds)
            rows.append({**row, **{f"ms: {solver}": time for solver, time in found.items()}})
    show("Plain steps first", rows)
    save("plain_start", rows)


if __name__ == "__main__":
    main()
