"""Cora and CiteSeer: stacks of convs, and the equilibrium of one, at equal parameters.

    python examples/citation_graphs.py --data-root DATA              # Cora and CiteSeer, 10 seeds
    python examples/citation_graphs.py --data-root DATA --depth      # 2 to 64 layers, 3 seeds
    python examples/citation_graphs.py --data-root DATA --times      # of a training step
    python examples/citation_graphs.py --smoke                       # seconds, on a synthetic graph

``DATA/Planetoid/{Cora,CiteSeer}/raw`` hold the public split; it is copied to a temporary folder.
All models see normalised features, dropout 0.5 on them and on the last state, Adam (lr 0.01, weight
decay 5e-4), and width 64. An equilibrium is narrowed until it has at most the parameters of its
explicit counterpart (IGNN's and the cascade's: GCN). *cascade* is IGNN's cell, of whose state a
personalised PageRank is the second part, both in front of the readout. The test accuracy is that of
the epoch with the best validation accuracy, of 100; the test data choose nothing. *converged* is
the share of all solves, of training and evaluation, that reached a residual of 1e-3. *saved* are
the bytes that autograd keeps for one training step, parameters and features aside. Prints Markdown
tables, writes ``runs/citation_graphs/table.json``, from which an interrupted run goes on, and draws
the accuracies and *saved* in ``GRAPH.png`` beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev

import torch
import torch.nn.functional as F
from bars import draw_bars
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import APPNP, GATConv, GCN2Conv, GCNConv, GINConv, SAGEConv
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import stochastic_blockmodel_graph

from gncadeq import CascadeCell, GraphDEQ, Part
from gncadeq.analysis import saved_bytes
from gncadeq.cells import IGNNCell, PropagationCell
from gncadeq.datasets.sources import default_root
from gncadeq.training.losses import check_gradients

MODELS = ["GCN", "SAGE", "GAT", "GIN", "GIN mean", "APPNP", "GCNII", "IGNN", "cascade"]
ALONE = ("IGNN", "cascade")
"""Those without a stack, which are compared with GCN's."""


class Stack(nn.Module):
    """Convs after a linear map, each followed by ReLU; the explicit model."""

    def __init__(self, first: nn.Module, convs: list[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.first, self.convs, self.last = first, nn.ModuleList(convs), last
        self.converged: list[bool] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits."""
        z = x0 = _apply(self.first, x, edge_index).relu()
        for conv in self.convs:
            if isinstance(conv, GCN2Conv):
                z = conv(z, x0, edge_index).relu()
            else:
                z = conv(z, edge_index)
                z = z if isinstance(conv, APPNP) else z.relu()
        return _apply(self.last, F.dropout(z, 0.5, self.training), edge_index)


class Equilibrium(nn.Module):
    """One cell solved to its equilibrium, between a linear map within and one behind; with a
    hidden layer in front where the explicit model has one (APPNP)."""

    def __init__(
        self, deq: GraphDEQ, width: int, classes: int, hidden: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.deq, self.last = deq, nn.Linear(width, classes)
        self.converged: list[bool] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits."""
        x = x if self.hidden is None else self.hidden(x).relu()
        z, solution = self.deq(x, edge_index, return_solution=True)
        self.converged += solution.converged.tolist()
        logits: Tensor = self.last(F.dropout(z, 0.5, self.training))
        return logits


def _apply(layer: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    out: Tensor = layer(x) if isinstance(layer, nn.Linear) else layer(x, edge_index)
    return out


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


def explicit(name: str, inputs: int, classes: int, width: int, depth: int) -> nn.Module:
    """A stack with ``depth`` convs."""
    if name == "GCNII":
        convs = [GCN2Conv(width, 0.1, theta=0.5, layer=k + 1) for k in range(depth)]
        return Stack(nn.Linear(inputs, width), convs, nn.Linear(width, classes))
    if name == "APPNP":
        hidden = nn.Linear(inputs, width)
        return Stack(hidden, [APPNP(K=10, alpha=0.1)], nn.Linear(width, classes))
    conv: Callable[[int, int], nn.Module] = {
        "GCN": GCNConv,
        "SAGE": SAGEConv,
        "GAT": lambda i, o: GATConv(i, o // 8, heads=8) if o == width else GATConv(i, o),
        "GIN": lambda i, o: GINConv(_mlp(i, o)),
        "GIN mean": lambda i, o: GINConv(_mlp(i, o), aggr="mean"),
    }[name]
    between = [conv(width, width) for _ in range(depth - 2)]
    return Stack(conv(inputs, width), between, conv(width, classes))


def implicit(name: str, inputs: int, classes: int, width: int, **options: object) -> nn.Module:
    """The equilibrium of one conv."""
    options = {"on_failure": "ignore"} | options
    activation = options.pop("activation", "relu")
    if name == "IGNN":
        cell = IGNNCell(inputs, width, kappa=options.pop("contraction", 0.9))
        return Equilibrium(GraphDEQ(cell, **options), width, classes)
    if name == "cascade":
        kappa = options.pop("contraction", 0.9)
        first = Part(IGNNCell(inputs, width, kappa), reads=["x"])
        cell = CascadeCell([first, Part(PropagationCell(width, 1 - kappa), reads=[0])], inputs)
        return Equilibrium(GraphDEQ(cell, **options), 2 * width, classes)
    init = {"init": "identity", "activation": activation, "channels": width}
    conv: nn.Module
    if name == "GCNII":
        conv = GCN2Conv(width, 0.1, theta=0.5, layer=1)
    elif name == "APPNP":
        kappa = options.pop("contraction", 0.9)
        deq = GraphDEQ(PropagationCell(width, alpha=1 - kappa), **options)
        return Equilibrium(deq, width, classes, nn.Linear(inputs, width))
    elif name == "GAT":
        conv = GATConv(width, width)
    elif name.startswith("GIN"):
        conv = GINConv(_mlp(width, width), aggr="mean" if name.endswith("mean") else "sum")
    else:
        conv = {"GCN": GCNConv, "SAGE": SAGEConv}[name](width, width)
    return Equilibrium(GraphDEQ.from_conv(conv, inputs, **init | options), width, classes)


def narrowed(name: str, inputs: int, classes: int, most: int, **options: object) -> int:
    """The largest width, a multiple of eight, with at most that many parameters."""
    width = 64
    while _parameters(implicit(name, inputs, classes, width, **options)) > most and width > 8:
        width -= 8
    return width


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def dropped(data: Data) -> Tensor:
    """The features with half of their entries dropped, of which nearly all are zero."""
    x = torch.zeros_like(data.x)
    x.view(-1)[data.entries] = F.dropout(data.x.view(-1)[data.entries], 0.5)
    return x


def loss_of(model: nn.Module, x: Tensor, data: Data) -> Tensor:
    """The loss on the training nodes."""
    return F.cross_entropy(model(x, data.edge_index)[data.train_mask], data.y[data.train_mask])


def train(model: nn.Module, data: Data, epochs: int) -> dict[str, float]:
    """Train on the training nodes; the validation nodes choose the epoch."""
    model.train()
    x = dropped(data)
    saved = saved_bytes(lambda: loss_of(model, x, data), (x, *model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best, test, begin = -1.0, 0.0, time.perf_counter()
    model.converged.clear()
    for epoch in range(epochs):
        model.train()
        optimizer.zero_grad()
        loss_of(model, dropped(data), data).backward()
        check_gradients(model, epoch)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            right = model(data.x, data.edge_index).argmax(1) == data.y
        valid = float(right[data.val_mask].float().mean())
        if valid > best:
            best, test = valid, float(right[data.test_mask].float().mean())
    return {
        "valid": best, "test": test, "seconds": time.perf_counter() - begin, "saved": saved,
        "converged": mean(map(float, model.converged)) if model.converged else 1.0,
        "parameters": _parameters(model),
    }  # fmt: skip


def training_times(models: dict[str, nn.Module], data: Data, rounds: int) -> dict[str, float]:
    """Median seconds of a training step of each, in turn, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            begin = time.perf_counter()
            loss_of(model, dropped(data), data).backward()
            times[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in times.items()}


def step_ratio(name: str, data: Data, contraction: float, rounds: int = 15) -> float:
    """The time of a training step of the equilibrium in those of the stack, as at the start."""
    shape = data.num_features, int(data.y.max()) + 1
    stack = explicit(name, *shape, 64, 16 if name == "GCNII" else 2)
    width = narrowed(name, *shape, _parameters(stack), contraction=contraction)
    both = {"stack": stack, "equilibrium": implicit(name, *shape, width, contraction=contraction)}
    times = training_times(both, data, rounds)
    return times["equilibrium"] / times["stack"]


def citation(root: str, name: str) -> Data:
    """A graph with the public split, read from a copy."""
    raw = Path(root) / "Planetoid" / name / "raw"
    if not raw.is_dir():
        raise FileNotFoundError(
            f"Expected the files of {name} in {raw} (not found). Name the folder that holds "
            "Planetoid by --data-root or GNCADEQ_DATA, or use --smoke"
        )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(raw, Path(folder) / name / "raw")
        return with_entries(Planetoid(folder, name, transform=NormalizeFeatures())[0])


def with_entries(data: Data) -> Data:
    """With the places of the features that aren't zero."""
    data.entries = data.x.view(-1).nonzero().view(-1)
    return data


def synthetic() -> Data:
    """Four communities of 40 nodes with noisy features."""
    torch.manual_seed(0)
    probabilities = torch.full((4, 4), 0.01) + 0.15 * torch.eye(4)
    edge_index = stochastic_blockmodel_graph([40] * 4, probabilities)
    y = torch.arange(4).repeat_interleave(40)
    x = F.one_hot(y, 8) + 0.8 * torch.randn(160, 8)
    role = torch.arange(160) % 4
    data = Data(
        x=x, y=y, edge_index=edge_index, train_mask=role == 0, val_mask=role == 1,
        test_mask=role > 1,
    )  # fmt: skip
    return with_entries(data)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default=default_root(), help="holds Planetoid/Cora/raw")
    parser.add_argument("--datasets", nargs="*", default=["Cora", "CiteSeer"])
    parser.add_argument("--models", nargs="*", help="some of " + " ".join(map(repr, MODELS)))
    parser.add_argument("--depth", action="store_true", help="stacks of 2 to 64 layers")
    parser.add_argument(
        "--times", action="store_true", help="only time training steps, of both in turn"
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--contraction", type=float, default=0.9)
    parser.add_argument("--activation", default="relu", help="of the equilibria of convs")
    parser.add_argument("--out", default="runs/citation_graphs")
    parser.add_argument("--smoke", action="store_true", help="a small synthetic graph")
    args = parser.parse_args()
    models = args.models or (["GCN", "GCNII"] if args.depth else MODELS)
    if args.times:
        models = [name for name in models if name not in ALONE]
    seeds = args.seeds or (3 if args.depth else 10)
    graphs: dict[str, Data] = {}
    if args.smoke:
        graphs, args.epochs, seeds, models = {"synthetic": synthetic()}, 10, 1, ["GAT", "APPNP"]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="citation_graphs_")
    else:
        graphs = {name: citation(args.data_root, name) for name in args.datasets}

    place = Path(args.out) / "table.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    table = json.loads(place.read_text()) if place.exists() else {}
    shown: tuple[dict[str, dict[str, float]], ...] = ({}, {})

    def measure(row: str, data: Data, build: Callable[[], nn.Module]) -> None:
        other = "" if args.activation == "relu" else f", {args.activation}"
        key = f"{row}, {args.epochs} epochs, κ {args.contraction:g}{other}"
        runs = table.setdefault(key, [])
        for seed in range(len(runs), seeds):
            torch.manual_seed(seed)
            runs.append(train(build(), data, args.epochs))
            place.write_text(json.dumps(table, indent=1))
        runs = runs[:seeds]
        tests = [100 * run["test"] for run in runs]
        name, kind = row.split(", ")[1:]
        bar = kind.split(" of ")[0] if args.depth or " of " in kind else "stack"
        shown[0].setdefault(name, {})[bar] = mean(tests)
        shown[1].setdefault(name, {})[bar] = mean(run["saved"] for run in runs) / 2**20
        spread = stdev(tests) if len(tests) > 1 else 0.0
        valid, converged, seconds, saved, parameters = (
            mean(run[key] for run in runs)
            for key in ("valid", "converged", "seconds", "saved", "parameters")
        )
        print(
            f"| {row.replace(', ', ' | ')} | {parameters:,.0f} | {100 * valid:.1f} % | "
            f"{mean(tests):.1f} ± {spread:.1f} % | {100 * converged:.1f} % | "
            f"{saved / 2**20:.1f} MB | {seconds:.0f} |",
            flush=True,
        )

    columns = ["graph", "conv", "training step of the equilibrium, in those of the stack"]
    if not args.times:
        columns[2:] = "model", "parameters", "validation", "test", "converged", "saved", "seconds"
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for graph, data in graphs.items():
        inputs, classes = data.num_features, int(data.y.max()) + 1
        for panel in shown:
            panel.clear()
        options = {"contraction": args.contraction, "activation": args.activation}
        for name in models:
            if args.times:
                print(f"| {graph} | {name} | {step_ratio(name, data, args.contraction):.1f} |")
                continue
            deep = [2**k for k in range(1, 7)]
            depths = deep if args.depth else [16 if name == "GCNII" else 2]
            for depth in depths if name not in ALONE else []:
                kind = "10 steps" if name == "APPNP" else f"{depth} layers"
                build = partial(explicit, name, inputs, classes, 64, depth)
                measure(f"{graph}, {name}, {kind}", data, build)
            stack = "GCN" if name in ALONE else name
            most = _parameters(explicit(stack, inputs, classes, 64, depths[0]))
            width = narrowed(name, inputs, classes, most, **options)
            build = partial(implicit, name, inputs, classes, width, **options)
            measure(f"{graph}, {name}, equilibrium of {width} channels", data, build)
        if shown[0]:
            panels = {"test accuracy, %": shown[0], "MB kept for the gradient": shown[1]}
            draw_bars(panels, place.with_name(f"{graph}.png"))


if __name__ == "__main__":
    main()
