"""How far, and in how many steps: equilibria at one scale and at several, with equal parameters.

    python examples/multiscale.py                  # a chain of 200 nodes
    python examples/multiscale.py --task canvas    # a canvas of 48 x 48 pixels
    python examples/multiscale.py --task surface --on spot.obj      # the vertices of a mesh
    python examples/multiscale.py --smoke          # seconds

One node of a graph shows one of three classes, all others nothing, and every node has to name the
class. On the chain it is the first node, else any. All models are a
``RelationCell`` on ``Coarsen(levels, factor=8)`` of the graph (matching, or boxes of pixels):

- *one*: the graph itself.
- *coupled*: levels that read each other both ways, all of them one contraction by κ.
- *descending*: the way down has nodes of its own (``Coarsen(descend=True)``), so that each level is
  a contraction by itself and nothing bounds what levels tell each other (``bound="cycles"``).

All have the largest width that stays within the parameters of the first, and are trained alike,
their solves included: the same start, the same tolerance, and no more steps than ``--max-steps``.

Measured for every model: the accuracy of nodes near to (a third of the way), midway and far from
the source, on graphs with other noise than those of training; solver steps to the tolerance and
the share of solves that reached it; the share of nodes that have the same class after ``--long``
steps of the automaton from Gaussian noise, in which each node updates with probability ½; and the
steps until the source is first heard everywhere, which the edges alone decide. Prints a Markdown
table, writes ``table.json`` and a picture.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.utils import to_undirected

from gncadeq import GraphDEQ, GraphNCA, RelationCell, Solution
from gncadeq.training.losses import check_gradients
from gncadeq.training.surfaces import read_surface
from gncadeq.transforms import Coarsen, ImageToGraph
from gncadeq.transforms.surface_operators import mesh_edges

CLASSES = 3
MODELS = {"one": False, "coupled": False, "descending": True}
"""Whether the way down has nodes of its own."""


def chain(length: int) -> tuple[Data, Tensor]:
    """A chain without features, and every node's distance from the source, its first node."""
    node = torch.arange(length - 1)
    edge_index = to_undirected(torch.stack([node, node + 1]), num_nodes=length)
    return Data(x=torch.zeros(length, CLASSES), edge_index=edge_index), torch.arange(length)


def canvas(length: int) -> tuple[Data, Tensor]:
    """A canvas of pixels, and every pixel's distance from a random source."""
    data = ImageToGraph("von_neumann")(torch.zeros(CLASSES, length, length))
    source = data.pos[torch.randint(0, length**2, ())]
    del data.edge_attr, data.image_size
    return data, (data.pos - source).abs().sum(1).long()


def surface(on: str) -> tuple[Data, Tensor]:
    """The vertices and edges of a mesh, and every vertex's distance from a random source."""
    mesh = read_surface(on)
    edge_index = mesh_edges(mesh.face, mesh.num_nodes)
    far = torch.where(torch.arange(mesh.num_nodes) == torch.randint(0, mesh.num_nodes, ()), 0, -1)
    for hop in range(mesh.num_nodes):
        new = edge_index[1, far[edge_index[0]] == hop]
        far[new[far[new] < 0]] = hop + 1
    return Data(x=torch.zeros(mesh.num_nodes, CLASSES), edge_index=edge_index), far


def example(data: Data, distance: Tensor, label: int) -> Data:
    """The graph with a noisy class at the source."""
    data.y = torch.full((data.num_nodes,), label)
    data.x[distance == 0] = F.one_hot(torch.tensor(label), CLASSES) + 0.1 * torch.randn(1, CLASSES)
    data.distance = distance / distance.max()
    return data


def batch_of(make: Callable[[], tuple[Data, Tensor]], coarsen: Coarsen, seed: int) -> HeteroData:
    """One graph a class."""
    torch.manual_seed(seed)
    return Batch.from_data_list([coarsen(example(*make(), label)) for label in range(CLASSES)])


class Model(nn.Module):
    """The equilibrium of the hierarchy, read out at its finest level."""

    def __init__(self, data: HeteroData, width: int, kappa: float, tol: float, steps: int) -> None:
        super().__init__()
        cell = RelationCell(
            dict.fromkeys(data.node_types, CLASSES), width, data.edge_types, kappa, "tanh",
            bias=False, bound="cycles", init="identity",
        )  # fmt: skip
        self.deq = GraphDEQ(cell, tol=tol, max_steps=steps, on_failure="ignore")
        self.finest = "down0" if "down0" in data.node_types else "level0"
        self.linear = nn.Linear(width, CLASSES)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, data: HeteroData, dynamics: GraphDEQ | GraphNCA | None = None, **options: Any
    ) -> tuple[Tensor, Solution]:
        """Return logits, and how the solve or the run went."""
        z, solution = (dynamics or self.deq)(
            data.x_dict, data.edge_index_dict, None, data.batch_dict, batch_size=CLASSES,
            return_solution=True, **options,
        )  # fmt: skip
        return self.linear(z[self.finest]), solution


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def hops(data: HeteroData) -> int:
    """Steps until the source has been heard by every node of level 0."""
    heard = {name: torch.zeros(data[name].x.size(0), dtype=torch.bool) for name in data.node_types}
    heard["level0"][(data["level0"].distance == 0)] = True
    steps = 0
    finest = "down0" if "down0" in heard else "level0"
    while not bool(heard[finest].all()):
        before, steps = {name: h.clone() for name, h in heard.items()}, steps + 1
        for (source, _, target), index in data.edge_index_dict.items():
            heard[target][index[1][before[source][index[0]]]] = True
    return steps


def train(
    model: Model, batches: list[HeteroData], test: list[HeteroData], epochs: int, long: int
) -> dict[str, Any]:
    """Train on some batches, measure on others."""
    optimizer, begin = torch.optim.Adam(model.parameters(), lr=0.02), time.process_time()
    for epoch in range(epochs):
        data = batches[epoch % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(data)[0], data["level0"].y).backward()
        check_gradients(model, epoch)
        optimizer.step()
    seconds = time.process_time() - begin
    right, distance, steps, converged = [], [], [], []
    with torch.no_grad():
        for data in test:
            logits, solution = model(data)
            right.append((logits.argmax(1) == data["level0"].y).float())
            distance.append(data["level0"].distance)
            steps += solution.num_steps.tolist()
            converged += solution.converged.tolist()
        draw = torch.Generator().manual_seed(0)
        noise = {n: torch.randn(len(data[n].x), model.linear.in_features, generator=draw)
                 for n in data.node_types}  # fmt: skip
        nca = GraphNCA(model.deq.cell, long, fire_rate=0.5)
        ran, end = model(data, nca, z0=noise, generator=draw)
    hit, far = torch.cat(right), torch.cat(distance)
    third = [hit[(far >= k / 3) & (far <= (k + 1) / 3)].mean().item() for k in range(3)]
    tenths = [hit[(far >= k / 10) & (far <= (k + 1) / 10)].mean().item() for k in range(10)]
    return {"accuracy": hit.mean().item(), "thirds": third, "tenths": tenths, "steps": mean(steps),
            "converged": mean(map(float, converged)), "parameters": size(model), "CPU s": seconds,
            "same": (ran.argmax(1) == logits.argmax(1)).float().mean().item(),
            "residual": end.residual.max().item()}  # fmt: skip


def picture(rows: list[dict], path: Path) -> None:
    """Accuracy against the distance from the source."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import open_axes, save_figure

    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        axes.plot([(k + 0.5) / 10 for k in range(10)], row["tenths"], "o-", label=row["name"], ms=3)
    axes.axhline(1 / CLASSES, color="gray", lw=0.8, ls=":", label="chance")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    distance = "distance from the source, of the largest"
    open_axes(axes, xlabel=distance, ylabel="accuracy", ylim=(0, 1.05))
    save_figure(figure, path)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["chain", "canvas", "surface"], default="chain")
    parser.add_argument("--on", default="icosphere:3", help="the surface, as of gncadeq grow")
    parser.add_argument("--length", type=int, help="200 nodes, or 48 pixels, by default")
    parser.add_argument("--width", type=int, default=16, help="of the single-scale model")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--levels", type=int, default=4, help="of those with more than one")
    parser.add_argument("--factor", type=int, help="8, or 4 on the canvas, by default")
    parser.add_argument("--kappas", type=float, nargs="*", default=[0.7, 0.95])
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--long", type=int, default=2000, help="steps of the automaton")
    parser.add_argument("--out", default="runs/multiscale")
    parser.add_argument("--smoke", action="store_true", help="a short chain, a few epochs")
    args = parser.parse_args()
    if args.smoke:
        args.length, args.epochs, args.seeds, args.kappas, args.long = 30, 4, [0], [0.7], 50
        args.levels = 3
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="multiscale_")
    factor = args.factor or (4 if args.task == "canvas" else 8)
    make: Callable[[], tuple[Data, Tensor]] = {
        "chain": lambda: chain(args.length or 200), "canvas": lambda: canvas(args.length or 48),
        "surface": lambda: surface(args.on),
    }[args.task]  # fmt: skip
    single = Model(batch_of(make, Coarsen(1), 0), args.width, 0.95, args.tol, args.max_steps)
    budget, rows = size(single), []
    print("| | κ | parameters | accuracy | near, midway, far | steps | converged "
          "| same from noise | residual | heard in | CPU s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        levels, descend = (1 if name == "one" else args.levels), MODELS[name]
        voxels = {"method": "voxel", "size": float(factor)} if args.task == "canvas" else {}
        coarsen = Coarsen(levels, factor=factor, descend=descend, **voxels)
        batches = [batch_of(make, coarsen, seed) for seed in range(8)]
        test = [batch_of(make, coarsen, 100 + seed) for seed in range(4)]

        def build(width: int, kappa: float, data: HeteroData = test[0]) -> Model:
            return Model(data, width, kappa, args.tol, args.max_steps)

        width = max(w for w in range(2, args.width + 1) if size(build(w, 0.95)) <= budget)
        for kappa in args.kappas:
            runs = []
            for seed in args.seeds:
                torch.manual_seed(seed)
                model = build(width, kappa)
                runs.append({"seed": seed, **train(model, batches, test, args.epochs, args.long)})
            means = "accuracy", "steps", "converged", "parameters", "same", "CPU s"
            row = {key: mean(run[key] for run in runs) for key in means}
            for key in ("thirds", "tenths"):
                row[key] = [mean(values) for values in zip(*(r[key] for r in runs), strict=True)]
            row |= {"name": f"{name}, κ={kappa:g}", "heard": hops(test[0]), "runs": runs,
                    "residual": max(run["residual"] for run in runs)}  # fmt: skip
            rows.append(row)
            thirds = ", ".join(f"{100 * value:.0f}" for value in row["thirds"])
            each = ", ".join(f"{100 * run['accuracy']:.1f}" for run in runs)
            print(
                f"| {name} | {kappa:g} | {row['parameters']:,.0f} | {each} % | {thirds} % "
                f"| {row['steps']:.0f} | {100 * row['converged']:.0f} % "
                f"| {100 * row['same']:.1f} % | {row['residual']:.0e} | {row['heard']} "
                f"| {row['CPU s']:.0f} |",
                flush=True,
            )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1))
    picture(rows, out / "accuracy.png")


if __name__ == "__main__":
    main()
