"""A mesh of a million vertices in one process and in several: an automaton's rollout and training.

    python examples/mesh_in_processes.py --split 2 --parts parts
    torchrun --nproc-per-node 2 examples/mesh_in_processes.py --parts parts
    python examples/mesh_in_processes.py --parts parts
    python examples/mesh_in_processes.py --smoke        # seconds, a small mesh, one process

The mesh is a torus; the rule a ``GrowingCell`` of 16 channels whose nodes all live. It takes
``--steps`` steps from noise; then a training step, towards a pattern on the surface, goes back
through as many, with ``checkpoint_every="sqrt"``. The first command writes the whole graph and its
parts, the second measures processes of a part each, and the third one process of the whole graph,
whose state it compares with theirs. Prints seconds, this process's CPU seconds and its peak memory,
all that it has loaded included.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data

from gncadeq import GraphNCA, GrowingCell, Halo
from gncadeq.datasets import primitives
from gncadeq.transforms import MeshToGraph, split_graph

CHANNELS = 16


def mesh(vertices: int) -> Data:
    """A torus with about so many vertices, a start and a target in its first channels."""
    around = round((2 * vertices) ** 0.5)
    data = MeshToGraph("tangent")(primitives.torus(around, around // 2))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(data.num_nodes, CHANNELS, generator=generator)
    target = (4 * data.pos).sin()
    return Data(
        x=torch.zeros(data.num_nodes, 0), edge_index=data.edge_index, edge_attr=data.edge_attr,
        pos=data.pos, z0=0.1 * noise, target=target,
    )  # fmt: skip


def write(vertices: int, count: int, folder: Path) -> None:
    """The whole graph and its parts."""
    folder.mkdir(parents=True, exist_ok=True)
    data = mesh(vertices)
    torch.save(data.to_dict(), folder / "whole.pt")
    for rank, part in enumerate(split_graph(data, count)):
        torch.save(part.to_dict(), folder / f"{rank}.pt")
        print(f"part {rank}: {part.num_nodes:,} nodes, {part.halo_from.numel():,} in the halo")


def timed(what: str, rank: int, work: Callable[[], Tensor]) -> Tensor:
    """What ``work`` returns; prints its costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB, on Linux
    costs = f"{wall:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GB"
    print(f"process {rank}, {what}: {costs}", flush=True)
    return out


def run(data: Data, halo: Halo | None, steps: int, rank: int) -> tuple[Tensor, list[Tensor]]:
    """The state after a rollout, and the gradients of a training step."""
    torch.manual_seed(1)  # the same weights everywhere
    cell = GrowingCell(CHANNELS, data.edge_attr.size(1), 64, alive_channel=None)
    torch.nn.init.normal_(cell.weight_out, std=0.01)
    nca = GraphNCA(cell, steps=steps, checkpoint_every="sqrt")

    def step() -> Tensor:
        return nca(data.x, data.edge_index, data.edge_attr, z0=data.z0, halo=halo)

    def train() -> Tensor:
        count = data.target.numel() if halo is None else int(halo.gathered(
            torch.tensor(data.target.numel())
        ).sum())  # fmt: skip
        loss = F.mse_loss(step()[:, :3], data.target, reduction="sum") / count
        loss.backward()
        if halo is not None:
            halo.sum_gradients(cell.parameters())
        return loss.detach()

    with torch.no_grad():
        z = timed(f"rollout of {steps} steps", rank, step)
    timed(f"training step through {steps}", rank, train)
    return z, [p.grad for p in cell.parameters() if p.grad is not None]


def measure(folder: Path, rank: int, steps: int) -> None:
    """Run this process's part, and write down its states and gradients."""
    part = Data.from_dict(torch.load(folder / f"{rank}.pt", weights_only=True))
    z, grads = run(part, Halo(part), steps, rank)
    torch.save({"z": z, "node": part.node, "grads": grads}, folder / f"result_{rank}.pt")


def compare(z: Tensor, grads: list[Tensor], folder: Path) -> None:
    """Print how far the parts' states and gradients are from those of the whole graph."""
    files = sorted(folder.glob("result_*.pt"))
    for file in files:
        result = torch.load(file, weights_only=True)
        same = torch.equal(z[result["node"]], result["z"])
        pairs = zip(result["grads"], grads, strict=True)
        gap = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        print(f"{file.name}: states equal bit for bit: {same}; gradients differ by {gap:.1e}")


def main() -> None:
    """Split, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vertices", type=int, default=1_000_000)
    parser.add_argument("--split", type=int, help="write so many parts, and end")
    parser.add_argument("--parts", default="parts", help="the folder of the parts")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--smoke", action="store_true", help="a small mesh, seconds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.parts)
    if args.smoke:
        folder = Path(tempfile.mkdtemp(prefix="mesh_in_processes_"))
        write(800, 1, folder)
        measure(folder, 0, 4)
        args.steps = 4
    if args.split:
        write(args.vertices, args.split, folder)
        return
    if "RANK" not in os.environ:
        data = Data.from_dict(torch.load(folder / "whole.pt", weights_only=True))
        compare(*run(data, None, args.steps, 0), folder)
        return
    dist.init_process_group("gloo")
    measure(folder, dist.get_rank(), args.steps)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
