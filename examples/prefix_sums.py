"""Prefix sums modulo two: trained on 32 bits, right on thousands.

    python examples/prefix_sums.py               # three seeds
    python examples/prefix_sums.py --smoke       # seconds

Every node of a chain holds a bit, and is to know the parity of all bits up to its own, the first
benchmark of "deep thinking" (Schwarzschild et al. 2021, Bansal et al. 2022): one local rule,
trained on short chains, is applied for longer on long ones. Bits are injected in every step, which
these papers call *recall*.

- ``sweep``: a rule that reads the node before (``SweepCell``), trained as an equilibrium by the
  implicit gradient. It is at rest after as many steps as there are nodes.
- ``window``: a rule that reads both neighbours (``ConvCell``), as in these papers, trained through
  40 steps from zeros.

*chains right* are those of which every node is right. Prints a table, writes ``results.json``, and
draws the steps of both rules on one chain in ``steps.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from gncadeq import ConvCell, GraphDEQ, GraphNCA, SweepCell
from gncadeq.cell import Cell
from gncadeq.files.json_files import write_json
from gncadeq.transforms import ImageToGraph
from gncadeq.viz.figures import save_figure

THROUGH = 40  # steps that ``window`` is trained through


class Chains:
    """Chains of bits, each a graph of a batch.

    Args:
        count: How many.
        length: Bits of each.
        both: Whether nodes read the bit after them, too.
        generator: The source of the bits.
    """

    def __init__(self, count: int, length: int, both: bool, generator: torch.Generator) -> None:
        bits = torch.randint(2, (count, length), generator=generator)
        self.x, self.y = 2.0 * bits.view(-1, 1) - 1, (bits.cumsum(1) % 2).flatten()
        self.batch = torch.arange(count).repeat_interleave(length)
        self.count, self.length = count, length
        node = torch.arange(count * length).view(count, length)
        self.edge_index = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
        self.edge_attr = None
        if both:  # a picture of one row
            one = ImageToGraph()(torch.zeros(1, 1, length))
            self.edge_index = (one.edge_index[:, None] + node[:, :1]).flatten(1)
            self.edge_attr = one.edge_attr.repeat(count)

    def run(self, dynamics: GraphDEQ | GraphNCA, **options: Any) -> Tensor:
        """The state of all nodes."""
        graph = self.edge_index, self.edge_attr, self.batch
        return dynamics(self.x, *graph, batch_size=self.count, **options)

    def right(self, labels: Tensor) -> tuple[float, float]:
        """Shares of the nodes, and of the chains all of whose nodes, are right."""
        good = (labels == self.y).view(self.count, self.length)
        return float(good.float().mean()), float(good.all(1).float().mean())


def train(cell: Cell, readout: nn.Module, seed: int, args: argparse.Namespace) -> float:
    """Train on chains of 32 bits; the CPU seconds that it took."""
    generator = torch.Generator().manual_seed(seed)
    both = isinstance(cell, ConvCell)
    dynamics = GraphNCA(cell, THROUGH, start="zeros") if both else GraphDEQ(cell)
    parameters = [*cell.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, args.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps + 1, pct_start=0.1, cycle_momentum=False
    )
    begin = time.process_time()
    for _ in range(args.steps):
        chains = Chains(32, args.length, both, generator)
        loss = F.cross_entropy(readout(chains.run(dynamics)), chains.y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
    return time.process_time() - begin


@torch.no_grad()
def measure(cell: Cell, readout: nn.Module, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Right nodes and chains of every length, as an automaton of enough steps and of many more."""
    generator, row = torch.Generator().manual_seed(1000 + seed), {}
    both = isinstance(cell, ConvCell)
    for length, count in args.tests:
        chains = Chains(count, length, both, generator)
        for steps in (length + 8, 4 * length):
            z = chains.run(GraphNCA(cell, steps, start="zeros"))
            row[f"{length} bits, {steps} steps"] = chains.right(readout(z).argmax(1))
    length, count = args.tests[0]
    chains = Chains(count, length, both, generator)
    z, found = chains.run(GraphNCA(cell, 10 * length, start="zeros"), return_solution=True)
    row["residual"] = float(found.residual.max())
    half = GraphNCA(cell, 10 * length, fire_rate=0.5, start="normal")
    other = chains.run(half, generator=generator)
    row["from noise at fire rate ½"] = chains.right(readout(other).argmax(1))
    return row


@torch.no_grad()
def draw(models: dict[str, tuple[Cell, nn.Module]], length: int, path: Path) -> None:
    """Which nodes of a chain are right after every step from zeros."""
    figure = Figure(figsize=(4 * len(models), 4), layout="constrained")
    for axes, (name, (cell, readout)) in zip(
        figure.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True
    ):
        generator = torch.Generator().manual_seed(2000)
        chain = Chains(1, length, isinstance(cell, ConvCell), generator)
        nca = GraphNCA(cell, 3 * length // 2, start="zeros")
        _, states = chain.run(nca, return_trajectory=True)
        right = torch.stack([readout(z).argmax(1) == chain.y for z in states])
        axes.imshow(right, cmap="Blues", vmin=-0.3, vmax=1.3, interpolation="nearest")
        axes.set(title=f"{name}: dark where right", xlabel="node", ylabel="step")
    save_figure(figure, path)


def main() -> None:
    """Train both rules with every seed, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=["sweep", "window"])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="bits in training")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="runs/prefix_sums")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    args.tests = [(32, 200), (512, 200), (4096, 4)]
    if args.smoke:
        args.steps, args.seeds, args.length, args.tests = 2, [0], 8, [(8, 4), (16, 2)]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="prefix_sums_")
    rows, models = [], {}
    for name in args.rules:
        for seed in args.seeds:
            torch.manual_seed(seed)
            cell: Cell = (
                SweepCell(1, args.channels, gain=1.5, noise=0.3)
                if name == "sweep"
                else ConvCell(1, args.channels)
            )
            readout = nn.Linear(args.channels, 2)
            used = sum(p.numel() for p in (*cell.parameters(), *readout.parameters()))
            seconds = train(cell, readout, seed, args)
            found = measure(cell.eval(), readout, seed, args)
            models.setdefault(name, (cell, readout))
            rows.append({"rule": name, "seed": seed, "parameters": used, "CPU s": seconds, **found})
            print(f"\n{name}, seed {seed}: {used} parameters, {seconds:.1f} CPU seconds")
            for what, value in found.items():
                nodes = value if isinstance(value, float) else f"{value[0]:.2%} of the nodes"
                whole = "" if isinstance(value, float) else f", {value[1]:.1%} of the chains right"
                print(f"  {what}: {nodes}{whole}", flush=True)
            write_json(Path(args.out) / "results.json", rows)
    draw(models, 4 * args.length, Path(args.out) / "steps.png")


if __name__ == "__main__":
    main()
