"""Wrapped convs: a step beside the conv itself, and an equilibrium beside stacks of layers.

    python -m benchmarks conv_step --data-root DATA    # without, Cora is left out

First, on the grid graph of SIZE x SIZE pixels (eight neighbours), WIDTH channels, without
gradients: *conv* is the conv called as it is; *step* the whole step of the cell (conv, scale,
injection, activation); *prepare* what is computed once a solve.

Then forward and backward, 64 channels, to a residual of 1e-3: the equilibrium of one conv as PyG
makes it, beside stacks of two and four, whose first layer takes the features. On Cora (2,708
nodes, 1,433 features) and on a random undirected graph of 100,000 nodes and 64 features.

With MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824
in the environment glibc keeps freed memory; without, page faults may triple a time. Writes
``runs/benchmarks/conv_step.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.utils import to_undirected

from benchmarks._measure import alternate, cora, save, show
from gncadeq import GraphDEQ, WrappedConvCell
from gncadeq.transforms import ImageToGraph

LARGE, WIDTH = 100_000, 64
ON_LARGE = ("GCNConv", "GCNConv from ranges", "SAGEConv")  # the others take minutes there
STACKS: dict[str, tuple[Callable[[int, int], nn.Module], dict[str, Any]]] = {
    "GCNConv": (pyg.GCNConv, {}),
    "GCNConv from ranges": (pyg.GCNConv, {"init": "ranges"}),
    "SAGEConv": (pyg.SAGEConv, {}),
    "GATConv, 8 heads, held": (lambda i, c: pyg.GATConv(i, c // 8, heads=8), {}),
    "GINConv": (lambda i, c: pyg.GINConv(pyg.MLP([i, c, c], norm=None)), {}),
    "ResGatedGraphConv (measured)": (pyg.ResGatedGraphConv, {}),
}


@torch.no_grad()
def steps(size: int, c: int, rounds: int) -> list[dict[str, Any]]:
    """Steps of convs, the convs themselves, and what a solve computes once."""
    data = ImageToGraph()(torch.rand(1, size, size))
    x, edge_index = torch.randn(data.num_nodes, 3), data.edge_index
    convs = {
        "GCNConv": pyg.GCNConv(c, c),
        "SAGEConv": pyg.SAGEConv(c, c),
        "ChebConv, K=3": pyg.ChebConv(c, c, 3),
        "TAGConv": pyg.TAGConv(c, c),
        "LGConv": pyg.LGConv(),
        "GATConv": pyg.GATConv(c, c),
        "GINConv": pyg.GINConv(nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))),
        "AGNNConv": pyg.AGNNConv(),
    }
    rows, z = [], torch.randn(data.num_nodes, c)
    for name, conv in convs.items():
        cell = WrappedConvCell(conv, 3, channels=c)
        step = cell.prepare(x, edge_index)
        ms = alternate(
            {
                "conv": lambda conv=conv: conv(z, edge_index), "step": lambda step=step: step(z),
                "prepare": lambda cell=cell: cell.prepare(x, edge_index),
            },
            rounds,
        )  # fmt: skip
        rows.append({"conv": name, **{f"{what}, ms": time for what, time in ms.items()}})
    return rows


class Stack(nn.Module):
    """Layers of one kind, with ReLUs between them."""

    def __init__(self, make: Callable[[int, int], nn.Module], width: int, depth: int) -> None:
        super().__init__()
        widths = [width] + [WIDTH] * depth
        self.convs = nn.ModuleList(make(*widths[k : k + 2]) for k in range(depth))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """The last layer's output."""
        for conv in self.convs[:-1]:
            x = conv(x, edge_index).relu()
        out: Tensor = self.convs[-1](x, edge_index)
        return out


def stacks(
    name: str, x: Tensor, edge_index: Tensor, rounds: int, convs: Iterable[str] = STACKS
) -> Iterator[dict[str, Any]]:
    """Equilibria beside stacks of two and four layers."""
    for conv in convs:
        make, options = STACKS[conv]
        deq = GraphDEQ.from_conv(make(WIDTH, WIDTH), x.size(1), on_failure="ignore", **options)
        models = {"deq": deq, **{str(k): Stack(make, x.size(1), k) for k in (2, 4)}}

        def train(model: nn.Module) -> None:
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)  # the weights are others
            optimizer.zero_grad()
            model(x, edge_index).square().mean().backward()
            optimizer.step()

        ms = alternate({k: lambda m=m: train(m) for k, m in models.items()}, rounds)
        _, solution = deq(x, edge_index, return_solution=True)
        yield {
            "graph": name, "conv": conv, "steps": int(solution.num_steps[0]),
            "equilibrium, ms": ms["deq"], "two layers, ms": ms["2"], "four layers, ms": ms["4"],
            "over two layers": ms["deq"] / ms["2"],
        }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="the folder that holds Planetoid/Cora/raw")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = steps(args.size, args.width, args.rounds)
    show(f"A step, {args.size} x {args.size} pixels, {args.width} channels", rows)
    more = []
    if args.data_root:
        data = cora(args.data_root)
        more += stacks("Cora", data.x, data.edge_index, args.rounds)
    edges = to_undirected(torch.randint(LARGE, (2, 3 * LARGE)))
    more += stacks(f"random, {LARGE:,} nodes", torch.randn(LARGE, WIDTH), edges, 3, ON_LARGE)
    show("Equilibria beside stacks, forward and backward", more)
    save("conv_step", rows, stacks=more)


if __name__ == "__main__":
    main()
