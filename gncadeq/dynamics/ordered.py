"""Solutions of steps along acyclic graphs, by substitution."""

from __future__ import annotations

import torch

from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers.base import on_device
from gncadeq.graph.partition import Partition
from gncadeq.typing import OrderedStep


@torch.no_grad()
def substituted(step: OrderedStep, partition: Partition, tol: float) -> Solution:
    """The equilibrium of every graph, and how many plain steps would have reached it.

    Args:
        step: The step.
        partition: The nodes of each graph.
        tol: The relative residual that counts as converged; it is zero but for rounding.
    """
    z = step.substitute()
    residual, diff, size = on_device(Residual("graph", 0.0)(z, step(z), partition), z)
    finite = residual.isfinite()
    status = torch.where(residual <= tol, int(Status.CONVERGED), int(Status.MAX_STEPS))
    status = status.masked_fill(~finite, int(Status.NON_FINITE))
    z = z.masked_fill(~finite[partition.batch].unsqueeze(1), float("nan"))
    steps = torch.zeros_like(status).scatter_reduce(0, partition.batch, step.depth, "amax")
    return Solution(z, residual, diff, size, steps, steps + 1, status, tol)
