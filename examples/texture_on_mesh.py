"""Learn a texture with 588 parameters on a small picture, and run the rule on surfaces.

    python examples/texture_on_mesh.py                                # a sphere
    python examples/texture_on_mesh.py --meshes icosphere:5 spot.obj bunny.obj --azimuth 30 210 30
    python examples/texture_on_mesh.py --textures photo.png --kernels tangent
    python examples/texture_on_mesh.py --smoke                        # seconds, 68 parameters

The rule is trained on a periodic pixel grid alone (the loss compares patches; no pretrained network
is involved). Its kernels have a length and not a resolution, so it runs on any mesh, which it has
never seen. Losses are measured by the same yardsticks: another piece of the texture is the floor,
its pixels in disorder the ceiling.

Writes ``texture.png``, ``results.json`` and, for each texture, ``NAME.safetensors``, which
``--resume`` measures and draws again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from texture_formulas import TEXTURES, texture
from torch import Tensor
from torch_geometric.data import Data

from gncadeq import GraphNCA
from gncadeq.cells import MicroCell
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.files.weights import load_pretrained, save_pretrained
from gncadeq.growth import relative_residual
from gncadeq.training.surfaces import read_surface
from gncadeq.training.texture_loss import (
    PatchLoss,
    bands,
    random_directions,
    sliced_wasserstein,
)
from gncadeq.training.textures import (
    TextureConfig,
    state_color,
    texture_grid,
    texture_surface,
    train_texture,
)
from gncadeq.viz.colors import ColorScale
from gncadeq.viz.images import png, read_image
from gncadeq.viz.surface import SurfaceRenderer, render_strip

SMOKE = {
    "channels": 4, "size": 20, "steps": 12, "batch_size": 2, "pool_size": 4, "min_rollout": 8,
    "max_rollout": 12, "lr": 5e-3,
}  # fmt: skip


def main() -> None:
    """Train on pixels, measure there, run on surfaces, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--textures", nargs="+", default=["leopard", "giraffe"],
        help=f"pictures, or {', '.join(TEXTURES)}",
    )  # fmt: skip
    parser.add_argument("--meshes", nargs="*", default=["icosphere:5"], help="names or files")
    parser.add_argument("--azimuth", nargs="*", type=float, default=[], help="to see each from")
    parser.add_argument("--refine", type=int, default=10_000, help="subdivide coarser meshes")
    parser.add_argument("--pixels", type=int, default=64, help="side of the grid to measure on")
    parser.add_argument("--kernels", default="isotropic", choices=["isotropic", "tangent"])
    parser.add_argument("--channels", type=int, default=12)
    parser.add_argument("--steps", type=int, default=450, help="training steps")
    parser.add_argument(
        "--rest", type=float, default=0.0, help="weight of the pressure to be still"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--long", type=int, default=10_000, help="steps of the long run, on pixels")
    parser.add_argument("--mesh-steps", type=int, default=400)
    parser.add_argument("--out", default="runs/texture_on_mesh")
    parser.add_argument("--resume", action="store_true", help="measure what is trained already")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    options = {
        "channels": args.channels, "steps": args.steps, "lr": args.lr, "rest": args.rest,
        "kernels": args.kernels, "seed": args.seed,
    }  # fmt: skip
    if args.smoke:
        options |= SMOKE
        args.textures, args.meshes = ["giraffe", "checkers"], ["icosphere:3"]
        args.long, args.mesh_steps, args.pixels, args.refine = 40, 20, 24, 100
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="texture_on_mesh_")
    config = TextureConfig(**options)
    out = Path(args.out)
    views = args.azimuth + [30.0] * (len(args.meshes) - len(args.azimuth))
    surfaces = {on: finer(read_surface(on), args.refine) for on in args.meshes}
    results, pictures, captions = {"options": options}, [], []
    for name in args.textures:
        target, other = two_pieces(name, args.pixels, args.seed)
        path = out / f"{Path(name).stem}.safetensors"
        cell = load_pretrained(MicroCell, path) if args.resume else train(target, config, path)
        on_pixels = Measure(cell, config, texture_grid(args.pixels, args.kernels), target, other)
        moments = (config.max_rollout, 500, args.long)
        trials = {"pixels": on_pixels.trial(moments, args.seed)}
        pictures += [picture(target), picture(on_pixels.image())]
        captions += [f"{Path(name).stem}, the picture", f"on pixels, step {args.long:,}"]
        for (on, mesh), azimuth in zip(surfaces.items(), views, strict=True):
            data = texture_surface(mesh, args.kernels)
            there = Measure(cell, config, data, target, other)
            trials[Path(on).name] = there.trial((config.max_rollout, args.mesh_steps), args.seed)
            renderer = SurfaceRenderer(mesh, size=256, azimuth=azimuth)
            pictures.append(renderer(state_color(there.z).clamp(0, 1), ColorScale("rgb")))
            captions.append(f"on {Path(on).stem}, step {args.mesh_steps:,}")
        parameters = sum(p.numel() for p in cell.parameters())
        results[name] = {"parameters": parameters, **on_pixels.yardsticks, "trials": trials}
        print(f"{name}: {parameters} parameters; {on_pixels.yardsticks}")
        for place, looks in trials.items():
            for moment in looks:
                print(f"  {place:20s}", *(f"{k} {v:.5g}" for k, v in moment.items()), flush=True)
        write_json(out / "results.json", results)
    strip = render_strip(pictures, captions, columns=2 + len(args.meshes))
    write_atomically(out / "texture.png", png(strip))
    print(f"Pictures and results.json are in {out}")


def two_pieces(name: str, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two pieces ``[3, size, size]`` of a texture: one to learn, one to compare with."""
    if name in TEXTURES:
        return texture(name, size, seed), texture(name, size, seed + 1)
    image = read_image(name, channels=3)
    height, width = image.shape[1:]
    side = min(height, width // 2)
    halves = torch.stack([image[:, :side, :side], image[:, :side, -side:]])
    left, right = F.interpolate(halves, (size, size), mode="area")
    return left, right


def finer(mesh: Data, vertices: int) -> Data:
    """The mesh, subdivided (Loop 1987) until it has as many vertices at least."""
    if mesh.num_nodes >= vertices:
        return mesh
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"Expected trimesh to subdivide a mesh of {mesh.num_nodes} vertices (not installed). "
            "pip install trimesh, or give a finer mesh"
        ) from error
    shape = trimesh.Trimesh(mesh.pos.numpy(), mesh.face.T.numpy(), process=False)
    shape.remove_unreferenced_vertices()
    while len(shape.vertices) < vertices:
        shape = shape.subdivide_loop(1)
    face = torch.from_numpy(shape.faces.T.copy()).long()
    return Data(pos=torch.from_numpy(shape.vertices.copy()).float(), face=face)


def train(target: Tensor, config: TextureConfig, path: Path) -> MicroCell:
    """Train, and save the rule with the command's options and the CPU seconds."""
    began = time.process_time()
    cell = train_texture(target, config, progress=True)
    seconds = round(time.process_time() - began, 1)
    save_pretrained(cell, path, {"training_cpu_seconds": seconds, "steps": config.steps})
    return cell


class Measure:
    """A rule on a graph, and how far it is from the texture."""

    def __init__(
        self, cell: MicroCell, config: TextureConfig, data: Data, target: Tensor, other: Tensor
    ) -> None:
        self.config, self.data = config, data
        self.nca = GraphNCA(cell, fire_rate=config.fire_rate)
        self.side = target.size(1)
        self.patch_loss = PatchLoss(target, projections=256)
        grid = texture_grid(self.side)
        self.target_bands = bands(target.flatten(1).T, grid)
        order = torch.randperm(self.side**2, generator=torch.Generator().manual_seed(1))
        disorder = other.flatten(1)[:, order].view_as(other)
        self.yardsticks = {
            f"{what}_{name}": round(value, 6)
            for name, image in (("floor", other), ("ceiling", disorder))
            for what, value in (
                ("patches", self.by_patches(image)),
                ("bands", self.by_bands(image.flatten(1).T, grid)),
            )
        }

    def by_patches(self, image: Tensor) -> float:
        """The loss that was trained, along the same directions always."""
        return float(self.patch_loss(image[None], torch.Generator().manual_seed(0)))

    def by_bands(self, color: Tensor, data: Data) -> float:
        """The distance that surfaces allow, every vertex as often as its area says."""
        generator = torch.Generator().manual_seed(0)
        seen = bands(color, data)
        if data.get("area") is not None:
            seen = seen[torch.multinomial(data.area, 20_000, True, generator=generator)]
        omega = random_directions(256, seen.size(1) // 3, 3, generator=generator)
        return float(sliced_wasserstein(seen, self.target_bands, omega))

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
            moment = {"steps": steps, "bands": self.by_bands(state_color(self.z), data)}
            if data.get("image_size") is not None:
                moment["patches"] = self.by_patches(self.image())
            moment["residual"] = relative_residual(self.z, self.nca.cell(self.z, *graph))
            moment["largest"] = float(self.z.abs().max())
            found.append(moment)
        return found

    def image(self) -> Tensor:
        """The state on a grid as a picture ``[3, H, W]``."""
        return state_color(self.z).T.reshape(3, self.side, self.side)


def picture(image: Tensor):  # type: ignore[no-untyped-def]
    """``[3, H, W]`` as large as the surfaces are drawn, in a white frame."""
    from torchvision.transforms.functional import to_pil_image

    large = F.interpolate(image[None].clamp(0, 1), (248, 248), mode="nearest")[0]
    return to_pil_image(F.pad(large, (4, 4, 4, 4), value=1.0))


if __name__ == "__main__":
    main()
