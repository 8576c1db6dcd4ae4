"""Chains: how far does an equilibrium carry a signal, and how does the tolerance limit it?

    python examples/chains.py                        # minutes; c = 2, l = 100
    python examples/chains.py --smoke                # seconds

The long-range benchmark of implicit graph networks (Gu et al. 2020): ``--classes`` × 20 directed
chains of ``--length`` nodes; only the first node of a chain knows its class, and every node has to
name it. With the bound κ = 0.9 the signal loses a fifth of its size with every hop, so at node 100
it is 1e-9 of what it was: there, though no absolute tolerance, nor any relative one of the usual
size, can see it. The same model is trained with one tolerance after another, in double precision;
the readout sees the direction of a node's state, not its size. A run that stops as soon as the
tolerance is met has not reached the far nodes: the solver is then the limit, not the model.

Writes ``runs/chains/table.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, IGNNCell
from gncadeq.models.pretrained import write_atomically

CHAINS = 20
FEATURES = 100


def make_chains(classes: int, length: int, noise: float, generator: torch.Generator) -> Batch:
    """All chains as one batch of graphs."""
    node = torch.arange(length - 1)
    chains = []
    for label in range(classes):
        for _ in range(CHAINS):
            draw = torch.rand(length, FEATURES, generator=generator, dtype=torch.double)
            x = noise * (2 * draw - 1)
            x[0, :classes] = F.one_hot(torch.tensor(label), classes).double()
            x = F.normalize(x, p=1, dim=1)
            y = torch.full((length,), label)
            chains.append(Data(x=x, edge_index=torch.stack([node, node + 1]), y=y))
    return Batch.from_data_list(chains)


class ChainClassifier(nn.Module):
    """IGNN's cell, solved to equilibrium; a linear readout of the direction of each state."""

    def __init__(self, classes: int, kappa: float, tol: float, max_steps: int) -> None:
        super().__init__()
        cell = IGNNCell(FEATURES, 16, kappa=kappa, activation="tanh", bias=False)
        self.dynamics = GraphDEQ(cell, "picard", tol=tol, max_steps=max_steps, on_failure="ignore")
        self.readout = nn.Linear(16, classes)
        self.double()

    def forward(self, data: Batch) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Logits, which nodes the signal has reached, and the steps taken."""
        z, solution = self.dynamics(data.x, data.edge_index, None, data.batch, return_solution=True)
        size = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        logits = self.readout(z / size.clamp(min=1e-300))
        return logits, size.detach().squeeze(1) > 0, float(solution.num_steps.double().mean())


def run(data: Batch, args: argparse.Namespace, tol: float, seed: int) -> dict[str, float]:
    """Train on 5 % of the nodes; test where the best of 10 % validation nodes was."""
    torch.manual_seed(seed)
    classes = int(data.y.max()) + 1
    model = ChainClassifier(classes, args.kappa, tol, args.max_steps)
    order = torch.randperm(data.num_nodes)
    few, some = data.num_nodes // 20, 3 * data.num_nodes // 20
    train, validation, test = order[:few], order[few:some], order[some:]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    best, result = -1.0, {}
    began = time.perf_counter()
    for _ in range(args.epochs):
        logits, reached, steps = model(data)
        right = (logits.argmax(1) == data.y).double()
        if float(right[validation].mean()) > best:
            best = float(right[validation].mean())
            result = {
                "accuracy": float(right[test].mean()),
                "reached": float(reached.double().mean()),
                "steps": steps,
            }
        optimizer.zero_grad()
        F.cross_entropy(logits[train], data.y[train]).backward()
        optimizer.step()
    return {**result, "seconds": time.perf_counter() - began}


def main() -> None:
    """Train with every tolerance and seed, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--kappa", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--max-steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-3, 1e-6, 1e-9, 1e-12])
    parser.add_argument("--out", default="runs/chains")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.length, args.epochs, args.seeds, args.tolerances = 20, 10, 1, [1e-3, 1e-12]
    data = make_chains(args.classes, args.length, args.noise, torch.Generator().manual_seed(0))
    rows = []
    print("tolerance  accuracy of each seed   nodes reached   steps   seconds")
    for tol in args.tolerances:
        runs = [run(data, args, tol, seed) for seed in range(args.seeds)]
        rows.append({"tol": tol, "runs": runs})
        accuracy = " / ".join(f"{r['accuracy']:.2f}" for r in runs)
        mean = {k: sum(r[k] for r in runs) / len(runs) for k in ("reached", "steps", "seconds")}
        print(
            f"{tol:9.0e}  {accuracy:<22}  {mean['reached']:13.2f}  {mean['steps']:6.0f}  "
            f"{mean['seconds']:8.1f}",
            flush=True,
        )
    result = {"arguments": vars(args), "rows": rows}
    write_atomically(Path(args.out) / "table.json", json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
