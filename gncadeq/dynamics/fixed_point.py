"""The loop that solves for a fixed point, for batches of graphs of any sizes.

It owns the residual of each graph, stopping, failures and compaction; what comes next is the
solver's (:mod:`gncadeq.dynamics.solvers`). Every graph has its own number of steps and its own end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gncadeq.choices import Criterion
from gncadeq.dynamics.partition import Partition
from gncadeq.dynamics.solution import Solution, Status, no_trace
from gncadeq.dynamics.solvers import make_solver
from gncadeq.typing import Step

_COMPACTION_COST = 2.0  # in steps of the whole batch, measured
_GROWTH_LIMIT = 1e6


@torch.no_grad()
def solve(
    step: Step,
    z0: Tensor,
    partition: Partition,
    *,
    solver: str = "anderson",
    tol: float = 1e-3,
    criterion: Criterion = "graph",
    max_steps: int = 60,
    check_every: int = 1,
    compact: bool = True,
    trace: bool = False,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Solve :math:`\mathbf{z} = f(\mathbf{z})` for every graph of a batch.

    A graph ends when its relative residual is at most ``tol``, when it diverges or returns NaN, or
    after ``max_steps`` steps. Ended graphs leave the batch once the steps spent on them amount to
    two of the whole batch, if ``step`` can be restricted (see
    :class:`gncadeq.typing.RestrictableStep`). A start in half precision is converted to float32, in
    which the solve then runs.

    Args:
        step: The map :math:`f` on states ``[num_nodes, channels]``.
        z0: The start.
        partition: The nodes of each graph.
        solver: ``"picard"``, ``"anderson"``, ``"broyden"`` or a registered name.
        tol: Bound on the relative residual of each graph.
        criterion: ``"graph"``: :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert
            f(\mathbf{z}) \rVert` over the nodes and channels of a graph. ``"node"``: the same of
            every node, of which the largest counts; states below the smallest normal number over
            the machine's epsilon count as that.
        max_steps: Most solver steps; a solve takes at most ``max_steps + 1`` evaluations.
        check_every: Look at the residuals every so many steps; more spares an accelerator
            synchronisations, and makes step counts multiples of it.
        compact: Let ended graphs leave the batch.
        trace: Record the residuals of every check.
        options: Options of the solver.

    Example:
        >>> b = torch.tensor([[1.0], [2.0]])
        >>> p = Partition(torch.tensor([0, 1]), num_nodes=2)
        >>> solve(lambda z: 0.5 * z + b, torch.zeros(2, 1), p, tol=1e-6).state
        tensor([[2.],
                [4.]])
    """
    if z0.dtype in (torch.float16, torch.bfloat16):
        z0 = z0.float()  # half precision cannot resolve the residuals
    check_criterion(criterion)
    b, device = partition.num_graphs, z0.device
    method = make_solver(solver, options)
    method.partition = partition
    method.begin(z0, partition)

    state = z0.clone()
    residual = z0.new_full((b,), float("inf"))
    residual_abs = residual.clone()
    status = torch.full((b,), int(Status.MAX_STEPS), dtype=torch.long, device=device)
    steps = torch.zeros(b, dtype=torch.long, device=device)
    evaluations = torch.zeros(b, dtype=torch.long, device=device)
    history: list[Tensor] = []

    z, f = z0, step
    nodes: Tensor | None = None  # where the rows of z stand in the whole batch; None is everywhere
    graphs = torch.arange(b, device=device)
    open_ = torch.ones(b, dtype=torch.bool, device=device)
    best, best_rel, best_abs = z0, residual, residual_abs
    bound: Tensor | None = None
    left, wasted = partition.num_nodes, 0.0

    for k in range(max_steps + 1 if b else 0):
        fz = f(z).to(z.dtype)
        last = k == max_steps
        if last or k % check_every == 0:
            p = method.partition
            rel, diff, size = residuals(z, fz, p, criterion)
            finite = diff.isfinite() & size.isfinite()
            better = finite & (rel <= best_rel)  # while a signal spreads, its front node counts one
            if bool(better.all()):
                best, best_rel, best_abs = z, rel, diff
            else:
                best = torch.where(better[p.batch].unsqueeze(1), z, best)
                best_abs = torch.where(better, diff, best_abs)
                best_rel = torch.where(better, rel, best_rel)
            if bound is None:
                bound = _GROWTH_LIMIT * (size.nan_to_num(posinf=0.0) + p.norm(z) + 1.0)
            diverged = finite & (size > bound)
            converged = rel <= tol
            if trace:
                row = residual.new_full((b,), float("nan"))
                row[graphs[open_]] = rel[open_]
                history.append(row)
            ended = open_ & (converged | diverged | ~finite | last)
            if bool(ended.any()):
                code = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_STEPS))
                code = torch.where(diverged & ~converged, int(Status.DIVERGED), code)
                code = torch.where(finite, code, int(Status.NON_FINITE))
                where = graphs[ended]
                status[where], steps[where], evaluations[where] = code[ended], k, k + 1
                residual[where], residual_abs[where] = best_rel[ended], best_abs[ended]
                rows = ended[p.batch]
                whole = rows if nodes is None else nodes[rows]
                state[whole] = best[rows]
                open_ = open_ & ~ended
                left = int(open_[p.batch].sum())
                if not bool(open_.any()):
                    break
            if compact and left < p.num_nodes and not last and hasattr(f, "restrict"):
                # The ended graphs leave the batch as soon as carrying them along has cost as much
                # as that does: never more than twice what the best choice in hindsight costs.
                wasted += (1 - left / p.num_nodes) * check_every
                if wasted >= _COMPACTION_COST:
                    keep, smaller = p.restrict(open_)
                    method.restrict(keep, open_)
                    f, z, fz, best = f.restrict(keep), z[keep], fz[keep], best[keep]
                    best_rel, best_abs, bound = best_rel[open_], best_abs[open_], bound[open_]
                    nodes = keep if nodes is None else nodes[keep]
                    graphs, open_ = graphs[open_], open_[open_]
                    method.partition, left, wasted = smaller, smaller.num_nodes, 0.0
        if not last:
            z = method.propose(z, fz)
    return Solution(
        state, residual, residual_abs, steps, evaluations, status, tol, no_trace(history)
    )


def residuals(
    z: Tensor, fz: Tensor, partition: Partition, criterion: Criterion
) -> tuple[Tensor, Tensor, Tensor]:
    """What a state lacks to a fixed point, for every graph.

    Returns:
        Each ``[num_graphs]``: the relative residual by the criterion, infinite where anything isn't
        finite; ``‖f(z) − z‖``; and ``‖f(z)‖``.
    """
    diff, size = partition.norm(fz - z), partition.norm(fz)
    if criterion == "graph":
        rel = torch.where(diff == 0, 0.0, diff / size)
    else:
        rel = _worst_node(z, fz, partition)
    return torch.where(diff.isfinite() & size.isfinite(), rel, float("inf")), diff, size


def _worst_node(z: Tensor, fz: Tensor, partition: Partition) -> Tensor:
    """The largest relative residual of a graph's nodes, ``[num_graphs]``."""
    kind = torch.finfo(z.dtype)
    size = torch.linalg.vector_norm(fz, dim=1).clamp(min=kind.tiny / kind.eps)
    ratio = torch.linalg.vector_norm(fz - z, dim=1) / size
    out = ratio.new_zeros(partition.num_graphs)
    worst: Tensor = out.scatter_reduce_(0, partition.batch, ratio, "amax")
    return worst


def check_criterion(value: str) -> Criterion:
    """Return ``value`` if it is a known criterion, else raise ``ValueError``."""
    if value not in ("graph", "node"):
        raise ValueError(f"Expected 'criterion' to be 'graph' or 'node' (got {value!r})")
    return value  # type: ignore[return-value]


__all__ = ["check_criterion", "residuals", "solve"]
