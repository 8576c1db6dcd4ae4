"""A rule trained on a square grid, run on hexagonal, Delaunay and small-world graphs.

    python examples/topology_transfer.py             # trains for minutes, then measures
    python examples/topology_transfer.py --smoke     # seconds, a small disc

A growing automaton whose only sense of its neighbours is the graph's Laplacian, their mean minus
itself, learns to grow three rings around a marked node of the square grid, each node with its four
neighbours. The same weights then grow on graphs that they have never seen. What they should become
is known on all of them, the ring at the node's distance from the mark, in units of the root mean
square edge: in those units the Laplacian of every even lattice is the same. The edges of small
worlds are led to random nodes with probability p (Watts & Strogatz 1998), and the nodes keep their
places.

Writes ``results.json`` (for every graph the error after some numbers of steps, and the residual and
the spectral radius at the last state) and ``topology_transfer.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import networkx as nx
import torch
from small_worlds import RewireEdges
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.analysis import spectral_radius
from gncadeq.datasets import primitives
from gncadeq.dynamics import ConvergenceError
from gncadeq.files.json_files import write_json
from gncadeq.growth import Trial, color_error
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.targets import anchor, seed_state
from gncadeq.transforms import GraphLaplacian, ImageToGraph
from gncadeq.transforms.surface_operators import mesh_edges

RINGS = (  # outer radius as a share of the whole, and colour
    (0.36, (0.90, 0.25, 0.20)), (0.68, (0.98, 0.85, 0.35)), (1.0, (0.15, 0.35, 0.70)),
)  # fmt: skip
SMOKE = {
    "steps": 60, "channels": 8, "hidden_channels": 24, "min_rollout": 6, "max_rollout": 10,
    "settle": 10, "pool_size": 8, "lr": 5e-3,
}  # fmt: skip


def square(side: int, neighborhood: str = "von_neumann") -> Data:
    """A square grid."""
    image = torch.zeros(1, side, side)
    data = ImageToGraph(neighborhood)(image)  # type: ignore[arg-type]
    return Data(pos=data.pos, edge_index=data.edge_index)


def lattice(graph: nx.Graph) -> Data:
    """A lattice of networkx, whose nodes know their places."""
    number = {node: i for i, node in enumerate(graph)}
    pairs = torch.tensor([[number[a], number[b]] for a, b in graph.edges]).t()
    pos = torch.tensor([graph.nodes[node]["pos"] for node in graph], dtype=torch.float)
    return Data(pos=pos, edge_index=torch.cat([pairs, pairs.flip(0)], dim=1))


def delaunay(num_points: int, seed: int) -> Data:
    """Random points, triangulated: edges of all lengths, three neighbours or twelve."""
    blob = primitives.delaunay_blob(num_points, seed)
    return Data(pos=blob.pos[:, :2], edge_index=mesh_edges(blob.face, num_points))


def topologies(side: int, seed: int) -> dict[str, Data]:
    """The graphs, the trained one first; all but small worlds at most as dense in the plane."""
    rows, columns = round(side / 0.866) // 2 * 2, 2 * side
    graphs = {
        "square": square(side),
        "larger square": square(round(1.5 * side)),
        "square, 8 neighbours": square(round(1.25 * side), "moore"),
        "triangular, 6 neighbours": lattice(nx.triangular_lattice_graph(rows, columns)),
        "honeycomb, 3 neighbours": lattice(
            nx.hexagonal_lattice_graph(round(side / 1.732), round(side / 1.5))
        ),
        "Delaunay of random points": delaunay(round(1.6 * side**2), seed),
    }
    for p in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        graphs[f"small world, p = {p:g}"] = RewireEdges(p, seed)(square(side))
    return graphs


def target(data: Data, radius: float, rewired: bool = False) -> Data:
    """Kernels, rings around the node in the middle, and the mark on it."""
    middle = (data.pos.amin(0) + data.pos.amax(0)) / 2
    seed_node = int((data.pos - middle).norm(dim=1).argmin())
    place = data.pos - data.pos[seed_node]
    source, end = data.edge_index
    square = (place[source] - place[end]).square().sum(1)
    # Not those at the border: Delaunay's are long there, where no point is.
    inside = place[source].norm(dim=1) < 0.4 * place.abs().max()
    unit = 1.0 if rewired else float(square[inside].mean().sqrt())
    pos = place / unit
    out = GraphLaplacian()(Data(pos=pos, edge_index=data.edge_index, num_nodes=len(pos)))
    out.color, out.seed_node = rings(pos.norm(dim=1), radius), torch.tensor([seed_node])
    return out


def rings(distance: Tensor, radius: float) -> Tensor:
    """Colours ``[N, 4]``, with borders that are about one edge wide."""
    color = distance.new_zeros(len(distance), 4)
    inner = torch.ones_like(distance)
    for outer, rgb in RINGS:
        beyond = torch.sigmoid(3 * (distance - outer * radius))
        color += (inner - beyond).clamp_min(0)[:, None] * distance.new_tensor([*rgb, 1.0])
        inner = torch.minimum(inner, beyond)
    return color.clamp(0, 1)


def measure(cell, data: Data, moments: list[int], seed: int) -> dict:  # type: ignore[no-untyped-def]
    """Errors on the way, residual and spectral radius at the end."""
    data.x = anchor(data)
    trial = Trial(cell, data, seed_state(data, cell.channels), fire_rate=1.0, seed=seed)
    errors = {}
    for steps in moments:
        moment = trial.run(steps - trial.steps)
        errors[steps] = moment.error
    mean = data.color.mean(0, keepdim=True).expand_as(data.color)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    try:
        radius = float(spectral_radius(step, trial.z, tol=1e-3))
    except (ConvergenceError, ValueError):  # a state that has run away
        radius = float("nan")
    return {
        "num_nodes": data.num_nodes, "num_edges": data.num_edges - data.num_nodes,
        "errors": errors, "one_color": float(color_error(mean, data.color)),
        "residual": moment.residual, "alive": moment.alive, "spectral_radius": radius,
    }, trial.z[:, :4]  # fmt: skip


def main() -> None:
    """Train on the square grid, run everywhere, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=21, help="of the square grid")
    parser.add_argument("--radius", type=float, default=6.0, help="of the outer ring, in edges")
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--long", type=int, default=2000, help="steps of the automaton")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/topology_transfer")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    options = {"steps": args.steps, "average": 0.0}
    if args.smoke:
        options, args.side, args.radius, args.long = SMOKE, 13, 4.0, 60
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="topology_transfer_") + "/run"
    config = GrowConfig("rings", out=args.out, seed=args.seed, **options)
    graphs = topologies(args.side, args.seed)
    if args.smoke:  # square, Delaunay and a small world
        graphs = dict(list(graphs.items())[::5])
    data = target(graphs["square"], args.radius)
    cell = grow(config, data, resume=args.resume)
    cell = load_grown(args.out)[0]
    moments = sorted({config.max_rollout, min(200, args.long // 2), args.long})
    table, pictures = {}, {}
    for name, graph in graphs.items():
        data = target(graph, args.radius, rewired=name.startswith("small"))
        row, color = measure(cell, data, moments, args.seed)
        table[name], pictures[name] = row, (data, color)
        errors = "  ".join(f"{row['errors'][t]:.1e} after {t}" for t in moments)
        print(
            f"{name:26s} {row['num_nodes']:5d} nodes  error {errors}  one colour "
            f"{row['one_color']:.4f}  residual {row['residual']:.1e}  "
            f"spectral radius {row['spectral_radius']:.4f}", flush=True,
        )  # fmt: skip
    results = {
        "arguments": vars(args), "parameters": sum(p.numel() for p in cell.parameters()),
        "table": table,
    }  # fmt: skip
    write_json(Path(args.out) / "results.json", results)
    draw(table, pictures, args.radius, Path(args.out) / "topology_transfer.png")
    print(f"results.json and topology_transfer.png are in {args.out}")


def draw(table: dict, pictures: dict, radius: float, path: Path) -> None:
    """One row a topology: target, what grew, and the numbers."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import save_figure

    shown = [name for name in table if name not in ("larger square", "small world, p = 0.02")]
    figure = Figure(figsize=(8.0, 1.75 * -(-len(shown) // 2)))
    axes = figure.subplots(-(-len(shown) // 2), 6, width_ratios=2 * (1, 1, 1.6), squeeze=False)
    for row in axes.reshape(-1, 3)[len(shown) :]:
        for axis in row:
            axis.axis("off")
    for row, name in zip(axes.reshape(-1, 3), shown, strict=False):
        data, color = pictures[name]
        view = 1.3 * radius
        near = (data.pos.abs() <= view).all(1)
        size = 1.15 * (72 * 1.0 / (2 * view)) ** 2 * float(_area(data, near, view))
        for axis, value in zip(row[:2], (data.color, color), strict=True):
            over_white = (value[near, :3] + 1 - value[near, 3:]).nan_to_num().clamp(0, 1)
            axis.scatter(*data.pos[near].t(), c=over_white.numpy(), s=size, linewidths=0)
            axis.set(xlim=(-view, view), ylim=(-view, view), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set_color("#cccccc")
        found = table[name]
        last = list(found["errors"].values())[-1]
        text = (
            f"{name.replace(' of ', chr(10) + 'of ').replace(', ', chr(10))}\nerror {last:.1e}\n"
            f"one colour {found['one_color']:.3f}\nresidual {found['residual']:.0e}"
        )
        row[2].text(0.0, 0.5, text, va="center", transform=row[2].transAxes)
        row[2].axis("off")
        row[0].set_title("target")
        row[1].set_title("grown")
    figure.subplots_adjust(hspace=0.3, wspace=0.08)
    save_figure(figure, path)


def _area(data: Data, near: Tensor, view: float) -> float:
    return (2 * view) ** 2 / max(1, int(near.sum()))


if __name__ == "__main__":
    main()
