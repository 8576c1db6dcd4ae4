"""TorchDEQ, with the batch seen as graphs: its solvers for us, our solve for it.

TorchDEQ takes dimension 0 of a state for the batch; a state ``[num_nodes, channels]`` would be
solved node by node. Here every graph becomes one padded row. This is the only module that
imports ``torchdeq``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchdeq.core import DEQBase, register_deq
from torchdeq.solver import get_solver

from gncadeq.dynamics.fixed_point import solve
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers import make_solver
from gncadeq.graph.partition import Partition
from gncadeq.typing import Step

_PREFIX = "torchdeq:"
_OPTIONS = {
    "anderson": ("m", "lam", "tau"),
    "broyden": ("ls", "LBFGS_thres"),
    "fixed_point_iter": ("tau",),
}


def check_stock_solver(name: str, options: dict[str, Any] | None) -> None:
    """Raise if TorchDEQ has no such solver, or it no such option (it ignores them itself)."""
    solver = name.removeprefix(_PREFIX)
    if solver not in _OPTIONS:
        raise ValueError(f"Expected a solver of {[_PREFIX + s for s in _OPTIONS]} (got {name!r})")
    for option in options or {}:
        if option not in _OPTIONS[solver]:
            raise TypeError(
                f"Unknown option {option!r} of solver {name!r} (it has {list(_OPTIONS[solver])})"
            )


class _Packing:
    """Ragged ``[num_nodes, C]`` to padded ``[num_graphs, longest * C]`` and back."""

    def __init__(self, partition: Partition) -> None:
        count = torch.bincount(partition.batch, minlength=partition.num_graphs)
        first = count.cumsum(0) - count
        node = torch.arange(partition.num_nodes, device=count.device)
        self.longest = int(count.max()) if count.numel() else 0
        self.slot = partition.batch * self.longest + node - first[partition.batch]
        self.num_graphs = partition.num_graphs

    def pack(self, z: Tensor) -> Tensor:
        rows = z.new_zeros(self.num_graphs * self.longest, z.size(1))
        return rows.index_copy(0, self.slot, z).view(self.num_graphs, -1)

    def unpack(self, rows: Tensor, channels: int) -> Tensor:
        return rows.reshape(-1, channels)[self.slot]


class _Watched:
    """The map on packed rows: counts its calls, and keeps the best state of every graph."""

    def __init__(self, step: Step, z0: Tensor, partition: Partition, measure: Residual) -> None:
        self.step, self.partition = step, partition
        self.packing, self.channels = _Packing(partition), z0.size(1)
        self.measure = measure
        self.measure.start(z0, partition)
        self.state, self.calls = z0, 0
        self.residual = z0.new_full((partition.num_graphs,), float("inf"))
        self.residual_abs = self.residual
        self.finite = torch.ones_like(self.residual, dtype=torch.bool)

    def __call__(self, rows: Tensor) -> Tensor:
        z = self.packing.unpack(rows, self.channels)
        fz = self.step(z).to(z.dtype)
        self.calls += 1
        rel, diff, _ = self.measure(z, fz, self.partition)
        self.finite = rel.isfinite()
        better = self.finite & (rel <= self.residual)
        self.state = torch.where(better[self.partition.batch].unsqueeze(1), z, self.state)
        self.residual = torch.where(better, rel, self.residual)
        self.residual_abs = torch.where(better, diff, self.residual_abs)
        return self.packing.pack(fz)


@torch.no_grad()
def solve_stock(
    step: Step,
    z0: Tensor,
    partition: Partition,
    *,
    solver: str,
    tol: float,
    max_steps: int,
    atol: float | None = None,
    options: dict[str, Any] | None = None,
) -> Solution:
    """Solve with a solver of TorchDEQ's, one row a graph, and measure what it evaluates.

    All graphs take the steps of the slowest; each gets the best state of those evaluated. A graph
    without convergence is ``STALLED`` if the solver ended before ``max_steps``, by itself or by a
    matrix that it could not invert.
    """
    check_stock_solver(solver, options)
    if partition.num_nodes == 0:
        return solve(step, z0, partition, solver="picard", tol=tol, max_steps=0)
    watched = _Watched(step, z0, partition, Residual("graph", None if atol is None else atol / tol))
    early = False
    try:
        get_solver(solver.removeprefix(_PREFIX))(
            watched, watched.packing.pack(z0), max_iter=max_steps, tol=tol, stop_mode="rel",
            **(options or {}),
        )  # fmt: skip
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        early = True
    early = early or watched.calls < max_steps
    code = int(Status.STALLED if early else Status.MAX_STEPS)
    status = torch.where(watched.finite, code, int(Status.NON_FINITE))
    status = torch.where(watched.residual <= tol, int(Status.CONVERGED), status)
    count = torch.full_like(status, watched.calls)
    return Solution(
        watched.state, watched.residual, watched.residual_abs, count - 1, count, status, tol
    )


class GraphCore(DEQBase):  # type: ignore[misc]
    """Our solve as a TorchDEQ core: ``torchdeq.get_deq(core="graph")``, once ``gncadeq.dynamics``
    is imported.

    The returned module maps ``(func, z_init, batch)`` to ``([z], info)`` as TorchDEQ's cores do;
    gradients are phantom steps through ``func`` (``grad``, ``tau``) at the equilibrium. For the
    exact implicit gradient use :class:`gncadeq.GraphDEQ`.
    """

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args=args, **kwargs)
        self.graph_solver = self.args.get("graph_solver", "auto")
        make_solver(self.graph_solver)
        self.grad_steps = int(self.args.get("grad", 1))
        self.tau = float(self.args.get("tau", 1.0))

    def forward(
        self, func: Step, z_init: Tensor, batch: Tensor | None = None, **_: Any
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Solve ``z = func(z)`` for each graph of ``batch``."""
        partition = Partition(batch, z_init.size(0), like=z_init)
        solution = solve(
            func, z_init.detach(), partition, solver=self.graph_solver, tol=self.f_tol,
            max_steps=self.f_max_iter,
        )  # fmt: skip
        z = solution.state
        if torch.is_grad_enabled():
            y = z
            for _step in range(self.grad_steps):
                y = torch.lerp(y, func(y), self.tau)
            z = z + (y - y.detach())
        info = {
            "abs_lowest": solution.residual_abs,
            "rel_lowest": solution.residual,
            "nstep": solution.num_steps,
        }
        return [z], info


register_deq("graph", GraphCore)

__all__ = ["GraphCore", "check_stock_solver", "solve_stock"]
