"""Solvers on graphs in TorchDEQ's registry, and TorchDEQ's own solvers on graphs.

TorchDEQ takes dimension 0 of a state for the batch; a state ``[num_nodes, channels]`` would be
solved node by node. Here every graph becomes one padded row. Only this module and
:mod:`gncadeq.dynamics.graph_core` import ``torchdeq``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import to_dense_batch
from torchdeq.solver import get_solver
from torchdeq.solver import register_solver as register_torchdeq_solver
from torchdeq.solver.stat import SolverStat

from gncadeq.certificate import Certificate
from gncadeq.check import check_choice
from gncadeq.dynamics.fixed_point import solve_by
from gncadeq.dynamics.growth import Growth
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers import make_solver, solver_names
from gncadeq.dynamics.solvers.base import columns, on_device
from gncadeq.graph.partition import Partition
from gncadeq.typing import Step

PREFIX = "graph:"  # of our solvers in TorchDEQ's registry
_PREFIX = "torchdeq:"  # of its own, for us
_OPTIONS = {
    "anderson": ("m", "lam", "tau"),
    "broyden": ("ls", "LBFGS_thres"),
    "fixed_point_iter": ("tau",),
}


def check_stock_solver(name: str, options: dict[str, Any] | None) -> None:
    """Raise if TorchDEQ has no such solver, or if the solver has no such option.

    TorchDEQ itself ignores unknown options.
    """
    solver = name.removeprefix(_PREFIX)
    if solver not in _OPTIONS:
        raise ValueError(f"Expected a solver of {[_PREFIX + s for s in _OPTIONS]} (got {name!r})")
    for option in options or {}:
        if option not in _OPTIONS[solver]:
            raise TypeError(
                f"Unknown option {option!r} of solver {name!r} (it has {list(_OPTIONS[solver])})"
            )


class _Watched:
    """The map on packed rows: counts its calls, and keeps the best state of every graph."""

    def __init__(
        self, step: Step, z0: Tensor, partition: Partition, measure: Residual, tol: float
    ) -> None:
        self.step, self.partition, self.tol = step, partition, tol
        self.measure = measure
        self.measure.start(z0, partition)
        self.state, self.calls = z0, 0
        self.best = np.full((3, partition.num_graphs), np.inf)
        self.finite = np.ones(partition.num_graphs, bool)
        self.converged = ~self.finite
        self.growth: Growth | None = None

    def pack(self, z: Tensor) -> Tensor:
        """Ragged ``[num_nodes, C]`` to padded ``[num_graphs, longest * C]``."""
        p = self.partition
        rows: Tensor
        rows, self.mask = to_dense_batch(
            z, p.batch, max_num_nodes=int(p.count.max()), batch_size=p.num_graphs
        )
        return rows.flatten(1)

    def __call__(self, rows: Tensor) -> Tensor:
        z = rows.view(*self.mask.shape, -1)[self.mask]
        fz = self.step(z).to(z.dtype)
        self.calls += 1
        numbers = self.measure(z, fz, self.partition)
        self.growth = self.growth or Growth(self.measure.first, self.tol)
        rel, diff, size = numbers
        self.finite = np.isfinite(rel)
        lost, large = self.growth.check(diff, size)
        away = lost | large
        rest = (rel <= self.tol) & ~away
        # A state that ran away may have had a smaller residual than the first one at rest.
        better = self.finite & (rel <= self.best[0]) & ~(self.converged & away)
        better = better | (rest & ~self.converged)
        self.converged = self.converged | rest
        if better.any():
            self.state = torch.where(columns(better, self.partition), z, self.state)
        self.best = np.where(better, numbers, self.best).astype(numbers.dtype)
        return self.pack(fz)


@torch.no_grad()
def solve_stock(options: SolveOptions, step: Step, z0: Tensor, partition: Partition) -> Solution:
    """Solve with a solver of TorchDEQ's, one row a graph, and measure what it evaluates.

    All graphs take the steps of the slowest; each gets the best state of those evaluated. A graph
    without convergence is ``STALLED`` if the solver ended before ``max_steps``, of its own accord
    or at a matrix that it could not invert.
    """
    check_stock_solver(options.solver, options.solver_options)
    if partition.num_nodes == 0:
        nothing = SolveOptions("picard", options.tol, max_steps=0)
        return solve_by(nothing, step, z0, partition)
    watched = _Watched(step, z0, partition, Residual("graph", options.floor), options.tol)
    early, tol, max_steps = False, options.tol, options.max_steps
    try:
        get_solver(options.solver.removeprefix(_PREFIX))(
            watched, watched.pack(z0), max_iter=max_steps, tol=tol, stop_mode="rel",
            **(options.solver_options or {}),
        )  # fmt: skip
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        early = True
    early = early or watched.calls < max_steps
    code = int(Status.STALLED if early else Status.MAX_STEPS)
    ends = np.where(watched.finite, code, int(Status.NON_FINITE))
    status = on_device(np.where(watched.converged, int(Status.CONVERGED), ends), z0)
    count = torch.full_like(status, watched.calls)
    rel, diff, size = on_device(watched.best, z0)
    return Solution(watched.state, rel, diff, size, count - 1, count, status, tol)


@dataclass(frozen=True)
class GraphSolver:
    """One of our solvers as TorchDEQ registers them, under ``"graph:NAME"``.

    Args:
        name: A solver of this library, or ``"torchdeq:NAME"`` for TorchDEQ's own on one row a
            graph.

    Example:
        >>> import torchdeq
        >>> deq = torchdeq.get_deq(f_solver="graph:anderson", f_stop_mode="rel", f_tol=1e-6)
        >>> batch = torch.tensor([0, 0, 1])
        >>> (z,), _ = deq(torch.cos, torch.zeros(3, 1), solver_kwargs={"batch": batch})
        >>> z.flatten()
        tensor([0.7391, 0.7391, 0.7391])
    """

    name: str

    @property
    def stock(self) -> bool:
        """Whether it is one of TorchDEQ's own."""
        return self.name.startswith(_PREFIX)

    def check(self, options: SolveOptions) -> None:
        """Refuse unknown names and options, and criteria that TorchDEQ's own don't know."""
        if not self.stock:
            make_solver(self.name, options.solver_options)
            return
        check_stock_solver(self.name, options.solver_options)
        check_choice(
            "criterion", options.criterion, ["graph"],
            f"{self.name} knows no other; use 'auto', 'picard', 'anderson' or 'broyden' for it",
        )  # fmt: skip

    def solve(
        self,
        options: SolveOptions,
        step: Step,
        z0: Tensor,
        partition: Partition,
        trace: bool = False,
        certificate: Certificate | None = None,
    ) -> Solution:
        """Solve ``z = step(z)`` for every graph; see :func:`gncadeq.dynamics.solve`."""
        if not self.stock:
            return solve_by(options, step, z0, partition, trace, certificate)
        if trace:
            raise ValueError(
                f"Expected trace=False with solver={self.name!r}, which measures nodes, not "
                "graphs, on its way (got True). Use 'auto', 'anderson' or 'picard'"
            )
        return solve_stock(options, step, z0, partition)

    def __call__(
        self,
        func: Step,
        x0: Tensor,
        max_iter: int = 50,
        tol: float = 1e-3,
        stop_mode: str = "rel",
        indexing: Sequence[int] | None = None,
        batch: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, list[Tensor], SolverStat]:
        """Solve for TorchDEQ's own cores; all of ``x0`` is one graph without a ``batch``.

        Raises:
            ValueError: If ``stop_mode`` isn't ``"rel"``, or states on the way are asked for.
        """
        check_stop_mode("stop_mode", stop_mode)
        if indexing and len(indexing) > 1:
            raise ValueError(
                f"Expected at most one state from {PREFIX}{self.name} (got indexing="
                f"{list(indexing)}). Use get_deq(core='graph', indexing=...) for states on the way"
            )
        partition = Partition(batch, x0.size(0), like=x0)
        settings = SolveOptions(
            self.name, tol, max_steps=int(max_iter), solver_options=options
        )  # fmt: skip
        solution = self.solve(settings, func, x0, partition, trace=not self.stock)
        return solution.state, [solution.state] if indexing else [], solver_stat(solution)


def solver_stat(solution: Solution, **more: Tensor) -> SolverStat:
    """A solution as TorchDEQ's ``info``: every entry has a row for each graph.

    ``rel_trace`` goes on with the last value after a graph's end, as TorchDEQ's does. What wasn't
    recorded is -1, also as in TorchDEQ: ``abs_trace``.
    """
    if solution.trace is not None and solution.trace.numel():
        columns = [solution.trace[0]]
        for row in solution.trace[1:]:
            columns.append(torch.where(row.isnan(), columns[-1], row))
        more["rel_trace"] = torch.stack(columns, 1)
    return SolverStat(
        abs_lowest=solution.residual_abs, rel_lowest=solution.residual, nstep=solution.num_steps,
        **more,
    )  # fmt: skip


def register(name: str) -> str:
    """Put a solver into TorchDEQ's registry, and return the key that it has there."""
    register_torchdeq_solver(f"{PREFIX}{name}", GraphSolver(name))
    return f"{PREFIX}{name}"


def check_stop_mode(name: str, value: str) -> None:
    """Refuse TorchDEQ's absolute tolerances."""
    check_choice(
        name, value, ["rel"],
        "An absolute tolerance would make results depend on the scale of states and losses",
    )  # fmt: skip


for _solver in solver_names():
    register(_solver)
