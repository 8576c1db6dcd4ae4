"""Is the outline that a pixel is part of closed? Segmentation that needs a whole contour.

    python examples/outlines.py              # three seeds, all models
    python examples/outlines.py --smoke      # seconds

Scenes of one to three outlines, half of them with a gap (``outline_scenes.py``). Every node says
*ground*, *closed* or *open*, as the cells of Sandler et al. (2020) say what a pixel is part of.

- *equilibrium*: a ``CascadeCell`` of two floods, each the largest of what its neighbours pass on
  (``MaxPropagationCell``): the first along edges on ground, the second along edges on ink and from
  ground to ink. What enters the floods, and what is made of them, are learned MLPs at every node.
  Trained on pixels by the implicit gradient, and used on superpixels and on triangulations of
  random points as it is.
- *8 convolutions* and *U-net*, on pixels.

All are trained on scenes of 32 × 32 pixels, and tested on larger ones, and on outlines that are
twice as long. Measured: the mean over the three classes of intersection over union of all test
scenes, by nodes, and the share of nodes that are right. With the first seed, the equilibrium runs
as an automaton from noise, too, ``--long`` steps at fire rate ½. Writes ``outlines.png`` (of the
first seed) and ``results.json``, which grows with every measurement.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from outline_scenes import CLASSES, scene, to_graph
from PIL import Image
from pixel_networks import Images, UNet, descend, draw_batch, overlap, stack
from scene_graphs import GRAPHS
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torchvision.transforms.functional import to_pil_image

from gncadeq import CascadeCell, GraphDEQ, GraphNCA, Part
from gncadeq.cells import MaxPropagationCell
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.viz.images import png
from gncadeq.viz.surface import render_strip

COLORS = torch.tensor([[0.93, 0.93, 0.93], [0.16, 0.42, 0.70], [0.90, 0.45, 0.10]])
_TEST = 1_000_000  # the first seed of test scenes


def mlp(first: int, hidden: int, last: int) -> nn.Sequential:
    """One hidden layer on normalised values, by which small differences are seen."""
    return nn.Sequential(
        nn.BatchNorm1d(first), nn.Linear(first, hidden), nn.Tanh(), nn.Linear(hidden, last)
    )


class Floods(nn.Module):
    """Two floods in a cascade, and a readout."""

    def __init__(self, channels: int = 8, hidden: int = 16, alpha: float = 0.005) -> None:
        super().__init__()

        def marks(width: int) -> nn.Sequential:
            return nn.Sequential(*mlp(width, hidden, channels), nn.Sigmoid())

        def flood() -> MaxPropagationCell:
            return MaxPropagationCell(channels, alpha)

        parts = [Part(flood(), marks(2), ["x"], relations=[0]),
                 Part(flood(), marks(channels), [0], relations=[1, 2])]  # fmt: skip
        self.deq = GraphDEQ(CascadeCell(parts, in_channels=2))
        self.readout = mlp(2 + 2 * channels, hidden, len(CLASSES))

    def forward(self, data: Batch, dynamics: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """Logits of the nodes, and how the solve went."""
        z, solution = (dynamics or self.deq)(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs,
            return_solution=True, **options,
        )  # fmt: skip
        return self.readout(torch.cat([data.x, z], 1)), solution


MODELS: dict[str, Callable[[float], nn.Module]] = {
    "equilibrium": lambda alpha: Floods(alpha=alpha),
    "8 convolutions": lambda _: Images(stack(2, len(CLASSES))),
    "U-net": lambda _: Images(UNet(2, len(CLASSES))),
}


def train(model: nn.Module, scenes: list[Data], steps: int, batch: int, seed: int) -> float:
    """Minimise the cross-entropy, ground weighed by a tenth; the CPU seconds that it took."""
    generator = torch.Generator().manual_seed(seed)
    lr = 0.02 if isinstance(model, Floods) else 0.01
    optimizer, begin = torch.optim.Adam(model.parameters(), lr), time.process_time()
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    weight = torch.tensor([0.1, 1.0, 1.0])
    for step in range(steps):
        data = draw_batch(scenes, batch, generator)
        loss = descend(model, data, weight, optimizer, rate, step)
        if step % 50 == 0:
            print(f"  step {step}: {loss:.3f}", flush=True)
    return time.process_time() - begin


@torch.no_grad()
def measure(model: Callable[[Batch], tuple[Tensor, Any]], scenes: list[Data]) -> dict[str, float]:
    """The overlap, the shares of nodes that are right, and how solves went."""
    found, wanted, steps, rest = [], [], 0, 0
    for k in range(0, len(scenes), 10):
        data = Batch.from_data_list(scenes[k : k + 10])
        logits, solution = model(data)
        found.append(logits.argmax(1))
        wanted.append(data.y)
        if solution is not None:
            steps = max(steps, int(solution.num_steps.max()))
            rest += int(solution.converged.sum())
    labels, right = torch.cat(found), torch.cat(wanted)
    ink = right > 0
    row = {"IoU": overlap(labels, right, len(CLASSES)),
           "accuracy": float((labels == right).float().mean()),
           "accuracy of outlines": float((labels == right)[ink].float().mean())}  # fmt: skip
    return row | {"converged": rest / len(scenes), "most steps": steps} if steps else row


def graphs(
    first: int, count: int, size: int = 48, kind: str = "pixels", scale: float = 1.0
) -> list[Data]:
    """So many scenes as graphs."""
    return [to_graph(*scene(first + k, size, scale=scale), kind, first + k) for k in range(count)]


@torch.no_grad()
def as_automaton(model: Floods, scenes: list[Data], long: int) -> dict[str, float]:
    """From Gaussian noise, every node updating with probability ½."""
    draw = torch.Generator().manual_seed(0)
    nca, data = GraphNCA(model.deq.cell, long, fire_rate=0.5), Batch.from_data_list(scenes)
    settled = model(data)[0].argmax(1)
    noise = torch.randn(len(data.x), model.deq.cell.channels, generator=draw)
    logits, solution = model(data, nca, z0=noise, generator=draw)
    run = logits.argmax(1)
    return {"residual": float(solution.residual.max()),
            "same label": float((run == settled).float().mean())}  # fmt: skip


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--tests", type=int, default=40)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.005, help="what fades with an edge")
    parser.add_argument("--long", type=int, default=4000, help="steps of the automaton")
    parser.add_argument("--out", default="runs/outlines")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.scenes, args.tests, args.steps, args.long = [0], 4, 2, 2, 20
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="outlines_")
    out, rows = Path(args.out), []
    scenes, few = graphs(0, args.scenes, 32), max(2, args.tests // 4)
    tests = {"32 × 32": graphs(_TEST, args.tests, 32), "48 × 48": graphs(_TEST, args.tests),
             "twice as long": graphs(_TEST, few, 96, scale=2)}  # fmt: skip
    pixels = list(tests)
    tests |= {kind: graphs(_TEST, few, 48, kind) for kind in GRAPHS[1:]}
    for name in args.models:
        for seed in args.seeds:
            torch.manual_seed(seed)
            model = MODELS[name](args.alpha)
            row: dict[str, Any] = {"model": name, "seed": seed}
            row["parameters"] = sum(p.numel() for p in model.parameters())
            print(f"{name}, seed {seed}: {row['parameters']} parameters", flush=True)
            row["CPU s"] = train(model, scenes, args.steps, 2 if args.smoke else 8, seed)
            print(f"  {row['CPU s']:.0f} CPU s of training", flush=True)
            model.eval()
            rows.append(row)
            floods = isinstance(model, Floods)
            for key in tests if floods else pixels:
                row[key] = measure(model, tests[key])
                record(out, args, rows, key)
            if floods and seed == args.seeds[0]:
                draw_scenes(model, out / "outlines.png")
                row["as an automaton"] = as_automaton(model, tests["48 × 48"][:2], args.long)
                record(out, args, rows, "as an automaton")
    print(f"results.json is in {out}")


def record(out: Path, args: argparse.Namespace, rows: list[dict[str, Any]], key: str) -> None:
    """Write all results so far, and print the last."""
    write_json(out / "results.json", {"arguments": vars(args), "runs": rows})
    print(f"  {key}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1][key].items()), flush=True)


@torch.no_grad()
def draw_scenes(model: Floods, to: Path) -> None:
    """Scenes, and what is found on each kind of graph, painted onto the pixels."""
    frames: list[Image.Image] = []
    captions: list[str] = []
    for seed in (_TEST + 4, _TEST + 5):
        image, label = scene(seed)
        panels = {"scene": image.expand(3, -1, -1), "wanted": COLORS[label].permute(2, 0, 1)}
        for kind in GRAPHS:
            data = Batch.from_data_list([to_graph(image, label, kind, seed)])
            found = model(data)[0].argmax(1)[data.of_pixel]
            panels[kind] = COLORS[found].view(*label.shape, 3).permute(2, 0, 1)
        for name, panel in panels.items():
            enlarged = to_pil_image(panel).resize((144, 144), Image.Resampling.NEAREST)
            frames.append(enlarged)
            captions.append(name)
    write_atomically(to, png(render_strip(frames, captions, columns=2 + len(GRAPHS))))


if __name__ == "__main__":
    main()
