"""Six digits on a sphere, every vertex of which says which digit it is part of.

    python examples/digits_on_a_sphere.py --data-root DATA
    python examples/digits_on_a_sphere.py --smoke      # seconds, on scikit-learn's small digits

The weights are those of a classifier of pixels, and nothing is trained. A pixel is as wide as the
vertices are apart on average. Vertices brighter than 0.1 live. Each digit's vertices have their
places in the plane that touches the sphere in the middle of the digit (the azimuthal equidistant
projection), and ``SoftDirections`` turns places into the relations of pixels. The spheres are
turned at random.

Writes ``runs/digits_on_a_sphere/table.json`` and ``picture.png``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq import SelfClassifier
from gncadeq.cell_labels import CellLabels, cell_labels
from gncadeq.datasets import PixelGraphs, primitives
from gncadeq.files.json_files import write_json
from gncadeq.transforms import SoftDirections
from gncadeq.viz import ColorScale, render_surface

LIVING = 0.1
MIDDLES = torch.cat([torch.eye(3), -torch.eye(3)])
"""Where the six digits are."""


def turned(generator: torch.Generator) -> Tensor:
    """A random rotation ``[3, 3]``."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    q = q * r.diagonal().sign()
    return q * q.det().sign()


def chart(pos: Tensor, middle: Tensor, pixel: float) -> Tensor:
    """``[N, 2]``, columns and rows of points of the unit sphere, in pixels from the middle."""
    up = torch.eye(3)[1 if middle[1] == 0 else 2]
    right = torch.linalg.cross(up, middle)
    flat = torch.stack([pos @ right, -(pos @ up)], 1)
    angle = (pos @ middle).clamp(-1, 1).acos().unsqueeze(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-9) * angle / pixel


def on_sphere(images: Tensor, pos: Tensor, to_graph: SoftDirections) -> Batch:
    """A graph of the living vertices of each of six digits ``[6, 1, H, W]``.

    ``vertex`` numbers the vertices of the sphere.
    """
    pixel, graphs = math.sqrt(4 * math.pi / len(pos)), []
    height, width = images.shape[2:]
    for image, middle in zip(images, MIDDLES, strict=True):
        place = chart(pos, middle, pixel)
        grid = place / torch.tensor([width / 2, height / 2])
        grey = F.grid_sample(image[None], grid[None, None], align_corners=False)[0, 0, 0]
        vertex = (grey > LIVING).nonzero().flatten()
        graphs.append(to_graph(Data(grey[vertex, None], pos=place[vertex], vertex=vertex)))
    return Batch.from_data_list(graphs)


@torch.no_grad()
def measure(model: SelfClassifier, dataset: PixelGraphs, args: argparse.Namespace) -> dict:
    """Labels of the vertices at equilibrium and of an automaton, and those of whole digits."""
    sphere, generator = primitives.icosphere(args.levels).pos, torch.Generator().manual_seed(0)
    automaton = SelfClassifier(model.model, model.alpha).eval()
    automaton.dynamics = automaton.dynamics.as_nca(steps=args.steps, fire_rate=0.5)
    found: list[CellLabels] = []
    whole, solved, steps, same, residual = [], [], [], [], []
    for number in range(args.count):
        index = torch.arange(6 * number, 6 * number + 6)
        images = dataset.images[index].float() / 255
        data = on_sphere(images, sphere @ turned(generator).T, SoftDirections(args.scale))
        graph = (data.x, data.edge_index, data.edge_attr, data.batch)
        y = dataset.labels[index]
        logits, solution = model(*graph, return_solution=True)
        found.append(cell_labels(logits, data.batch, y))
        whole.append((model.model(*graph).argmax(1) == y).double())
        solved.append(solution.converged.double())
        steps.append(solution.num_steps.double())
        if number < args.automata:
            logits, run = automaton(*graph, generator=generator, return_solution=True)
            same.append(found[-1].same(cell_labels(logits, data.batch, y)))
            residual.append(float(run.residual.max()))
    table = {
        "digits": 6 * args.count,
        "whole digits right": float(torch.cat(whole).mean()),
        **CellLabels.join(found).summary(),
        "converged": float(torch.cat(solved).mean()),
        "steps": float(torch.cat(steps).mean()),
    }
    if same:
        table[f"automaton, {args.steps} steps: the same label"] = sum(same) / len(same)
        table["its largest residual"] = max(residual)
    return table


@torch.no_grad()
def picture(model: SelfClassifier, dataset: PixelGraphs, args: argparse.Namespace) -> Image.Image:
    """A sphere: what vertices say at first, and after steps in which half of them update."""
    mesh = primitives.icosphere(args.levels)
    images = dataset.images[[0, 1, 2, 3, 4, 6]].float() / 255
    data = on_sphere(images, mesh.pos, SoftDirections(args.scale))
    graph = (data.x, data.edge_index, data.edge_attr, data.batch)
    views = []
    for steps in (0, 5, 50, args.steps):
        automaton = SelfClassifier(model.model, model.alpha).eval()
        automaton.dynamics = automaton.dynamics.as_nca(steps=steps, fire_rate=0.5)
        label = automaton(*graph, generator=torch.Generator().manual_seed(0)).argmax(1)
        color = torch.full((mesh.num_nodes, 3), 0.93)
        color[data.vertex] = ColorScale("labels")(label)
        views.append(
            render_surface(mesh, color, ColorScale(), size=260, azimuth=45.0, elevation=25.0)
        )
    row = Image.new("RGB", (sum(v.width for v in views), views[0].height), "white")
    for at, view in enumerate(views):
        row.paste(view, (at * view.width, 0))
    return row


def main() -> None:
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--weights", default="mnist-crop", help="shipped name or file")
    parser.add_argument("--levels", type=int, default=5, help="of the icosphere")
    parser.add_argument("--scale", type=float, default=1.2, help="of SoftDirections, in pixels")
    parser.add_argument("--count", type=int, default=100, help="spheres, of six digits")
    parser.add_argument("--automata", type=int, default=5, help="spheres run step by step, too")
    parser.add_argument("--steps", type=int, default=2000, help="of these")
    parser.add_argument("--out", default="runs/digits_on_a_sphere")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    alpha = None
    if args.smoke:
        args.weights, args.levels, args.count, args.automata, args.steps = "digits", 4, 1, 1, 100
        alpha = 0.05
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="digits_on_a_sphere_")
    dataset = PixelGraphs(args.data_root, "digits" if args.smoke else "mnist", False)
    model = SelfClassifier.from_pretrained(args.weights, alpha=alpha)
    table = measure(model, dataset, args)
    for name, value in table.items():
        print(f"{name}: {value:.4g}")
    out = Path(args.out)
    write_json(out / "table.json", table)
    picture(model, dataset, args).save(out / "picture.png")
    print("written to", out)


if __name__ == "__main__":
    main()
