"""Boids: flocking learned from trajectories, on a graph that follows the agents.

    python examples/boids.py               # one seed
    python examples/boids.py --smoke       # seconds

100 agents on a torus, neighbours within a radius of 0.1 (Grattarola et al. 2021). A rule by hand
makes trajectories from random starts; a message-passing network learns its step from pairs of
states, and is then run by itself. Both are cells, and ``RewiredCell`` makes the graph anew in every
step. Measured on starts that were not seen: the error of a step beside that of keeping velocities;
and over 500 steps the order parameter, the sample entropy and the correlation dimension of the
agents' velocities, beside the rule by hand; also with other numbers of agents. Writes
``results.json`` and ``boids.png``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from boid_rules import (
    Flock,
    LearnedFlock,
    WithinRadius,
    correlation_dimension,
    order,
    sample_entropy,
)
from torch import Tensor

from gncadeq import Cell, GraphNCA
from gncadeq.cells import RewiredCell
from gncadeq.files.json_files import write_json

RADIUS = 0.1


def starts(flocks: int, agents: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions and velocities at random, and the flock of every agent."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(flocks * agents, 2, generator=generator)
    angle = 2 * math.pi * torch.rand(flocks * agents, generator=generator)
    velocity = 0.01 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([place, velocity], 1), torch.arange(flocks).repeat_interleave(agents)


@torch.no_grad()
def run(cell: Cell, z0: Tensor, batch: Tensor, steps: int) -> Tensor:
    """Trajectories ``[steps + 1, flocks, agents, 4]``."""
    nca = GraphNCA(RewiredCell(cell, WithinRadius(RADIUS)), steps)
    none = torch.empty(2, 0, dtype=torch.long)
    _, states = nca(z0[:, :0], none, None, batch, z0=z0, return_trajectory=True)
    return states.view(steps + 1, int(batch[-1]) + 1, -1, 4)


def train(states: Tensor, args: argparse.Namespace) -> tuple[LearnedFlock, float]:
    """Learn the step from pairs of states ``[pairs, agents, 4]``; CPU seconds."""
    torch.manual_seed(args.seed)
    cell, near = LearnedFlock(RADIUS, args.hidden), WithinRadius(RADIUS)
    optimizer = torch.optim.Adam(cell.parameters(), args.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps + 1, cycle_momentum=False
    )
    now, then = states[:-1].flatten(0, 1), states[1:].flatten(0, 1)
    agents = now.size(1)
    batch = torch.arange(args.batch).repeat_interleave(agents)
    begin = time.process_time()
    for step in range(args.steps):
        chosen = torch.randint(now.size(0), (args.batch,))
        z, wanted = now[chosen].flatten(0, 1), then[chosen].flatten(0, 1)
        found = cell.prepare(z[:, :0], *near(z, batch))(z)
        loss = (1000 * (found - wanted)[:, 2:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(cell.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {time.process_time() - begin:.0f} CPU s",
                  flush=True)  # fmt: skip
    return cell.eval(), time.process_time() - begin


@torch.no_grad()
def one_step(cell: Cell, states: Tensor) -> dict[str, float]:
    """Root mean square error of the next velocity, and of keeping the velocity."""
    now, then = states[:-1].flatten(0, 1), states[1:].flatten(0, 1)
    batch = torch.arange(now.size(0)).repeat_interleave(now.size(1))
    z = now.flatten(0, 1)
    found = cell.prepare(z[:, :0], *WithinRadius(RADIUS)(z, batch))(z)
    wanted = then.flatten(0, 1)[:, 2:]
    rms = [float((v[:, 2:] - wanted).square().mean().sqrt()) for v in (found, z)]
    return {"error": rms[0], "persistence": rms[1], "ratio": rms[0] / rms[1]}


def described(states: Tensor) -> dict[str, float]:
    """The second half of a run: order, and the two measures of the first velocity component."""
    half = states[states.size(0) // 2 :, ..., 2:]
    series = half[..., 0].flatten(1).t().double().numpy()
    chosen = series[:: max(1, len(series) // 40)]
    entropy = [sample_entropy(each) for each in chosen]
    dimension = [correlation_dimension(each) for each in chosen]
    return {
        "order": float(order(half).mean()), "order, lowest flock": float(order(half).mean(0).min()),
        "sample entropy": float(np.nanmean(entropy)),
        "correlation dimension": float(np.nanmean(dimension)),
    }  # fmt: skip


def main() -> None:
    """Simulate, train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--flocks", type=int, default=100, help="trajectories of 50 steps")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="flocks of a training step")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--long", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 50, 200])
    parser.add_argument("--out", default="runs/boids")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    length, tests = 50, 10
    if args.smoke:
        args.agents, args.flocks, args.steps, args.long, args.sizes = 20, 3, 3, 24, [20, 10]
        length, tests = 4, 2
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="boids_")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    truth = Flock()
    states = run(truth, *starts(args.flocks, args.agents, args.seed), length)
    cell, seconds = train(states, args)
    used = sum(p.numel() for p in cell.parameters())
    table: dict[str, Any] = {"parameters": used, "CPU s": seconds}
    unseen = run(truth, *starts(tests, args.agents, 1_000_000), length)
    table["one step"] = one_step(cell, unseen)
    print(f"{used} parameters, {seconds:.0f} CPU s; one step: {table['one step']}", flush=True)
    runs: dict[str, Tensor] = {}
    for agents in args.sizes:
        start = starts(tests, agents, 2_000_000 + agents)
        for name, rule in (("by hand", truth), ("learned", cell)):
            way = run(rule, *start, args.long)
            runs.setdefault(name, way)
            table[f"{agents} agents, {name}"] = described(way)
            print(f"{agents} agents, {name}:", table[f"{agents} agents, {name}"], flush=True)
    write_json(out / "results.json", table)
    moments = [0, args.long // 10, args.long]
    figure, axes = plt.subplots(2, len(moments) + 1, figsize=(11, 5.4), layout="constrained")
    for row, (name, way) in zip(axes, runs.items(), strict=True):
        for axis, step in zip(row, moments, strict=False):
            z = way[step, 0]
            axis.quiver(z[:, 0], z[:, 1], z[:, 2], z[:, 3], torch.atan2(z[:, 3], z[:, 2]),
                        cmap="twilight", clim=(-math.pi, math.pi), scale=0.25,
                        width=0.006)  # fmt: skip
            axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[],
                     title=f"{name}, step {step}")  # fmt: skip
        row[-1].plot(order(way[..., 2:]).numpy(), linewidth=0.8)
        row[-1].set(ylim=(0, 1), xlabel="step", title="order of ten flocks")
        row[-1].spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "boids.png", dpi=80)


if __name__ == "__main__":
    main()
