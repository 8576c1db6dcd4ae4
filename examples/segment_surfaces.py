"""Which part of a figure a vertex belongs to, where its own surroundings don't tell.

    python examples/segment_surfaces.py                     # three seeds, with baselines
    python examples/segment_surfaces.py --meshes DATA/meshes/spot.obj …   # label these as well
    python examples/segment_surfaces.py --smoke             # seconds

Figures have a body and bent limbs; arms end in a ball, legs do not, and between body and end both
are the same tubes (``labelled_figures.py``). A vertex knows the two principal curvatures of the
surface around it, which no rotation and no scaling changes. One contraction on the surface
(:class:`gncadeq.IGNNCell`, its neighbours weighed by a Gaussian of a fixed share of the surface's
size) carries what the limb's end looks like along the limb, to equilibrium.

Compared at about equal numbers of parameters: a network on every vertex alone, and stacks of graph
convolutions with the same weights on the same edges. All are trained on one resolution and tested
on other figures: of that resolution, of four times and half as many vertices, uneven, and noisy.
The equilibrium's weights then run as an automaton whose nodes update at random, from noise.

Writes ``results.json``, and ``segmentation.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from curvature import PrincipalCurvatures
from labelled_figures import PARTS, figure
from PIL import Image
from real_meshes import merged
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MLP, GraphConv
from torch_geometric.transforms import Compose

from gncadeq import IGNNCell
from gncadeq.datasets import load_mesh
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.models import NodeClassifier
from gncadeq.training.losses import check_gradients
from gncadeq.transforms import MeshToGraph
from gncadeq.transforms.surface_operators import mesh_edges, vertex_areas
from gncadeq.viz import ColorScale, render_surface
from gncadeq.viz.images import png
from gncadeq.viz.legend import tile

SCALE = 0.03  # of the kernels and curvatures, where the surface's area is 1
TRAIN_TOL, TEST_TOL = 1e-3, 1e-5  # relative residuals of the solves
NOISE = 0.05  # of the vertices, in mean edge lengths
RECIPE = ("figures", "tests", "epochs", "batch_size", "lr", "width", "kappa", "steps")
SETS = {  # spacing, unevenness, noise
    "same": (0.12, 0.0, NOISE), "finer": (0.06, 0.0, NOISE), "coarser": (0.15, 0.0, NOISE),
    "uneven": (0.10, 0.6, NOISE), "noisy": (0.12, 0.0, 3 * NOISE),
}  # fmt: skip


class Stack(nn.Module):
    """Graph convolutions one after the other, each with weights of its own."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.encoder = MLP([2, width, width], norm=None)
        self.convs = nn.ModuleList(GraphConv(width, width) for _ in range(layers))
        self.readout = MLP([2 * width, width, len(PARTS)], norm=None)

    def forward(self, data: Data) -> Tensor:
        """Return logits."""
        u = h = self.encoder(data.x).relu()
        for conv in self.convs:
            h = h + conv(h, data.edge_index, data.edge_attr).relu()
        return self.readout(torch.cat([u, h], dim=1))


class Equilibrium(NodeClassifier):
    """The classifier, called with a batch."""

    def __init__(self, width: int, kappa: float) -> None:
        cell = IGNNCell(16, width, kappa, normalization="row")
        # At first every channel is the injection, spread over the surface, some little, some as far
        # as the bound allows: random mixtures of channels forget within a few edges.
        with torch.no_grad():
            cell.weight_z.copy_(torch.linspace(0.5, 1.0, width).diag())
        deq = {"tol": TRAIN_TOL, "max_steps": 400, "on_failure": "ignore"}
        super().__init__(cell, 2, len(PARTS), 32, deq)
        self.converged, self.steps = [], []

    def forward(self, data: Data) -> Tensor:
        """Return logits."""
        logits, solution = super().forward(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs,
            return_solution=True,
        )  # fmt: skip
        self.converged += solution.converged.tolist()
        self.steps += solution.num_steps.tolist()
        return logits


class Alone(nn.Module):
    """Every vertex by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = MLP([2, width, width, len(PARTS)], norm=None)

    def forward(self, data: Data) -> Tensor:
        """Return logits."""
        return self.mlp(data.x)


def unit_area(data: Data) -> Data:
    """Scale the surface to an area of one."""
    data.pos = data.pos / vertex_areas(data.pos, data.face).double().sum().sqrt().float()
    return data


def smoothing_weights(data: Data) -> Data:
    """Turn the kernel G - I into the weights of G, which are positive and add up to one."""
    loop = data.edge_index[0] == data.edge_index[1]
    data.edge_attr = data.edge_attr[:, 0] + loop.float()
    return data


prepare = Compose([
    unit_area, PrincipalCurvatures(SCALE), MeshToGraph("isotropic", scale=SCALE), smoothing_weights,
])  # fmt: skip


def graphs(seeds: Sequence[int], spacing: float, unevenness: float, noise: float) -> list[Data]:
    """Figures with noise on their vertices, at a random size, as graphs."""
    out = []
    for seed in seeds:
        data = figure(seed, spacing, unevenness)
        generator = torch.Generator().manual_seed(seed)
        source, target = mesh_edges(data.face, data.num_nodes)
        edge = (data.pos[source] - data.pos[target]).norm(dim=1).mean()
        data.pos = data.pos + noise * edge * torch.randn(data.pos.shape, generator=generator)
        data.pos = data.pos * float(10 ** (2 * torch.rand((), generator=generator) - 1))
        out.append(prepare(data))
    return out


def train(model: nn.Module, data: list[Data], epochs: int, lr: float, batch_size: int) -> None:
    """Adam with a cosine schedule."""
    loader = DataLoader(data, batch_size, shuffle=True)  # its order comes from torch's seed
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for epoch in range(epochs):
        total, right, count = 0.0, 0, 0
        for batch in loader:
            optimizer.zero_grad()
            logits = model(batch)
            loss = F.cross_entropy(logits, batch.y)
            loss.backward()
            check_gradients(model, epoch)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * batch.num_nodes
            right += int((logits.argmax(1) == batch.y).sum())
            count += batch.num_nodes
        print(f"  epoch {epoch + 1}: loss {total / count:.4f}, {right / count:.2%}", flush=True)


@torch.no_grad()
def labels(model: nn.Module, data: list[Data]) -> list[Tensor]:
    """The label of every vertex."""
    model.eval()
    return [model(Batch.from_data_list([d])).argmax(1) for d in data]


def accuracy(found: list[Tensor], data: list[Data]) -> dict[str, float]:
    """Shares of vertices that are right: of all, and of those of limbs, arm or leg."""
    y, out = torch.cat([d.y for d in data]), torch.cat(found)
    right = (out == y).float()
    return {"all": float(right.mean()), "limbs": float(right[y > 0].mean())}


def examine(model: nn.Module, tests: dict[str, list[Data]]) -> dict[str, dict[str, float]]:
    """Accuracies, and how the solves ended, on every set."""
    out = {}
    for name, data in tests.items():
        if isinstance(model, Equilibrium):
            model.converged, model.steps, model.dynamics.tol = [], [], TEST_TOL
        out[name] = accuracy(labels(model, data), data)
        if isinstance(model, Equilibrium):
            out[name]["converged"] = mean(map(float, model.converged))
            out[name]["steps"] = mean(map(float, model.steps))
    return out


def deployed(model: Equilibrium, data: list[Data], steps: int, rate: float) -> dict[str, float]:
    """The same weights as an automaton from Gaussian noise: accuracy, agreement, rest."""
    solved, deq = labels(model, data), model.dynamics
    model.dynamics = deq.as_nca(steps=steps, fire_rate=rate, start="normal")
    model.converged = []
    torch.manual_seed(0)
    run = labels(model, data)
    model.dynamics = deq
    agree = torch.cat([a == b for a, b in zip(solved, run, strict=True)])
    return {
        **accuracy(run, data), "agree": float(agree.float().mean()), "steps": steps,
        "fire_rate": rate, "converged": mean(map(float, model.converged)),
    }  # fmt: skip


def parameters(model: nn.Module) -> int:
    """How many there are."""
    return sum(p.numel() for p in model.parameters())


def widest(build: Callable[[int], nn.Module], most: int) -> nn.Module:
    """The widest model with no more than so many parameters."""
    width = 4
    while parameters(build(width + 1)) <= most:
        width += 1
    return build(width)


def main() -> None:
    """Train, compare, deploy, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=int, default=60, help="training figures")
    parser.add_argument("--tests", type=int, default=10, help="test figures")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--width", type=int, default=16, help="channels of the state")
    parser.add_argument("--kappa", type=float, default=0.99, help="the cell's contraction")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", default=["alone", "2", "4", "8", "equilibrium"])
    parser.add_argument("--steps", type=int, default=2000, help="of the automaton")
    parser.add_argument("--meshes", nargs="*", default=[], help="mesh files to label")
    parser.add_argument("--out", default="runs/segment_surfaces")
    parser.add_argument("--resume", action="store_true", help="keep the runs in the folder")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.figures, args.tests, args.epochs, args.seeds, args.steps = 4, 2, 2, [0], 50
        args.models, sets = ["alone", "2", "equilibrium"], {"same": SETS["coarser"]}
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="segment_surfaces_")
    else:
        sets = SETS
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    training = graphs(range(args.figures), *sets["same"])
    tests = {name: graphs(range(10_000, 10_000 + args.tests), *s) for name, s in sets.items()}
    sizes = {name: mean(d.num_nodes for d in data) for name, data in tests.items()}
    print("vertices:", {name: round(size) for name, size in sizes.items()}, flush=True)
    recipe = {k: getattr(args, k) for k in RECIPE}
    shown: dict[str, nn.Module] = {}
    results: dict = {"arguments": vars(args), "vertices": sizes, "models": {}}
    for name in args.models:
        for seed in args.seeds:
            model = build(name, seed, args)
            kept, weights = out / f"{name}-{seed}.json", out / f"{name}-{seed}.pt"
            if args.resume and kept.is_file():
                model.load_state_dict(torch.load(weights, weights_only=True))
                run = json.loads(kept.read_text())
                if run["recipe"] != recipe:
                    raise SystemExit(f"Expected {kept} of {recipe} (got {run['recipe']})")
            else:
                print(f"{name}, {parameters(model)} parameters, seed {seed}", flush=True)
                train(model, training, args.epochs, args.lr, args.batch_size)
                torch.save(model.state_dict(), weights)
                run = {"recipe": recipe, **measure(model, tests, args.steps)}
                write_json(kept, run)
                print(json.dumps(run), flush=True)
            shown.setdefault(name, model)
            results["models"].setdefault(name, []).append({"seed": seed, **run})
    write_json(out / "results.json", results)
    table(results, list(sets))
    draw(
        shown,
        tests,
        {Path(path).stem: real(path) for path in args.meshes},
        out / "segmentation.png",
    )
    print(f"results.json and segmentation.png are in {out}")


def build(name: str, seed: int, args: argparse.Namespace) -> nn.Module:
    """A fresh model, of as many parameters as the equilibrium's or a few less."""
    torch.manual_seed(seed)
    equilibrium = Equilibrium(args.width, args.kappa)
    most = parameters(equilibrium)
    torch.manual_seed(seed)
    if name == "equilibrium":
        return equilibrium
    return widest(Alone if name == "alone" else lambda width: Stack(int(name), width), most)


def measure(model: nn.Module, tests: dict[str, list[Data]], steps: int) -> dict:
    """Accuracies everywhere, and what becomes of an equilibrium's weights as an automaton."""
    run: dict = {"parameters": parameters(model), "tests": examine(model, tests)}
    if isinstance(model, Equilibrium):
        run["bound"] = float(model.dynamics.cell.lipschitz_bound())
        for name, few in (("same", 4), ("finer", 2)):
            if name in tests:
                run[f"automaton, {name}"] = deployed(model, tests[name][:few], steps, 0.5)
    return run


def real(path: str) -> Data:
    """A mesh file as a graph; vertices of a large one are merged in cells of a grid."""
    mesh = unit_area(load_mesh(path, merge=True))
    if mesh.num_nodes > 10_000:
        mesh = merged(mesh, 0.02)
    return prepare(Data(pos=mesh.pos, face=mesh.face))


def draw(
    models: dict[str, nn.Module], tests: dict[str, list[Data]], meshes: dict[str, Data], path: Path
) -> None:
    """One figure of every test set, as it is and as each model labels it; then the meshes."""
    names = {"alone": "every vertex alone", "equilibrium": "equilibrium"}
    columns = ["truth", *models]
    pictures, captions = [], []
    for test, data in tests.items():
        found = {"truth": data[0].y}
        found |= {name: labels(model, data[:1])[0] for name, model in models.items()}
        right = {n: float((v == data[0].y).float().mean()) for n, v in found.items()}
        for name in columns:
            pictures.append(view(data[0], found[name]))
            what = names.get(name, name if name == "truth" else f"{name} layers")
            number = f"{data[0].num_nodes:,} vertices" if name == "truth" else f"{right[name]:.0%}"
            captions.append(f"{test}, {number}" if name == "truth" else f"{what}: {number}")
    sheet = tile(pictures, captions, columns=len(columns))
    if meshes and "equilibrium" in models:
        found = [labels(models["equilibrium"], [mesh])[0] for mesh in meshes.values()]
        row = tile(
            [view(m, y) for m, y in zip(meshes.values(), found, strict=True)],
            [f"equilibrium: {name}" for name in meshes],
        )
        below = Image.new("RGB", (sheet.width, sheet.height + row.height), "white")
        below.paste(sheet, (0, 0))
        below.paste(row, (0, sheet.height))
        sheet = below
    write_atomically(path, png(sheet))


def view(data: Data, y: Tensor) -> Image.Image:
    """A picture of labels: a face has the one that most of its corners have."""
    label = y[data.face].mode(0).values
    return render_surface(data, label, ColorScale("labels"), size=240, of_faces=True)


def table(results: dict, sets: list[str]) -> None:
    """Print the accuracies as Markdown."""
    print("| model | parameters | " + " | ".join(sets) + " |")
    print("|---" * (len(sets) + 2) + "|")
    for name, runs in results["models"].items():
        cells = []
        for test in sets:
            found = [100 * run["tests"][test]["all"] for run in runs]
            spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{mean(found):.1f}{spread} %")
        print(f"| {name} | {runs[0]['parameters']:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
