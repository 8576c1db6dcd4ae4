"""How far a rule reaches: what the last node of a chain knows of the first.

    python examples/reach.py             # writes docs/reach.png, prints Markdown tables
    python examples/reach.py --smoke     # a short chain

On a directed chain the first node is of class A or B. *difference* is that of the two equilibria at
a node, relative to that at the first. Rules are as they are initialised: contractions
by κ, which lose a factor of κ a node at least, and a ``SweepCell``, whose weights nothing bounds.
The second table lets chains grow: plain steps to rest from zeros (to a change of 1e-6 a node), and
the CPU seconds of a solve and of its gradient.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gncadeq import Cell, GraphDEQ, IGNNCell, PropagationCell, SweepCell
from gncadeq.viz.figures import open_axes, save_figure

RULES = {
    "PropagationCell(alpha=0.1): κ = 0.9": lambda: PropagationCell(2, 0.1, "row"),
    "IGNNCell(kappa=0.99)": lambda: IGNNCell(2, 2, kappa=0.99, normalization="row"),
    "SweepCell(gain=2)": lambda: SweepCell(2, 2, init="identity", gain=2.0),
}


def chain(length: int) -> tuple[Tensor, Tensor]:
    """Edges along a chain, and its nodes' features: nothing but at the first."""
    node = torch.arange(length)
    return torch.stack([node[:-1], node[1:]]), torch.zeros(length, 2, dtype=torch.double)


def difference(cell: Cell, length: int) -> Tensor:
    """How far the equilibria of the two classes are apart at every node."""
    edge_index, x = chain(length)
    deq = GraphDEQ(cell, tol=1e-12, criterion="node", max_steps=20 * length, on_failure="ignore")
    ends = []
    for kind in range(2):
        x = torch.zeros_like(x)
        x[0, kind] = 1.0
        with torch.no_grad():
            ends.append(deq(x, edge_index))
    apart = (ends[0] - ends[1]).norm(dim=1)
    return apart / apart[0]


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--out", default="docs/reach.png")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(prefix="reach_") + "/reach.png"
    length = 20 if args.smoke else args.length
    far = [d for d in (1, 10, 50, 100, 200, length - 1) if d < length]
    print("| rule | " + " | ".join(f"difference at {d}" for d in far) + " |")
    print("|---|" + "---|" * len(far))
    figure = Figure(figsize=(8, 3.4))
    axes = figure.subplots()
    for name, make in RULES.items():
        torch.manual_seed(0)
        apart = difference(make().double(), length)
        print(f"| `{name}` | " + " | ".join(f"{float(apart[d]):.1e}" for d in far) + " |")
        axes.semilogy(apart.clamp(min=1e-30), label=name)
    axes.legend(frameon=False)
    label = "difference, relative to the first node"
    open_axes(axes, xlabel="distance from the first node (hops)", ylabel=label, ylim=(1e-20, 5))
    save_figure(figure, args.out)
    print("\n| nodes | steps to rest | solve, CPU s | gradient, CPU s |\n|---|---|---|---|")
    for size in (10, 20) if args.smoke else (100, 1_000, 10_000):
        torch.manual_seed(0)
        edge_index, x = chain(size)
        x[0, 0] = 1.0
        deq = GraphDEQ(SweepCell(2, 16, init="identity", gain=2.0).double())
        begin = time.process_time()
        z, solution = deq(x, edge_index, return_solution=True)
        middle = time.process_time()
        z.sum().backward()
        end = time.process_time()
        steps = int(solution.num_steps)
        print(f"| {size:,} | {steps:,} | {middle - begin:.2g} | {end - middle:.2g} |")


if __name__ == "__main__":
    main()
