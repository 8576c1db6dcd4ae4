"""A rule that senses no directions grows a picture where, and as, three seed cells tell it.

    python examples/isotropic.py               # a fish of 20 x 20 pixels
    python examples/isotropic.py --smoke       # seconds

After "Growing Isotropic Neural Cellular Automata" (Mordvintsev et al. 2022): a node senses its
state and the Laplacian of its neighbours' states, nothing else. One upright picture on pixels is
the only training (``gncadeq grow --recipe isotropic``). The same weights then grow it

- on pixels, from seeds that were turned, or mirrored: the picture is turned, or mirrored,
- on hexagons, on a triangulation of uneven points, and on a sphere, from seeds at the same places.

*error* is the mean squared error of four colours from
the turned picture; *empty* is that of a graph on which nothing grows. Writes ``isotropic.png`` and
``results.json``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from scipy.spatial import cKDTree
from small_pictures import PICTURES, small_picture
from torch import Tensor
from torch_geometric.data import Data
from torchvision.transforms.functional import to_pil_image

from gncadeq.cells import GrowingCell
from gncadeq.datasets import primitives
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.growth import Trial
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.orientation import lattice
from gncadeq.training.targets import anchor, picture_target, seed_state
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels
from gncadeq.viz.images import png
from gncadeq.viz.surface import render_strip


def pixels(size: int) -> tuple[Data, Tensor]:
    """A grid, and where its nodes are, in pixels right and down of its middle."""
    data = PixelKernels(("laplacian",))(ImageToGraph()(torch.zeros(1, size, size)))
    return data, data.pos - data.pos.mean(0)


def hexagons(size: int, jitter: float = 0.0) -> tuple[Data, Tensor]:
    """Cells with six neighbours each."""
    data = lattice(size, size, jitter, seed=1000)
    return data, data.pos - (size - 1) / 2


def uneven(size: int) -> tuple[Data, Tensor]:
    """Points that training has not seen, joined by Delaunay."""
    return hexagons(size, 0.25)


def sphere(size: int) -> tuple[Data, Tensor]:
    """A sphere of at least twice as many vertices as the picture has pixels, seen from +z."""
    level = max(1, math.ceil(math.log(2 * size**2 / 10, 4)))
    data = MeshToGraph("isotropic", weights="uniform")(primitives.icosphere(level))
    data.edge_attr *= 2 / 3
    ends = data.pos[data.edge_index]
    length = (ends[0] - ends[1]).norm(dim=1)
    pixel = length[length > 0].mean() / math.sqrt(3 / 2)
    across = data.pos[:, :2] * torch.tensor([1.0, -1.0])
    angle = data.pos[:, 2].clamp(-1, 1).arccos()
    return data, F.normalize(across, dim=1) * angle[:, None] / pixel


GRAPHS = {"pixels": pixels, "hexagons": hexagons, "uneven points": uneven, "sphere": sphere}


def posed(
    graph: Data, place: Tensor, picture: Tensor, seeds: Tensor, degrees: float, mirror: bool
) -> Data:
    """A graph with seeds and picture turned clockwise, after they were mirrored."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn = turn @ torch.diag(torch.tensor([-1.0 if mirror else 1.0, 1.0]))
    data = graph.clone()
    data.seed_node = torch.cdist(seeds @ turn.t(), place).argmin(1)
    at = place @ turn * (2 / picture.size(-1))
    found = F.grid_sample(picture[None], at.view(1, 1, -1, 2), align_corners=False)
    data.color = found[0, :, 0].t().contiguous()
    data.x = anchor(data, channels=len(seeds))
    return data


def frame(color: Tensor, place: Tensor, size: int) -> Image.Image:
    """The nodes at their places, each pixel of the picture in the colour of the nearest."""
    reach = torch.linspace(-size / 2, size / 2, 145)[:-1] + size / 288
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    distance, near = cKDTree(place.numpy()).query(torch.stack([x, y], -1).view(-1, 2).numpy())
    rgba = color[torch.from_numpy(near)] * (torch.from_numpy(distance) < 1)[:, None]
    rgb = (rgba[:, :3] + 1 - rgba[:, 3:].clamp(0, 1)).clamp(0, 1)
    return to_pil_image(rgb.t().reshape(3, 144, 144).float())


def measure(
    cell: GrowingCell, data: Data, rate: float, steps: int, long: int
) -> tuple[dict, Tensor]:
    """Errors of what grows, and whether it rests and mends."""
    trial = Trial(cell, data, seed_state(data, cell.channels), rate)
    row = {"empty": float(data.color.square().mean()), f"{steps} steps": trial.run(steps).error}
    last = trial.run(long - steps)
    row |= {f"{long} steps": last.error, "residual": last.residual}
    row["a third cut off"] = trial.damage("third").error
    row[f"{steps} later"] = trial.run(steps, "recovery").error
    return row, last.color


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="fish", choices=list(PICTURES))
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1200, help="training steps")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--looks", type=int, nargs=2, default=[200, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/isotropic")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    options = {"hidden_channels": args.hidden}
    if args.smoke:
        args.size, args.steps, args.looks = 12, 2, [6, 12]
        options = {"channels": 6, "hidden_channels": 6, "min_rollout": 3, "max_rollout": 4}
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="isotropic_") + "/run"
    config = GrowConfig.recipe(
        "isotropic", args.target, size=args.size, steps=args.steps, seed=args.seed, out=args.out,
        **options,
    )  # fmt: skip
    data = picture_target(small_picture(args.target, args.size), "isotropic")
    grow(config, data, resume=args.resume)
    cell, trained, _, _ = load_grown(args.out)
    assert isinstance(cell, GrowingCell)
    picture = trained.color.t().view(4, args.size, args.size)
    seeds = trained.pos[trained.seed_node] - (args.size - 1) / 2
    rows, frames, captions = {}, [], []
    poses = [
        ("pixels", d, m) for d, m in ((0, False), (30, False), (45, False), (90, False), (0, True))
    ]
    poses += [(name, d, False) for name in GRAPHS if name != "pixels" for d in (0, 30)]
    for name, degrees, mirror in poses:
        graph, place = GRAPHS[name](args.size)
        data = posed(graph, place, picture, seeds, degrees, mirror)
        title = f"{name}, {'mirrored' if mirror else f'{degrees}°'}"
        for rate in (1.0, 0.5):
            row, color = measure(cell, data, rate, *args.looks)
            rows[f"{title}, fire rate {rate:g}"] = row
            print(
                f"{title}, {rate:g}: " + ", ".join(f"{k} {v:.2g}" for k, v in row.items()),
                flush=True,
            )
        frames.append(frame(color, place, args.size))
        captions.append(title)
    write_json(Path(args.out) / "results.json", {"arguments": vars(args), "poses": rows})
    strip = render_strip(frames, captions, columns=4)
    write_atomically(Path(args.out) / "isotropic.png", png(strip))
    print(f"isotropic.png and results.json are in {args.out}")


if __name__ == "__main__":
    main()
