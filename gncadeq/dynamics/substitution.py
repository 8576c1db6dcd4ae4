"""Solving the parts of a cascade one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gncadeq.dynamics.frozen import Frozen
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.implicit import Gates
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.graph.partition import Partition
from gncadeq.typing import StagedStep

# From the worst to the best.
_RANK = (
    Status.NON_FINITE, Status.DIVERGED, Status.STALLED, Status.MAX_STEPS, Status.CONVERGED
)  # fmt: skip


def solve_parts(
    step: StagedStep,
    z0: Tensor,
    partition: Partition,
    core: GraphCore,
    inputs: Sequence[Tensor],
    gates: Gates,
    frozen: Frozen | None = None,
) -> tuple[Tensor, Solution]:
    """Solve a block-triangular system by substitution: each part with the solutions before it.

    The gradient is that of the whole: each part's implicit gradient goes on to the parts that drive
    it, which is substitution from the last part back to the first.

    Args:
        step: The cascade.
        z0: The start.
        partition: The nodes of each graph.
        core: What solves each part and gives it its gradient.
        inputs: All that the step depends on.
        gates: Through which those came that aren't leaves.
        frozen: Randomness and statistics that stand still.

    Returns:
        The state, with its gradient where autograd is on, and the solution of all parts together.
    """
    states: list[Tensor] = []
    solutions: list[Solution] = []
    for stage in step.stages:
        own = partition
        if stage.rows is not None:
            own = partition.part(stage.rows)
        if frozen is None:
            part = stage.bind(states)
        else:  # statistics are those at the equilibrium of the parts before, counted once
            frozen.update_statistics = True
            with frozen.evaluation(z0.device, stream=1):
                part = stage.bind(states)
        if isinstance(part, StagedStep):
            z, solution = solve_parts(part, stage.take(z0), own, core, inputs, gates, frozen)
        else:
            with torch.no_grad():
                solution = core.solve(part, stage.take(z0), own)
            z = solution.state
            if torch.is_grad_enabled():
                known = [*inputs, *(s for s in states if s.requires_grad)]
                z = core.attach(part, z, own, known, gates)
        states.append(gates(z))
        solutions.append(solution)
    state = step.join(states)
    return state, _together(step, state.detach(), partition, core, solutions, frozen)


@torch.no_grad()
def _together(
    step: StagedStep,
    state: Tensor,
    partition: Partition,
    core: GraphCore,
    solutions: Sequence[Solution],
    frozen: Frozen | None,
) -> Solution:
    """The parts' solutions as one, with the residual of the whole state."""
    if frozen is not None:
        step = frozen.step(step)  # type: ignore[assignment]
    criterion = "graph" if core.criterion == "error" else core.criterion
    residual = Residual(criterion, 0.0 if core.atol is None else core.atol / core.f_tol)
    rel, diff, _ = residual(state, step(state), partition)
    rank = {status: number for number, status in enumerate(_RANK)}
    order = torch.tensor([rank[s] for s in Status], device=state.device)
    worst = torch.stack([order[s.status] for s in solutions]).amin(0)
    back = torch.tensor([int(s) for s in _RANK], device=state.device)
    return Solution(
        state, rel, diff,
        torch.stack([s.num_steps for s in solutions]).sum(0),
        torch.stack([s.num_evaluations for s in solutions]).sum(0) + 1,
        back[worst], core.f_tol,
    )  # fmt: skip
