"""MNIST as superpixels and as near pixels: the model of pixel grids as it is, and stacks of convs.

    python examples/superpixels.py --data-root DATA                  # needs gncadeq[superpixels]
    python examples/superpixels.py --data-root DATA --graphs pixels --models equilibrium GIN
    python examples/superpixels.py --smoke                           # seconds, on small digits

``superpixels``: at most 75 of SLIC, each senses its 8 nearest. ``pixels``: those brighter than
0.02, each senses its 8 nearest. Features are grey, column and row, as in "Benchmarking Graph Neural
Networks" (Dwivedi et al. 2020), which finds the neighbours by place and grey together. Models:

- ``equilibrium``: ``PixelGraphClassifier``, the model of pixel grids, on edges that know which of
  eight directions they come from (``edges="relation"``),
- ``cascade``: superpixels, again superpixels, and squares of 5.6 pixels above them, each driven by
  the one before; edges have directions in between (``SoftDirections``), and every part is a
  contraction on every graph (``bound="rows"``),
- ``directions``: four different layers of the same convolution,
- ``GCN``, ``GIN``, ``GatedGCN``: four convs. GatedGCN is told distances and directions.

The four layers stand behind a linear map, each with batch normalisation, ReLU and a residual
connection. The readout is the same for all but the cascade (mean, standardised, an MLP of 128);
the cascade's is a linear map of the mean and the maximum over squares. All are as wide as the
parameters of the equilibrium allow, and are trained alike: Adam, one cycle to ``--lr``, batches
of 64, cross-entropy. The epoch with the best accuracy on ``--valid`` further training images is
tested. *converged* is the share of test images whose relative residual is at most 1e-3 (training
solves to 1e-2).

Prints a Markdown table and writes ``runs/superpixels/table.json``, from which an interrupted run
goes on, and a picture of each kind of graph.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import (
    GCNConv,
    GINConv,
    ResGatedGraphConv,
    global_max_pool,
    global_mean_pool,
)

from gncadeq import CascadeCell, ConvCell, GraphDEQ, Part, PixelGraphClassifier, StencilConv
from gncadeq.cells import FeedForwardCell, StencilDrive
from gncadeq.datasets import Superpixels
from gncadeq.datasets.sources import default_root, load_images
from gncadeq.dynamics import Solution
from gncadeq.graph.partition import Partition
from gncadeq.models.pyramid_classifier import PeakReadout
from gncadeq.models.readout import MeanReadout
from gncadeq.training.losses import check_gradients
from gncadeq.transforms import ImageToSuperpixels, SoftDirections

FEATURES, CLASSES, HIDDEN, DEPTH, BATCH = 3, 10, 128, 4, 64
MODELS = ("equilibrium", "cascade", "directions", "GCN", "GIN", "GatedGCN")
GRAPHS = {
    "superpixels": {"num_segments": 75},
    "pixels": {"num_segments": None, "living_threshold": 0.02},
}


class Solved(nn.Module):
    """A model with a record of its solves."""

    def __init__(self) -> None:
        super().__init__()
        self.converged: list[bool] = []
        self.steps: list[int] = []

    def record(self, solution: Solution) -> None:
        """Remember whether each graph converged, and in how many steps."""
        self.converged += solution.converged.tolist()
        self.steps += solution.num_steps.tolist()


class Equilibrium(Solved):
    """The classifier of pixel grids."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        deq = {"tol": 1e-2, "on_failure": "ignore"}
        self.model = PixelGraphClassifier(FEATURES, channels, HIDDEN, contraction=0.99, deq=deq)

    def forward(self, data: Batch) -> Tensor:
        """Return logits."""
        self.model.dynamics.tol = 1e-2 if self.training else 1e-3
        logits, solution = self.model(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs,
            return_solution=True,
        )  # fmt: skip
        self.record(solution)
        return logits


class Cascade(Solved):
    """Superpixels, superpixels and squares in an order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        a, b, c = round(channels * 2 / 3), channels, round(channels * 7 / 6)
        rule = {
            "injection": "additive", "contraction": 0.9, "scale_spread": 0.0, "bias": False,
            "activation": "relu", "bound": "rows",
        }  # fmt: skip
        parts = [
            Part(FeedForwardCell(a), StencilDrive(FEATURES, a), ["x"]),
            Part(ConvCell(b, b, **rule), StencilDrive(a, b), [0]),
            Part(ConvCell(c, c, **rule), StencilDrive(b, c), [1], level=1),
        ]
        self.deq = GraphDEQ(CascadeCell(parts, FEATURES), solver="picard", on_failure="ignore")
        self.readout = PeakReadout(c, CLASSES)
        self.to_graph = SoftDirections(scale=3.3, boxes=[5.6])

    def forward(self, data: Batch) -> Tensor:
        """Return logits."""
        data = self.to_graph.batch(data)
        self.deq.tol = 1e-2 if self.training else 1e-3
        z, solution = self.deq(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs,
            return_solution=True,
        )  # fmt: skip
        self.record(solution)
        top = data.level == 1
        z, graph = z[top, : self.readout.channels], data.batch[top]
        pooled = [
            global_mean_pool(z, graph, data.num_graphs),
            global_max_pool(z, graph, data.num_graphs),
        ]
        logits: Tensor = self.readout.decode(torch.cat(pooled, 1))
        return logits


SOLVED = {"equilibrium": Equilibrium, "cascade": Cascade}


class Stack(nn.Module):
    """A linear map, four convs, the readout."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        c, self.edges = channels, name in ("directions", "GatedGCN")
        build = {
            "directions": lambda: StencilConv(c, c),
            "GCN": lambda: GCNConv(c, c),
            "GIN": lambda: GINConv(nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))),
            "GatedGCN": lambda: ResGatedGraphConv(c, c, edge_dim=3),
        }[name]
        self.embed = nn.Linear(FEATURES, c)
        self.convs = nn.ModuleList(build() for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.BatchNorm1d(c) for _ in range(DEPTH))
        self.readout = MeanReadout(c, HIDDEN, CLASSES)

    def forward(self, data: Batch) -> Tensor:
        """Return logits."""
        z = self.embed(data.x)
        edge_attr = (data.edge_attr,) if self.edges else ()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            z = z + norm(conv(z, data.edge_index, *edge_attr)).relu()
        logits: Tensor = self.readout(z, Partition(data.batch, z.size(0), data.num_graphs))
        return logits


def build(name: str, channels: int) -> nn.Module:
    """The model of a name."""
    return SOLVED[name](channels) if name in SOLVED else Stack(name, channels)


def parameters(model: nn.Module) -> int:
    """How many it has."""
    return sum(p.numel() for p in model.parameters())


def widest(name: str, most: int) -> int:
    """The most channels with at most that many parameters."""
    channels = 2
    while parameters(build(name, channels + 1)) <= most:
        channels += 1
    return channels


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Superpixels, index: Tensor) -> float:
    """The share of graphs whose largest logit is that of their label."""
    model.eval()
    right = 0
    for part in index.split(500):
        batch = dataset.batch(part)
        right += int((model(batch).argmax(1) == batch.y).sum())
    return right / len(index)


def train(
    model: nn.Module, data: tuple[Superpixels, Superpixels], args: argparse.Namespace, seed: int
) -> dict[str, float]:
    """Train on all but the last ``--valid`` graphs, which choose the epoch; test that."""
    dataset, test = data
    everything = torch.arange(len(dataset))
    index, valid = everything[: -args.valid], everything[-args.valid :]
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    steps = args.epochs * (len(index) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=steps + 1, pct_start=0.15, cycle_momentum=False
    )
    order = torch.Generator().manual_seed(seed)
    best, state, epoch = -1.0, model.state_dict(), 0
    for now in range(args.epochs):
        model.train()
        shuffled = index[torch.randperm(len(index), generator=order)]
        right = seen = 0
        for part in shuffled[: len(index) // BATCH * BATCH].split(BATCH):
            batch = dataset.batch(part)
            optimizer.zero_grad()
            logits = model(batch)
            loss = F.cross_entropy(logits, batch.y)
            loss.backward()
            check_gradients(model, now)
            optimizer.step()
            cycle.step()
            right, seen = right + int((logits.argmax(1) == batch.y).sum()), seen + len(batch.y)
        found = accuracy(model, dataset, valid)
        print(
            f"epoch {now + 1}: right while training {100 * right / seen:.2f} %, "
            f"validation {100 * found:.2f} %", flush=True,
        )  # fmt: skip
        if found > best:
            best, state, epoch = found, copy.deepcopy(model.state_dict()), now + 1
    model.load_state_dict(state)
    result: dict[str, float] = {"valid": best, "epoch": epoch, "parameters": parameters(model)}
    if isinstance(model, Solved):
        result["converged in training and validation"] = mean(map(float, model.converged))
        model.converged.clear()
        model.steps.clear()
    result["test"] = accuracy(model, test, torch.arange(len(test)))
    if isinstance(model, Solved):
        result["converged"] = mean(map(float, model.converged))
        result["steps"], result["most steps"] = mean(model.steps), max(model.steps)
    return result


def draw(model: PixelGraphClassifier, data: Superpixels, images: Tensor, path: Path) -> None:
    """Images, their graphs, and the states on the way to the equilibrium."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    from gncadeq.viz import StateColors
    from gncadeq.viz.figures import save_figure

    model.dynamics.tol = 1e-3
    *_, node = data.to_graph.nodes(images)
    batch = data.to_graph.batch(images)
    graph = (batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    with torch.no_grad():
        z, _, _ = model.settle(*graph)
        injection = model.encode(*graph[:3])
        _, states = model.dynamics.as_nca(steps=5)(
            injection, *graph[1:], return_trajectory=True
        )  # fmt: skip
        label = model(*graph).argmax(1)
    colors = StateColors(z)

    def paint(value: Tensor) -> Tensor:  # pixels without a node are white
        return torch.cat([value, torch.ones_like(value[:1])])[node]

    columns = [("1 step", states[1]), ("2 steps", states[2]), ("5 steps", states[5])]
    columns.append(("equilibrium", z))
    figure = Figure(figsize=(1.5 * (2 + len(columns)), 1.55 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 2 + len(columns), squeeze=False)
    for row, image in zip(axes, range(len(images)), strict=True):
        row[0].imshow(images[image, 0], cmap="gray")
        own = batch.batch[batch.edge_index[1]] == image
        row[1].imshow(paint(batch.x[:, :1])[image], cmap="gray", vmin=0, vmax=1)
        lines = batch.pos[batch.edge_index[:, own].t()]
        row[1].add_collection(LineCollection(lines, colors="#f58518", linewidths=0.35))
        for axis, (_, state) in zip(row[2:], columns, strict=True):
            axis.imshow(paint(colors(state))[image])
        row[-1].set_xlabel(f"says {int(label[image])}")
    for axis, title in zip(
        axes[0], ["image", "superpixels", *(c[0] for c in columns)], strict=True
    ):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    save_figure(figure, path)


def main() -> None:
    """Train, measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default=default_root(), help="holds MNIST/raw")
    parser.add_argument("--graphs", nargs="*", default=["superpixels"], choices=list(GRAPHS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--images", type=int, default=10_000, help="of the training set")
    parser.add_argument("--valid", type=int, default=2_000, help="more, which choose the epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--channels", type=int, default=32, help="of the equilibrium")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="runs/superpixels")
    parser.add_argument("--smoke", action="store_true", help="the pixels of small digits, 2 epochs")
    args = parser.parse_args()
    name, options = "mnist", GRAPHS
    if args.smoke:
        name, args.images, args.valid, args.epochs, args.channels = "digits", 960, 240, 2, 8
        options = {"superpixels": {"num_segments": None, "living_threshold": 0.1}}
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="superpixels_")
        args.data_root, args.graphs = args.out, ["superpixels"]

    place = Path(args.out) / "table.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    table = json.loads(place.read_text()) if place.exists() else {}
    most = parameters(build("equilibrium", args.channels))
    rows = []
    for kind in args.graphs:
        load = partial(Superpixels, args.data_root, name)
        for model_name in args.models:
            directed = model_name in ("equilibrium", "directions")
            to_graph = ImageToSuperpixels(
                **options[kind], edges="relation" if directed else "polar"
            )
            limit = args.images + args.valid
            data = load(True, to_graph, limit), load(False, to_graph)
            channels = widest(model_name, most)
            budget = f"{args.images} images, {args.epochs} epochs, lr {args.lr:g}"
            runs = table.setdefault(f"{kind}, {model_name}, {channels} channels, {budget}", [])
            for seed in range(len(runs), args.seeds):
                print(f"{kind}, {model_name}, seed {seed}", flush=True)
                torch.manual_seed(seed)
                model = build(model_name, channels)
                runs.append(train(model, data, args, seed))
                place.write_text(json.dumps(table, indent=1))
                if model_name == "equilibrium" and seed == 0:
                    model.model.save_pretrained(str(place.with_name(f"{kind}.safetensors")))
            tests = [100 * run["test"] for run in runs[: args.seeds]]
            spread = f" ± {stdev(tests):.2f}" if len(tests) > 1 else ""
            row = {key: mean(run[key] for run in runs[: args.seeds]) for key in runs[0]}
            solved = "| | | "
            if model_name in SOLVED:
                solved = f"| {100 * row['converged']:.2f} % | {row['steps']:.1f} | "
                solved += f"{row['most steps']:.0f} "
            rows.append(
                f"| {kind} | {model_name} | {channels} | {row['parameters']:,.0f} | "
                f"{100 * row['valid']:.2f} % | {mean(tests):.2f}{spread} % {solved}|"
            )
        weights = place.with_name(f"{kind}.safetensors")
        if weights.exists():
            images = load_images(Path(args.data_root), name, False)[0][:3].float() / 255
            to_graph = ImageToSuperpixels(**options[kind], edges="relation")
            model = PixelGraphClassifier.from_pretrained(str(weights))
            picture = place.with_name(f"{kind}.png")
            draw(model, load(False, to_graph), images, picture)
    print(
        "| graph | model | channels | parameters | validation | test | converged | steps | most |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
