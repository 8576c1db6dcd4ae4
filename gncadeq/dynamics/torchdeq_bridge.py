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
from gncadeq.dynamics.partition import Partition
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers import make_solver
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


@torch.no_grad()
def solve_stock(
    step: Step,
    z0: Tensor,
    partition: Partition,
    *,
    solver: str,
    tol: float,
    max_steps: int,
    options: dict[str, Any] | None = None,
) -> Solution:
    """Solve with a solver of TorchDEQ's, one row a graph, and measure the result.

    All graphs take the steps of the slowest; residual and status are those of the state that is
    returned, from one more evaluation.
    """
    check_stock_solver(solver, options)
    if partition.num_nodes == 0:
        return solve(step, z0, partition, solver="picard", tol=tol, max_steps=0)
    packing, channels = _Packing(partition), z0.size(1)
    evaluations = 0

    def packed_step(rows: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return packing.pack(step(packing.unpack(rows, channels)).to(z0.dtype))

    rows, _, _ = get_solver(solver.removeprefix(_PREFIX))(
        packed_step, packing.pack(z0), max_iter=max_steps, tol=tol, stop_mode="rel",
        **(options or {}),
    )  # fmt: skip
    z = packing.unpack(rows, channels)
    fz = step(z)
    diff, size = partition.norm(fz - z), partition.norm(fz)
    finite = diff.isfinite() & size.isfinite()
    residual = torch.where(diff == 0, 0.0, diff / size)
    residual = torch.where(finite, residual, float("inf"))
    status = torch.where(residual <= tol, int(Status.CONVERGED), int(Status.MAX_STEPS))
    status = torch.where(finite, status, int(Status.NON_FINITE))
    count = torch.full_like(status, evaluations)
    return Solution(z, residual, diff, count, count + 1, status, tol)


class GraphCore(DEQBase):  # type: ignore[misc]
    """Our solve as a TorchDEQ core: ``torchdeq.get_deq(core="graph")``, once ``gncadeq.dynamics``
    is imported.

    The returned module maps ``(func, z_init, batch)`` to ``([z], info)`` as TorchDEQ's cores do;
    gradients are phantom steps through ``func`` (``grad``, ``tau``) at the equilibrium. For the
    exact implicit gradient use :class:`gncadeq.GraphDEQ`.
    """

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args=args, **kwargs)
        self.graph_solver = self.args.get("graph_solver", "anderson")
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
