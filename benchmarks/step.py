"""One step: against conv2d on a grid, against PyG's convolutions on irregular graphs.

    python -m benchmarks step --data-root DATA

The same rule is written each time with what a user would otherwise take: on a grid ``conv2d`` in
``channels_last``; on living pixels, Delaunay and k-nearest-neighbour graphs and the bunny mesh,
one matrix for each of nine classes of edge direction as ``RGCNConv`` and as ``NNConv`` (which
builds a matrix for every edge), and Gaussian kernels of the edge vectors as ``GMMConv``. All give
the same result, which is checked before anything is timed.

*× product*: how many times as long as the multiplications take at the rate of a large matrix
product of torch's; *× copy*: as the bytes that must move (state in and out, edges, weights) take at
that of a copy, both measured beforehand. No gradients here. Writes ``runs/benchmarks/step.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import Delaunay, cKDTree
from torch import Tensor, nn
from torch_geometric.nn import GMMConv, NNConv, RGCNConv
from torch_geometric.utils import coalesce

from benchmarks._measure import alternate, copy_bandwidth, multiply_rate, save, show
from gncadeq import ConvCell
from gncadeq.cells import Perception
from gncadeq.cells.stencil import prepare_neighborhood
from gncadeq.datasets import PixelGraphs
from gncadeq.transforms import ImageToGraph

RELATIONS = 9


def grid_rows(channels: int, rounds: int) -> list[dict[str, Any]]:
    """64 full images of 28 × 28."""
    data = ImageToGraph().batch(torch.rand(64, 1, 28, 28))
    cell = ConvCell(1, channels, contraction=0.9)
    z = torch.randn(data.num_nodes, channels)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    stencil, drive = step.stencil, step.drive
    image = z.view(64, 28, 28, channels).permute(0, 3, 1, 2)
    weight = cell.state_weight().view(3, 3, channels, channels).permute(3, 2, 0, 1)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = drive.view(64, 28, 28, channels).permute(0, 3, 1, 2)

    def conv() -> Tensor:
        return F.conv2d(image, weight, padding=1)

    def dense_step() -> Tensor:
        return torch.tanh(conv() + bias)

    same = step(z).view(64, 28, 28, channels).permute(0, 3, 1, 2)
    torch.testing.assert_close(same, dense_step(), atol=1e-5, rtol=1e-5)
    ms = alternate(
        {"conv": conv, "stencil": lambda: stencil(z), "dense": dense_step, "step": lambda: step(z)},
        rounds,
    )
    return [
        {"graph": "grid 64×28×28", "channels": channels, "what": "convolution", "kind": step.kind,
         "ms": ms["stencil"], "against": "conv2d", "their ms": ms["conv"],
         "ratio": ms["stencil"] / ms["conv"]},
        {"graph": "grid 64×28×28", "channels": channels, "what": "whole step", "kind": step.kind,
         "ms": ms["step"], "against": "conv2d, add, tanh", "their ms": ms["dense"],
         "ratio": ms["step"] / ms["dense"]},
    ]  # fmt: skip


def irregular_graphs(root: str | None) -> dict[str, tuple[Tensor, Tensor]]:
    """``(pos, edge_index)`` of every graph that can be had."""
    rng = np.random.default_rng(0)
    points = rng.random((10_000, 2))
    graphs = {
        "Delaunay": _triangles(points, Delaunay(points).simplices),
        "k-NN (8)": _neighbors(points, 8),
    }
    bunny = Path(root or "") / "meshes" / "stanford-bunny.obj"
    if bunny.is_file():
        vertices, faces = _read_obj(bunny)
        graphs["bunny"] = _triangles(vertices, faces)
    try:
        images = PixelGraphs(root, "mnist", True, ImageToGraph(living_threshold=0.02))
    except FileNotFoundError:
        return graphs
    data = images.batch(torch.arange(64))
    return {"living pixels": (data.pos.float(), data.edge_index), **graphs}


def _triangles(points: np.ndarray, faces: np.ndarray) -> tuple[Tensor, Tensor]:
    f = torch.from_numpy(faces.astype(np.int64))
    pairs = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).t()
    edge_index = coalesce(torch.cat([pairs, pairs.flip(0)], 1))
    return torch.from_numpy(points).float(), edge_index


def _neighbors(points: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    _, index = cKDTree(points).query(points, k + 1)
    target = torch.arange(len(points)).repeat_interleave(k)
    source = torch.from_numpy(index[:, 1:].astype(np.int64)).flatten()
    return torch.from_numpy(points).float(), torch.stack([source, target])


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([w[1:4] for w in lines if w[:1] == ["v"]], dtype=np.float64)
    faces = [[int(c.split("/")[0]) - 1 for c in w[1:4]] for w in lines if w[:1] == ["f"]]
    return vertices, np.array(faces)


def direction_class(pos: Tensor, edge_index: Tensor) -> Tensor:
    """Eight sectors of the edge's direction, seen from above, around class 4."""
    d = pos[edge_index[0]] - pos[edge_index[1]]
    sector = (torch.atan2(d[:, 1], d[:, 0]) / (2 * torch.pi / 8)).round().long() % 8
    return sector + (sector >= RELATIONS // 2)


def irregular_rows(
    name: str, pos: Tensor, edge_index: Tensor, channels: int, rounds: int, floor: Floor
) -> list[dict[str, Any]]:
    """One matrix for each direction class, and Gaussian kernels."""
    n = pos.size(0)
    loops = torch.arange(n).expand(2, n)
    relation = direction_class(pos, edge_index)
    hood = prepare_neighborhood(edge_index, relation, n, RELATIONS)
    edges = torch.cat([edge_index, loops], 1)
    relation = torch.cat([relation, torch.full((n,), RELATIONS // 2)])
    z = torch.randn(n, channels)
    weight = torch.randn(RELATIONS, channels, channels) / channels
    rgcn = RGCNConv(channels, channels, RELATIONS, aggr="add", root_weight=False, bias=False)
    rgcn.weight.data = weight
    table = nn.Linear(RELATIONS, channels * channels, bias=False)
    nnconv = NNConv(channels, channels, table, aggr="add", root_weight=False, bias=False)
    table.weight.data = weight.view(RELATIONS, -1).t().contiguous()  # which NNConv has reset
    one_hot = F.one_hot(relation, RELATIONS).float()
    stencil = hood.stencil(weight)

    gmm = GMMConv(channels, channels, pos.size(1), RELATIONS, root_weight=False, bias=False)
    gmm.root = None  # which this PyG forgets to say, and then looks for
    d = pos[edges[0]] - pos[edges[1]]
    d = d / d.norm(dim=1).mean()
    gauss = torch.exp(-0.5 * ((d[:, None] - gmm.mu) ** 2 / (1e-15 + gmm.sigma**2)).sum(-1))
    degree = torch.bincount(edges[1], minlength=n).clamp(min=1)
    sense = Perception(edges, gauss / degree[edges[1], None], n)
    mixed = gmm.g.view(channels, RELATIONS, channels).transpose(0, 1).reshape(-1, channels)

    def kernels() -> Tensor:
        out = torch.empty(n, channels)
        for rows, y in sense.in_blocks(z):
            torch.mm(y.flatten(1), mixed, out=out[rows])
        return out

    for mine, theirs in (
        (stencil(z), rgcn(z, edges, relation)), (stencil(z), nnconv(z, edges, one_hot)),
        (kernels(), gmm(z, edges, d)),
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    ms = alternate(
        {
            "stencil": lambda: stencil(z), "kernels": kernels,
            "RGCNConv": lambda: rgcn(z, edges, relation),
            "NNConv": lambda: nnconv(z, edges, one_hot), "GMMConv": lambda: gmm(z, edges, d),
        },
        rounds,
    )  # fmt: skip
    rows = []
    for mine, others, weights in (
        ("stencil", ("RGCNConv", "NNConv"), 0), ("kernels", ("GMMConv",), RELATIONS),
    ):  # fmt: skip
        moved = 4 * (2 * z.numel() + edges.size(1) * (1 + weights) + n) + weight.nbytes
        work = 2 * n * RELATIONS * channels**2
        if weights:
            work += 2 * edges.size(1) * RELATIONS * channels
        memory, compute = floor.times(moved, work)
        for other in others:
            rows.append(
                {"graph": name, "channels": channels, "what": mine, "kind": hood.kind,
                 "ms": ms[mine], "against": other, "their ms": ms[other],
                 "ratio": ms[mine] / ms[other], "faster": ms[other] / ms[mine],
                 "× product": ms[mine] / compute, "× copy": ms[mine] / memory}
            )  # fmt: skip
    return rows


class Floor:
    """Milliseconds of a copy of as many bytes, and of a large product of torch's with as many
    multiplications."""

    def __init__(self) -> None:
        self.bandwidth, self.rate = copy_bandwidth(), multiply_rate()

    def times(self, moved: int, work: int) -> tuple[float, float]:
        """For ``moved`` bytes, and for ``work`` floating-point operations."""
        return 1e3 * moved / self.bandwidth, 1e3 * work / self.rate


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    floor = Floor()
    print(f"copy {floor.bandwidth / 1e9:.1f} GB/s, products {floor.rate / 1e9:.0f} GFlop/s")
    rows = [row for c in (24, 64) for row in grid_rows(c, args.rounds)]
    show("Grid: one step against conv2d, channels_last", rows)
    more = []
    for name, (pos, edge_index) in irregular_graphs(args.data_root).items():
        more += irregular_rows(name, pos, edge_index, 24, args.rounds, floor)
    columns = ("graph", "what", "ms", "against", "their ms", "faster", "× product", "× copy")
    show(
        "Irregular: one step against PyG's convolutions, 24 channels",
        [{c: row[c] for c in columns} for row in more],
    )
    save("step", rows + more, bandwidth=floor.bandwidth, multiply_rate=floor.rate)


if __name__ == "__main__":
    main()
