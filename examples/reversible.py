"""Reversible rollouts: the gradient of the steps that were taken, with the memory of one.

    python examples/reversible.py               # scikit-learn's digits, three seeds
    python examples/reversible.py --smoke       # seconds

``GraphNCA(gradient="reversible")`` undoes its steps in the backward pass (McCallum et al. 2025).
Three measurements, with the essay's classifier of pixel graphs:

- *gradient*: its distance from automatic differentiation through every step of the same iteration,
  relative, in double and in single precision.
- *memory*: what autograd keeps for 64 digits, by the number of evaluations of the rule, beside
  back-propagation through time, the same with checkpoints, and the implicit gradient.
- *training*: test accuracy and CPU seconds after ``--epochs``, with the same evaluations.

Writes ``results.json`` and ``memory.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq import ConvCell, GraphDEQ, GraphNCA, PixelGraphClassifier
from gncadeq.analysis import saved_bytes
from gncadeq.datasets import PixelGraphs
from gncadeq.files.json_files import write_json
from gncadeq.transforms import ImageToGraph

WAYS: dict[str, dict[str, Any]] = {
    "bptt": {},
    "bptt, checkpoints": {"checkpoint_every": "sqrt"},
    "reversible, ½": {"gradient": "reversible", "step_size": 0.5},
    "reversible, 0.1": {"gradient": "reversible", "step_size": 0.1},
    "implicit": {},
}


def dynamics(way: str, cell: ConvCell, evaluations: int) -> GraphDEQ | GraphNCA:
    """A way to train, of so many evaluations of the rule; the implicit one stops at 1e-2."""
    if way == "implicit":
        return GraphDEQ(cell, "picard", tol=1e-2, max_steps=evaluations, on_failure="ignore")
    options = WAYS[way]
    steps = evaluations // 2 if "gradient" in options else evaluations
    return GraphNCA(cell, steps, **options)


def error(steps: int, size: float, dtype: torch.dtype) -> float:
    """Relative distance of the gradient from that of automatic differentiation in float64."""
    torch.manual_seed(0)
    cell = ConvCell(1, 8, contraction=0.99).double()
    data = ImageToGraph()(torch.rand(1, 12, 12, dtype=torch.double))
    step, y = cell.prepare(data.x, data.edge_index, data.edge_attr), data.x.new_zeros(144, 8)
    z = y
    for _ in range(steps):
        y = y + size * (step(z) - y)
        z = z + size * (step(y) - z)
    exact = torch.autograd.grad(z.square().sum(), list(cell.parameters()))
    nca = GraphNCA(cell.to(dtype), steps, step_size=size, gradient="reversible")
    z = nca(data.x.to(dtype), data.edge_index, data.edge_attr)
    found = torch.autograd.grad(z.square().sum(), list(cell.parameters()))
    parts = [(a - b).norm() / a.norm() for a, b in zip(exact, found, strict=True)]
    return max(map(float, parts))


def memory(way: str, evaluations: int, data: Any) -> float:
    """MB that autograd keeps."""
    torch.manual_seed(0)
    model = PixelGraphClassifier(contraction=0.99)
    model.dynamics = dynamics(way, model.dynamics.cell, evaluations)

    def loss() -> Tensor:
        return F.cross_entropy(model(data.x, data.edge_index, data.edge_attr, data.batch), data.y)

    return saved_bytes(loss, [*model.parameters(), data.x, data.edge_index, data.edge_attr]) / 1e6


def train(way: str, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Test accuracy by the dynamics of training, and CPU seconds of training."""
    torch.manual_seed(seed)
    model = PixelGraphClassifier(contraction=0.99)
    model.dynamics = dynamics(way, model.dynamics.cell, args.evaluations)
    train_set, test_set = (PixelGraphs(None, "digits", part, model.to_graph) for part in (1, 0))
    batches = max(1, len(train_set) // 32)
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * batches + 1, cycle_momentum=False
    )
    begin = time.process_time()
    for _ in range(args.epochs):
        order = torch.randperm(len(train_set))
        for k in range(batches if not args.smoke else 2):
            data = train_set.batch(order[32 * k : 32 * k + 32])
            logits = model(data.x, data.edge_index, data.edge_attr, data.batch)
            optimizer.zero_grad()
            F.cross_entropy(logits, data.y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
    seconds = time.process_time() - begin
    model.eval()
    data = test_set.batch(torch.arange(len(test_set)))
    with torch.no_grad():
        logits = model(data.x, data.edge_index, data.edge_attr, data.batch)
    return float((logits.argmax(1) == data.y).float().mean()), seconds


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=32, help="of the rule, in training")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="runs/reversible")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    counts = (8, 32, 128, 512)
    if args.smoke:
        args.epochs, args.seeds, args.evaluations, counts = 1, [0], 8, (8, 16)
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="reversible_")
    out, table = Path(args.out), {}
    out.mkdir(parents=True, exist_ok=True)
    for size in (0.5, 0.1):
        for steps in [count // 2 for count in counts]:
            pair = [error(steps, size, dtype) for dtype in (torch.double, torch.float)]
            table[f"gradient, {steps} steps of {size}"] = pair
            print(f"gradient, {steps} steps of {size}: off by {pair[0]:.1e} in double, "
                  f"{pair[1]:.1e} in single precision", flush=True)  # fmt: skip
    digits = PixelGraphs(None, "digits", True, PixelGraphClassifier().to_graph)
    data = digits.batch(torch.arange(64))
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for way in WAYS:
        row = [memory(way, count, data) for count in counts]
        table[f"MB, {way}"] = row
        print(f"{way}: {', '.join(f'{mb:.1f}' for mb in row)} MB for {counts} evaluations")
        axes.plot(counts, row, "o-", label=way)
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the rule",
             ylabel="MB kept for the backward pass")  # fmt: skip
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "memory.png", dpi=110)
    for way in WAYS:
        rows = [train(way, seed, args) for seed in args.seeds]
        table[f"training, {way}"] = rows
        print(f"{way}: test accuracy {', '.join(f'{100 * a:.1f}' for a, _ in rows)} %, "
              f"{', '.join(f'{s:.0f}' for _, s in rows)} CPU s", flush=True)  # fmt: skip
        write_json(out / "results.json", table)


if __name__ == "__main__":
    main()
