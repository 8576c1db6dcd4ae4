"""Long chains, whose first node alone knows the class: who hears it at the other end?

    python examples/chains.py --classes 5 --length 100                # 3 seeds
    python examples/chains.py --classes 5 --length 100 --noise 0.1 --undirected
    python examples/chains.py --smoke                                 # seconds

The benchmark of IGNN (Gu et al. 2020): c classes × 20 chains × l nodes with 100 features, all zero
but for the class in the first node, plus uniform noise in ±``noise`` on every node; rows divided by
the sum of their absolute values; 5 % of the nodes for training, 10 % for validation. Without noise
all chains of a class are the same, so one of each is computed; a model that reads the first node is
right everywhere.

All models share encoder and decoder: soft threshold (entries below it are noise; the threshold is
chosen among four by the validation of the first seed, 0 without noise), a linear map to 16
channels, and a linear map of the direction of a node's state (its length fades along the chain).
Between them stand

- ``ignn``: IGNN's cell, κ = 0.9, solved until the relative residual of every node is below 1e-4
  (``criterion="node"``); ``ignn graph``: until that of every chain is; ``ignn published``: with the
  injection of the published code, ``injection="neighbors"``,
- ``equilibrium`` and ``equilibrium graph``: ``from_conv(LGConv(), activation="relu")``, κ = 0.9,
  likewise,
- ``nca``: its rule, 20 steps, backpropagation through time; ``nca long``: as many steps as a chain
  has nodes,
- ``gcn``, ``gat``: four layers, ``appnp``: ten steps with α = 0.1.

All train by one recipe: Adam with rate 0.01, gradients clipped to 0.5, until the validation is
right everywhere, or was not better for 100 epochs, or for 500. Every model gets the better of two
regularisations by the validation of the first seed: none, or IGNN's (dropout ½ before the decoder,
weight decay 5e-4). The numbers are of the epoch with the best validation accuracy. *reach* is what
a model that sees so many steps back, and guesses beyond, can have at most. *far* is the last tenth
of each chain. Everything is in double precision, since states fade by 0.82 from node to node;
``--single`` shows where single precision ends.

Prints a Markdown table and adds it to ``runs/chains/table.json``; rows that are there are not run
again. Draws the accuracy along the chain beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GATConv, GCNConv, LGConv, Sequential
from torch_geometric.utils import add_self_loops

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import IGNNCell
from gncadeq.files.atomic import write_atomically
from gncadeq.training.losses import check_gradients

CHAINS, FEATURES, CHANNELS = 20, 100, 16
MODELS = (
    "equilibrium", "equilibrium graph", "nca long", "nca", "appnp", "gcn", "gat",
    "ignn", "ignn published", "ignn graph",
)  # fmt: skip
REACH = {"nca": 19, "appnp": 10, "gcn": 4, "gat": 4}  # steps back
AVERAGE = {"channels": CHANNELS, "bias": False, "activation": "relu"}
THRESHOLDS = (0.0, 0.01, 0.02, 0.05)
DROPOUT, WEIGHT_DECAY = 0.5, 5e-4  # IGNN's
PATIENCE = 100


class Chains:
    """The nodes of all chains, one chain after another, and the chains that differ."""

    def __init__(self, classes: int, length: int, noise: float, directed: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.classes, self.length = classes, length
        kind = torch.arange(classes).repeat_interleave(CHAINS)
        self.y = kind.repeat_interleave(length)
        num_nodes = len(self.y)
        order = torch.randperm(num_nodes, generator=generator)
        train, valid = num_nodes // 20, num_nodes // 20 + num_nodes // 10
        self.train, self.valid, self.test = order[:train], order[train:valid], order[valid:]
        distinct = kind if noise else torch.arange(classes)
        self.count = len(distinct)
        x = noise * (2 * torch.rand(self.count, length, FEATURES, generator=generator) - 1)
        x[torch.arange(self.count), 0, distinct] = 1.0
        x = x.view(-1, FEATURES)
        size = x.abs().sum(1, keepdim=True)
        self.x = x / torch.where(size > 0, size, 1.0)
        node = torch.arange(self.count * length).view(self.count, length)
        edge_index = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
        if not directed:
            edge_index = torch.cat([edge_index, edge_index.flip(0)], 1)
        self.edge_index = add_self_loops(edge_index)[0]  # LGConv adds none, and loses heads so
        self.batch = torch.arange(self.count).repeat_interleave(length)
        # The row of every node's state: chains that are the same share theirs.
        self.row = (node if noise else node[kind]).flatten()
        place = torch.arange(num_nodes) % length
        self.far = self.test[place[self.test] >= length - max(1, length // 10)]

    def reach(self, steps: int) -> float:
        """The accuracy of a node that sees so many steps back, and guesses beyond."""
        seen = min(self.length, steps + 1) / self.length
        return seen + (1 - seen) / self.classes


def middle(name: str, length: int) -> nn.Module:
    """What stands between encoder and decoder."""
    kind, _, form = name.partition(" ")
    if kind in ("ignn", "equilibrium"):
        options = {
            "criterion": "graph" if form == "graph" else "node", "solver": "picard", "tol": 1e-4,
            "on_failure": "raise", "max_steps": 100 + 20 * length,
            "backward_max_steps": 100 + 20 * length,
        }  # fmt: skip
        if kind == "ignn":
            injection = "neighbors" if form == "published" else "node"
            cell = IGNNCell(CHANNELS, CHANNELS, kappa=0.9, bias=False, injection=injection)
            return GraphDEQ(cell, **options)
        return GraphDEQ.from_conv(LGConv(), CHANNELS, **AVERAGE, **options)
    if kind == "nca":
        steps = length if form else REACH["nca"] + 1
        return GraphNCA.from_conv(LGConv(), CHANNELS, **AVERAGE, steps=steps)
    if kind == "appnp":
        propagation = APPNP(K=REACH["appnp"], alpha=0.1)
        return Sequential("x, edge_index", [(propagation, "x, edge_index -> x")])
    layer = {
        "gcn": lambda: GCNConv(CHANNELS, CHANNELS),
        "gat": lambda: GATConv(CHANNELS, CHANNELS // 4, heads=4),
    }[kind]
    layers = [[(layer(), "x, edge_index -> x"), nn.ReLU()] for _ in range(REACH[kind])]
    return Sequential("x, edge_index", [part for pair in layers for part in pair])


def direction(z: Tensor) -> Tensor:
    """Rows of length 5, of the smallest states as well; rows of zeros stay zero.

    The gradient is finite everywhere: what has underflowed has no direction, and counts as zero.
    """
    size = z.detach().abs().amax(1, keepdim=True)
    unit = z / torch.where(size < torch.finfo(z.dtype).tiny, 1.0, size)
    return 5 * F.normalize(unit, eps=1.0)


class Model(nn.Module):
    """Encoder, middle and decoder."""

    def __init__(self, name: str, data: Chains, threshold: float, dropout: float) -> None:
        super().__init__()
        self.threshold, self.dropout = nn.Softshrink(threshold), nn.Dropout(dropout)
        self.encoder = nn.Linear(FEATURES, CHANNELS, bias=False)
        self.middle = middle(name, data.length)
        self.decoder = nn.Linear(CHANNELS, data.classes)
        self.steps = 0.0

    def forward(self, data: Chains) -> tuple[Tensor, Tensor]:
        """Return logits of all nodes, those with dropout and those without."""
        x = self.encoder(self.threshold(data.x))
        if isinstance(self.middle, GraphDEQ):
            z, solution = self.middle(
                x, data.edge_index, None, data.batch, batch_size=data.count, return_solution=True
            )
            self.steps = float(solution.num_steps.double().mean())
        else:
            z = self.middle(x, data.edge_index)
        z = direction(z)[data.row]
        return self.decoder(self.dropout(z)), self.decoder(z.detach())


def run(
    name: str, data: Chains, seed: int, threshold: float, regular: bool, epochs: int
) -> dict[str, Any]:
    """Train one model; the validation nodes choose the epoch, and when to stop."""
    torch.manual_seed(seed)
    model = Model(name, data, threshold, DROPOUT if regular else 0.0)
    decay = WEIGHT_DECAY if regular else 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=decay)
    best: dict[str, Any] = {"valid": -1.0}
    for epoch in range(epochs):
        optimizer.zero_grad()
        logits, clean = model(data)
        with torch.no_grad():
            right = (clean.argmax(1) == data.y).double()
            valid = float(right[data.valid].mean())
            if valid > best["valid"]:
                best = {
                    "valid": valid, "test": float(right[data.test].mean()),
                    "far": float(right[data.far].mean()), "steps": model.steps, "epoch": epoch,
                    "along": right.view(-1, data.length).mean(0).tolist(),
                }  # fmt: skip
        if valid == 1.0 or epoch - best["epoch"] >= PATIENCE:
            break
        F.cross_entropy(logits[data.train], data.y[data.train]).backward()
        check_gradients(model, epoch)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return best | {"parameters": sum(p.numel() for p in model.parameters())}


def row_of(name: str, data: list[Chains], noise: float, epochs: int) -> dict[str, Any]:
    """One row of the table: the first seed chooses, all seeds run."""
    tried = {}
    for threshold in THRESHOLDS if noise else THRESHOLDS[:1]:
        for regular in (False, True):
            tried[threshold, regular] = run(name, data[0], 0, threshold, regular, epochs)
            if tried[threshold, regular]["valid"] == 1.0:
                break
    choice = max(tried, key=lambda value: tried[value]["valid"])
    runs = [tried[choice]]
    runs += [run(name, data[seed], seed, *choice, epochs) for seed in range(1, len(data))]
    row: dict[str, Any] = {key: mean(one[key] for one in runs) for key in runs[0] if key != "along"}
    return row | {
        "along": [mean(values) for values in zip(*(one["along"] for one in runs), strict=True)],
        "threshold": choice[0], "regularised": choice[1], "tests": [one["test"] for one in runs],
    }  # fmt: skip


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """The accuracy of every node of a chain, means over its copies and the seeds."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import open_axes, save_figure

    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.subplots()
    for name, row in rows.items():
        axes.plot(row["along"], label=name)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    open_axes(axes, xlabel="nodes from the one that knows", ylabel="accuracy", ylim=(0, 1.05))
    save_figure(figure, path)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="*", default=[5])
    parser.add_argument("--length", type=int, nargs="*", default=[100])
    parser.add_argument("--noise", type=float, nargs="*", default=[0.0])
    parser.add_argument("--undirected", action="store_true")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--single", action="store_true", help="in single precision")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/chains")
    parser.add_argument("--smoke", action="store_true", help="short chains, three epochs")
    args = parser.parse_args()
    if args.smoke:
        args.classes, args.length, args.epochs, args.seeds = [2], [10], 3, 1
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="chains_")
    if not args.single:
        torch.set_default_dtype(torch.float64)

    place = Path(args.out) / "table.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    table = json.loads(place.read_text()) if place.exists() else {}
    edges = "undirected" if args.undirected else "directed"
    edges += ", single" if args.single else ""
    print("| classes | length | noise | edges | model | test | reach | far | steps | parameters |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for classes, length, noise in product(args.classes, args.length, args.noise):
        data = [
            Chains(classes, length, noise, not args.undirected, seed) for seed in range(args.seeds)
        ]
        shown = {}
        for name in args.models:
            key = f"{classes} {length} {noise:g} {edges} {name}, {args.epochs} epochs"
            if len(table.get(key, {}).get("tests", ())) != args.seeds:
                table[key] = row_of(name, data, noise, args.epochs)
                write_atomically(place, json.dumps(table, indent=1).encode())
            row = table[key]
            if "along" in row:
                shown[name] = row
            each = " / ".join(f"{test:.3f}" for test in row["tests"])
            reach = f"{data[0].reach(REACH[name]):.3f}" if name in REACH else "1.000"
            print(
                f"| {classes} | {length} | {noise:g} | {edges} | {name} | {each} | {reach} | "
                f"{row['far']:.3f} | {row['steps']:.0f} | {row['parameters']:.0f} |",
                flush=True,
            )
        if shown:  # rows of an earlier version have no accuracy along the chain
            draw(shown, place.with_name(f"{classes}_classes_{length}_nodes_{noise:g}_noise.png"))


if __name__ == "__main__":
    main()
