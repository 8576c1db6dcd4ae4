"""Masked digits completed by attention among neighbours, as an automaton and at equilibrium.

    python examples/attention.py --data-root DATA   # MNIST; every model that has no weights yet
    python examples/attention.py --smoke            # scikit-learn's digits, seconds

Masked autoencoding as in ViTCA (Tesfaldet et al. 2022): three quarters of a digit's pixels are
hidden, single ones or blocks of 2 × 2, and every pixel is to know its grey value. MNIST is averaged
to 14 × 14 pixels. Rules of about as many parameters:

- *held*: three transformer blocks in a cascade. The attention of each is computed from what the
  block before ended in, and held: what is solved is a contraction. Implicit gradient.
- *free*: ``AttentionCell``, ViTCA's rule, by back-propagation through time.
- *conv*: one ``ConvCell``; *convs*: the cascade of *held* with convolutions in the place of
  attention. Both bounded, implicit gradient.
- *growing*: ``GrowingCell``, by back-propagation through time; *U-net*: three levels.
- *harmonic*: hidden pixels are the mean of their eight neighbours, without parameters.

Measured is the PSNR of hidden pixels of test digits, all together: at equilibrium, and after 16,
64, 1,000 and 10,000 steps of the automata (fewer digits, since these take long). All but the U-net
and *growing* run with the same weights on graphs of random points of the digits, too; with
``--scattered`` they are trained on such graphs instead. Writes, for every model, NAME.json and
NAME.safetensors, and doesn't repeat what it finds there; and ``attention.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from attention_rules import MODELS, Network
from safetensors.torch import load_file, save_file
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import AddSelfLoops

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import PropagationCell
from gncadeq.datasets.sources import default_root, load_images
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients
from gncadeq.transforms import ImageToGraph, PixelKernels, SoftDirections

BLOCKS = (1, 2)  # the sides of what is hidden at once
BATCH = 100  # digits at a time in a test
LAST = 2  # digits that run for many steps
AUTOMATA = ("held", "free", "growing")  # which models run for many steps


def load_digits(root: str | None, train: bool, side: int) -> Tensor:
    """``[images, 2 side, 2 side]`` in [0, 1]; scikit-learn's digits without a root."""
    name = "digits" if root is None else "mnist"
    images = load_images(Path(root or "."), name, train)[0].float() / 255
    return F.interpolate(images, 2 * side).squeeze(1)


def coarse(images: Tensor) -> Tensor:
    """Averages of 2 × 2 pixels."""
    return F.avg_pool2d(images.unsqueeze(1), 2).squeeze(1)


def draw_known(count: int, side: int, block: int, draw: torch.Generator) -> Tensor:
    """``[count, side, side]``: a quarter of the blocks is known."""
    small = torch.rand(count, side // block, side // block, generator=draw) < 0.25
    return small.repeat_interleave(block, 1).repeat_interleave(block, 2)


def offsets(data: Data, scale: float = 1.0) -> Data:
    """Edges that say how far their source is from their target, and the square of that."""
    away = (data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]).float() / scale
    edge_attr = torch.cat([away, away.square().sum(1, keepdim=True)], 1)
    return Data(edge_index=data.edge_index, edge_attr=edge_attr, num_nodes=len(data.pos))


def draw_scattered(grey: Tensor, draw: torch.Generator) -> Tensor:
    """A quarter of the nodes is known."""
    return torch.rand(grey.shape, generator=draw) < 0.25


class Grid:
    """The graphs of images of one size, with what each model wants to know of edges."""

    def __init__(self, side: int) -> None:
        data = ImageToGraph()(torch.zeros(1, side, side))
        self.forms = {"relations": data, "offsets": offsets(AddSelfLoops()(Data(
            edge_index=data.edge_index, pos=data.pos)))}  # fmt: skip
        self.forms["kernels"] = PixelKernels()(data.clone())
        self.made: dict[tuple[int, str], Batch] = {}

    def __call__(self, count: int, form: str) -> Batch:
        """Those of so many images."""
        if (count, form) not in self.made:
            self.made[count, form] = Batch.from_data_list([self.forms[form]] * count)
        return self.made[count, form]


def train(model: Any, images: Tensor, grid: Grid, args: argparse.Namespace) -> float:
    """Minimise the squared error of hidden pixels; the CPU seconds that it took."""
    draw, side = torch.Generator().manual_seed(args.seed), images.size(1) // 2
    network, through_time = isinstance(model, Network), False
    if not network:
        through_time = isinstance(model.dynamics, GraphNCA)
    steps, batch = (args.network_steps, args.network_batch) if network else (args.steps, args.batch)
    lr = args.lr * (0.4 if through_time else 1.0)
    optimizer, begin = torch.optim.Adam(model.parameters(), lr), time.process_time()
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    data, mean = grid(batch, model.form), 0.0
    for step in range(steps):
        digits = images[torch.randint(len(images), (batch,), generator=draw)]
        if args.scattered:
            graphs, grey = points(digits, side**2, model.form, draw)
            data, known = Batch.from_data_list(graphs), draw_scattered(grey, draw)
        else:
            grey = coarse(digits)
            known = torch.cat([draw_known(batch // 2, side, b, draw) for b in BLOCKS])
        count = int(torch.randint(args.rollout // 2, 3 * args.rollout // 2 + 1, (), generator=draw))
        options = {"steps": count} if through_time else {}
        optimizer.zero_grad()
        found = model(inputs(grey, known), data, **options)[0]
        loss = (found - grey.flatten()).square()[~known.flatten()].mean()
        loss.backward()
        check_gradients(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        mean += float(loss.detach()) / 50
        if step % 50 == 49:
            print(f"  step {step + 1}: {-10 * torch.tensor(mean).log10():.2f} dB, "
                  f"{time.process_time() - begin:.0f} CPU s", flush=True)  # fmt: skip
            mean = 0.0
    return time.process_time() - begin


def inputs(grey: Tensor, known: Tensor) -> Tensor:
    """``[nodes, 2]``, grey values where they are known, and where that is."""
    return torch.stack([grey * known, known.float()], -1).view(-1, 2)


def psnr(found: Tensor, grey: Tensor, known: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of all hidden nodes together."""
    return float(-10 * (found.view(grey.shape) - grey)[~known].square().mean().log10())


def harmonic(x: Tensor, data: Batch) -> Any:
    """Hidden nodes are means of those that edges come from; the known ones stay."""
    edge_index = data.edge_index[:, x[data.edge_index[1], 1] == 0]
    deq = GraphDEQ(PropagationCell(1, 1e-4, "row"), tol=1e-5, max_steps=500)
    # A node that hears itself alone settles at its injection.
    z, solution = deq(x[:, :1], edge_index, None, data.batch, return_solution=True)
    return z.squeeze(1), z, solution


def found_by(model: Any, x: Tensor, data: Callable[[int, int], Batch], **options: Any) -> Any:
    """What a model finds of ``[digits, nodes, 2]``, some digits at a time; most steps, residual."""
    found, steps, residual = [], 0, 0.0
    for k in range(0, len(x), BATCH):
        some = x[k : k + BATCH]
        out, _, solution = model(some.reshape(-1, 2), data(k, len(some)), **options)
        found.append(out.view(len(some), -1))
        if solution is not None:
            steps = max(steps, int(solution.num_steps.max()))
            residual = max(residual, float(solution.residual.max()))
    return torch.cat(found), steps, residual


def points(
    images: Tensor, count: int, form: str, draw: torch.Generator
) -> tuple[list[Data], Tensor]:
    """Graphs of random places of images, and the grey values there. With offsets each place hears
    its 8 nearest and itself, else all that are near, by directions between those of pixels."""
    side, graphs, values = images.size(1), [], []
    smooth = F.avg_pool2d(images.unsqueeze(1), 2, 1, count_include_pad=False).flatten(1)
    for image in smooth:
        place = torch.randperm((side - 1) ** 2, generator=draw)[:count]
        pos = torch.stack([place % (side - 1), place // (side - 1)], 1).float()
        scale = side / count**0.5
        if form == "relations":
            graphs.append(SoftDirections(scale)(Data(pos=pos)))
        else:
            near = torch.from_numpy(KDTree(pos.numpy()).query(pos.numpy(), 9)[1])
            target = torch.arange(count).repeat_interleave(9)
            edges = Data(pos=pos, edge_index=torch.stack([near.flatten(), target]))
            graphs.append(offsets(edges, scale))
        values.append(image[place])
    return graphs, torch.stack(values)


def until_rest(nca: GraphNCA, steps: int) -> Callable[..., Any]:
    """Run so many steps, or until all updates are exactly zero, which changes nothing later."""

    def run(*graph: Any, **options: Any) -> Any:
        left, z = steps, None
        while left:
            count = min(left, 100)
            z, solution = nca(*graph, z0=z, steps=count, **options)
            left -= count
            if float(solution.residual.max()) == 0.0:
                break
        solution.num_steps.fill_(steps - left)
        return z, solution

    return run


@torch.no_grad()
def measure(
    model: Any, images: Tensor, grid: Grid, args: argparse.Namespace, rolled: bool
) -> dict[str, Any]:
    """The PSNR of hidden pixels, and how solves went; if ``rolled``, as an automaton, too."""
    row: dict[str, Any] = {}
    grey, form = coarse(images), getattr(model, "form", "relations")
    dynamics = getattr(model, "dynamics", None)
    through_time = isinstance(dynamics, GraphNCA)
    if isinstance(dynamics, GraphDEQ):
        dynamics.tol = 1e-3

    def pixels(first: int, count: int) -> Batch:
        return grid(count, form)

    def run(
        name: str, grey: Tensor, known: Tensor, data: Any = pixels, steps: int = 0, **how: Any
    ) -> None:
        options = {"generator": torch.Generator().manual_seed(0)} if how else {}
        if steps:
            options["dynamics"] = until_rest(GraphNCA(dynamics.cell, **how), steps)
        x = inputs(grey, known).view(*known.flatten(1).shape, 2)
        found, taken, residual = found_by(model, x, data, **options)
        row[name] = {"dB": psnr(found, grey, known), "digits": len(grey), "steps": taken,
                     "residual": residual}  # fmt: skip
        print(f"  {name}: {row[name]}", flush=True)

    for block in BLOCKS:
        draw = torch.Generator().manual_seed(block)
        known, name = draw_known(len(grey), grey.size(1), block, draw), f"{block} × {block}"
        if through_time:
            run(f"{name}, 16 steps", grey, known, steps=16)
        else:
            run(name, grey, known)
        if not rolled:
            continue
        for digits, counts in ((args.few, (0, 16, 64)), (LAST, (0, args.long // 10, args.long))):
            for steps in counts:
                if (steps or not through_time) and (block == 1 or digits > LAST):
                    run(f"{name}, {digits} digits, {steps or 'at rest'}", grey[:digits],
                        known[:digits], steps=steps)  # fmt: skip
        if block == 1:
            run("from noise, fire rate ½", grey[:LAST], known[:LAST], steps=args.long // 10,
                fire_rate=0.5, start="normal")  # fmt: skip
    if form != "kernels" and not isinstance(model, Network):
        draw, places = torch.Generator().manual_seed(3), grey[0].numel()
        on = "offsets" if model is harmonic else form
        graphs, grey = points(images[: args.points], places, on, draw)
        known = draw_scattered(grey, draw)
        run("random points", grey, known, lambda k, n: Batch.from_data_list(graphs[k : k + n]),
            16 if through_time else 0)  # fmt: skip
    return row


@torch.no_grad()
def draw_digits(models: dict[str, Any], images: Tensor, grid: Grid, to: Path) -> None:
    """Digits, what is known of them, and what the models find."""
    grey = coarse(images)
    draws = [torch.Generator().manual_seed(b) for b in BLOCKS]
    side, half = grey.size(1), len(grey) // 2
    known = torch.cat([draw_known(half, side, b, d) for b, d in zip(BLOCKS, draws, strict=True)])
    panels = {"digit": grey, "known": torch.where(known, grey, 0.35)}
    x = inputs(grey, known)
    for name, model in models.items():
        options = {"steps": 16} if isinstance(getattr(model, "dynamics", None), GraphNCA) else {}
        found = model(x, grid(len(grey), getattr(model, "form", "relations")), **options)[0]
        panels[name] = torch.where(known, grey, found.view(grey.shape))
    figure, axes = plt.subplots(
        len(panels), len(grey), figsize=(len(grey), 1.02 * len(panels)), layout="constrained"
    )
    for line, (name, values) in zip(axes, panels.items(), strict=True):
        for axis, value in zip(line, values, strict=True):
            axis.imshow(value.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    figure.savefig(to, dpi=80)


def main() -> None:
    """Train what has no weights yet, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["harmonic", *MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--data-root", default=str(default_root()))
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--steps", type=int, default=500, help="of training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--network-steps", type=int, default=1500, help="of the U-net's training")
    parser.add_argument("--network-batch", type=int, default=32)
    parser.add_argument("--rollout", type=int, default=8, help="steps through time, on average")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--few", type=int, default=50, help="digits for some steps of automata")
    parser.add_argument("--scattered", action="store_true", help="train on random points")
    parser.add_argument("--points", type=int, default=50, help="digits on random points")
    parser.add_argument("--long", type=int, default=10_000, help="most steps of automata")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="on held-out training digits")
    parser.add_argument("--out", default="runs/attention")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.data_root, args.side, args.steps, args.network_steps, args.batch = None, 4, 2, 2, 2
        args.tests, args.few, args.points, args.long = 4, 3, 3, 20
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="attention_")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    images = load_digits(args.data_root, True, args.side)
    learned, tests = images[:-1000], images[-args.tests :]
    if not args.validate:
        tests = load_digits(args.data_root, False, args.side)[: args.tests]
    grid, models = Grid(args.side), {}
    for name in args.models:
        model: Any = harmonic
        row: dict[str, Any] = {"model": name, "arguments": vars(args)}
        print(name, flush=True)
        if name in MODELS:
            torch.manual_seed(args.seed)
            model, weights = MODELS[name](), out / f"{name}.safetensors"
            row["parameters"] = sum(p.numel() for p in model.parameters())
            if weights.is_file():
                model.load_state_dict(load_file(weights))
            else:
                row["CPU s"] = train(model, learned, grid, args)
                save_file(model.state_dict(), weights)
            print(f"  {row}", flush=True)
            model.eval()
        models[name] = model
        if not (out / f"{name}.json").is_file():
            row |= measure(model, tests, grid, args, name in AUTOMATA)
            write_json(out / f"{name}.json", row)
    draw_digits(models, tests[:8], grid, out / "attention.png")
    print(f"results are in {out}")


if __name__ == "__main__":
    main()
