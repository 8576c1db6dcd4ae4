"""The loop that solves for a fixed point, for batches of graphs of any sizes.

It owns the residual of each graph, stopping, failures and compaction; where the map is evaluated
next is the solver's choice (:mod:`gncadeq.dynamics.solvers`). Every graph has its own number of
steps and its own end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gncadeq.certificate import Certificate
from gncadeq.check import check_flag, check_type
from gncadeq.choices import Criterion
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.residual import Residual, both_finite
from gncadeq.dynamics.solution import Solution, Status, no_trace
from gncadeq.dynamics.solvers import Safeguard, Solver, make_solver
from gncadeq.graph.partition import Partition
from gncadeq.typing import OptTensor, RestrictableStep, Step

_COMPACTION_COST = 2.0  # in steps of the whole batch, measured
_GROWN = 1e6  # a state that has grown so much, without progress, is called diverged
_RUN = 2.0  # times as large as at the start; times smaller than the largest step
_NO_PROGRESS = 30  # steps, and at least as many as a graph has nodes: signals take a step a hop
_TRIES = 12  # evaluations in a row that aren't finite, before a graph is given up


def solve(
    step: Step,
    z0: Tensor,
    partition: Partition,
    *,
    solver: str = "auto",
    tol: float = 1e-3,
    atol: float | None = None,
    criterion: Criterion = "graph",
    max_steps: int = 60,
    check_every: int = 1,
    compact: bool = True,
    trace: bool = False,
    options: dict[str, Any] | None = None,
    certificate: Certificate | None = None,
) -> Solution:
    r"""Solve :math:`\mathbf{z} = f(\mathbf{z})` for every graph of a batch.

    A graph ends when its relative residual is at most ``tol``, when ``f`` is not finite at the
    start or for a dozen steps in a row, or after ``max_steps`` steps; its best state is returned.
    A state that grows does not end a graph by itself. Ended graphs leave the batch once the steps
    spent on them amount to two of the whole batch, if ``step`` can be restricted (see
    :class:`gncadeq.typing.RestrictableStep`). A start in half precision is converted to float32, in
    which the solve then runs.

    Args:
        step: The map :math:`f` on states ``[num_nodes, channels]``.
        z0: The start.
        partition: The nodes of each graph.
        solver: ``"auto"``, ``"picard"``, ``"anderson"``, ``"broyden"``, ``"newton"``, ``"flow"`` or
            a registered name.
        tol: Bound on the relative residual of each graph.
        atol: Bound on :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert`; below it a graph has
            converged as well. By default ``tol`` times the rounding error of the start, so that a
            state may come to rest at zero; 0 for none.
        criterion: ``"graph"``: :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert
            f(\mathbf{z}) \rVert` over the nodes and channels of a graph. ``"node"``,
            ``"channel"``: the same of every node or every channel, of which the largest counts.
            ``"error"``: the proven bound on the distance from the equilibrium, relative to
            :math:`\lVert f(\mathbf{z}) \rVert`, in the norm of the certificate.
        max_steps: Most solver steps, of one evaluation of ``step`` each: a solve takes at most
            ``max_steps + 1`` evaluations (more only with a solver that evaluates ``step`` itself).
        check_every: Look at the residuals every so many steps; more spares an accelerator
            synchronisations, and makes step counts multiples of it.
        compact: Let ended graphs leave the batch.
        trace: Record the residuals of every check.
        options: Options of the solver.
        certificate: What is proven of ``step``, for ``criterion="error"``.

    Example:
        >>> b = torch.tensor([[1.0], [2.0]])
        >>> p = Partition(torch.tensor([0, 1]), num_nodes=2)
        >>> solve(lambda z: 0.5 * z + b, torch.zeros(2, 1), p, tol=1e-6).state.round(decimals=4)
        tensor([[2.],
                [4.]])
    """
    check_type("options", {} if options is None else options, dict)
    settings = SolveOptions(
        solver=solver, tol=tol, atol=atol, criterion=criterion, max_steps=max_steps,
        check_every=check_every, compact=compact, solver_options=options,
    )  # fmt: skip
    return solve_by(settings, step, z0, partition, trace, certificate)


@torch.no_grad()
def solve_by(
    options: SolveOptions,
    step: Step,
    z0: Tensor,
    partition: Partition,
    trace: bool = False,
    certificate: Certificate | None = None,
) -> Solution:
    """Do what :func:`solve` does, by options that are checked already."""
    check_type("z0", z0, Tensor)
    check_type("partition", partition, Partition)
    check_flag("trace", trace)
    method = make_solver(options.solver, options.solver_options)
    measure = Residual(options.criterion, options.floor, certificate)
    if z0.dtype in (torch.float16, torch.bfloat16):
        z0 = z0.float()  # half precision cannot resolve the residuals
    loop = _Loop(step, z0, partition, method, measure, options.tol)
    for k in range(options.max_steps + 1 if partition.num_graphs else 0):
        last = k == options.max_steps
        fz = loop.evaluate()
        if last or k % options.check_every == 0:
            loop.look(k, fz, last, trace)
            if loop.left == 0:
                break
            if options.compact and not last:
                fz = loop.compact(fz, options.check_every)
        if not last:
            loop.propose(fz)
    return loop.solution()


class _Counted:
    """A step that counts its calls."""

    def __init__(self, step: Step) -> None:
        self.step, self.calls = step, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.step(z).to(z.dtype)


class _Loop:
    """What is known of a solve: all of every graph's outcome, and the graphs still in the batch.

    Tensors of the outcome have a row for every graph or node of the whole batch; ``graphs`` and
    ``nodes`` say where the graphs and nodes that are left stand in it.
    """

    def __init__(
        self,
        step: Step,
        z0: Tensor,
        partition: Partition,
        method: Solver,
        measure: Residual,
        tol: float,
    ) -> None:
        b, device = partition.num_graphs, z0.device
        self.tol, self.measure = tol, measure
        measure.start(z0, partition)
        # The outcome
        self.state = z0.clone()
        self.residual = z0.new_full((b,), float("inf"))
        self.residual_abs, self.image_norm = self.residual.clone(), self.residual.clone()
        self.status = torch.full((b,), int(Status.MAX_STEPS), dtype=torch.long, device=device)
        self.steps = torch.zeros(b, dtype=torch.long, device=device)
        self.evaluations = torch.zeros(b, dtype=torch.long, device=device)
        self.history: list[Tensor] = []
        # Those left
        self.f, self.z, self.partition = _Counted(step), z0, partition
        self.graphs: OptTensor = None  # None is everywhere
        self.nodes: OptTensor = None
        self.open = torch.ones(b, dtype=torch.bool, device=device)
        self.count = partition.sum(torch.ones_like(partition.batch))
        self.left, self.left_nodes = b, partition.num_nodes  # without an end
        self.wasted = 0.0  # steps spent on the others
        self.best, self.best_rel = z0, self.residual
        self.best_abs, self.best_norm = self.residual_abs, self.image_norm
        self.first_size = partition.norm(z0)
        self.peak = torch.zeros_like(self.first_size)  # the largest step seen
        self.progress = torch.zeros_like(self.steps)  # the step of the last
        self.goal = self.residual
        self.lost = torch.zeros_like(self.steps)  # evaluations in a row that aren't finite
        self.scale: Tensor | None = None  # of the channels of each graph, for the solver
        self.method = method if method.growth is None else Safeguard(method)
        self.method.partition, self.method.step = partition, self.step
        self.method.begin(z0, partition)

    def evaluate(self) -> Tensor:
        """The map at the current states."""
        return self.f(self.z)

    def look(self, k: int, fz: Tensor, last: bool, trace: bool) -> None:
        """Measure the current states, keep the best, and end the graphs that are at their end."""
        p, z = self.partition, self.z
        rel, diff, size = self.measure(z, fz, p)
        finite = both_finite(diff, size)
        # While a signal spreads, the residual of the node at its front stays one.
        better = finite & (rel <= self.best_rel)
        if k == 0:
            self.first_size = torch.maximum(self.first_size, size.nan_to_num(posinf=0.0))
        ahead = rel < self.goal
        self.goal = torch.where(ahead, 0.9 * rel, self.goal)
        self.progress = torch.where(ahead, k, self.progress)
        self.lost = torch.where(finite, 0, self.lost + 1)
        if trace:
            row = self.residual.new_full((self.residual.numel(),), float("nan"))
            self.history.append(_put(row, self.graphs, self.open, rel))
        self.peak = torch.maximum(self.peak, torch.where(finite, diff, 0.0))
        # A state that has grown while its steps became no smaller runs away: its relative residual
        # is small because the state is large (z + 1 has no fixed point).
        runs_away = (size > _RUN * self.first_size) & (diff > self.peak / _RUN)
        converged = (rel <= self.tol) & ~runs_away
        given_up = ~finite & (self.lost >= (_TRIES if k else 0))
        ended = self.open & (converged | given_up | last)
        left = self.open & ~ended
        # All that decides how to go on is read of the device at once.
        questions = [ended, ~better & self.open, left, left * self.count]
        watched = None if self.measure.criterion == "channel" else self.method.watch(z, fz)
        counts = torch.stack(questions if watched is None else [*questions, watched]).sum(1)
        any_ended, any_worse, self.left, self.left_nodes, *unusual = counts.tolist()
        self.method.calm = not unusual[0] if unusual else None
        if any_worse:
            self._keep_best(better, rel, diff, size)
        else:
            self.best, self.best_rel, self.best_abs, self.best_norm = z, rel, diff, size
        self.open = left
        if any_ended:
            grown = p.norm(self.best).maximum(size) > _GROWN * self.first_size
            self._end(ended, k, self._verdict(k, converged, finite, grown))

    def _keep_best(self, better: Tensor, rel: Tensor, diff: Tensor, size: Tensor) -> None:
        rows = better[self.partition.batch].unsqueeze(1)
        self.best = torch.where(rows, self.z, self.best)
        self.best_abs = torch.where(better, diff, self.best_abs)
        self.best_norm = torch.where(better, size, self.best_norm)
        self.best_rel = torch.where(better, rel, self.best_rel)

    def _verdict(self, k: int, converged: Tensor, finite: Tensor, grown: Tensor) -> Tensor:
        stalled = k - self.progress >= self.count.clamp(min=_NO_PROGRESS)
        code = torch.where(finite, int(Status.MAX_STEPS), int(Status.NON_FINITE))
        code = torch.where(grown & (stalled | ~finite), int(Status.DIVERGED), code)
        return torch.where(converged, int(Status.CONVERGED), code)

    def _end(self, ended: Tensor, k: int, code: Tensor) -> None:
        # Where the cell was never finite enough there is no state, and none is made up.
        gone = code == Status.NON_FINITE
        values: dict[str, Tensor | float] = {
            "status": code, "steps": k, "evaluations": self.f.calls,
            "residual": torch.where(gone, float("inf"), self.best_rel),
            "residual_abs": torch.where(gone, float("inf"), self.best_abs),
            "image_norm": torch.where(gone, float("inf"), self.best_norm),
        }  # fmt: skip
        for name, value in values.items():
            setattr(self, name, _put(getattr(self, name), self.graphs, ended, value))
        batch = self.partition.batch
        state = torch.where(gone[batch].unsqueeze(1), float("nan"), self.best)
        self.state = _put(self.state, self.nodes, ended[batch].unsqueeze(1), state)

    def compact(self, fz: Tensor, check_every: int) -> Tensor:
        """Let the ended graphs leave the batch, as soon as that pays; return what is left of fz."""
        p = self.partition
        if self.left == p.num_graphs or not isinstance(self.f.step, RestrictableStep):
            return fz
        # Carrying them along may cost as much as letting them leave does: then the cost is never
        # more than twice that of the best choice in hindsight.
        self.wasted += (1 - self.left_nodes / p.num_nodes) * check_every if p.num_nodes else 0.0
        if self.wasted < _COMPACTION_COST:
            return fz
        keep, smaller = p.restrict(self.open)
        self.method.restrict(keep, self.open)
        self.measure.restrict(keep, self.open)
        self.f.step = self.f.step.restrict(keep)
        self.nodes = keep if self.nodes is None else self.nodes[keep]
        graphs = self.open.nonzero().flatten()
        self.graphs = graphs if self.graphs is None else self.graphs[graphs]
        self.z, self.best = self.z[keep], self.best[keep]
        for name in (
            "best_rel", "best_abs", "best_norm", "first_size", "peak", "progress", "goal", "lost",
            "count",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[graphs])
        self.scale = None if self.scale is None else self.scale[graphs]
        self.open = self.open[graphs]
        self.partition = self.method.partition = smaller
        self.wasted = 0.0
        return fz[keep]

    def propose(self, fz: Tensor) -> None:
        """Go to the states that the solver proposes."""
        if self.measure.criterion != "channel":
            self.z = self.method.propose(self.z, fz)
            return
        # The large channels' rounding errors would drown the small ones in inner products: the
        # solver sees all channels at the size that they had after the first evaluation.
        if self.scale is None:
            size = self.partition.channel_norm(fz)
            self.scale = torch.where((size > 0) & size.isfinite(), size, 1.0)
        scale = self.scale[self.partition.batch]
        self.z = self.method.propose(self.z / scale, fz / scale) * scale

    def step(self, z: Tensor) -> Tensor:
        """The map, as the solver sees it."""
        if self.scale is None:
            return self.f(z)
        scale = self.scale[self.partition.batch]
        return self.f(z * scale) / scale

    def solution(self) -> Solution:
        """The outcome."""
        del self.method  # which knows this loop: nothing is left for the garbage collector
        return Solution(
            self.state, self.residual, self.residual_abs, self.image_norm, self.steps,
            self.evaluations, self.status, self.tol, no_trace(self.history),
        )  # fmt: skip


def _put(outcome: Tensor, index: OptTensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """``outcome`` with ``value`` in those of its rows ``index`` that are marked."""
    if index is None:
        return torch.where(mask, value, outcome)
    return outcome.index_copy(0, index, torch.where(mask, value, outcome[index]))
