"""TorchDEQ's cores on graphs, and gradients of unrolled steps to compare with."""

from __future__ import annotations

import torch
import torchdeq

from gncadeq import ConvCell

BATCH = torch.tensor([0, 0, 0, 1, 1])


EDGES = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])


def core(**options):
    """The core "graph", solved to rounding."""
    return torchdeq.get_deq(core="graph", **{"f_tol": 1e-10, "f_max_iter": 300, **options})


def step_of(data):
    cell = ConvCell(2, 3, contraction=0.8).double()
    return cell, cell.prepare(data.x, data.edge_index, data.edge_attr)


def start_of(data):
    return torch.zeros(data.num_nodes, 3, dtype=torch.double)


def unrolled(step, z, steps=400):
    for _ in range(steps):
        z = step(z)
    return z


def gradients(loss, cell):
    return torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)


def assert_same(mine, theirs, rtol=1e-6):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-9)
