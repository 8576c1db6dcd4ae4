"""A stack of two convs on Cora, and the equilibrium of one: accuracy, convergence, time.

    python examples/from_conv_cora.py --data-root DATA     # DATA/Planetoid/Cora/raw
    python examples/from_conv_cora.py --smoke               # seconds, on a synthetic graph

Both models get the public split, the same width, optimiser and epochs. Whether the equilibrium's
conv starts at the identity or as it comes is chosen by the validation accuracy of the first seed.
The accuracy is the test accuracy at the epoch of the best validation accuracy; the test data choose
nothing. *converged* is the share of training solves and of evaluations that reached the tolerance.
The data are copied to a temporary folder first. Prints a Markdown table and writes
``runs/from_conv_cora/table.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import (
    ChebConv,
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    SAGEConv,
    TAGConv,
    TransformerConv,
)
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import stochastic_blockmodel_graph

from gncadeq import GraphDEQ


def mlp(in_channels: int, out_channels: int) -> nn.Module:
    """The network within a GIN layer."""
    return nn.Sequential(
        nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
    )


CONVS: dict[str, Callable[[int, int], nn.Module]] = {
    "GCNConv": GCNConv,
    "GATConv": GATConv,
    "SAGEConv": SAGEConv,
    "GINConv": lambda i, o: GINConv(mlp(i, o)),
    "ChebConv": lambda i, o: ChebConv(i, o, K=3),
    "TAGConv": TAGConv,
    "GATv2Conv": GATv2Conv,
    "GraphConv": GraphConv,
    "TransformerConv": TransformerConv,
}


class Stack(nn.Module):
    """Two convs, the explicit model."""

    def __init__(self, conv: Callable[[int, int], nn.Module], data: Data, width: int) -> None:
        super().__init__()
        self.first = conv(data.num_features, width)
        self.second = conv(width, int(data.y.max()) + 1)
        self.converged: list[bool] = []

    def forward(self, data: Data) -> Tensor:
        """Return logits."""
        x = F.dropout(data.x, 0.5, self.training)
        x = self.first(x, data.edge_index).relu()
        return self.second(F.dropout(x, 0.5, self.training), data.edge_index)


class Equilibrium(nn.Module):
    """One conv, solved to its equilibrium."""

    def __init__(
        self, conv: Callable[[int, int], nn.Module], data: Data, width: int, **options: object
    ) -> None:
        super().__init__()
        self.deq = GraphDEQ.from_conv(
            conv(width, width), data.num_features, channels=width, on_failure="ignore", **options
        )
        self.linear = nn.Linear(width, int(data.y.max()) + 1)
        self.converged: list[bool] = []

    def forward(self, data: Data) -> Tensor:
        """Return logits."""
        x = F.dropout(data.x, 0.5, self.training)
        h, solution = self.deq(x, data.edge_index, return_solution=True)
        self.converged += solution.converged.tolist()
        return self.linear(F.dropout(h, 0.5, self.training))


def train(model: nn.Module, data: Data, epochs: int, lr: float) -> dict[str, float]:
    """Train on the training nodes; the validation nodes choose the epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=5e-4)
    best, test, begin = -1.0, 0.0, time.perf_counter()
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(data)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            right = model(data).argmax(1) == data.y
        valid = float(right[data.val_mask].float().mean())
        if valid > best:
            best, test = valid, float(right[data.test_mask].float().mean())
    return {
        "valid": best,
        "test": test,
        "seconds": time.perf_counter() - begin,
        "converged": mean(map(float, model.converged)) if model.converged else 1.0,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def cora(root: str) -> Data:
    """Cora with the public split, read from a copy."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(root) / "Planetoid" / "Cora" / "raw", Path(folder) / "Cora" / "raw")
        return Planetoid(folder, "Cora", transform=NormalizeFeatures())[0]


def synthetic() -> Data:
    """Four communities of 40 nodes with noisy features."""
    torch.manual_seed(0)
    probabilities = torch.full((4, 4), 0.01) + 0.15 * torch.eye(4)
    edge_index = stochastic_blockmodel_graph([40] * 4, probabilities)
    y = torch.arange(4).repeat_interleave(40)
    x = F.one_hot(y, 8) + 0.8 * torch.randn(160, 8)
    role = torch.arange(160) % 4
    return Data(
        x=x, y=y, edge_index=edge_index, train_mask=role == 0, val_mask=role == 1,
        test_mask=role > 1,
    )  # fmt: skip


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Mean and spread over the seeds."""
    out = {name: mean(run[name] for run in runs) for name in runs[0]}
    out["spread"] = stdev(run["test"] for run in runs) if len(runs) > 1 else 0.0
    return out


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="the folder that holds Planetoid/Cora/raw")
    parser.add_argument("--convs", nargs="*", default=list(CONVS), choices=list(CONVS))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--contraction", type=float, default=0.9)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--out", default="runs/from_conv_cora")
    parser.add_argument("--smoke", action="store_true", help="a small synthetic graph")
    args = parser.parse_args()
    if args.smoke:
        data, args.epochs, args.width, args.seeds = synthetic(), 20, 8, 1
        args.convs = args.convs[:2]
    elif args.data_root is None:
        parser.error("expected --data-root, or --smoke")
    else:
        data = cora(args.data_root)

    def runs(build: Callable[[], nn.Module], seeds: range) -> list[dict[str, float]]:
        found = []
        for seed in seeds:
            torch.manual_seed(seed)
            found.append(train(build(), data, args.epochs, args.lr))
        return found

    print("| conv | model | parameters | validation | test | converged | seconds |")
    print("|---|---|---|---|---|---|---|")
    table = {}
    first, others = range(1), range(1, args.seeds)
    for name in args.convs:
        conv = CONVS[name]

        def equilibrium(init: str, conv: Callable[[int, int], nn.Module] = conv) -> nn.Module:
            return Equilibrium(
                conv, data, args.width, contraction=args.contraction, activation=args.activation,
                init=init,
            )  # fmt: skip

        stacks = runs(lambda conv=conv: Stack(conv, data, args.width), range(args.seeds))
        tried = {i: runs(lambda i=i: equilibrium(i), first) for i in ("identity", "conv")}
        best = max(tried, key=lambda init: tried[init][0]["valid"])
        solved = tried[best] + runs(lambda best=best: equilibrium(best), others)
        for kind, found in (("stack of 2", stacks), (f"equilibrium, init={best!r}", solved)):
            row = table[f"{name}, {kind}"] = summary(found)
            converged = f"{100 * row['converged']:.1f} %" if kind[0] == "e" else ""
            print(
                f"| {name} | {kind} | {row['parameters']:,.0f} | "
                f"{100 * row['valid']:.1f} % | {100 * row['test']:.1f} ± "
                f"{100 * row['spread']:.1f} % | {converged} | {row['seconds']:.1f} |",
                flush=True,
            )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({"arguments": vars(args), "table": table}, indent=1))


if __name__ == "__main__":
    main()
