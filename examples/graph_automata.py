"""Cellular automata on graphs: exact ones, and their rules learned from pairs of states.

    python examples/graph_automata.py                # Life and the Voronoi rule, three seeds each
    python examples/graph_automata.py --smoke        # seconds, no data needed

Exact: the Game of Life on a grid, a torus and a Delaunay graph, and the density rule of Grattarola
et al. (2021) on Delaunay graphs, every step compared with a reference that shares no code: a
convolution, and dictionaries. Learned: Life from pairs on grids of 16 × 16, the density rule from
pairs on tessellations of 100 to 1,000 cells; tested on graphs of other sizes and kinds, and on
every input that a node of up to ``--max-degree`` neighbours can have.

Writes ``results.json`` and ``automata.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
import torch
import torch_geometric.transforms as T
from binary_rules import BinaryCell, ThresholdCell
from scipy.ndimage import convolve
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import from_networkx, scatter
from voronoi import ALIVE, DEAD, draw_voronoi

from gncadeq import Cell, GraphNCA, GrowingCell, TotalisticCell
from gncadeq.datasets import primitives
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients
from gncadeq.transforms import ImageToGraph, NeighborKernels
from gncadeq.viz import SurfaceRenderer
from gncadeq.viz.colors import rgb
from gncadeq.viz.figures import save_figure

RULES = {"life": TotalisticCell(), "voronoi": ThresholdCell(0.42)}
KERNEL = {"life": "sum", "voronoi": "mean"}  # what a node senses of its neighbours
_BATCH = 5  # graphs a training step
GUN = [
    "........................#...........", "......................#.#...........",
    "............##......##............##", "...........#...#....##............##",
    "##........#.....#...##..............", "##........#...#.##....#.#...........",
    "..........#.....#.......#...........", "...........#...#....................",
    "............##......................",
]  # fmt: skip


def tessellation(num_nodes: int, seed: int) -> Data:
    """The Delaunay graph of random points: Voronoi cells with a common side are neighbours."""
    pos = torch.rand(num_nodes, 2, generator=torch.Generator().manual_seed(seed))
    return T.FaceToEdge()(T.Delaunay()(Data(pos=pos)))


def pixels(height: int, width: int, periodic: bool = False) -> Data:
    """A grid whose outside is dead, or a torus."""
    return ImageToGraph(periodic=periodic)(torch.zeros(1, height, width))


def soup(num_nodes: int, seed: int, density: float = 0.4) -> Tensor:
    """A random start."""
    draw = torch.rand(num_nodes, 1, generator=torch.Generator().manual_seed(seed))
    return (draw < density).float()


def gun(height: int, width: int) -> Tensor:
    """Gosper's gun in the upper left corner."""
    z = torch.zeros(height, width)
    for row, line in enumerate(GUN):
        z[row + 1, 1 : len(line) + 1] = torch.tensor([float(mark == "#") for mark in line])
    return z.view(-1, 1)


@torch.no_grad()
def run(cell: Cell, data: Data, z0: Tensor, steps: int) -> Tensor:
    """The states ``[steps + 1, num_nodes]``."""
    x = z0.new_zeros(data.num_nodes, 0)
    _, states = GraphNCA(cell, steps)(
        x, data.edge_index, data.edge_attr, z0=z0, return_trajectory=True
    )
    return states.squeeze(2)


# Exact


def by_convolution(z0: Tensor, height: int, width: int, steps: int, mode: str) -> np.ndarray:
    """Life on pixels, by scipy."""
    window = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    states = [z0.view(height, width).long().numpy()]
    for _ in range(steps):
        count = convolve(states[-1], window, mode=mode)
        states.append(((count == 3) | ((count == 2) & (states[-1] == 1))).astype(np.int64))
    return np.stack(states).reshape(steps + 1, -1)


def by_dictionary(rule: str, z0: Tensor, data: Data, steps: int) -> np.ndarray:
    """Either rule on any graph, by Python's integers and fractions."""
    senses: dict[int, list[int]] = {i: [] for i in range(data.num_nodes)}
    for j, i in data.edge_index.t().tolist():
        senses[i].append(j)
    kappa, states = Fraction(42, 100), [[int(s) for s in z0.flatten().tolist()]]
    for _ in range(steps):
        now, new = states[-1], []
        for i, near in senses.items():
            count = sum(now[j] for j in near)
            if rule == "life":
                new.append(int(count == 3 or (count == 2 and now[i] == 1)))
            else:
                new.append(now[i] ^ int(bool(near) and Fraction(count, len(near)) > kappa))
        states.append(new)
    return np.array(states)


def exact(args: argparse.Namespace) -> dict[str, bool]:
    """Whether all states of all steps are those of the references."""

    def note(name: str, same: bool) -> None:
        found[name] = same
        print(f"{'exact' if same else 'DIFFERENT'}: {name}", flush=True)

    side, large, nodes = (24, 60, 100) if args.smoke else (64, 300, 1000)
    steps, found = args.life_steps, {}
    for name, periodic in (("grid", False), ("torus", True)):
        data, z0 = pixels(side, side, periodic), soup(side**2, seed=1)
        mode = "wrap" if periodic else "constant"
        expected = by_convolution(z0, side, side, steps, mode)
        same = bool((run(RULES["life"], data, z0, steps).numpy() == expected).all())
        note(f"life, soup on a {name} of {side} x {side}, {steps} steps", same)
    expected = by_convolution(gun(large, large), large, large, steps, "constant")
    states = run(RULES["life"], pixels(large, large), gun(large, large), steps)
    same = bool((states.numpy() == expected).all())
    note(f"life, Gosper's gun on a grid of {large} x {large}, {steps} steps", same)
    data = tessellation(nodes, seed=2)
    for rule, count in (("life", steps), ("voronoi", args.steps)):
        z0 = soup(nodes, seed=3)
        expected = by_dictionary(rule, z0, data, count)
        same = bool((run(RULES[rule], data, z0, count).numpy() == expected).all())
        note(f"{rule}, soup on {nodes} Voronoi cells, {count} steps", same)
    return found


# Learned


def training_graphs(rule: str, args: argparse.Namespace, seed: int) -> list[Data]:
    """Grids for Life, tessellations of 100 to 1,000 cells for the density rule."""
    if rule == "life":
        return [pixels(16, 16)] * _BATCH
    sizes = torch.linspace(100, 200 if args.smoke else 1000, args.tessellations).long().tolist()
    return [tessellation(n, 1000 * seed + k) for k, n in enumerate(sizes)]


def draw_states(data: Batch) -> Tensor:
    """Random states, each graph's of its own density."""
    density = torch.rand(data.num_graphs, 1)[data.batch]
    return (torch.rand(data.num_nodes, 1) < density).float()


def harder_states(z: Tensor, loss: Tensor, batch: Tensor) -> Tensor:
    """Of two states of each graph, those of the first half of a batch and of the second, the one
    whose worst node is worse."""
    half = z.size(0) // 2
    first, second = scatter(loss, batch, reduce="max").chunk(2)
    return torch.where((first > second)[batch[:half], None], z[:half], z[half:])


def train(rule: str, args: argparse.Namespace, seed: int) -> tuple[GrowingCell, dict[str, object]]:
    """Learn a rule from pairs of states drawn at random, of all densities."""
    torch.manual_seed(seed)
    to_graph = NeighborKernels((KERNEL[rule],))
    graphs = [to_graph(Data(edge_index=g.edge_index, num_nodes=g.num_nodes))
              for g in training_graphs(rule, args, seed)]  # fmt: skip
    count = max(1, len(graphs) // _BATCH)
    batches = [Batch.from_data_list(2 * graphs[k::count]) for k in range(count)]  # of all sizes
    teachers = [RULES[rule].prepare(torch.zeros(b.num_nodes, 0), b.edge_index) for b in batches]
    kept = [draw_states(b)[: b.num_nodes // 2] for b in batches]  # each graph's hardest state
    cell = GrowingCell(1, 1, args.hidden_channels, alive_channel=None)
    torch.nn.init.uniform_(cell.weight_out, -0.2, 0.2)
    steps = args.train_steps[rule]
    optimizer = torch.optim.Adam(cell.parameters(), args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pairs = node_pairs = 0
    for t in range(steps):
        k, data = t % count, batches[t % count]
        z = torch.cat([draw_states(data)[: data.num_nodes // 2], kept[k]])
        y = teachers[k](z)
        # Zero where the image is by the margin on its side of ½. All nodes in the same situation
        # count as one: 5 of 12 neighbours are seen rarely, and decide where the threshold is.
        image = cell(z, z[:, :0], data.edge_index, data.edge_attr)
        loss = (args.margin - (2 * y - 1) * (image - 0.5)).relu().square().flatten()
        source, target = data.edge_index
        senses = torch.zeros_like(z).index_add(0, target, data.edge_attr * z[source])
        _, situation, seen = torch.unique(
            2 * (1e4 * senses).round() + z, return_inverse=True, return_counts=True
        )
        optimizer.zero_grad()
        (loss / seen[situation.flatten()]).sum().backward()
        check_gradients(cell, t)
        optimizer.step()
        schedule.step()
        kept[k] = harder_states(z, loss.detach(), data.batch)
        pairs, node_pairs = pairs + data.num_graphs // 2, node_pairs + data.num_nodes // 2
    degree = torch.cat([torch.bincount(g.edge_index[1]) for g in graphs])
    return cell, {
        "pairs": pairs, "node_pairs": node_pairs, "graphs": len(graphs), "nodes": degree.numel(),
        "nodes_by_degree": torch.bincount(degree).tolist(),
    }  # fmt: skip


def every_input(max_degree: int) -> tuple[Data, Tensor, list[tuple[int, int, int]], Tensor]:
    """Stars: a hub for every state, living neighbours and degree; their graph, state and names."""
    names = [
        (state, count, degree)
        for degree in range(1, max_degree + 1) for count in range(degree + 1) for state in (0, 1)
    ]  # fmt: skip
    degree = torch.tensor([d for _, _, d in names])
    first = torch.cat([torch.zeros(1, dtype=torch.long), (degree + 1).cumsum(0)])
    hub = first[:-1].repeat_interleave(degree)
    is_leaf = torch.ones(int(first[-1]), dtype=torch.bool)
    is_leaf[first[:-1]] = False
    edge_index = torch.stack([is_leaf.nonzero().flatten(), hub])
    states = [[s] + [1] * k + [0] * (d - k) for s, k, d in names]
    z = torch.tensor([s for star in states for s in star], dtype=torch.float)
    return Data(edge_index=edge_index, num_nodes=z.numel()), z[:, None], names, first[:-1]


def wrong_inputs(rule: str, cell: Cell, max_degree: int) -> tuple[list[tuple[int, int, int]], int]:
    """The inputs (state, living neighbours, neighbours) on which the learned rule errs."""
    data, z, names, hub = every_input(max_degree)
    data = NeighborKernels((KERNEL[rule],))(data)
    wrong = run(cell, data, z, 1)[1, hub] != run(RULES[rule], data, z, 1)[1, hub]
    return [name for name, bad in zip(names, wrong.tolist(), strict=True) if bad], len(names)


def test_graphs(rule: str, args: argparse.Namespace) -> dict[str, tuple[Data, Tensor, int]]:
    """Graphs that training has not seen, with starts and numbers of steps."""
    found = {}
    if rule == "voronoi":
        for n in (100, 200) if args.smoke else (100, 300, 1000, 3000, 10_000):
            for k in range(args.tests):
                data = tessellation(n, seed=10**6 + 100 * n + k)
                found[f"{n} cells, {k}"] = data, soup(n, seed=k, density=0.5), args.steps
        return found
    side, large, n = (20, 50, 100) if args.smoke else (64, 120, 1000)
    small_world = from_networkx(nx.watts_strogatz_graph(n, 8, 0.1, seed=0))
    for k in range(args.tests):
        found[f"torus {side} x {side}, {k}"] = pixels(side, side, True), soup(side**2, k), 0
        found[f"tessellation of {n}, {k}"] = tessellation(n, 10**6 + k), soup(n, k), 0
        found[f"small world of {n}, {k}"] = small_world, soup(n, k), 0
    found[f"gun on {large} x {large}"] = pixels(large, large), gun(large, large), 0
    return {name: (data, z, args.life_steps) for name, (data, z, _) in found.items()}


def learned(rule: str, args: argparse.Namespace, seed: int) -> tuple[dict[str, object], BinaryCell]:
    """Train, and compare with the rule itself."""
    inner, row = train(rule, args, seed)
    cell = BinaryCell(inner)
    wrong, count = wrong_inputs(rule, cell, args.max_degree)
    rollouts, right, seen = {}, 0, 0
    for name, (data, z0, steps) in test_graphs(rule, args).items():
        data = NeighborKernels((KERNEL[rule],))(data.clone())
        truth, mine = run(RULES[rule], data, z0, steps), run(cell, data, z0, steps)
        same = (truth == mine).double().mean(1)
        x = z0.new_zeros(data.num_nodes, 0)
        step = cell.prepare(x, data.edge_index, data.edge_attr)
        with torch.no_grad():  # one step from every tenth true state
            for t in range(0, steps, 10):
                right += int((step(truth[t, :, None])[:, 0] == truth[t + 1]).sum())
                seen += data.num_nodes
        rollouts[name] = {
            "steps": steps, "exact": bool((same == 1).all()), "matching_at_end": float(same[-1]),
            "first_difference": int((same < 1).nonzero()[0]) if bool((same < 1).any()) else None,
        }  # fmt: skip
    return {
        "parameters": sum(p.numel() for p in inner.parameters()), **row,
        "wrong_inputs": wrong, "inputs": count, "one_step": right / seen, "one_step_nodes": seen,
        "exact_rollouts": sum(r["exact"] for r in rollouts.values()), "rollouts": rollouts,
    }, cell  # fmt: skip


# Picture


def draw(path: Path, cells: dict[str, BinaryCell], smoke: bool) -> None:
    """A row for each learned rule: the density rule on Voronoi cells, Life on a torus."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.0 * len(cells)))
    axes = figure.subplots(len(cells), 4, squeeze=False)
    n, around, across = (150, 32, 16) if smoke else (1200, 96, 40)
    if "voronoi" in cells:
        data = NeighborKernels(("mean",))(tessellation(n, seed=7))
        states = run(cells["voronoi"], data, soup(n, seed=6, density=0.5), 40)
        for axis, t in zip(axes[0], (0, 5, 15, 40), strict=True):
            draw_voronoi(axis, data.pos, states[t])
            axis.set_title(f"density rule, step {t}")
    if "life" in cells:
        torus = primitives.torus(around, across)
        data = NeighborKernels(("sum",))(pixels(across, around, periodic=True))
        states = run(cells["life"], data, soup(data.num_nodes, seed=5, density=0.3), 200)
        renderer = SurfaceRenderer(
            torus, size=(640, 440), elevation=35, up="z", of_faces=True, supersample=3
        )
        paint = torch.tensor(rgb([DEAD, ALIVE]))
        for axis, t in zip(axes[-1], (0, 5, 50, 200), strict=True):
            axis.imshow(
                renderer(states[t].repeat(2), lambda z: paint[z.long()])
            )  # two faces a cell
            axis.set_axis_off()
            axis.set_title(f"Life, step {t}")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.95, 0.03, 0.12)
    save_figure(figure, path)


def main() -> None:
    """Compare, learn, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["exact", *RULES], default=["exact", *RULES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hidden-channels", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--margin", type=float, default=0.1, help="of the image from ½, up to ½")
    parser.add_argument("--tessellations", type=int, default=40, help="to train on")
    parser.add_argument("--steps", type=int, default=100, help="of rollouts of the density rule")
    parser.add_argument("--life-steps", type=int, default=1000, help="of rollouts of Life")
    parser.add_argument("--life-train", type=int, default=1000, help="training steps for Life")
    parser.add_argument("--voronoi-train", type=int, default=4000, help="for the density rule")
    parser.add_argument("--tests", type=int, default=5, help="test graphs of each kind")
    parser.add_argument("--max-degree", type=int, default=20, help="of the inputs that are listed")
    parser.add_argument("--out", default="runs/graph_automata")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.tests, args.max_degree, args.life_steps = args.seeds[:1], 1, 10, 60
        args.steps, args.life_train, args.voronoi_train, args.tessellations = 40, 300, 200, 5
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="graph_automata_")
    args.train_steps = {"life": args.life_train, "voronoi": args.voronoi_train}
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, object] = {}
    if "exact" in args.parts:
        results["exact"] = found = exact(args)
        if not all(found.values()):
            raise SystemExit("Expected the states of the references (got others, see above)")
    cells = {}
    for rule in (part for part in args.parts if part in RULES):
        for seed in args.seeds:
            row, cell = learned(rule, args, seed)
            results[f"{rule}, seed {seed}"] = row
            cells.setdefault(rule, cell)
            print(
                f"{rule}, seed {seed}: {row['parameters']} parameters, {row['pairs']:,} pairs; "
                f"{100 * row['one_step']:.4f} % of {row['one_step_nodes']:,} nodes right a step, "
                f"{row['exact_rollouts']} of {len(row['rollouts'])} rollouts exact, wrong on "
                f"{len(row['wrong_inputs'])} of {row['inputs']} inputs: {row['wrong_inputs'][:8]}",
                flush=True,
            )
    write_json(out / "results.json", results)
    if cells:
        draw(out / "automata.png", cells, args.smoke)
    print(f"Wrote {out}")


if __name__ == "__main__":
    main()
