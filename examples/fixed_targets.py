"""A shape out of noise, from the lengths of its edges alone: the fixed targets of E(n)-GNCA.

    python examples/fixed_targets.py --target grid        # or torus, cube
    python examples/fixed_targets.py --target bunny --data-root DATA
    python examples/fixed_targets.py --smoke              # seconds, an 8 x 8 grid

Nodes start from Gaussian noise; an ``ElasticCell`` moves them until the distances of all pairs are
those of the target. It knows the graph, ``--hops`` wide, and the rest lengths of its edges. Targets
are in the units of Gala et al. (2023): grid and torus with unit variance in each coordinate, the
cube with a side of one, the bunny with unit variance. The damage is noise of the standard deviation
0.25 on every coordinate. Writes ``cell.safetensors``, ``results.json`` and ``strip.png``.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from pathlib import Path

import torch
from elastic import ElasticCell, distance_loss
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import Distance
from torch_geometric.utils import to_dense_adj

from gncadeq import GraphNCA, SamplePool, load_mesh
from gncadeq.analysis import saved_bytes
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import normalize_gradients
from gncadeq.viz import SurfaceRenderer, render_strip
from gncadeq.viz.images import png

# hops, and the standard deviation of the start in units of the target's
RECIPE = {"grid": (3, 64.0), "torus": (4, 64.0), "cube": (2, 192.0), "bunny": (1, 256.0)}
# start t=25, start t=1000, change a step, fresh t=1000, damaged +25, damaged +1000
PEERS = {
    "grid": (5.8e-3, 3.4e-3, 6e-6, 0.72, 0.029, 0.010),
    "torus": (2.9e-3, 2.8e-4, 2.4e-2, 4.36, 0.027, 0.0022),
    "cube": (8.5e-4, 3.2e-4, 4e-5, 0.117, 0.0043, 0.0006),
}


def lattice(shape: tuple[int, ...], periodic: bool) -> tuple[Tensor, Tensor]:
    """The places in a lattice, row by row, and the edges between next neighbours."""
    place = torch.cartesian_prod(*[torch.arange(side) for side in shape])
    step = (place[:, None] - place[None]).abs()
    if periodic:
        step = torch.minimum(step, torch.tensor(shape) - step)
    return place.double(), (step.sum(2) == 1).nonzero().t()


def make_target(name: str, side: int, data_root: str | None, nodes: int = 2503) -> Data:
    """The target as ``pos`` and the edges of its graph."""
    if name == "bunny":
        return subsampled(Path(data_root or "datasets") / "meshes" / "stanford-bunny.obj", nodes)
    if name == "torus":  # that of PyGSP
        place, edge_index = lattice((side, side), periodic=True)
        u, v = (place * 2 * math.pi / side).t()
        ring = 1.5 + v.sin()
        pos = torch.stack([ring * u.cos(), ring * u.sin(), v.cos()], dim=1)
    else:
        pos, edge_index = lattice((side,) * (2 if name == "grid" else 3), periodic=False)
        pos = pos / (side - 1)
    pos = pos - pos.mean(0)
    if name != "cube":
        pos = pos / pos.std(0, correction=0)
    return Data(pos=pos.float(), edge_index=edge_index)


def subsampled(path: Path, nodes: int) -> Data:
    """Vertices of a mesh, each the farthest from those before, and their 42 nearest as edges."""
    from scipy.spatial import KDTree

    points = load_mesh(path).pos.double()
    chosen, away = [0], (points - points[0]).square().sum(1)
    while len(chosen) < nodes:
        chosen.append(int(away.argmax()))
        away = torch.minimum(away, (points - points[chosen[-1]]).square().sum(1))
    pos = points[chosen] - points[chosen].mean(0)
    pos = pos / pos.std(0, correction=0).mean()
    near = torch.from_numpy(KDTree(pos.numpy()).query(pos.numpy(), 43)[1][:, 1:])
    edge_index = torch.stack([near.flatten(), torch.arange(nodes).repeat_interleave(42)])
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1).unique(dim=1)
    return Data(pos=pos.float(), edge_index=edge_index)


def widened(data: Data, hops: int) -> Data:
    """Edges between nodes up to so many hops apart, with their rest lengths."""
    if hops > 1:
        near = to_dense_adj(data.edge_index, max_num_nodes=data.num_nodes)[0]
        near = torch.linalg.matrix_power(near.double() + torch.eye(len(near)).double(), hops) > 0
        data.edge_index = near.fill_diagonal_(False).nonzero().t().contiguous()
    data.x = data.pos.new_zeros(data.num_nodes, 0)
    return Distance(norm=False, cat=False)(data)


def noise(cell: ElasticCell, data: Data, scale: float, generator: torch.Generator) -> Tensor:
    """A start: Gaussian coordinates."""
    pos = torch.randn(data.num_nodes, cell.space, generator=generator, dtype=data.pos.dtype)
    return cell.start(pos * scale * data.pos.std(0).mean())


@torch.no_grad()
def choose_start(
    cell: ElasticCell, data: Data, args: argparse.Namespace
) -> tuple[int, Tensor]:  # fmt: skip
    """The draw to train from and to measure; of several, the one that the rule is best with."""
    generator = torch.Generator().manual_seed(args.seed)
    count = args.draws if args.draw is None else args.draw + 1
    draws = [noise(cell, data, args.scale, generator) for _ in range(count)]
    if count == 1 or args.draw is not None:
        return count - 1, draws[-1]
    nca = GraphNCA(cell, steps=25)
    ends = [nca(data.x, data.edge_index, data.edge_attr, z0=z) for z in draws]
    pairs = torch.randint(data.num_nodes, (2, args.pairs), generator=generator)
    loss = torch.cat([distance_loss(cell.coordinates(z), data.pos, pairs) for z in ends])
    return int(loss.argmin()), draws[int(loss.argmin())]


def damaged(z: Tensor, dim: int, generator: torch.Generator, std: float = 0.25) -> Tensor:
    """Gaussian noise on the coordinates, and on nothing else."""
    z = z.clone()
    z[:, :dim] += std * torch.randn(z.size(0), dim, generator=generator, dtype=z.dtype)
    return z


def train(cell: ElasticCell, data: Data, start: Tensor, args: argparse.Namespace) -> None:
    """Through time, from a pool: one anew from the start, one from fresh noise, some hurt.

    The others live on, folds and all: what 25 steps have not mended is to be mended later.
    """
    generator = torch.Generator().manual_seed(args.seed + 1)
    pool = SamplePool(data, start, size=16, seed=args.seed)
    nca = GraphNCA(cell, steps=25, checkpoint_every=args.checkpoint_every)
    optimizer = torch.optim.Adam(cell.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, max(args.steps, 2))
    n = data.num_nodes
    unit = 2 * data.pos.var(0, correction=0).sum() * n / (n - 1)  # the mean squared distance
    for step in range(args.steps):
        index, batch = pool.sample(args.batch_size)
        pairs = torch.randint(n, (2, args.pairs), generator=generator)
        pairs = pairs[:, pairs[0] != pairs[1]]
        with torch.no_grad():
            before = distance_loss(cell.coordinates(batch.z), data.pos, pairs)
        best = (2 + before[2:].argsort(stable=True)).tolist()
        z = list(batch.z.split(n))
        z[0], z[1] = start, noise(cell, data, args.scale, generator)
        for k in best[: args.hurt]:
            z[k] = damaged(z[k], cell.dim, generator)
        z = nca(batch.x, batch.edge_index, batch.edge_attr, batch.batch, z0=torch.cat(z),
                batch_size=args.batch_size)  # fmt: skip
        loss = distance_loss(cell.coordinates(z), data.pos, pairs) / unit
        optimizer.zero_grad()
        (loss + 1e-6).log().mean().backward()
        if math.isfinite(normalize_gradients(cell.parameters())):
            optimizer.step()
            pool.update(index, z, steps=25)
        schedule.step()
        if step % args.log_every == 0:
            shown = loss[[0, 1, best[0], best[-1]]].tolist()
            print("{:5d}  start {:.2e}  fresh {:.2e}  hurt {:.2e}  old {:.2e}".format(step, *shown),
                  flush=True)  # fmt: skip
            Path(args.out).mkdir(parents=True, exist_ok=True)
            save_file(cell.state_dict(), Path(args.out) / "cell.safetensors")


@torch.no_grad()
def measure(
    cell: ElasticCell, data: Data, start: Tensor, args: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The table, and the states to draw; the trained start in double precision."""
    n, dim = data.num_nodes, cell.dim
    unit = float(2 * data.pos.var(0, correction=0).sum() * n / (n - 1))
    generator = torch.Generator().manual_seed(args.seed + 1000)

    exact = copy.deepcopy(cell).double()

    def run(z: Tensor, steps: int) -> Tensor:
        rule, x, rest = (cell, data.x, data.edge_attr) if z.dtype == data.pos.dtype else (
            exact, data.x.double(), data.edge_attr.double())  # fmt: skip
        return GraphNCA(rule, steps=steps)(x, data.edge_index, rest, z0=z)

    def loss(*states: Tensor) -> Tensor:
        target = data.pos.to(states[0].dtype)
        return torch.cat([distance_loss(cell.coordinates(z), target) for z in states])

    fresh = [noise(cell, data, args.scale, generator) for _ in range(args.fresh)]
    early = [run(z, 25) for z in fresh]
    a, b = loss(*early), loss(*[run(z, args.long - 25) for z in early])
    states = {"start": start.double(), "step 5": run(start.double(), 5)}
    states["step 25"] = run(states["step 5"], 20)
    states[f"step {args.long:,}"] = old = run(states["step 25"], args.long - 25)
    after = cell.coordinates(run(old, 1))
    change = float((after - cell.coordinates(old)).norm() / after.norm())
    states["damaged"] = damaged(old, dim, generator)
    states["25 steps later"] = run(states["damaged"], 25)
    mended = run(states["25 steps later"], args.long - 25)
    hurt = [run(damaged(old.float(), dim, generator), 25) for _ in range(args.damages)]
    c, d = loss(*hurt), loss(*[run(z, args.long - 25) for z in hurt])
    table = {
        "start t=25": float(loss(states["step 25"])), f"start t={args.long}": float(loss(old)),
        "change a step": change, f"fresh t={args.long} mean": float(b.mean()),
        "damaged +25": float(loss(states["25 steps later"])),
        f"damaged +{args.long}": float(loss(mended)), "damaged": float(loss(states["damaged"])),
        "damages": args.damages, "damages +25 mean": float(c.mean()),
        "damages +25 worst": float(c.max()), f"damages +{args.long} mean": float(d.mean()),
        f"damages +{args.long} worst": float(d.max()), "fresh t=25 mean": float(a.mean()),
        "fresh t=25 median": float(a.median()), "fresh t=25 worst": float(a.max()),
        f"fresh t={args.long} median": float(b.median()),
        f"fresh t={args.long} worst": float(b.max()),
        "fresh below 1e-3 of the unit": int((b < 1e-3 * unit).sum()), "fresh starts": args.fresh,
        "mean squared distance": unit,
    }  # fmt: skip
    return table, {name: cell.coordinates(z).float() for name, z in states.items()}


def draw(states: dict[str, Tensor], data: Data, edge_index: Tensor, path: Path) -> None:
    """A strip; every state is laid onto the target, the noise made smaller to fit."""
    target = data.pos - data.pos.mean(0)
    color = (target - target.amin(0)) / (target.amax(0) - target.amin(0))
    color = torch.nn.functional.pad(color, (0, 3 - color.size(1)), value=0.4)
    frames = []
    for pos in states.values():
        pos = pos - pos.mean(0)
        u, _, vh = torch.linalg.svd(pos.t() @ target)
        pos = pos @ (u @ vh)
        view = Data(pos=pos, edge_index=edge_index)
        frames.append(SurfaceRenderer(view, size=220, node_size=0.7, up="z")(color))
    write_atomically(path, png(render_strip(frames, list(states))))


def show(table: dict, peer: tuple[float, ...] | None) -> None:
    """Print the table beside the peers' figures."""
    for row, (name, value) in enumerate(table.items()):
        other = f"{peer[row]:10.1e}" if peer and row < len(peer) else ""
        print(f"  {name:30s} {value:10.2e} {other}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="grid", choices=RECIPE)
    parser.add_argument("--data-root")
    parser.add_argument("--hops", type=int, help="how far edges reach")
    parser.add_argument("--scale", type=float, help="of the start, in units of the target's")
    parser.add_argument("--lift", type=int, default=2, help="dimensions beyond the target's")
    parser.add_argument("--blind", action="store_true", help="all rest lengths alike: the mean")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--batch-size", type=int, default=6, help="states a step, at least 3")
    parser.add_argument("--hurt", type=int, default=2, help="how many of them are damaged")
    parser.add_argument("--pairs", type=int, default=8192, help="pairs of nodes in the loss")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--weights", help="start from these, such as those of another target")
    parser.add_argument("--draws", type=int, default=1, help="draws to choose the start from")
    parser.add_argument("--draw", type=int, help="the number of the draw to start from")
    parser.add_argument("--checkpoint-every", type=int)
    parser.add_argument("--fresh", type=int, default=20, help="fresh starts to measure")
    parser.add_argument("--damages", type=int, default=20, help="to measure besides the first")
    parser.add_argument("--long", type=int, default=1000, help="steps of the long run")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    hops, scale = RECIPE[args.target]
    args.hops, args.scale = args.hops or hops, args.scale or scale
    side = {"grid": 16, "torus": 16, "cube": 8, "bunny": 0}[args.target]
    if args.smoke:
        args.steps, args.fresh, args.damages, side = 4, 2, 2, side // 2
        args.long, args.pairs = 60, 500
        args.out = args.out or tempfile.mkdtemp(prefix="fixed_targets_")
    args.out = args.out or f"runs/fixed_targets/{args.target}"
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # gradients of what has faded
    data = make_target(args.target, side, args.data_root)
    ring = data.edge_index
    data = widened(data, args.hops)
    if args.blind:
        data.edge_attr = data.edge_attr.mean().expand_as(data.edge_attr).contiguous()
    cell = ElasticCell(data.pos.size(1), args.lift)
    if args.weights:
        cell.load_state_dict(load_file(args.weights))
    print(f"{args.target}: {data.num_nodes} nodes, {data.num_edges} edges, "
          f"{sum(p.numel() for p in cell.parameters())} parameters", flush=True)  # fmt: skip
    args.draw, start = choose_start(cell, data, args)
    print(f"start: draw {args.draw}", flush=True)
    if args.steps:
        train(cell, data, start, args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(cell.state_dict(), out / "cell.safetensors")
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    saved = saved_bytes(lambda: step(start.clone().requires_grad_()), cell.parameters())
    table, states = measure(cell, data, start, args)
    print(f"  autograd keeps {saved / 1e6:.1f} MB a step")
    show(table, None if args.smoke else PEERS.get(args.target))
    results = {"arguments": vars(args), "parameters": sum(p.numel() for p in cell.parameters()),
               "edges": data.num_edges, "saved bytes a step": saved, **table}  # fmt: skip
    write_json(out / "results.json", results)
    draw(states, data, ring, out / "strip.png")
    print(f"Weights, results and picture: {out}")


if __name__ == "__main__":
    main()
