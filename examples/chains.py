"""Long chains, whose first node alone knows the class: who hears it at the other end?

    python examples/chains.py --classes 5 --length 100                # 3 seeds
    python examples/chains.py --classes 5 --length 100 --noise 0.1 --undirected
    python examples/chains.py --length 400 --models "equilibrium node" --double
    python examples/chains.py --smoke                                 # seconds

The benchmark of IGNN (Gu et al. 2020): c classes × 20 chains × l nodes with 100 features, all zero
but for the class in the first node, plus uniform noise in ±``noise`` on every node; rows divided by
the sum of their absolute values; 5 % of the nodes for training, 10 % for validation. Without noise
all chains of a class are the same, and a model that reads the first node is right everywhere.

All models share encoder and decoder: soft threshold (entries below it are noise; the threshold is
chosen among four by the validation accuracy of the first seed, 0 without noise), a linear map to 16
channels, and a linear map of the direction of a node's state (its length fades along the chain).
Between them stand

- ``ignn graph``: IGNN's cell, κ = 0.9, each chain solved until its relative residual is below 1e-4,
- ``ignn node``: the same until that of every node is (``criterion="node"``),
- ``equilibrium graph`` and ``equilibrium node``: ``from_conv(LGConv())``, κ = 0.9, likewise,
- ``nca``: the last one's rule, 20 steps, backpropagation through time,
- ``gcn``, ``gat``: four layers, ``appnp``: ten steps with α = 0.1.

A state fades by κ / (2 - κ) = 0.82 from node to node of a directed chain: below 1e-31, after 355,
it is lost to single precision. ``--double`` has room for 3,000 nodes.

The accuracy is the test accuracy at the epoch of the best validation accuracy. *far* is that of the
last tenth of each chain. *margin* is the mean logit of the right class above the best wrong one.
Prints a Markdown table and adds it to ``runs/chains/table.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GATConv, GCNConv, LGConv, Sequential
from torch_geometric.utils import add_self_loops

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import IGNNCell

CHAINS, FEATURES, CHANNELS = 20, 100, 16
MODELS = (
    "ignn graph", "ignn node", "equilibrium graph", "equilibrium node",
    "nca", "gcn", "gat", "appnp",
)  # fmt: skip
THRESHOLDS = (0.0, 0.01, 0.02, 0.05)


class Chains:
    """The nodes of all chains, one chain after another."""

    def __init__(self, classes: int, length: int, noise: float, directed: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.classes, self.length, self.count = classes, length, classes * CHAINS
        num_nodes = self.count * length
        kind = torch.arange(classes).repeat_interleave(CHAINS)
        x = noise * (2 * torch.rand(self.count, length, FEATURES, generator=generator) - 1)
        x[torch.arange(self.count), 0, kind] = 1.0
        x = x.view(num_nodes, FEATURES)
        self.x = x / x.abs().sum(1, keepdim=True).clamp(min=1e-12)
        self.y = kind.repeat_interleave(length)
        node = torch.arange(num_nodes).view(self.count, length)
        edge_index = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
        if not directed:
            edge_index = torch.cat([edge_index, edge_index.flip(0)], 1)
        self.edge_index = add_self_loops(edge_index)[0]  # LGConv adds none, and loses heads so
        self.batch = torch.arange(self.count).repeat_interleave(length)
        order = torch.randperm(num_nodes, generator=generator)
        train, valid = num_nodes // 20, num_nodes // 20 + num_nodes // 10
        self.train, self.valid, self.test = order[:train], order[train:valid], order[valid:]
        place = torch.arange(num_nodes) % length
        self.far = self.test[place[self.test] >= length - max(1, length // 10)]


def middle(name: str, length: int) -> nn.Module:
    """What stands between encoder and decoder."""
    kind, _, criterion = name.partition(" ")
    if kind in ("ignn", "equilibrium"):
        options = {
            "criterion": criterion, "solver": "picard", "tol": 1e-4, "on_failure": "ignore",
            "max_steps": 100 + 20 * length, "backward_max_steps": 100 + 20 * length,
        }  # fmt: skip
        if kind == "ignn":
            return GraphDEQ(IGNNCell(CHANNELS, CHANNELS, kappa=0.9, bias=False), **options)
        return GraphDEQ.from_conv(LGConv(), CHANNELS, channels=CHANNELS, bias=False, **options)
    if kind == "nca":
        return GraphNCA.from_conv(LGConv(), CHANNELS, channels=CHANNELS, bias=False, steps=20)
    if kind == "appnp":
        return Sequential("x, edge_index", [(APPNP(K=10, alpha=0.1), "x, edge_index -> x")])
    layer = {
        "gcn": lambda: GCNConv(CHANNELS, CHANNELS),
        "gat": lambda: GATConv(CHANNELS, CHANNELS // 4, heads=4),
    }[kind]
    layers = [[(layer(), "x, edge_index -> x"), nn.ReLU()] for _ in range(4)]
    return Sequential("x, edge_index", [part for pair in layers for part in pair])


class Model(nn.Module):
    """Encoder, middle and decoder."""

    def __init__(self, name: str, data: Chains, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Softshrink(threshold)
        self.encoder = nn.Linear(FEATURES, CHANNELS, bias=False)
        self.middle = middle(name, data.length)
        self.decoder = nn.Linear(CHANNELS, data.classes)
        self.steps = 0.0

    def forward(self, data: Chains) -> Tensor:
        """Return logits."""
        x = self.encoder(self.threshold(data.x))
        if isinstance(self.middle, GraphDEQ):
            z, solution = self.middle(
                x, data.edge_index, None, data.batch, batch_size=data.count, return_solution=True
            )
            self.steps = float(solution.num_steps.float().mean())
        else:
            z = self.middle(x, data.edge_index)
        # The direction, of the smallest states as well.
        z = z / z.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
        logits: Tensor = self.decoder(5 * F.normalize(z, eps=1e-3))
        return logits


def run(name: str, data: Chains, seed: int, threshold: float, epochs: int) -> dict[str, float]:
    """Train one model; the validation nodes choose the epoch."""
    torch.manual_seed(seed)
    model = Model(name, data, threshold)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    best: dict[str, float] = {"valid": -1.0}
    for _ in range(epochs):
        optimizer.zero_grad()
        logits = model(data)
        with torch.no_grad():
            right = (logits.argmax(1) == data.y).float()
            valid = float(right[data.valid].mean())
            if valid > best["valid"]:
                correct = logits.gather(1, data.y[:, None]).squeeze(1)
                wrong = logits.scatter(1, data.y[:, None], float("-inf")).amax(1)
                best = {
                    "valid": valid, "test": float(right[data.test].mean()),
                    "far": float(right[data.far].mean()),
                    "margin": float((correct - wrong)[data.test].mean()), "steps": model.steps,
                }  # fmt: skip
        F.cross_entropy(logits[data.train], data.y[data.train]).backward()
        optimizer.step()
    return best | {"parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="*", default=[5])
    parser.add_argument("--length", type=int, nargs="*", default=[100])
    parser.add_argument("--noise", type=float, nargs="*", default=[0.0])
    parser.add_argument("--undirected", action="store_true")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--double", action="store_true", help="in double precision")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/chains")
    parser.add_argument("--smoke", action="store_true", help="short chains, three epochs")
    args = parser.parse_args()
    if args.smoke:
        args.classes, args.length, args.epochs, args.seeds = [2], [10], 3, 1
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="chains_")

    if args.double:
        torch.set_default_dtype(torch.float64)

    place = Path(args.out) / "table.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    table = json.loads(place.read_text()) if place.exists() else {}
    print("| classes | length | noise | edges | model | test | far | margin | steps | parameters |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    cases = [(c, n, s) for c in args.classes for n in args.length for s in args.noise]
    for classes, length, noise in cases:
        data = [
            Chains(classes, length, noise, not args.undirected, seed) for seed in range(args.seeds)
        ]
        for name in args.models:
            tried = {
                threshold: run(name, data[0], 0, threshold, args.epochs)
                for threshold in (THRESHOLDS if noise else THRESHOLDS[:1])
            }
            threshold = max(tried, key=lambda value: tried[value]["valid"])
            runs = [tried[threshold]] + [
                run(name, data[seed], seed, threshold, args.epochs) for seed in range(1, args.seeds)
            ]
            edges = "undirected" if args.undirected else "directed"
            edges += ", double" if args.double else ""
            row = {key: mean(one[key] for one in runs) for key in runs[0]}
            table[f"{classes} {length} {noise:g} {edges} {name}"] = row | {
                "threshold": threshold, "tests": [one["test"] for one in runs],
            }  # fmt: skip
            each = " / ".join(f"{one['test']:.3f}" for one in runs)
            print(
                f"| {classes} | {length} | {noise:g} | {edges} | {name} | {each} | "
                f"{row['far']:.3f} | {row['margin']:.1f} | {row['steps']:.0f} | "
                f"{row['parameters']:.0f} |",
                flush=True,
            )
            place.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
