"""Learn textures by rules of a few thousand parameters at most, on pixels or on a surface.

    python examples/texture_on_mesh.py                                # a sphere
    python examples/texture_on_mesh.py --meshes icosphere:5 spot.obj bunny.obj --azimuth 30 210 30
    python examples/texture_on_mesh.py --textures brick grass gravel --kernels tangent
    python examples/texture_on_mesh.py --textures photo.png --rule growing --kernels tangent
    python examples/texture_on_mesh.py --start runs/texture_on_mesh --age 150 --rest 0.2 \\
        --steps 300 --lr 1e-3 --out runs/still                        # brought to rest
    python examples/texture_on_mesh.py --on icosphere:4               # trained on a surface
    python examples/texture_on_mesh.py --ablation --textures leopard  # what makes it stay
    python examples/texture_on_mesh.py --smoke                        # seconds, 68 parameters

The loss compares patches; no pretrained network is involved. The kernels have a length and not a
resolution, so a rule of pixels runs on any mesh, which it has never seen, and one of a mesh on
pixels. Losses are measured by the same yardsticks: another piece of the texture is the floor, its
pixels in disorder the ceiling; for surfaces, both are painted on a flat mesh of uneven triangles.

Writes ``texture.png``, ``results.json`` and, for each texture, ``NAME.safetensors``, which
``--resume`` measures and draws again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from real_meshes import resized
from texture_formulas import PHOTOGRAPHS, TEXTURES, photograph, texture
from torch import Tensor
from torch_geometric.data import Data

from gncadeq import GraphNCA, GrowingCell
from gncadeq.cell import Cell
from gncadeq.cells import MicroCell
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.files.weights import load_pretrained, save_pretrained
from gncadeq.growth import relative_residual
from gncadeq.training.surface_patches import SurfacePatchLoss, color_at
from gncadeq.training.surfaces import read_surface
from gncadeq.training.texture_loss import PatchLoss
from gncadeq.training.textures import (
    TextureConfig,
    state_color,
    texture_grid,
    texture_surface,
    train_texture,
)
from gncadeq.transforms import MeshToGraph
from gncadeq.transforms.kernels import PIXEL
from gncadeq.viz.colors import ColorScale
from gncadeq.viz.images import png, read_image
from gncadeq.viz.surface import SurfaceRenderer, render_strip

SMOKE = {
    "channels": 4, "size": 20, "steps": 12, "batch_size": 2, "pool_size": 4, "min_rollout": 8,
    "max_rollout": 12, "lr": 5e-3,
}  # fmt: skip
FORMER = {"reset": ("worst", 2), "overflow": 1.0, "steps": 450}
RULES: dict[str, type[Cell]] = {"micro": MicroCell, "growing": GrowingCell}


def main() -> None:
    """Train, measure on pixels and surfaces, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--textures", nargs="+", default=["leopard", "giraffe"],
        help=f"pictures, or {', '.join((*TEXTURES, *PHOTOGRAPHS))}",
    )  # fmt: skip
    parser.add_argument("--rule", default="micro", choices=RULES)
    parser.add_argument("--on", default="grid", help="where to train: grid, or a mesh")
    parser.add_argument("--meshes", nargs="*", default=["icosphere:5"], help="names or files")
    parser.add_argument("--azimuth", nargs="*", type=float, default=[], help="to see each from")
    parser.add_argument("--vertices", type=int, default=10_000, help="of meshes to run on")
    parser.add_argument("--pixels", type=int, default=64, help="side of the grid to measure on")
    parser.add_argument("--kernels", default="isotropic", choices=["isotropic", "tangent"])
    parser.add_argument("--channels", type=int, default=12)
    parser.add_argument("--steps", type=int, default=TextureConfig.steps, help="training steps")
    parser.add_argument(
        "--rest", type=float, default=0.0, help="weight of the pressure to be still"
    )
    parser.add_argument("--fire-rate", type=float, default=TextureConfig.fire_rate)
    parser.add_argument("--start", help="folder of rules to go on from, by the textures' names")
    parser.add_argument("--age", type=int, default=0, help="steps of the pool before the training")
    parser.add_argument(
        "--halfway", action="store_true", help="keep the mean of the rules before and after"
    )
    parser.add_argument(
        "--own-weight", action="store_true",
        help="derivatives on meshes as MeshToGraph has them, with a weight on the vertex itself",
    )  # fmt: skip
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--long", type=int, default=10_000, help="steps of the run")
    parser.add_argument("--ablation", action="store_true", help="compare recipes, on pixels")
    parser.add_argument("--out", default="runs/texture_on_mesh")
    parser.add_argument("--resume", action="store_true", help="measure what is trained already")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.own_weight and args.kernels == "isotropic":
        parser.error("Expected derivatives beside --own-weight. Add --kernels tangent")
    if args.halfway and not args.start:
        parser.error("Expected the rules before beside --halfway. Add --start")
    options = {
        "channels": args.channels, "steps": args.steps, "lr": args.lr, "rest": args.rest,
        "kernels": args.kernels, "seed": args.seed, "age": args.age,
        "fire_rate": args.fire_rate,
    }  # fmt: skip
    if args.smoke:
        options |= SMOKE
        args.textures, args.meshes = ["giraffe", "checkers"], ["icosphere:3"]
        args.long, args.pixels, args.vertices = 40, 24, 100
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="texture_on_mesh_")
    if args.ablation:
        ablation(args, options)
        return
    config = TextureConfig(**options)
    out = Path(args.out)
    views = args.azimuth + [30.0] * (len(args.meshes) - len(args.azimuth))
    surfaces = {on: resized(read_surface(on), args.vertices) for on in args.meshes}
    results, pictures, captions = {"options": options}, [], []
    for name in args.textures:
        target, other = two_pieces(name, args.pixels, args.seed)
        path = out / f"{Path(name).stem}.safetensors"
        cell = load_pretrained(RULES[args.rule], path) if args.resume else None
        cell = cell or train(target, config, args, path)
        moments = (config.max_rollout, 500, args.long)
        places = {"pixels": texture_grid(args.pixels, args.kernels)}
        make = not_centered if args.own_weight else texture_surface
        places |= {on: make(mesh, args.kernels) for on, mesh in surfaces.items()}
        pictures.append(picture(target))
        captions.append(f"{Path(name).stem}, the picture")
        trials = {}
        for (on, data), azimuth in zip(places.items(), [0.0, *views], strict=True):
            there = Measure(cell, config, data, target, other)
            trials[Path(on).name] = {**there.yardsticks, "moments": there.trial(moments, args.seed)}
            if on == "pixels":
                pictures.append(picture(there.image()))
            else:
                renderer = SurfaceRenderer(surfaces[on], size=256, azimuth=azimuth)
                pictures.append(renderer(state_color(there.z).clamp(0, 1), ColorScale("rgb")))
            captions.append(f"on {Path(on).stem}, step {args.long:,}")
        results[name] = {"parameters": parameters(cell), "places": trials}
        report(name, results[name])
        write_json(out / "results.json", results)
    strip = render_strip(pictures, captions, columns=2 + len(args.meshes))
    write_atomically(out / "texture.png", png(strip))
    print(f"Pictures and results.json are in {out}")


def parameters(cell: Cell) -> int:
    """How many there are."""
    return sum(p.numel() for p in cell.parameters())


def report(name: str, result: dict) -> None:
    """Print what was measured, in Markdown."""
    print(f"\n{name}: {result['parameters']} parameters; in brackets in distances of another piece")
    for place, found in result["places"].items():
        floor = found["floor"] or float("nan")  # regular textures have no other piece
        looks = [
            f"{m['steps']:,}: {m['loss']:.5f} ({m['loss'] / floor:.1f}), "
            f"moves {m['residual']:.1e}, largest {m['largest']:.2g}"
            for m in found["moments"]
        ]
        line = [
            place,
            f"floor {found['floor']:.5f}, ceiling {found['ceiling'] / floor:.0f}",
            *looks,
        ]
        print("| " + " | ".join(line) + " |", flush=True)


def two_pieces(name: str, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two pieces ``[3, size, size]`` of a texture: one to learn, one to compare with."""
    if name in TEXTURES:
        return texture(name, size, seed), texture(name, size, seed + 1)
    image = photograph(name) if name in PHOTOGRAPHS else read_image(name, channels=3)
    height, width = image.shape[1:]
    side = min(height, width // 2)
    halves = torch.stack([image[:, :side, :side], image[:, :side, -side:]])
    left, right = F.interpolate(halves, (size, size), mode="area")
    return left, right


def train(target: Tensor, config: TextureConfig, args: argparse.Namespace, path: Path) -> Cell:
    """Train, and save the rule with the command's options and the CPU seconds."""
    began = time.process_time()
    data = texture_grid(config.size, config.kernels)
    if args.on != "grid":
        data = texture_surface(read_surface(args.on), config.kernels)
    torch.manual_seed(config.seed)
    kernels = data.edge_attr.size(1)
    cell: Cell = MicroCell(config.channels, kernels)
    if args.rule == "growing":
        cell = GrowingCell(config.channels, kernels, 8 * config.channels, alive_channel=None)
    if args.start:
        cell = load_pretrained(RULES[args.rule], Path(args.start) / path.name).train()
    before = [p.detach().clone() for p in cell.parameters()]
    train_texture(target, config, progress=True, cell=cell, data=data)
    if args.halfway:
        for p, start in zip(cell.parameters(), before, strict=True):
            p.data = (p.data + start) / 2
    seconds = round(time.process_time() - began, 1)
    print(f"{path.stem}: {seconds} CPU seconds of training")
    save_pretrained(cell, path, {"training_cpu_seconds": seconds, "steps": config.steps})
    return cell


class Measure:
    """A rule on a graph, and how far it is from the texture."""

    def __init__(
        self, cell: Cell, config: TextureConfig, data: Data, target: Tensor, other: Tensor
    ) -> None:
        self.config, self.data = config, data
        self.nca = GraphNCA(cell, fire_rate=config.fire_rate)
        self.side = target.size(1)
        order = torch.randperm(self.side**2, generator=torch.Generator().manual_seed(1))
        disorder = other.flatten(1)[:, order].view_as(other)
        pieces = {"floor": other, "ceiling": disorder}
        if data.get("image_size") is not None:
            self.patches: PatchLoss = PatchLoss(target, projections=256)
            images = {name: image[None] for name, image in pieces.items()}
            loss = self.patches
        else:
            self.patches = SurfacePatchLoss(target, data, projections=256, samples=4096)
            sheet = flat_mesh(self.side, config.kernels)
            images = {name: painted(image, sheet)[None] for name, image in pieces.items()}
            loss = SurfacePatchLoss(target, sheet, projections=256, samples=4096)
        self.yardsticks = {
            name: float(loss(image, torch.Generator().manual_seed(0)))
            for name, image in images.items()
        }

    def loss(self) -> float:
        """The loss that was trained, along the same directions always."""
        color = state_color(self.z)
        images = color[None] if self.data.get("image_size") is None else self.image()[None]
        return float(self.patches(images, torch.Generator().manual_seed(0)))

    @torch.no_grad()
    def trial(self, moments: tuple[int, ...], seed: int) -> list[dict[str, float]]:
        """Run from noise and look at some moments."""
        data, channels = self.data, self.nca.cell.channels
        generator = torch.Generator().manual_seed(seed + 7)
        self.z = self.config.noise * torch.randn(data.num_nodes, channels, generator=generator)
        graph = (self.z[:, :0], data.edge_index, data.edge_attr)
        found, done = [], 0
        for steps in sorted({min(steps, moments[-1]) for steps in moments}):
            self.z = self.nca(*graph, z0=self.z, steps=steps - done, generator=generator)
            done = steps
            moment = {"steps": steps, "loss": self.loss()}
            moment["residual"] = relative_residual(self.z, self.nca.cell(self.z, *graph))
            moment["largest"] = float(self.z.abs().max())
            found.append(moment)
        return found

    def image(self) -> Tensor:
        """The state on a grid as a picture ``[3, H, W]``."""
        return state_color(self.z).T.reshape(3, self.side, self.side)


def not_centered(mesh: Data, kernels: Literal["tangent"]) -> Data:
    """A surface without the last step of :func:`texture_surface`."""
    surface = texture_surface(mesh, kernels)
    scale = PIXEL * float(surface.pixel)
    surface.edge_attr = MeshToGraph(kernels, scale=scale, up=(0, 1, 0))(mesh.clone()).edge_attr
    own = surface.edge_index[0] == surface.edge_index[1]
    largest = float(surface.edge_attr[own, :-1].abs().max())
    print(f"{mesh.num_nodes} vertices: the largest weight of a vertex on itself is {largest:.2g}")
    return surface


def flat_mesh(side: int, kernels: str) -> Data:
    """A flat mesh of uneven triangles, as large in pixels as those of surfaces, and a margin."""
    from scipy.spatial import Delaunay

    count = round(1.54 * side)
    place = torch.cartesian_prod(torch.arange(count), torch.arange(count)).float()
    place[:, 1] += 0.5 * (place[:, 0] % 2)
    draw = torch.Generator().manual_seed(0)
    place = (place + 0.4 * (torch.rand(len(place), 2, generator=draw) - 0.5)) * (side / count)
    pos = torch.stack([place[:, 1], -place[:, 0], torch.zeros(len(place))], 1)
    face = torch.from_numpy(Delaunay(pos[:, :2].numpy()).simplices.T.copy()).long()
    a, b, c = pos[face]
    down = torch.linalg.cross(b - a, c - a)[:, 2] < 0
    face[:, down] = face[:, down].flip(0)
    data = texture_surface(Data(pos=pos, face=face), kernels)
    inside = ((place > 6) & (place < side - 6)).all(1)
    data.area = data.area * inside
    return data


def painted(image: Tensor, data: Data) -> Tensor:
    """The colours ``[num_nodes, 3]`` of a periodic picture on a flat mesh."""
    return color_at(image, torch.stack([-data.pos[:, 1], data.pos[:, 0]], 1)).T


def ablation(args: argparse.Namespace, options: dict) -> None:
    """Train with all combinations of the three things that the recipe changed; print a table."""
    grid = texture_grid(args.pixels, args.kernels)
    print(
        "| texture | restarts | weight of overflow | training steps | "
        f"{args.long // 20:,} | {args.long:,} | largest |\n|---|---|---|---|---|---|---|"
    )
    new = {"reset": ("random", 8), "overflow": 100.0, "steps": options["steps"]}
    old = FORMER | ({"steps": options["steps"] // 2} if args.smoke else {})
    rows = []
    for name, *flags in itertools.product(args.textures, *[[False, True]] * 3):
        part = {k: (new if flag else old)[k] for k, flag in zip(reversed(new), flags, strict=True)}
        which, every = part["reset"]
        changed = {
            "reset": which, "reset_every": every, "overflow": part["overflow"],
            "steps": part["steps"],
        }  # fmt: skip
        config = TextureConfig(**options | changed)
        target, other = two_pieces(name, args.pixels, args.seed)
        there = Measure(train_texture(target, config), config, grid, target, other)
        early, late = there.trial((args.long // 20, args.long), args.seed)
        rows.append({"texture": name, **changed, **there.yardsticks, "moments": [early, late]})
        print(
            f"| {name} | {which}, every {every} | {part['overflow']:g} | {part['steps']:,} | "
            f"{early['loss']:.4f} | {late['loss']:.4f} | {late['largest']:.1f} |", flush=True,
        )  # fmt: skip
        write_json(Path(args.out) / "ablation.json", rows)


def picture(image: Tensor):  # type: ignore[no-untyped-def]
    """``[3, H, W]`` as large as the surfaces are drawn, in a white frame."""
    from torchvision.transforms.functional import to_pil_image

    large = F.interpolate(image[None].clamp(0, 1), (248, 248), mode="nearest")[0]
    return to_pil_image(F.pad(large, (4, 4, 4, 4), value=1.0))


if __name__ == "__main__":
    main()
