"""A rule grown on one sphere, run on meshes that it has never seen: is it bounded, and how near?

    python -m benchmarks grown_on_meshes --data-root DATA --seeds 0 --variants 0 3 7

Trains ``gncadeq grow spots --on icosphere:2`` with every seed and number of variants, unless the
run is there already, and prints the error of the colours after so many steps on each mesh, beside
that of the best single colour, and the largest state then. ``DATA`` holds ``meshes/``; without it
the meshes are those by formula and what becomes of them: jittered, coarser, mixed, stretched.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from torch_geometric.data import Data

from gncadeq.dynamics import GraphNCA
from gncadeq.files.atomic import write_atomically
from gncadeq.growth import color_error
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.surfaces import pattern_color, read_surface, surface_target
from gncadeq.training.targets import anchor, seed_state
from gncadeq.training.variants import collapse, jitter, split

STEPS = (50, 300, 1000, 10_000)
BY_FORMULA = (
    "icosphere:2",
    "icosphere:3",
    "torus",
    "cylinder",
    "moebius",
    "plane",
    "delaunay_blob",
)
FILES = ("spot.obj", "suzanne.obj", "stanford-bunny.obj")


def meshes(data_root: str | None) -> dict[str, Data]:
    """Every mesh, and four of them in bad shape."""
    found = {}
    if data_root is not None:
        found = {f: read_surface(str(Path(data_root) / "meshes" / f)) for f in FILES}
    found |= {on: read_surface(on) for on in BY_FORMULA}
    draw = torch.Generator().manual_seed(0)
    for name in ("icosphere:3", "spot.obj", "suzanne.obj"):
        if name not in found:
            continue
        mesh = coarse = found[name]
        for _ in range(4):
            coarse = collapse(coarse, draw)
        mixed = split(jitter(collapse(mesh, draw), 0.2, draw), draw)
        long = mesh.clone()
        long.pos = mesh.pos * torch.tensor([1.0, 8.0, 1.0])
        found |= {
            f"{name}, jittered": jitter(mesh, 0.5, draw), f"{name}, coarse": coarse,
            f"{name}, mixed": mixed, f"{name}, 8 times as high": long,
        }  # fmt: skip
    return found


def main() -> None:
    """Train what isn't trained, run on every mesh, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--variants", type=int, nargs="*", default=[0, 7])
    parser.add_argument("--training-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS))
    parser.add_argument("--most", type=int, default=5000, help="vertices beyond 1,000 steps")
    parser.add_argument("--out", default="runs/benchmarks/grown_on_meshes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    surfaces, rows = meshes(args.data_root), []
    for count in args.variants:
        for seed in args.seeds:
            out = f"{args.out}/variants-{count}-seed-{seed}"
            if not (Path(out) / "model.safetensors").is_file():
                options = {"seed": seed, "variants": count, "steps": args.training_steps}
                grow(GrowConfig("spots", on="icosphere:2", out=out, average=0.0, **options))
            print(f"\n{count} variants, seed {seed}: error (largest state) after steps")
            print("| mesh | vertices | one colour | " + " | ".join(map(str, args.steps)) + " |")
            print("|---" * (3 + len(args.steps)) + "|")
            cell = load_grown(out)[0]
            for name, mesh in surfaces.items():
                data = surface_target(mesh, pattern_color("spots", mesh.pos))
                graph = anchor(data, None, cell.in_channels), data.edge_index, data.edge_attr
                flat = data.color.mean(0).expand_as(data.color)
                row = {"mesh": name, "variants": count, "seed": seed, "vertices": data.num_nodes,
                       "one color": float(color_error(flat, data.color)), "trials": []}  # fmt: skip
                z, done = seed_state(data, cell.channels), 0
                for steps in args.steps:
                    if steps > 1000 and data.num_nodes > args.most:
                        continue
                    with torch.no_grad():
                        z = GraphNCA(cell)(*graph, z0=z, steps=steps - done)
                    done = steps
                    row["trials"].append(
                        [steps, float(color_error(z, data.color)), float(z.abs().max())]
                    )
                cells = [f"{error:.4f} ({size:.1f})" for _, error, size in row["trials"]]
                cells += ["–"] * (len(args.steps) - len(cells))
                print(f"| {name} | {data.num_nodes:,} | {row['one color']:.4f} | "
                      + " | ".join(cells) + " |", flush=True)  # fmt: skip
                rows.append(row)
    write_atomically(Path(args.out) / "results.json", json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
