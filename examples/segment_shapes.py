"""Disc, square, triangle or star: segmentation of shapes that only their textures show.

    python examples/segment_shapes.py            # three seeds, all models
    python examples/segment_shapes.py --smoke    # seconds

After Sandler et al. (2020): every node of an image says what it is part of, *ground* or one of four
shapes. Shapes and ground have textures of the same mean grey (``textured_scenes.py``), so that no
pixel tells the class, and no texture does.

- *equilibrium*: a cascade up a pyramid and down again, most of whose levels are contractions
  (``hourglass.py``). Implicit gradient. On pixels, and on superpixels and triangulations of random
  points, where the same composition is trained anew.
- *growing*: ``GrowingCell`` through 32 steps at fire rate ½.
- *U-net* and *8 convolutions*, of about the same size.

Measured: the mean of intersection over union of the five classes, of all pixels of test scenes; on
scenes of twice the side with four times as many shapes; for rules, after ``--long`` steps from
noise in which every node updates with probability ½, too. Writes, for every model and seed, weights
and a JSON file, does not repeat what it finds there, and goes on with a training that was stopped;
and ``segment_shapes.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hourglass import Hourglass, above_points
from PIL import Image
from pixel_networks import Images, UNet, descend, draw_batch, overlap, stack
from safetensors.torch import load_file, save_file
from scene_graphs import GRAPHS, at_points, image_graph, means
from textured_scenes import CLASSES, scene
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torchvision.transforms.functional import to_pil_image

from gncadeq import GraphNCA, GrowingCell
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.transforms import ImageToGraph, PixelKernels
from gncadeq.viz.images import png
from gncadeq.viz.surface import render_strip

COLORS = torch.tensor([[0.93, 0.93, 0.93], [0.16, 0.42, 0.70], [0.90, 0.45, 0.10],
                       [0.18, 0.60, 0.32], [0.75, 0.20, 0.35]])  # fmt: skip
_TEST = 2_000_000  # the first seed of test scenes; 1,000,000 to 1,000,300 chose the model


class Growing(nn.Module):
    """The published kind of rule: it senses gradients, and is read after so many steps."""

    def __init__(self, steps: int = 32, channels: int = 16, hidden: int = 120) -> None:
        super().__init__()
        self.nca = GraphNCA(GrowingCell(channels, 3, hidden, 1, None), steps, fire_rate=0.5)
        self.readout = nn.Linear(channels, len(CLASSES))
        self.pixels: dict[tuple[int, int], Batch] = {}

    def forward(self, data: Batch, dynamics: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """Logits of the pixels, and how the run went."""
        side = round((len(data.x) // data.num_graphs) ** 0.5)
        key = data.num_graphs, side
        if key not in self.pixels:
            one = PixelKernels()(ImageToGraph()(torch.zeros(1, side, side)))
            self.pixels[key] = Batch.from_data_list([one] * key[0])
        graph = self.pixels[key]
        z, solution = (dynamics or self.nca)(
            data.x, graph.edge_index, graph.edge_attr, graph.batch, batch_size=key[0],
            return_solution=True, **options,
        )  # fmt: skip
        return self.readout(z), solution


MODELS: dict[str, Callable[[], nn.Module]] = {
    "equilibrium": lambda: Hourglass(1, len(CLASSES)),
    "U-net": lambda: Images(UNet(1, len(CLASSES))),
    "8 convolutions": lambda: Images(stack(1, len(CLASSES))),
    "growing": Growing,
    "superpixels": lambda: Hourglass(3, len(CLASSES)),
    "delaunay": lambda: Hourglass(1, len(CLASSES)),
}


def to_graph(image: Tensor, label: Tensor, kind: str, seed: int) -> Data:
    """A scene as a graph: grey on pixels and points; mean, deviation and size of superpixels.

    ``y`` is the class of every node, of superpixels the most frequent one.
    """
    if kind == "pixels":
        return Data(x=image.view(-1, 1), y=label.flatten(), of_pixel=torch.arange(label.numel()))
    data = image_graph(image, kind, seed)
    if kind == "delaunay":
        data.x, data.y = at_points(image[0], data.pos)[:, None], at_points(label, data.pos)
    else:
        grey, group = image.view(-1, 1), data.of_pixel
        mean = means(grey, group)
        deviation = means((grey - mean[group]).square(), group).sqrt()
        size = torch.bincount(group)[:, None] / 4.0
        data.x = torch.cat([mean, deviation, size], 1)
        data.y = means(F.one_hot(label.flatten(), len(CLASSES)).float(), group).argmax(1)
    out = above_points(data)
    out.y, out.of_pixel, out.num_nodes = data.y, data.of_pixel, len(out.x)
    return out


def graphs(first: int, count: int, size: int = 48, kind: str = "pixels") -> list[Data]:
    """So many scenes as graphs, with the labels of all pixels."""
    made = []
    for seed in range(first, first + count):
        image, label = scene(seed, size)
        made.append(to_graph(image, label, kind, seed))
        made[-1].wanted = label.flatten()
    return made


def train(model: nn.Module, scenes: list[Data], steps: int, seed: int, to: Path) -> float:
    """Minimise the cross-entropy, ground weighed by a fifth; the CPU seconds that it took."""
    growing = isinstance(model, Growing)
    lr, batch = (0.003, 4) if growing else (0.02, 16)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.15)
    weight, first, before = torch.tensor([0.2, 1.0, 1.0, 1.0, 1.0]), 0, 0.0
    if to.exists():
        kept = torch.load(to, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        rate.load_state_dict(kept["rate"])
        generator.set_state(kept["generator"])
        torch.set_rng_state(kept["random"])
        first, before = kept["step"], kept["seconds"]
    begin = time.process_time() - before
    for step in range(first, steps):
        data = draw_batch(scenes, batch, generator)
        loss = descend(model, data, weight, optimizer, rate, step)
        if (step + 1) % 50 == 0:
            seconds = time.process_time() - begin
            print(f"  step {step + 1}: {loss:.3f}, {seconds:.0f} CPU s", flush=True)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "rate": rate.state_dict(), "generator": generator.get_state(),
                        "random": torch.get_rng_state(), "step": step + 1,
                        "seconds": seconds}, to)  # fmt: skip
    return time.process_time() - begin


@torch.no_grad()
def measure(
    model: Callable[..., tuple[Tensor, Any]], scenes: list[Data], **options: Any
) -> dict[str, Any]:
    """The overlap of the pixels, and of the nodes where these are others; how solves went."""
    pixels, wanted, nodes, right, steps, rest, residual = [], [], [], [], 0, 0, 0.0
    for k in range(0, len(scenes), 20):
        some = scenes[k : k + 20]
        data = Batch.from_data_list(some)
        logits, solution = model(data, **options)
        label = logits.argmax(1)
        each = label.split([len(one.y) for one in some])
        pixels += [found[one.of_pixel] for found, one in zip(each, some, strict=True)]
        wanted += [one.wanted for one in some]
        nodes.append(label)
        right.append(data.y)
        if solution is not None:
            steps = max(steps, int(solution.num_steps.max()))
            rest += int(solution.converged.sum())
            residual = max(residual, float(solution.residual.max()))
    classes = len(CLASSES)
    row: dict[str, Any] = {"IoU": overlap(torch.cat(pixels), torch.cat(wanted), classes)}
    if sum(map(len, nodes)) != sum(map(len, pixels)):
        best = torch.cat([one.y[one.of_pixel] for one in scenes])
        row["IoU of nodes"] = overlap(torch.cat(nodes), torch.cat(right), classes)
        row["IoU of right nodes"] = overlap(best, torch.cat(wanted), classes)
    if steps:
        row |= {"converged": rest / len(scenes), "most steps": steps, "residual": residual}
    return row


@torch.no_grad()
def as_automaton(model: Any, scenes: list[Data], long: int) -> dict[str, Any]:
    """From Gaussian noise, every node updating with probability ½."""
    cell = model.nca.cell if isinstance(model, Growing) else model.deq.cell
    draw = torch.Generator().manual_seed(0)
    nca = GraphNCA(cell, long, fire_rate=0.5, start="normal")
    data, wanted = Batch.from_data_list(scenes), torch.cat([one.wanted for one in scenes])
    logits, solution = model(data, nca, generator=draw)
    run, usual = logits.argmax(1), model(data)[0].argmax(1)
    return {"IoU": overlap(run, wanted, len(CLASSES)),
            "usual": overlap(usual, wanted, len(CLASSES)),
            "same label": float((run == usual).float().mean()),
            "residual": float(solution.residual.max())}  # fmt: skip


def main() -> None:
    """Train what has no results yet, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--tests", type=int, default=500)
    parser.add_argument("--large", type=int, default=100, help="test scenes of 96 × 96 pixels")
    parser.add_argument("--steps", type=int, default=4000, help="of training")
    parser.add_argument("--growing-steps", type=int, default=100, help="of training, of growing")
    parser.add_argument("--graph-scenes", type=int, default=400, help="of other graphs")
    parser.add_argument("--graph-tests", type=int, default=100)
    parser.add_argument("--graph-steps", type=int, default=500, help="of training, on other graphs")
    parser.add_argument("--long", type=int, default=10_000, help="steps of automata")
    parser.add_argument("--few", type=int, default=2, help="scenes for automata")
    parser.add_argument("--out", default="runs/segment_shapes")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.scenes, args.tests, args.large, args.steps = [0], 4, 2, 1, 2
        args.growing_steps, args.long, args.few = 1, 10, 1
        args.graph_scenes, args.graph_tests, args.graph_steps = 4, 2, 2
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="segment_shapes_")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    made: dict[tuple[Any, ...], list[Data]] = {}

    def scenes(*which: Any) -> list[Data]:
        if which not in made:
            made[which] = graphs(*which)
        return made[which]

    for seed in args.seeds:
        for name in args.models:
            at = out / f"{name.replace(' ', '-')}-{seed}.json"
            if at.exists():
                continue
            kind = name if name in GRAPHS else "pixels"
            torch.manual_seed(seed)
            model = MODELS[name]()
            row: dict[str, Any] = {"model": name, "seed": seed, "arguments": vars(args)}
            row["parameters"] = sum(p.numel() for p in model.parameters())
            print(f"{name}, seed {seed}: {row['parameters']} parameters", flush=True)
            number, tests, steps = args.scenes, args.tests, args.steps
            if kind != "pixels":
                number, tests, steps = args.graph_scenes, args.graph_tests, args.graph_steps
            steps = args.growing_steps if name == "growing" else steps
            weights, part = at.with_suffix(".safetensors"), at.with_suffix(".pt")
            learned = scenes(0, number, 48, kind)
            row["CPU s"] = train(model, learned, steps, seed, part)
            save_file(model.state_dict(), weights)
            model.eval()
            row["48 × 48"] = measure(model, scenes(_TEST, tests, 48, kind))
            print(f"  48 × 48: {row['48 × 48']}", flush=True)
            if kind == "pixels":
                row["96 × 96"] = measure(model, scenes(_TEST, args.large, 96, kind))
                print(f"  96 × 96: {row['96 × 96']}", flush=True)
            if seed == args.seeds[0] and name in ("equilibrium", "growing"):
                few = scenes(_TEST, args.tests, 48, kind)[: args.few]
                row["from noise"] = as_automaton(model, few, args.long)
                print(f"  from noise: {row['from noise']}", flush=True)
            write_json(at, row)
            part.unlink(missing_ok=True)
    draw_scenes(out, args.seeds[0])
    print(f"results are in {out}")


@torch.no_grad()
def draw_scenes(out: Path, seed: int) -> None:
    """Scenes, and what every model that has weights finds there, painted onto the pixels."""
    frames: list[Image.Image] = []
    captions: list[str] = []
    models: dict[str, nn.Module] = {}
    for name, build in MODELS.items():
        at = out / f"{name.replace(' ', '-')}-{seed}.safetensors"
        if at.exists():
            models[name] = build().eval()
            models[name].load_state_dict(load_file(at))
    for number in range(_TEST + 1000, _TEST + 1003):
        image, label = scene(number)
        panels = {"scene": image.expand(3, -1, -1), "wanted": COLORS[label].permute(2, 0, 1)}
        for name, model in models.items():
            kind = name if name in GRAPHS else "pixels"
            data = Batch.from_data_list([to_graph(image, label, kind, number)])
            found = model(data)[0].argmax(1)[data.of_pixel]
            panels[name] = COLORS[found].view(*label.shape, 3).permute(2, 0, 1)
        for name, panel in panels.items():
            frames.append(to_pil_image(panel).resize((144, 144), Image.Resampling.NEAREST))
            captions.append(name)
    picture = png(render_strip(frames, captions, columns=2 + len(models)))
    write_atomically(out / "segment_shapes.png", picture)


if __name__ == "__main__":
    main()
