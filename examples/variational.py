"""Variational automata: pictures that are drawn from codes, and stay (Palm et al. 2022).

    python examples/variational.py                                      # 8 x 8, minutes
    python examples/variational.py --data mnist --data-root DATA        # 14 x 14
    python examples/variational.py --smoke                              # seconds

An encoder maps a binary picture to a code, a decoder the code back to a picture. The encoders are
all alike, the decoders are

- *injected*: a local rule which is told the code and the place of a node in every step, solved to
  its equilibrium and trained by the implicit gradient; *alone*, the same without neighbours;
  *unplaced*, the same without places: nodes hear how far the border is;
- *started*: the published automaton. Every node starts as the code, and is trained through time;
  *placed*, the same which is told places in every step; *pooled* (if named), with the published
  pool, in which a quarter of the states is damaged;
- *perceptron*: the decoder of the usual autoencoder, with weights for every pixel.

Prints bounds on the evidence of test pictures in nats, what is left of reconstructions after a
square of their states was set to zero, and how far they are from rest after ``--long`` steps; of
jittered points and of a patch of a sphere what the same weights draw there. Writes
``results.json`` and ``variational.png``. With ``--held-out`` the test pictures are training
pictures that were left out: by these sizes and rates were chosen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor
from variational_figure import draw
from variational_models import (
    Autoencoder,
    Canvas,
    Decoder,
    Injected,
    Perceptron,
    Pool,
    Started,
    likelihood,
)

from gncadeq import GraphNCA
from gncadeq.datasets import primitives
from gncadeq.datasets.sources import default_root, load_images
from gncadeq.files.json_files import write_json

SIDE = {"digits": 8, "mnist": 14}
HIDDEN = {"digits": 128, "mnist": 256}  # of encoders, and of the perceptron
STEPS = {
    "digits": {"injected": 1500, "alone": 1500, "unplaced": 800, "started": 500, "placed": 500,
               "pooled": 500, "perceptron": 5000},
    "mnist": {"injected": 800, "alone": 1200, "unplaced": 250, "started": 180, "placed": 180,
              "pooled": 180, "perceptron": 8000},
}  # fmt: skip
RATE = dict.fromkeys(STEPS["digits"], 4e-3) | dict.fromkeys(
    ["started", "placed", "pooled", "perceptron"], 2e-3
)


def pictures(name: str, root: Path, held_out: bool) -> tuple[Tensor, Tensor]:
    """Binary pictures ``[N, pixels]`` for training, and for the test."""
    found = []
    for seed, train in enumerate([True, False]):
        grey = load_images(root, name, train)[0] / 255
        draw = torch.Generator().manual_seed(seed)
        if name == "mnist":  # means of 2 x 2 pixels are probabilities, drawn once
            found.append(torch.bernoulli(F.avg_pool2d(grey, 2), generator=draw).flatten(1))
        else:
            found.append((grey > 7.5 / 16).float().flatten(1))
    if held_out:
        order = torch.randperm(len(found[0]), generator=torch.Generator().manual_seed(0))
        mixed, share = found[0][order], len(found[0]) // 6
        found = [mixed[share:], mixed[:share]]
    return found[0], found[1]


def build(kind: str, canvas: Canvas, args: argparse.Namespace) -> Autoencoder:
    """An autoencoder with a decoder of a kind."""
    hidden, width = HIDDEN[args.data], args.hidden
    if kind == "perceptron":
        decoder: torch.nn.Module = Perceptron(canvas, args.latent, hidden)
    elif kind in ("started", "placed", "pooled"):
        waves = args.waves if kind == "placed" else 0
        decoder = Started(canvas, args.latent, width, args.time, waves)
    else:
        channels = 0 if kind == "alone" else args.channels
        waves = 0 if kind == "unplaced" else args.waves
        decoder = Injected(canvas, args.latent, width, channels, waves, args.kappa)
    return Autoencoder(decoder, len(canvas.pos), args.latent, hidden)


def fit(model: Autoencoder, images: Tensor, steps: int, rate: float, pool: Pool | None) -> float:
    """Train on batches of 64, and say how many CPU seconds it took."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1, pct_start=0.1)
    begin = time.process_time()
    for _ in range(steps):
        batch = images[torch.randint(len(images), (64,))]
        optimizer.zero_grad()
        found = model.bounds(batch)[0] if pool is None else pool.bound(model, batch)
        (-found.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return time.process_time() - begin


def bounds(model: Autoencoder, images: Tensor, samples: int) -> tuple[float, float]:
    """Means of both bounds, in nats a picture."""
    found = [torch.stack(model.bounds(part, samples)) for part in images.split(256)]
    usual, weighted = torch.cat(found, 1).mean(1).tolist()
    return usual, weighted


def lasting(model: Autoencoder, images: Tensor, long: int) -> dict[str, Any]:
    """Nats of reconstructions after damage, and the residual after ``long`` steps."""
    decoder: Any = model.decoder
    code = model.encode(images).mean
    z = decoder.run(code)
    square = decoder.canvas.square(len(code), torch.Generator().manual_seed(0))
    hurt = torch.where(square.view(-1, 1), 0.0, z)
    cell = decoder.dynamics.cell

    def nats(state: Tensor) -> float:
        return float(likelihood(decoder.read(state).view(len(code), -1), images).mean())

    def later(state: Tensor, steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        automaton = GraphNCA(cell, steps, fire_rate=0.5)
        return decoder.run(code, state, automaton, generator=generator)  # type: ignore[no-any-return]

    few = min(32, long)
    row: dict[str, Any] = {"whole": nats(z), "cut": nats(hurt), "few": nats(later(hurt, few))}
    row["many"], row["uncut"] = nats(later(hurt, long // 10)), nats(later(z, long // 10))
    code, images = code[:4], images[:4]
    for name, rate in (("synchronous", 1.0), ("half", 0.5)):
        run = GraphNCA(cell, long, fire_rate=rate, start="normal")
        state, found = decoder.run(code, None, run, return_solution=True)
        row[name] = float(found.residual.max())
        row[f"{name} nats"] = nats(state) - nats(decoder.run(code))
    return row


def canvases(side: int) -> dict[str, Canvas]:
    """Jittered points, and the vertices of a patch of a sphere, seen from above."""
    generator = torch.Generator().manual_seed(0)
    pixels = Canvas.pixels(side).pos
    moved = pixels + 0.3 * torch.randn(pixels.shape, generator=generator)
    ball = primitives.icosphere(4).pos.float()
    angle = ball[:, 2].clamp(-1, 1).acos()[:, None]  # from the pole, along the surface
    flat = F.normalize(ball[:, :2], dim=1) * angle * (side / 1.6) + (side - 1) / 2
    inside = ((flat > -0.5) & (flat < side - 0.5)).all(1) & (ball[:, 2] > 0)
    return {"jittered": Canvas(moved, side), "sphere": Canvas(flat[inside], side)}


def elsewhere(model: Autoencoder, images: Tensor) -> dict[str, dict[str, float]]:
    """What the weights draw on other graphs: nats of the nearest pixels, for as many nodes as
    there are pixels, and those of the picture on pixels, interpolated."""
    decoder: Any = model.decoder
    side, rows = decoder.canvas.side, {}
    code = model.encode(images).mean
    known = decoder(code).sigmoid().view(-1, 1, side, side)
    for name, canvas in canvases(side).items():
        place = ((2 * canvas.pos + 1) / side - 1).expand(len(code), 1, -1, -1)
        options = {"padding_mode": "border", "align_corners": False}
        truth = F.grid_sample(images.view_as(known), place, mode="nearest", **options)[:, 0, 0]
        between = F.grid_sample(known, place, **options)[:, 0, 0].clamp(1e-4, 1 - 1e-4)
        z, found = decoder.run(code, canvas=canvas, return_solution=True)
        drawn, scale = decoder.read(z).view(len(code), -1), side**2 / len(canvas.pos)
        edges = canvas.data.edge_index, canvas.data.edge_attr
        proof = decoder.dynamics.cell.certificate(*edges, num_nodes=len(canvas.pos))
        rows[name] = {
            "nodes": len(canvas.pos),
            "drawn": scale * float(likelihood(drawn, truth).mean()),
            "interpolated": scale * float(likelihood(between.logit(), truth).mean()),
            "apart": float((drawn.sigmoid() - between).abs().mean()),
            "residual": float(found.residual.max()),
            "rate": float("nan") if proof is None else float(proof.rate.max()),
        }
    return rows


@torch.no_grad()
def measure(model: Autoencoder, test: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """All that is said of a trained model."""
    row: dict[str, Any] = {"bound": bounds(model, test, 1)[0]}
    row["some"], row["weighted"] = bounds(model, test[: args.weighted], args.samples)
    if isinstance(model.decoder, Decoder):
        row["lasting"] = lasting(model, test[:50], args.long)
    if isinstance(model.decoder, Injected) and model.decoder.waves:
        row["elsewhere"] = elsewhere(model, test[:100])
    return row


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=list(SIDE))
    parser.add_argument("--data-root", help="the folder that holds MNIST/raw")
    parser.add_argument("--models", nargs="+", choices=list(RATE),
                        default=[kind for kind in RATE if kind != "pooled"])  # fmt: skip
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--channels", type=int, default=16, help="that neighbours hear")
    parser.add_argument("--waves", type=int, default=8, help="of places, along a side")
    parser.add_argument("--kappa", type=float, default=0.7)
    parser.add_argument("--time", type=int, default=16, help="training steps of the automaton")
    parser.add_argument("--steps", type=int, help="of training, for all models alike")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--weighted", type=int, default=100, help="pictures with that many samples")
    parser.add_argument("--long", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--resume", action="store_true", help="keep the models that are in --out")
    parser.add_argument("--out", default="runs/variational")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.samples, args.weighted, args.long = 2, 2, 8, 20
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="variational_")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    train, test = pictures(args.data, Path(args.data_root or default_root()), args.held_out)
    test = test[:8] if args.smoke else test
    canvas = Canvas.pixels(SIDE[args.data])
    written = out / "results.json"
    table = json.loads(written.read_text())["models"] if args.resume and written.is_file() else {}
    models: dict[str, Autoencoder] = {}
    for seed in args.seeds:
        for kind in args.models:
            torch.manual_seed(seed)
            name, model = f"{kind}, seed {seed}", build(kind, canvas, args)
            weights = out / f"{kind}-{seed}.safetensors"
            if name in table:
                load_model(model, weights)
            else:
                pool = Pool(model) if kind == "pooled" else None
                steps = args.steps or STEPS[args.data][kind]
                seconds = fit(model, train, steps, RATE[kind], pool)
                save_model(model, str(weights))
                used = sum(p.numel() for p in model.decoder.parameters())
                row = {"parameters": used, "steps": steps, "CPU s": seconds}
                table[name] = row | measure(model, test, args)
                write_json(written, {"arguments": vars(args), "models": table})
            print(f"{name}:", rounded(table[name]), flush=True)
            models.setdefault(kind, model)
    shown = {kind: m for kind, m in models.items() if isinstance(m.decoder, Decoder)}
    draw(shown, test, canvases(canvas.side), args.long, out / "variational.png")
    print(f"variational.png and results.json are in {out}")


def rounded(row: Any) -> Any:
    """Four digits of each measured number; what isn't finite is a string in a file."""
    if isinstance(row, dict):
        return {key: rounded(value) for key, value in row.items()}
    return row if isinstance(row, str | int) else float(f"{row:.4g}")


if __name__ == "__main__":
    main()
