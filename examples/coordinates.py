"""Pictures as equilibria: coordinate networks with implicit layers, and neighbours that help.

    python examples/coordinates.py               # photograph and sphere, all models
    python examples/coordinates.py --smoke       # seconds

A node knows its place, and is to know its colour, as in (Implicit)² (Huang et al. 2021): a
photograph of 48 × 48 pixels (scikit-learn's ``china.jpg``), and the same photograph wrapped around
an icosphere. Colours of half of the nodes are given, drawn at random; the other half is the test.

- *(Implicit)²*: ``CoordinateCell`` without neighbours; *with neighbours*: its nodes hear theirs.
  Each training step starts from the last one's equilibrium, takes ``--evaluations`` of the rule,
  and the one-step gradient.
- *MFN* (Fathony et al. 2021) and *SIREN* (Sitzmann et al. 2020): explicit, of as many parameters.
- *harmonic*: every unknown node is the mean of its neighbours, no parameters; *nearest*: the colour
  of the nearest given node.

PSNR of given and of unknown nodes. Writes ``results.json`` and ``coordinates.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from scipy.spatial import KDTree
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import FaceToEdge
from torchvision.transforms.functional import to_tensor

from gncadeq import GraphDEQ
from gncadeq.cells import CoordinateCell
from gncadeq.datasets import primitives
from gncadeq.files.json_files import write_json
from gncadeq.training.surfaces import project_picture
from gncadeq.transforms import ImageToGraph


def photograph(side: int) -> Tensor:
    """``[3, side, side]``, the middle of the photograph."""
    image = Image.fromarray(load_sample_image("china.jpg"))
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short))
    return to_tensor(image.resize((side, side), Image.Resampling.LANCZOS))


def pixels(side: int) -> Data:
    """The photograph: places in [-1, 1]², edges to eight neighbours, colours."""
    picture = photograph(side)
    data = ImageToGraph()(picture)
    keep = data.edge_index[0] != data.edge_index[1]
    place = (data.pos - data.pos.mean(0)) * (2 / side)
    return Data(x=place, edge_index=data.edge_index[:, keep], y=data.x)


def sphere(levels: int, side: int) -> Data:
    """An icosphere around which the photograph is wrapped."""
    mesh = primitives.icosphere(levels)
    picture = torch.cat([photograph(side), torch.ones(1, side, side)])
    color = project_picture(picture, mesh.pos, "sphere")[:, :3]
    edges = FaceToEdge(remove_faces=False)(mesh.clone()).edge_index
    return Data(x=mesh.pos.float(), edge_index=edges, y=color.float(), face=mesh.face)


class Filters(nn.Module):
    """A multiplicative filter network: ``h' = sin(A x + φ) ⊙ (W h + b)``, layer by layer."""

    def __init__(self, dim: int, width: int, layers: int, frequency: float) -> None:
        super().__init__()
        self.waves = nn.ModuleList(nn.Linear(dim, width) for _ in range(layers))
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.last = nn.Linear(width, 3)
        for wave in self.waves:  # the frequencies of a product add up
            nn.init.normal_(wave.weight, std=torch.pi / 2 * frequency / layers**0.5)
            nn.init.uniform_(wave.bias, -torch.pi, torch.pi)

    def forward(self, x: Tensor) -> Tensor:
        """Colours."""
        h = self.waves[0](x).sin()
        for wave, each in zip(self.waves[1:], self.maps, strict=True):
            h = wave(x).sin() * each(h)
        return self.last(h)


class Siren(nn.Module):
    """Sines of linear maps, with the initialisation of Sitzmann et al. (2020)."""

    def __init__(self, dim: int, width: int, layers: int, frequency: float) -> None:
        super().__init__()
        sizes = [dim] + [width] * layers
        pairs = pairwise(sizes)
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.last = nn.Linear(width, 3)
        self.omega = 30.0
        for k, each in enumerate(self.maps):
            bound = 1 / dim if k == 0 else (6 / width) ** 0.5 / self.omega
            nn.init.uniform_(each.weight, -bound, bound)
        with torch.no_grad():
            self.maps[0].weight *= frequency * torch.pi / 2 / self.omega * 3**0.5 * dim

    def forward(self, x: Tensor) -> Tensor:
        """Colours."""
        for each in self.maps:
            x = (self.omega * each(x)).sin()
        return self.last(x)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of colours in [0, 1]."""
    return float(-10 * (found.clamp(0, 1) - wanted).square().mean().log10())


def harmonic(data: Data, given: Tensor) -> Tensor:
    """Unknown nodes are means of their neighbours."""
    source, target = data.edge_index.numpy()
    n = int(data.num_nodes)
    matrix = coo_matrix(([-1.0] * len(source), (target, source)), (n, n)).tocsr()
    matrix.setdiag(-matrix.sum(1).A1 if hasattr(matrix.sum(1), "A1") else -matrix.sum(1))
    free = (~given).nonzero().flatten().numpy()
    known = given.nonzero().flatten().numpy()
    rows = matrix[free]
    y = data.y.double().numpy()
    out = data.y.clone()
    solved = spsolve(rows[:, free].tocsc(), -(rows[:, known] @ y[known]))
    out[~given] = torch.from_numpy(solved).float()
    return out


def nearest(data: Data, given: Tensor) -> Tensor:
    """The colour of the nearest given node."""
    _, index = KDTree(data.x[given].numpy()).query(data.x.numpy())
    return data.y[given][torch.from_numpy(index)]


def fit(
    model: nn.Module, data: Data, given: Tensor, args: argparse.Namespace
) -> tuple[Tensor, float]:
    """Train an explicit model; colours and CPU seconds."""
    lr = args.lr / 10 if isinstance(model, Siren) else args.lr  # larger ones make noise of it
    optimizer = torch.optim.Adam(model.parameters(), lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    begin = time.process_time()
    for _ in range(args.steps):
        optimizer.zero_grad()
        (model(data.x[given]) - data.y[given]).square().mean().backward()
        optimizer.step()
        rate.step()
    seconds = time.process_time() - begin
    with torch.no_grad():
        return model(data.x), seconds


def fit_implicit(
    data: Data, given: Tensor, neighbors: bool, args: argparse.Namespace
) -> tuple[Tensor, float, dict[str, Any]]:
    """Train an equilibrium, each step from the last one's; colours, CPU seconds, evidence."""
    width = args.channels if neighbors else round(2**0.5 * args.channels)  # as many parameters
    cell = CoordinateCell(data.x.size(1), width, args.filter, args.frequency, neighbors, args.kappa)
    deq = GraphDEQ(
        cell, "picard", tol=args.tol, max_steps=args.evaluations, gradient="one_step",
        on_failure="ignore",
    )  # fmt: skip
    readout = nn.Linear(width, 3)
    parameters = [*cell.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, args.lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    rows = data if neighbors else Data(x=data.x[given], edge_index=data.edge_index[:, :0])
    seen = given if neighbors else torch.ones(rows.num_nodes, dtype=torch.bool)
    z, taken, begin = None, 0, time.process_time()
    for _ in range(args.steps):
        z, found = deq(rows.x, rows.edge_index, z0=z, return_solution=True)
        optimizer.zero_grad()
        (readout(z[seen]) - data.y[given]).square().mean().backward()
        optimizer.step()
        rate.step()
        z, taken = z.detach(), taken + int(found.num_evaluations.sum())
    seconds = time.process_time() - begin
    exact = GraphDEQ(cell, tol=1e-6, max_steps=1000)
    with torch.no_grad():
        z, found = exact(data.x, data.edge_index, return_solution=True)
        late = exact.as_nca(steps=2000 if not args.smoke else 20, fire_rate=0.5, start="normal")
        again, at_rest = late(data.x, data.edge_index, return_solution=True)
    evidence = {
        "parameters": sum(p.numel() for p in parameters), "evaluations": taken / args.steps,
        "solve": int(found.num_steps), "residual": float(found.residual),
        "kappa": float(cell.lipschitz_bound()), "automaton": float(at_rest.residual),
        "apart": float((readout(again) - readout(z)).abs().max()),
    }  # fmt: skip
    return readout(z).detach(), seconds, evidence


def main() -> None:
    """Fit all models, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--filter", default="fourier", choices=["fourier", "gabor", "siren"])
    parser.add_argument("--frequency", type=float, default=5.0)
    parser.add_argument("--kappa", type=float, default=0.97)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--levels", type=int, default=4, help="of the icosphere")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--evaluations", type=int, default=1, help="most solver steps in training")
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--graphs", nargs="+", default=["pixels", "sphere"])
    parser.add_argument("--models", nargs="+",
                        default=["implicit", "neighbors", "MFN", "SIREN", "fills"])  # fmt: skip
    parser.add_argument("--out", default="runs/coordinates")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.channels, args.side, args.levels, args.steps = 16, 12, 1, 3
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="coordinates_")
    out, table = Path(args.out), {}
    out.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Tensor] = {}
    for name in args.graphs:
        data = pixels(args.side) if name == "pixels" else sphere(args.levels, args.side)
        draw = torch.rand(data.num_nodes, generator=torch.Generator().manual_seed(args.seed))
        given = draw < 0.5
        dim = data.x.size(1)
        found: dict[str, tuple[Tensor, float, dict[str, Any]]] = {}
        for model in args.models:
            torch.manual_seed(args.seed)
            if model in ("implicit", "neighbors"):
                found[model] = fit_implicit(data, given, model == "neighbors", args)
            elif model == "fills":
                found["harmonic"] = harmonic(data, given), 0.0, {}
                found["nearest"] = nearest(data, given), 0.0, {}
            else:
                kind = Filters if model == "MFN" else Siren
                made = kind(dim, args.channels, 3, args.frequency)
                used = sum(p.numel() for p in made.parameters())
                found[model] = *fit(made, data, given, args), {"parameters": used}
        for model, (color, seconds, more) in found.items():
            row = {
                "given": psnr(color[given], data.y[given]),
                "unknown": psnr(color[~given], data.y[~given]),
                "CPU s": seconds,
                **more,
            }
            table[f"{name}, {model}"] = row
            print(f"{name}, {model}:", {k: float(f"{v:.4g}") for k, v in row.items()}, flush=True)
            if name == "pixels":
                pictures[model] = color
        if name == "pixels":
            shown = {"photograph": data.y, "given": data.y * given[:, None], **pictures}
            figure, axes = plt.subplots(1, len(shown), figsize=(2.1 * len(shown), 2.4),
                                        layout="constrained")  # fmt: skip
            for axis, (title, color) in zip(axes, shown.items(), strict=True):
                axis.imshow(color.clamp(0, 1).view(args.side, args.side, 3).numpy())
                axis.set(title=title, xticks=[], yticks=[])
            figure.savefig(out / "coordinates.png", dpi=80)
        write_json(out / "results.json", table)


if __name__ == "__main__":
    main()
