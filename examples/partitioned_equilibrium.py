"""Equilibria of graphs cut into parts: how wide a halo they need.

    python examples/partitioned_equilibrium.py --data-root DATA   # DATA/Planetoid/Cora/raw
    python examples/partitioned_equilibrium.py --smoke            # seconds, without data

Every part of a graph is solved for itself, with a halo of so many hops around it, and what its
inner nodes settle into is compared with the equilibrium of the whole graph. The error fades by the
contraction κ a hop at the slowest; by q = (1 − √(1 − κ²)) / κ for a linear rule with a symmetric
matrix (Demko, Moss & Smith 1984), as *linear* is (identity weights, no activation); *random* has
random weights and tanh. Then the same parts exchange their states: that is exact. Prints Markdown
tables, writes ``partitioned_equilibrium.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import GCNConv
from torch_geometric.utils import grid, to_undirected

from gncadeq import GraphDEQ
from gncadeq.datasets import primitives
from gncadeq.transforms import MeshToGraph, halo, partition

CHANNELS = 8
EXACT = {"tol": 1e-11, "max_steps": 5000, "solver": "anderson", "on_failure": "raise"}
RULES = {
    "linear": {"init": "identity", "activation": None},
    "random": {"init": "conv", "activation": "tanh"},
}


def graphs(names: list[str], data_root: str, smoke: bool) -> dict[str, Data]:
    """The graphs, each with random inputs."""
    out = {}
    for name in names:
        if name == "icosphere":
            data = MeshToGraph("tangent")(primitives.icosphere(2 if smoke else 4))
            edge_index = data.edge_index
        elif name == "grid":
            side = 12 if smoke else 50
            edge_index = grid(side, side)[0]
        else:
            with tempfile.TemporaryDirectory() as folder:
                raw = Path(folder) / "Cora" / "raw"
                shutil.copytree(Path(data_root) / "Planetoid" / "Cora" / "raw", raw)
                edge_index = Planetoid(folder, "Cora")[0].edge_index
        edge_index = to_undirected(edge_index[:, edge_index[0] != edge_index[1]])
        torch.manual_seed(0)
        x = torch.randn(int(edge_index.max()) + 1, 4, dtype=torch.double)
        out[name] = Data(x=x, edge_index=edge_index)
    return out


def model(rule: str, contraction: float) -> GraphDEQ:
    """The equilibrium of a graph convolution that contracts by no more than ``contraction``."""
    torch.manual_seed(1)
    conv = GCNConv(CHANNELS, CHANNELS)
    deq = GraphDEQ.from_conv(conv, 4, contraction=contraction, **RULES[rule], **EXACT)
    return deq.double()


def solve_parts(deq: GraphDEQ, data: Data, parts: list[Tensor], hops: int) -> tuple[Tensor, float]:
    """The states of all nodes, each from its part's solve, and the mean size of a part."""
    z = data.x.new_zeros(data.num_nodes, CHANNELS)
    size = 0
    for nodes in parts:
        part = halo(data, nodes, hops)
        z[part.node[part.inner]] = deq(part.x, part.edge_index)[part.inner]
        size += part.num_nodes
    return z, size / len(parts)


def exchange(
    deq: GraphDEQ, data: Data, parts: list[Tensor], hops: int, tol: float = 1e-6
) -> tuple[Tensor, int]:
    """Parts take ``hops - 1`` steps at a time and then exchange their states, until these rest."""
    z = data.x.new_zeros(data.num_nodes, CHANNELS)
    pieces = [halo(data, nodes, hops) for nodes in parts]
    steps = [deq.cell.bind(part.x, part.edge_index) for part in pieces]
    moved, count = float("inf"), 0
    while moved > tol:
        new = z.clone()
        for part, step in zip(pieces, steps, strict=True):
            own = z[part.node]
            for _ in range(hops - 1):
                own = step(own)
            new[part.node[part.inner]] = own[part.inner]
        moved, z, count = float((new - z).norm() / new.norm()), new, count + 1
    return z, count


@torch.no_grad()
def measure(data: Data, rule: str, contraction: float, count: int, widths: list[int]) -> dict:
    """Errors of halos, and the exchanges to an exact solution."""
    deq = model(rule, contraction)
    exact = deq(data.x, data.edge_index)
    parts = partition(data.edge_index, data.num_nodes, count)
    rows = []
    for hops in widths:
        z, size = solve_parts(deq, data, parts, hops)
        difference = (z - exact).norm(dim=1)
        rows.append({
            "hops": hops, "nodes_a_part": size,
            "error": float(difference.norm() / exact.norm()),
            "worst_node": float(difference.max() / exact.norm(dim=1).max()),
        })  # fmt: skip
    scattered = torch.randperm(data.num_nodes).tensor_split(count)
    alone, _ = solve_parts(deq, data, list(scattered), 0)
    exchanges = {}
    for hops in (2, 5):
        z, exchanges[hops] = exchange(deq, data, parts, hops)
        steps = exchanges[hops] * (hops - 1)
        whole = deq.as_nca(steps=steps)(data.x, data.edge_index)
        exchanges[f"{hops}: difference from {steps} steps of the whole"] = float((z - whole).norm())
    fading = [r for r in rows if r["error"] > 1e-9]
    rate = None
    if len(fading) > 1:
        span = fading[-1]["hops"] - fading[0]["hops"]
        rate = (fading[-1]["error"] / fading[0]["error"]) ** (1 / span)
    inner = data.num_nodes / count
    return {"contraction": contraction, "rule": rule, "inner_nodes": inner, "rows": rows,
            "random_parts_error": float((alone - exact).norm() / exact.norm()),
            "fades_by": rate, "exchanges": exchanges}  # fmt: skip


def draw(results: dict[str, list[dict]], path: Path) -> None:
    """Error against halo, one panel a graph."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import open_axes, save_figure

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)
    for ax, (name, runs) in zip(axes[0], results.items(), strict=True):
        for i, contraction in enumerate(sorted({r["contraction"] for r in runs})):
            for run in (r for r in runs if r["contraction"] == contraction):
                hops = [r["hops"] for r in run["rows"]]
                style = "-o" if run["rule"] == "linear" else "--s"
                label = f"κ = {contraction:g}, {run['rule']}"
                error = [max(r["error"], 1e-12) for r in run["rows"]]
                ax.plot(hops, error, style, color=f"C{i}", label=label, markersize=3)
            q = (1 - (1 - contraction**2) ** 0.5) / contraction
            label = f"κ = {contraction:g}, q per hop"
            ax.plot(hops, [q**h for h in hops], ":", color=f"C{i}", label=label, linewidth=1)
        ax.set_title(name)
        open_axes(ax, xlabel="halo (hops)", yscale="log", ylim=(1e-10, 3))
    axes[0, 0].set_ylabel("relative error")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="the folder that holds Planetoid/Cora/raw")
    parser.add_argument("--graphs", nargs="+", choices=["icosphere", "grid", "cora"])
    parser.add_argument("--contractions", nargs="+", type=float, default=[0.5, 0.9, 0.99])
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--hops", nargs="+", type=int, default=[0, 1, 2, 4, 8, 16, 32])
    parser.add_argument("--out", default="runs/partitioned_equilibrium")
    parser.add_argument("--smoke", action="store_true", help="small graphs, seconds")
    args = parser.parse_args()
    names = args.graphs or ["icosphere", "grid", *(["cora"] if args.data_root else [])]
    if "cora" in names and args.data_root is None:
        parser.error("expected --data-root for cora")
    if args.smoke:
        args.contractions, args.parts, args.hops = [0.5, 0.9], 4, [0, 1, 2, 4]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="partitioned_equilibrium_")
    results: dict[str, list[dict]] = {}
    for name, data in graphs(names, args.data_root, args.smoke).items():
        print(f"\n{name}: {data.num_nodes} nodes, {data.num_edges} edges, {args.parts} parts\n")
        head = " | ".join(f"{h} hops" for h in args.hops)
        print(f"| rule | κ | random parts | {head} | fades by |")
        print(f"|{'---|' * (len(args.hops) + 4)}")
        results[name] = []
        for rule in RULES:
            for contraction in args.contractions:
                run = measure(data, rule, contraction, args.parts, args.hops)
                results[name].append(run)
                errors = " | ".join(f"{r['error']:.1e}" for r in run["rows"])
                rate = "" if run["fades_by"] is None else f"{run['fades_by']:.2f}"
                scattered = f"{run['random_parts_error']:.1e}"
                print(f"| {rule} | {contraction:g} | {scattered} | {errors} | {rate} |", flush=True)
        sizes = " | ".join(f"{r['nodes_a_part']:.0f}" for r in run["rows"])
        print(f"| nodes a part | | {run['inner_nodes']:.0f} | {sizes} | |\n")
        for run in results[name]:
            two, five = (run["exchanges"][h] for h in (2, 5))
            print(
                f"{run['rule']}, κ = {run['contraction']:g}: {two} exchanges of states (halo 2) or "
                f"{five} (halo 5) to a change below 1e-6",
                flush=True,
            )
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "partitioned_equilibrium.json").write_text(json.dumps(results, indent=2))
    draw(results, folder / "partitioned_equilibrium.png")
    print(f"\n{folder / 'partitioned_equilibrium.png'}")


if __name__ == "__main__":
    main()
