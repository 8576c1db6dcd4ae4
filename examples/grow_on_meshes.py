"""Grow a pattern on a sphere, leave it alone, cut off a third; then the same rule on finer spheres.

    python examples/grow_on_meshes.py                         # an icosphere of 642 vertices
    python examples/grow_on_meshes.py --mesh spot.obj --target stripes --others
    python examples/grow_on_meshes.py --smoke                 # seconds, 162 vertices

Without ``--mesh`` the rule senses through kernels of a fixed length on the sphere (``--scale``) and
not through the triangles at hand, so that it can be run on spheres of other resolutions
(``--others``), which it has never seen. Trained through time (BPTT) on one resolution alone.

Writes ``strip.png``, ``growth.gif`` and ``results.json`` beside the run, and a folder of pictures
for each of the other spheres. With ``--resume`` an interrupted training is continued, a finished
one only measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from grow_and_regenerate import draw, measure

from gncadeq.files.json_files import write_json
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown

SMOKE = {
    "steps": 60, "channels": 8, "hidden_channels": 24, "min_rollout": 6, "max_rollout": 10,
    "settle": 10, "pool_size": 8, "lr": 5e-3,
}  # fmt: skip
SMOKE_SURFACES = {"on": "icosphere:2", "scale": 0.3}


def main() -> None:
    """Train, measure, measure on other resolutions, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="spots", help="a pattern, a picture, or color")
    parser.add_argument("--on", default="icosphere:3")
    parser.add_argument("--mesh", help="a mesh file in the place of --on, sensed by one ring")
    parser.add_argument("--scale", type=float, default=0.15, help="of the kernels, without --mesh")
    parser.add_argument("--others", nargs="*", default=["icosphere:2", "icosphere:4"])
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--long", type=int, default=10_000, help="steps of the long run")
    parser.add_argument("--others-long", type=int, default=1000, help="the same, on the others")
    parser.add_argument("--recovery", type=int, default=400, help="steps after the injury")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/grow_on_meshes")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    options = {"on": args.on, "scale": args.scale, "steps": args.steps}
    if args.mesh:
        options = {"on": args.mesh, "steps": args.steps}
        args.others = [] if args.others == parser.get_default("others") else args.others
    if args.smoke:
        options |= SMOKE if args.mesh else SMOKE | SMOKE_SURFACES
        args.long, args.others_long, args.recovery = 200, 50, 30
        if not args.mesh:
            args.others = ["icosphere:3"]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="grow_on_meshes_") + "/run"
    config = GrowConfig(args.target, out=args.out, seed=args.seed, **options)
    began = time.process_time()
    cell = grow(config, resume=args.resume)
    results = {
        "command": config.command_line(),
        "training_cpu_seconds": round(time.process_time() - began, 1),
        "parameters": sum(p.numel() for p in cell.parameters()), "trials": {},
    }  # fmt: skip
    for on in (None, *args.others):
        _, data, z0, _ = load_grown(args.out, on)
        for rate in (1.0, 0.5) if on is None else (1.0,):
            name = f"{on or config.on}, fire rate {rate:g}"
            print(f"{on or config.on}: {data.num_nodes} vertices, {data.num_edges} edges, ", end="")
            long = args.long if on is None else args.others_long
            view = argparse.Namespace(**{**vars(args), "long": long})
            trial = measure(cell, data, z0, config, rate, view)
            results["trials"][name] = {"num_nodes": data.num_nodes, **trial}
        place = Path(args.out) / ("" if on is None else on.replace(":", "-").replace("/", "-"))
        draw(cell, data, z0, config, argparse.Namespace(out=place, seed=args.seed))
    write_json(Path(args.out) / "results.json", results)
    print(f"Trained in {results['training_cpu_seconds']} CPU seconds; pictures: {args.out}")


if __name__ == "__main__":
    main()
