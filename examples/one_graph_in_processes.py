"""One graph held by several processes: its equilibrium, trained together, exactly.

    python examples/one_graph_in_processes.py --split 2 --parts parts       # once, on one machine
    torchrun --nproc-per-node 2 examples/one_graph_in_processes.py --parts parts
    python examples/one_graph_in_processes.py --smoke                       # seconds, one process

The nodes are the pixels of a large picture. Its equilibrium takes noise out of it: a process holds
its part of the pixels, and asks the others for those along the border in every step. Every step of
the training is saved; a run that was interrupted goes on from there. Prints what the processes
told each other, and with ``--compare`` how far state and gradient are from those of one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq import ConvCell, GraphDEQ, Halo
from gncadeq.transforms import ImageToGraph, split_graph


class Restorer(nn.Module):
    """The equilibrium of a convolution, read at every pixel."""

    def __init__(self, channels: int, solver: str, tol: float) -> None:
        super().__init__()
        cell = ConvCell(1, channels, contraction=0.9)
        self.deq = GraphDEQ(cell, solver=solver, tol=tol)
        self.readout = nn.Linear(channels, 1)

    def forward(self, data: Data, halo: Halo | None) -> tuple[Tensor, Tensor, Tensor]:
        """What each pixel is restored to, its state, and the number of steps."""
        z, solution = self.deq(
            data.x, data.edge_index, data.edge_attr, halo=halo, return_solution=True
        )
        return self.readout(z), z, solution.num_steps


def picture(side: int) -> Data:
    """A smooth picture with noise, as a graph of those pixels that aren't black."""
    torch.manual_seed(0)
    line = torch.linspace(0, 3, side)
    clean = 0.5 + 0.3 * (line[:, None].square() + line).sin()
    noisy = (clean + 0.2 * torch.randn(side, side)).clamp(0, 1)
    data = ImageToGraph(living_threshold=0.0)(noisy.unsqueeze(0))
    data.y = clean[noisy > 0].unsqueeze(1)
    return data


def save(value: object, path: Path) -> None:
    """Write a file that is whole or isn't there."""
    part = path.with_suffix(".part")
    torch.save(value, part)
    part.replace(path)


def learn(model: Restorer, data: Data, halo: Halo | None, count: int) -> tuple[Tensor, ...]:
    """The gradient of the mean error of all ``count`` pixels, as far as these nodes make it."""
    model.zero_grad()
    out, z, steps = model(data, halo)
    loss = F.mse_loss(out, data.y, reduction="sum") / count
    loss.backward()
    if halo is not None:
        halo.sum_gradients(model.parameters())
    return loss.detach(), z.detach(), steps


def main() -> None:
    """Split, or train on a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=448, help="pixels of a side")
    parser.add_argument("--split", type=int, help="write so many parts, and end")
    parser.add_argument("--hops", type=int, default=1)
    parser.add_argument("--parts", help="the folder of the parts")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--solver", default="picard")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=5, help="training steps, in all")
    parser.add_argument("--out", default="runs/one_graph_in_processes")
    parser.add_argument("--compare", action="store_true", help="with one process")
    parser.add_argument("--smoke", action="store_true", help="a small picture, seconds")
    args = parser.parse_args()
    if args.smoke:
        args.side, args.steps, args.compare = 24, 2, True
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="one_graph_in_processes_")
    if args.split:
        Path(args.parts).mkdir(parents=True, exist_ok=True)
        for rank, part in enumerate(split_graph(picture(args.side), args.split, args.hops)):
            save(part.to_dict(), Path(args.parts) / f"{rank}.pt")
            print(f"part {rank}: {part.num_nodes:,} nodes, {part.halo_from.numel():,} in the halo")
        return
    if "RANK" in os.environ:  # torchrun says so
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if args.parts:
        file = torch.load(Path(args.parts) / f"{rank}.pt", weights_only=True)
        part = Data.from_dict(file).to(device)
    else:
        part = split_graph(picture(args.side), count, args.hops)[rank].to(device)
    halo = Halo(part)
    total = int(halo.gathered(torch.tensor(part.num_nodes, device=device)).sum())
    torch.manual_seed(1)  # the same weights everywhere
    model = Restorer(args.channels, args.solver, args.tol).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    checkpoint, done = Path(args.out) / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for step in range(done, args.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        loss, _, solved = learn(model, part, halo, total)
        optimizer.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        loss = halo.gathered(loss).sum()
        if rank == 0:
            save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                 "step": step + 1}, checkpoint,
            )  # fmt: skip
            print(
                f"step {step}: error {float(loss):.4f}, {int(solved)} solver steps, {wall:.2f} s, "
                f"{cpu:.2f} s of this process's CPU", flush=True,
            )  # fmt: skip
    mine = torch.tensor([part.num_nodes, halo.num_halo, halo.send_row.numel()], device=device)
    for k, (nodes, around, sent) in enumerate(halo.gathered(mine).tolist()):
        if rank == 0:
            size = 4 * args.channels * sent
            print(
                f"process {k}: {nodes:,} nodes, {around:,} in the halo, {size:,} bytes sent a step"
            )
    if args.compare:
        compare(model, part, halo, total, rank, args)
    if dist.is_initialized():
        dist.destroy_process_group()


def compare(
    model: Restorer, part: Data, halo: Halo, total: int, rank: int, args: argparse.Namespace
) -> None:
    """Print how far state and gradient are from those of the whole graph in one process."""
    _, z, _ = learn(model, part, halo, total)
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    whole = picture(args.side).to(z.device)
    wall, cpu = time.perf_counter(), time.process_time()
    _, exact, _ = learn(model, whole, None, total)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    error = halo.gathered((z - exact[part.node]).norm()).norm() / exact.norm()
    pairs = zip(grads, (p.grad for p in model.parameters() if p.grad is not None), strict=True)
    gap = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    if rank == 0:
        print(
            f"one process alone: {wall:.2f} s, {cpu:.2f} s of its CPU; relative differences: state "
            f"{float(error):.1e}, gradients of the weights {gap:.1e}"
        )


if __name__ == "__main__":
    main()
