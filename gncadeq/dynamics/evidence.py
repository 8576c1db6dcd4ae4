"""What is known of a solve beyond its residual: a bound on the error, and advice."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gncadeq.certificate import Certificate
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.graph.layout import FlatGraph
from gncadeq.graph.partition import Partition
from gncadeq.typing import Step

_LONG_MEMORY = 20


class Evidence:
    """The cell and graph of a solve, asked when somebody wants to know more of its solution.

    Args:
        cell: The cell.
        graph: The graph as dynamics see it.
        step: The step that was solved.
        partition: The nodes of each graph.
        exact: Whether the cell's certificate is one of this step: not while dropout is drawn.
    """

    def __init__(
        self, cell: Any, graph: FlatGraph, step: Step, partition: Partition, exact: bool = True
    ) -> None:
        self.cell, self.graph, self.step, self.partition = cell, graph, step, partition
        self.exact = exact
        self._versions = _versions(cell)

    def certificate(self) -> Certificate | None:
        """What is proven of the step.

        Raises:
            RuntimeError: If the parameters aren't those of the solve any more.
        """
        if not self.exact:
            return None
        if _versions(self.cell) != self._versions:
            raise RuntimeError(
                "Expected the parameters that were solved with (got parameters that were changed "
                "since). Read 'error_bound' before the optimiser's step"
            )
        g = self.graph
        found: Certificate | None = self.cell.certificate(
            g.edge_index, g.edge_attr, num_nodes=g.x.size(0), **g.context
        )
        return found

    @torch.no_grad()
    def error_bound(self, state: Tensor) -> Tensor:
        """The certificate's bound on the relative error of ``state``, for every graph."""
        certificate = self.certificate()
        if certificate is None:
            return state.new_full((self.partition.num_graphs,), float("inf"))
        fz = self.step(state).to(state.dtype)
        return certificate.error_bound(state, fz, self.partition)

    @torch.no_grad()
    def advice(self, solution: Solution, solver: str, options: dict[str, Any]) -> dict[Status, str]:
        """What to do about graphs that didn't converge, by their status."""
        certificate = self.certificate()
        rate = math.inf if certificate is None else certificate.rate
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
        memory = options.get("history", 10 if solver == "auto" else 5)
        if solver in ("anderson", "auto") and memory < _LONG_MEMORY:
            more += (
                f"; give the solver a longer memory (solver_options={{'history': {_LONG_MEMORY}}})"
            )
        advice = {
            Status.MAX_STEPS: more + bound,
            Status.DIVERGED: "damp the solver (solver='picard', solver_options={'damping': 0.5})"
            + bound,
            Status.NON_FINITE: "check the weights and the input for NaN" + bound,
        }
        if self._draws(solution.state):
            draws = (
                "take the randomness out of the cell: two evaluations of it at one state differ. "
                "Dropout of torch.nn is held for a solve; a module of your own says so by "
                "'draws_randomness = True'"
            )
            advice = dict.fromkeys(advice, draws)
        return advice

    def _draws(self, state: Tensor) -> bool:
        rows = state.isfinite().all(1, keepdim=True)
        state = torch.where(rows, state, 0.0)
        return not torch.equal(self.step(state).nan_to_num(), self.step(state).nan_to_num())


def _versions(cell: Any) -> list[tuple[int, int]]:
    tensors = [t for t in (*cell.parameters(), *cell.buffers()) if not t.is_inference()]
    return [(id(t), t._version) for t in tensors]


__all__ = ["Evidence"]
