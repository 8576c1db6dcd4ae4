"""One rule grows many pictures: which one, the code in its seed says.

    python examples/many_pictures.py                      # eight pictures, 3 seeds
    python examples/many_pictures.py --smoke              # seconds

Conditional growth (Sudhakaran et al. 2022) with rules that are at rest by construction: sweeps from
the four corners (``SweepGrower``) read a seed that carries a mark and a code of a few numbers; all
other nodes carry zeros. Rule and codes are trained together, as an equilibrium, by the implicit
gradient, one solve of all pictures a training step.

*error* is the mean squared error of four colours. After training the rule stays as it is:

- as an automaton, synchronous and with every node updated with probability ½ a step, and after a
  third of the nodes was reset,
- for codes between those of two pictures: is every one of them at rest?
- for pictures that it was not trained on: only their codes are fitted.

The baseline is the same rule without a code, trained as long on one picture alone (``--alone``).
Writes ``many_pictures.png`` (of the first seed) and ``results.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from small_pictures import PICTURES, small_picture
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torchvision.transforms.functional import to_pil_image

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import SweepGrower
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients
from gncadeq.transforms import ImageToGraph, Sweeps
from gncadeq.viz.images import png
from gncadeq.viz.surface import render_strip

UNSEEN = ("sun", "apple")
TRAINED = tuple(name for name in PICTURES if name not in UNSEEN)


class Pictures:
    """Pictures on pixel grids, each with a seed in its middle that carries a code.

    Args:
        names: Which pictures.
        size: Their side in pixels.
    """

    def __init__(self, names: tuple[str, ...], size: int) -> None:
        self.names, self.size = names, size
        one = Sweeps()(ImageToGraph()(torch.zeros(1, size, size)))
        bare = Data(edge_index=one.edge_index, edge_attr=one.edge_attr, num_nodes=size**2)
        self.graph = Batch.from_data_list([bare] * len(names))
        self.seeds = torch.arange(len(names)) * size**2 + (size // 2) * size + size // 2
        self.color = torch.cat([small_picture(n, size).flatten(1).T for n in names])

    def injection(self, codes: Tensor) -> Tensor:
        """``[num_nodes, 1 + K]``: a mark and a code at every seed, zeros elsewhere."""
        marked = torch.cat([codes.new_ones(len(codes), 1), codes], 1)
        x = codes.new_zeros(len(self.color), marked.size(1))
        return x.index_copy(0, self.seeds, marked)

    def run(self, dynamics: GraphDEQ | GraphNCA, codes: Tensor, **options):  # type: ignore[no-untyped-def]
        """The state of all, and how the solve or the run went."""
        g = self.graph
        return dynamics(
            self.injection(codes), g.edge_index, g.edge_attr, g.batch, return_solution=True,
            batch_size=len(self.names), **options,
        )  # fmt: skip

    def errors(self, z: Tensor) -> Tensor:
        """The error of every picture."""
        return (z[:, :4] - self.color).square().mean(1).view(len(self.names), -1).mean(1)


def fit(
    pictures: Pictures, deq: GraphDEQ, codes: nn.Parameter, trained: list[nn.Parameter],
    steps: int, lr: float,
) -> float:  # fmt: skip
    """Minimise the mean error with a one-cycle rate; the CPU seconds that it took."""
    optimizer = torch.optim.Adam(trained, lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps + 1, pct_start=0.15, cycle_momentum=False
    )
    begin = time.process_time()
    for step in range(steps):
        optimizer.zero_grad()
        loss = pictures.errors(pictures.run(deq, codes)[0]).mean()
        loss.backward()
        check_gradients(deq, step)
        nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        rate.step()
        if step % 250 == 0:
            print(f"  step {step}: error {float(loss.detach()):.5f}", flush=True)
    return time.process_time() - begin


@torch.no_grad()
def measure(pictures: Pictures, cell: SweepGrower, codes: Tensor, long: int) -> dict:
    """Errors as an equilibrium and as an automaton, and whether it rests."""
    z, solution = pictures.run(GraphDEQ(cell), codes)
    row = {"error": pictures.errors(z).tolist(), "steps to rest": int(solution.num_steps.max())}
    rest, found = pictures.run(GraphNCA(cell, long), codes)
    row[f"error after {long}"] = pictures.errors(rest).tolist()
    row["residual"] = float(found.residual.max())
    cut = rest.view(len(codes), -1, rest.size(1)).clone()
    cut[:, : cut.size(1) // 3] = 0.0
    mended, _ = pictures.run(GraphNCA(cell, 200), codes, z0=cut.flatten(0, 1))
    row["error, a third cut off, 200 later"] = pictures.errors(mended).tolist()
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(rest.shape, generator=draw)
    half, _ = pictures.run(GraphNCA(cell, 400, fire_rate=0.5), codes, z0=noise, generator=draw)
    row["largest difference from noise at fire rate ½"] = float((half - rest).abs().max())
    return row


@torch.no_grad()
def between(
    pictures: Pictures, cell: SweepGrower, codes: Tensor, points: int
) -> tuple[dict, Tensor]:
    """What codes on the lines from each picture to the next grow into."""
    share = torch.linspace(0, 1, points)[:, None]
    places = Pictures((pictures.names[0],) * points, pictures.size)
    residual, jump, states = 0.0, 0.0, []
    for a, b in zip(codes, codes.roll(-1, 0), strict=True):
        z, found = places.run(GraphNCA(cell, 200), (1 - share) * a + share * b)
        residual = max(residual, float(found.residual.max()))
        states.append(z[:, :4].reshape(points, -1))
        steps = (states[-1][1:] - states[-1][:-1]).square().mean(1)
        whole = (states[-1][-1] - states[-1][0]).square().mean()
        jump = max(jump, float((steps.max() / whole).sqrt()))
    return {"residual between": residual, f"largest of {points - 1} changes": jump}, states[0]


def unseen(cell: SweepGrower, codes: Tensor, size: int, steps: int) -> tuple[list[float], Tensor]:
    """Errors of pictures that the rule was not trained on, and their states: codes are fitted."""
    pictures = Pictures(UNSEEN, size)
    cell.requires_grad_(requires_grad=False)
    fresh = nn.Parameter(codes.mean(0).repeat(len(UNSEEN), 1))
    fit(pictures, GraphDEQ(cell), fresh, [fresh], steps, 0.1)
    with torch.no_grad():
        z, _ = pictures.run(GraphDEQ(cell), fresh)
    return pictures.errors(z).tolist(), z


def frames(z: Tensor, size: int) -> list[Image.Image]:
    """The colours of every picture, on white."""
    rgba = z[:, :4].reshape(-1, size, size, 4).permute(0, 3, 1, 2)
    rgb = (rgba[:, :3] + 1 - rgba[:, 3:]).clamp(0, 1)
    return [to_pil_image(image).resize((120, 120), Image.Resampling.NEAREST) for image in rgb]


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--code", type=int, default=8, help="numbers of a code")
    parser.add_argument("--channels", type=int, default=12, help="of each group of a stage")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--fit-steps", type=int, default=200, help="for the code of a new picture")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alone", nargs="*", default=[], help="pictures of the baseline")
    parser.add_argument("--long", type=int, default=10_000)
    parser.add_argument("--out", default="runs/many_pictures")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.size, args.steps, args.fit_steps, args.seeds, args.long = 12, 3, 2, [0], 60
        args.channels, args.hidden = 4, 8
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="many_pictures_")
    out, pictures, rows = Path(args.out), Pictures(TRAINED, args.size), []
    for seed in args.seeds:
        torch.manual_seed(seed)
        cell = SweepGrower(1 + args.code, 4, 3, args.channels, args.hidden)
        codes = nn.Parameter(torch.randn(len(TRAINED), args.code))
        row = {"seed": seed, "parameters": sum(p.numel() for p in cell.parameters())}
        print(f"seed {seed}: {row['parameters']} parameters and {args.code} a picture", flush=True)
        row["CPU seconds"] = fit(
            pictures, GraphDEQ(cell), codes, [*cell.parameters(), codes], args.steps, args.lr
        )
        cell.eval()
        row |= measure(pictures, cell, codes, args.long)
        steps, path = between(pictures, cell, codes.detach(), 8)
        row |= steps
        row["unseen"], fitted = unseen(cell, codes.detach(), args.size, args.fit_steps)
        rows.append(row)
        report(row)
        if seed == args.seeds[0]:
            draw(pictures, cell, codes, path, fitted, out / "many_pictures.png")
        write_json(out / "results.json", {"arguments": vars(args), "runs": rows})
    for name in args.alone:
        torch.manual_seed(args.seeds[0])
        one, cell = Pictures((name,), args.size), SweepGrower(1, 4, 3, args.channels, args.hidden)
        none = torch.zeros(1, 0)
        fit(one, GraphDEQ(cell), none, list(cell.parameters()), args.steps, args.lr)
        with torch.no_grad():
            error = float(one.errors(one.run(GraphDEQ(cell.eval()), none)[0]))
        print(f"{name} alone: {error:.5f}", flush=True)
    print(f"many_pictures.png and results.json are in {out}")


def report(row: dict) -> None:
    """Print the figures of a seed."""
    for name, value in row.items():
        found = value if isinstance(value, list) else [value]
        print(f"  {name}: " + ", ".join(f"{v:.3g}" for v in found), flush=True)


@torch.no_grad()
def draw(
    pictures: Pictures, cell: SweepGrower, codes: Tensor, path: Tensor, fitted: Tensor, to: Path
) -> None:  # fmt: skip
    """Targets; what was grown; from the first to the second; unseen ones by their codes."""
    size, generator = pictures.size, torch.Generator().manual_seed(0)
    grown, _ = pictures.run(GraphNCA(cell, 400, fire_rate=0.5), codes, generator=generator)
    unseen_ones = Pictures(UNSEEN, size)
    shares = [f"{k / (len(path) - 1):.0%}" for k in range(len(path))]
    last = [x for pair in zip(frames(unseen_ones.color, size), frames(fitted, size), strict=True)
            for x in pair]  # fmt: skip
    strip = render_strip(
        [*frames(pictures.color, size), *frames(grown, size),
         *frames(path.reshape(-1, 4), size), *last],
        [*pictures.names, *["grown"] * len(codes),
         *[f"{share} {pictures.names[1]}" for share in shares],
         *[c for name in UNSEEN for c in (name, "its code alone")]],
        columns=len(codes),
    )  # fmt: skip
    write_atomically(to, png(strip))


if __name__ == "__main__":
    main()
