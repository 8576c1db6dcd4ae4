"""Solving the parts of a cascade one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gncadeq.dynamics.frozen import Frozen
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.implicit_checks import Gates
from gncadeq.dynamics.ordered import substituted
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers.base import on_device
from gncadeq.graph.partition import Partition
from gncadeq.typing import OptTensor, OrderedStep, StagedStep

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
) -> tuple[Tensor, OptTensor, Solution]:
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
        The state, with its gradient where autograd is on; its image by one more step, where the
        criterion needs more of it than its norms; and the solution of all parts together.
    """
    states: list[Tensor] = []
    images: list[Any] = []
    solutions: list[Solution] = []
    by_norms = core.criterion == "graph"  # those that each part's solution knows
    for stage in step.stages:
        own = partition
        if stage.rows is not None:
            own = partition.part(stage.rows)
        if frozen is None:
            part = stage.bind(states)
        else:  # statistics are those at the equilibrium of the parts before, counted once
            frozen.update_statistics = True
            with frozen.evaluation(z0.device, stream=2 + len(states)):
                part = stage.bind(states)
            if frozen.concerns(stage.cell) and not isinstance(part, StagedStep | OrderedStep):
                part = frozen.step(part)
        if isinstance(part, StagedStep):
            start = stage.take(z0)
            z, image, solution = solve_parts(part, start, own, core, inputs, gates, frozen)
        else:
            with torch.no_grad():
                if isinstance(part, OrderedStep) and bool((part.depth <= 1).all()):
                    solution = substituted(part, own, core.tol)  # nothing to iterate
                else:
                    solution = core.solve(part, stage.take(z0), own)
            z = solution.state
            if frozen is not None:
                frozen.update_statistics = True
            if torch.is_grad_enabled():
                known = [*inputs, *(s for s in states if s.requires_grad)]
                z = core.attach(part, z, own, known, gates)
            elif frozen is not None and frozen.norms:
                part(z)
            with torch.no_grad():
                image = None if by_norms else part(z.detach())
        states.append(gates(z))
        images.append(image)
        solutions.append(solution)
    state = step.join(states)
    image = None if by_norms else step.join(images)
    return state, image, _together(state.detach(), image, partition, core, solutions)


@torch.no_grad()
def _together(
    state: Tensor,
    image: OptTensor,
    partition: Partition,
    core: GraphCore,
    solutions: Sequence[Solution],
) -> Solution:
    """The parts' solutions as one, with the residual of the whole state.

    Its norms are those of the parts together, as the drives are those of the solutions.
    """
    floor = core.options.floor
    evaluations = torch.stack([s.num_evaluations for s in solutions]).sum(0)
    if image is None:
        diff = _joined([s.residual_abs for s in solutions])
        norm = _joined([s.image_norm for s in solutions])
        size = norm if floor is None else norm.clamp(min=floor)
        rel = torch.where(diff == 0, 0.0, diff / size).nan_to_num(nan=float("inf"))
    else:
        measure = Residual(core.criterion, 0.0 if floor is None else floor)
        rel, diff, norm = on_device(measure(state, image, partition), state)
        evaluations = evaluations + 1
    rank = {status: number for number, status in enumerate(_RANK)}
    order = torch.tensor([rank[s] for s in Status], device=state.device)
    worst = torch.stack([order[s.status] for s in solutions]).amin(0)
    back = torch.tensor([int(s) for s in _RANK], device=state.device)
    return Solution(
        state, rel, diff, norm, torch.stack([s.num_steps for s in solutions]).sum(0), evaluations,
        back[worst], core.tol,
    )  # fmt: skip


def _joined(norms: Sequence[Tensor]) -> Tensor:
    """The norms of wholes from those of their parts, without overflow or underflow."""
    parts = torch.stack(list(norms))
    largest = parts.amax(0)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    joined: Tensor = scale * torch.linalg.vector_norm(parts / scale, dim=0)
    return joined
