"""Peak memory: implicit training against the number of solver steps and BPTT; rollouts.

    python -m benchmarks memory --data-root DATA

A training step of 64 living-pixel graphs of MNIST through the shipped model. *peak* is the most
bytes of tensors alive at a time over those alive before, solver histories and temporary results
included (Broyden's history is full after 30 steps); *saved* is what autograd keeps between forward
and backward. Then the peak of a rollout without gradients. Writes ``runs/benchmarks/memory.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks._measure import peak_bytes, save, show
from gncadeq import GraphDEQ, GraphNCA, PixelGraphClassifier
from gncadeq.analysis import saved_bytes
from gncadeq.datasets import PixelGraphs

UNREACHABLE = 1e-30  # a tolerance that makes a solver take all its steps


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    data = PixelGraphs(args.data_root, "mnist", True, model.to_graph).batch(torch.arange(64))
    graph = (data.x, data.edge_index, data.edge_attr, data.batch)
    cell = model.dynamics.cell

    def deq(solver: str, steps: int, **options: Any) -> GraphDEQ:
        return GraphDEQ(
            cell, solver, tol=UNREACHABLE, max_steps=steps, on_failure="ignore", **options
        )

    ways: dict[str, GraphDEQ | GraphNCA] = {
        f"IFT, {solver}, {steps} solver steps": deq(solver, steps)
        for solver, counts in (
            ("picard", (10, 100, 1000)),
            ("anderson", (10, 100)),
            ("broyden", (60, 200)),
        )
        for steps in counts
    }
    ways["phantom, 5 steps"] = deq("picard", 10, gradient="phantom", phantom_steps=5)
    for steps in (32, 64):
        ways[f"BPTT, {steps} steps"] = GraphNCA(cell, steps)
    ways["BPTT, 64 steps, checkpoint_every='sqrt'"] = GraphNCA(cell, 64, checkpoint_every="sqrt")
    for steps, size in ((16, 0.5), (32, 0.5), (16, 0.1), (32, 0.1)):  # of two evaluations each
        ways[f"reversible, {2 * steps} evaluations, step_size={size}"] = GraphNCA(
            cell, steps, step_size=size, gradient="reversible"
        )

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(*graph), data.y)

    def train() -> None:
        model.zero_grad()
        loss().backward()

    rows = []
    for name, dynamics in ways.items():
        model.dynamics = dynamics
        if not rows:
            train()  # which finds the bound of the weights
        rows.append(
            {"training step": name, "peak MB": peak_bytes(train) / 1e6,
             "saved MB": saved_bytes(loss, model.parameters()) / 1e6}
        )  # fmt: skip
    reference = next(r["peak MB"] for r in rows if r["training step"] == "BPTT, 64 steps")
    for r in rows:
        r["peak over BPTT 64"] = r["peak MB"] / reference
    show("A training step of 64 digits", rows)

    more = []
    u = model.encode(*graph[:3]).detach()
    for steps in (10, 100, 1000):
        nca = GraphNCA(cell, steps, fire_rate=0.5)
        with torch.no_grad():
            peak = peak_bytes(lambda n=nca: n(u, *graph[1:]))
        more.append({"rollout": f"{steps} steps, no gradients", "peak MB": peak / 1e6})
    show("A rollout of 64 digits", more)
    save("memory", rows, rollouts=more)


if __name__ == "__main__":
    main()
