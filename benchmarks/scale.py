"""Steps, solves, preparation and memory a node, from ten thousand to four million nodes.

    python -m benchmarks scale                     # up to --most 4e6 nodes
    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 python -m benchmarks scale

Icospheres with the tangent kernels of ``MeshToGraph`` (K = 3, valence 6), and points in the unit
square with edges from the six nearest (``PointsToGraph``, K = 1). The explicit step is that of a
``GrowingCell`` with 16 channels and 64 hidden units; the solve is that of an ``IGNNCell`` with 16
channels, Picard to a residual of 1e-3. *prepare* is the time of ``cell.prepare`` in steps; *bytes*
are the peak of tensors alive during a step, a node, the state that goes in aside. With
``--data-root``, batches of 1 to 4096 living-pixel graphs of MNIST are solved as well.

The second form keeps glibc from giving memory back between steps: where touching fresh memory is
slow (virtual machines), large graphs step several times faster. Writes
``runs/benchmarks/scale.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch_geometric.data import Data

from benchmarks._measure import alternate, peak_bytes, save, show
from gncadeq import GraphDEQ, GrowingCell, IGNNCell, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs, primitives
from gncadeq.transforms import MeshToGraph, PointsToGraph

CHANNELS = 16


def meshes(most: float) -> list[tuple[str, Any]]:
    """Names and makers of graphs, small ones first."""
    found: list[tuple[int, str, Any]] = []
    for level in range(5, 10):
        n = 10 * 4**level + 2
        found.append((n, "icosphere", lambda s=level: MeshToGraph("tangent")(_sphere(s))))
    for n in (10_000, 100_000, 1_000_000, 4_000_000):
        found.append((n, "points, k = 6", lambda n=n: PointsToGraph(k=6)(_points(n))))
    return [(name, make) for n, name, make in sorted(found, key=lambda f: f[0]) if n <= most]


def _sphere(level: int) -> Data:
    return primitives.icosphere(level)


def _points(n: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(n, 2, generator=generator)
    cells = (pos * 1024).long()  # neighbours stand near each other, as they do in most files
    return Data(pos=pos[(cells[:, 0] * 1024 + cells[:, 1]).argsort()])


def measure(name: str, make: Any, seconds: float) -> dict[str, Any]:
    """One row."""
    start = time.perf_counter()
    data = make()
    transform = time.perf_counter() - start
    n = data.num_nodes
    torch.manual_seed(0)
    cell = GrowingCell(CHANNELS, data.edge_attr.size(1), 64, alive_channel=None)
    torch.nn.init.normal_(cell.weight_out, std=0.01)
    nothing = torch.zeros(n, 0)
    graph = (data.edge_index, data.edge_attr)
    step = cell.prepare(nothing, *graph)
    z = torch.randn(n, CHANNELS)
    ms = alternate(
        {"step": lambda: step(z), "prepare": lambda: cell.prepare(nothing, *graph)},
        rounds=9, seconds=seconds,
    )  # fmt: skip
    ignn = IGNNCell(CHANNELS, CHANNELS, kappa=0.9)
    deq = GraphDEQ(ignn, "picard", tol=1e-3)
    begin = time.perf_counter()
    _, solution = deq(z, data.edge_index, None, return_solution=True)
    solve = time.perf_counter() - begin
    return {
        "graph": name, "nodes": n, "transform s": transform, "step ms": ms["step"],
        "step ns a node": 1e6 * ms["step"] / n, "prepare in steps": ms["prepare"] / ms["step"],
        "bytes a node": peak_bytes(lambda: step(z)) / n, "solve s": solve,
        "solve µs a node": 1e6 * solve / n, "solver steps": int(solution.num_steps[0]),
    }  # fmt: skip


def batches(root: str | None) -> list[dict[str, Any]]:
    """Solves of 1 to 4096 graphs at a time."""
    model = PixelGraphClassifier.from_pretrained("mnist")
    dataset = PixelGraphs(root, "mnist", False, model.to_graph)
    rows = []
    for count in (1, 16, 64, 256, 1024, 4096):
        data = dataset.batch(torch.arange(count))

        def run(data: Any = data) -> None:
            model(data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs)

        ms = alternate({"solve": run}, rounds=7)["solve"]
        rows.append(
            {"graphs": count, "nodes": data.num_nodes, "ms": ms, "ms a graph": ms / count,
             "µs a node": 1e3 * ms / data.num_nodes}
        )  # fmt: skip
    return rows


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--most", type=float, default=4e6, help="nodes of the largest graph")
    parser.add_argument("--data-root", help="also solve batches of MNIST from here")
    args = parser.parse_args()
    rows = []
    for name, make in meshes(args.most):
        rows.append(measure(name, make, 20.0))
        print(f"{name}: {rows[-1]['nodes']:,} nodes, {rows[-1]['step ms']:.1f} ms", flush=True)
    columns = [c for c in rows[0] if c not in ("transform s", "solve s")]
    show("One graph", [{c: r[c] for c in columns} for r in rows])
    more = []
    if args.data_root:
        more = batches(args.data_root)
        show("Batches of digits", more)
    save("scale", rows, batches=more)


if __name__ == "__main__":
    main()
