"""What is known of a solve beyond its residual: a bound on the error, and advice."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gncadeq.certificate import AnyCertificate, Certificate
from gncadeq.dynamics.implicit import full_precision
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.graph.layout import FlatGraph
from gncadeq.graph.partition import Partition
from gncadeq.stateful import drops
from gncadeq.typing import Step

_LONG_MEMORY = 20


class Evidence:
    """The cell and the graph of a solve, kept to answer questions about its solution.

    A program may keep many solutions. So this refers to tensors that exist anyway, and to none of
    autograd's.

    Args:
        cell: The cell.
        graph: The graph as dynamics see it.
        partition: The nodes of each graph.
        exact: Whether the cell's certificate is one of the step: not while dropout is drawn.
    """

    def __init__(
        self, cell: Any, graph: FlatGraph, partition: Partition, exact: bool = True
    ) -> None:
        self.cell, self.partition, self.exact = cell, partition, exact
        self.graph = graph.map(Tensor.detach)
        self._versions = self._current()

    def certificate(self) -> AnyCertificate | None:
        """What is proven of the step.

        Raises:
            RuntimeError: If the parameters or the graph aren't those of the solve any more.
        """
        if not self.exact or any(map(drops, self.cell.modules())):
            return None
        if self._current() != self._versions:
            raise RuntimeError(
                "Expected the parameters and the graph that were solved with (got some that were "
                "changed since). Read 'error_bound' before the optimiser's step"
            )
        g, context = self.graph, self.graph.context
        if self.partition.num_graphs > 1:
            context = {**context, "batch": self.partition.batch}
        found: AnyCertificate | None = self.cell.certificate(
            g.edge_index, g.edge_attr, num_nodes=g.x.size(0), **context
        )
        return found

    @torch.no_grad()
    def error_bound(self, state: Tensor) -> Tensor:
        """The certificate's bound on the relative error of ``state``, for every graph."""
        certificate = self.certificate()
        if certificate is None:
            return state.new_full((self.partition.num_graphs,), float("inf"))
        g = self.graph
        with full_precision(state.device):
            step = self.cell.bind(g.x, g.edge_index, g.edge_attr, **g.context)
            fz = step(state).to(state.dtype)
            return certificate.error_bound(state, fz, self.partition)

    @torch.no_grad()
    def advice(self, solution: Solution, step: Step, options: SolveOptions) -> dict[Status, str]:
        """What to do about graphs that didn't converge, by their status.

        Args:
            solution: What was found.
            step: The step that was solved.
            options: By which options.
        """
        certificate, solver, criterion = self.certificate(), options.solver, options.criterion
        rate = math.inf
        if isinstance(certificate, Certificate):
            rate = float(certificate.rates(solution.residual)[~solution.converged].max())
        bounded = rate < 1.0 or getattr(self.cell, "contraction", None) is not None
        bound = "" if bounded else ", or bound the cell (contraction=0.95)"
        more = "raise 'max_steps' or 'tol' (a signal takes a step a hop at least)"
        if rate < 1.0:
            # ‖f(z) − z‖ ≤ κᵏ ‖f(0)‖ ≤ 2 κᵏ ‖z*‖ after k plain steps from zeros
            steps = math.ceil(math.log(solution.tol / 2) / math.log(rate)) if rate else 1
            more = (
                f"raise 'max_steps' or 'tol': the cell is a contraction by {rate:.3g}, and plain "
                f"steps from zeros need about {max(1, steps)}"
            )
            rounding = torch.finfo(solution.state.dtype).eps / (1.0 - rate)
            if criterion == "error" and solution.tol < rounding:
                more = (
                    f"raise 'tol' to {rounding:.1e} at least, below which rounding hides the error "
                    f"in {str(solution.state.dtype).removeprefix('torch.')}, or use float64"
                )
        memory = (options.solver_options or {}).get("history", 10 if solver == "auto" else 5)
        if solver in ("anderson", "auto") and memory < _LONG_MEMORY:
            more += (
                f"; give the solver a longer memory (solver_options={{'history': {_LONG_MEMORY}}})"
            )
        if criterion == "error" and not rate < 1.0:
            more = "use another criterion: nothing is proven of the cell on such a graph"
        advice = {
            Status.MAX_STEPS: more + bound,
            Status.DIVERGED: "damp the solver (solver='picard', solver_options={'damping': 0.5})"
            + bound,
            Status.NON_FINITE: "check the weights and the input for NaN" + bound,
        }
        if _draws(step, solution.state):
            draws = (
                "take the randomness out of the cell: two evaluations of it at one state differ. "
                "Dropout of torch.nn is held for a solve; a module of your own says so by "
                "'draws_randomness = True'"
            )
            advice = dict.fromkeys(advice, draws)
        return advice

    def _current(self) -> list[tuple[int, int]]:
        edges = self.graph.edge_index
        graph = [*self.graph.tensors(), *([edges] if isinstance(edges, Tensor) else [])]
        tensors = [*self.cell.parameters(), *self.cell.buffers(), *graph]
        return [(id(t), t._version) for t in tensors if not t.is_inference()]


def _draws(step: Step, state: Tensor) -> bool:
    rows = state.isfinite().all(1, keepdim=True)
    state = torch.where(rows, state, 0.0)
    return not torch.equal(step(state).nan_to_num(), step(state).nan_to_num())
