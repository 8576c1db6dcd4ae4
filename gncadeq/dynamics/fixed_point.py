"""The loop that solves for a fixed point, for batches of graphs of any sizes.

It owns the residual of each graph, stopping, failures and compaction; where the map is evaluated
next is the solver's choice (:mod:`gncadeq.dynamics.solvers`). Every graph has its own number of
steps and its own end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gncadeq.certificate import Certificate
from gncadeq.check import check_flag, check_type
from gncadeq.choices import Criterion
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.progress import Progress
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.solution import Solution
from gncadeq.dynamics.solvers import Safeguard, Solver, make_solver
from gncadeq.dynamics.solvers.base import Numbers, columns, on_device, read
from gncadeq.graph.partition import Partition
from gncadeq.typing import OptTensor, RestrictableStep, Step

_COMPACTION_COST = 2.0  # in steps of the whole batch, measured


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
            if loop.look(k, fz, last, trace) == 0:
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
    """The states of a solve: those of the graphs in the batch, and of those that have left it.

    ``nodes`` says where the nodes in the batch stand among all.
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
        self.tol, self.measure = tol, measure
        measure.start(z0, partition)
        self.state = self.start = z0  # of all graphs, as they end
        self.history: list[Numbers] = []
        self.f, self.z, self.best, self.partition = _Counted(step), z0, z0, partition
        self.nodes: OptTensor = None  # None is everywhere
        self.progress: Progress | None = None
        self.sizes: Numbers | None = None  # of the residuals that were looked at
        self.wasted = 0.0  # steps spent on graphs that have ended
        self.scale: Tensor | None = None  # of the channels of each graph, for the solver
        self.method = method if method.growth is None else Safeguard(method)
        self.method.partition, self.method.step = partition, self.step
        self.method.begin(z0, partition)

    def evaluate(self) -> Tensor:
        """The map at the current states."""
        return self.f(self.z)

    def look(self, k: int, fz: Tensor, last: bool, trace: bool) -> int:
        """Measure the current states, keep the best, and end the graphs that are at their end.

        Returns:
            How many graphs go on.
        """
        p, z = self.partition, self.z
        numbers = self.measure(z, fz, p)
        if self.progress is None:
            self.progress = Progress(p.count, self.measure.first, self.tol)
        progress = self.progress
        if trace:
            self.history.append(progress.row(numbers[0]))
        progress.check(k, numbers, last)
        self.sizes = None if self.measure.criterion == "channel" else numbers[1]
        if progress.worse:
            z = torch.where(columns(progress.better, p), z, self.best)
        self.best = z
        if progress.ended.any():
            self._end(k, progress)
        return progress.left

    def _end(self, k: int, progress: Progress) -> None:
        ended, state = progress.ended, self.best
        unclear = bool((ended & ~progress.converged).any())
        gone = progress.end(k, self.f.calls, self.partition.norms(state)[0] if unclear else None)
        if gone.any():
            state = torch.where(columns(gone, self.partition), float("nan"), state)
        nodes = self.nodes
        if nodes is None and ended.all():
            self.state = state.clone()
            return
        rows = columns(ended, self.partition)
        if nodes is None:
            self.state = torch.where(rows, state, self.state)
        else:
            state = torch.where(rows, state, self.state[nodes])
            self.state = self.state.index_copy(0, nodes, state)

    def compact(self, fz: Tensor, check_every: int) -> Tensor:
        """Let the ended graphs leave the batch, as soon as that pays; return what is left of fz."""
        p, progress = self.partition, self.progress
        assert progress is not None
        if progress.left == p.num_graphs or not isinstance(self.f.step, RestrictableStep):
            return fz
        # Carrying them along may cost as much as letting them leave does: then the cost is never
        # more than twice that of the best choice in hindsight.
        self.wasted += (1 - progress.left_nodes / max(1, p.num_nodes)) * check_every
        if self.wasted < _COMPACTION_COST:
            return fz
        keep, smaller = p.restrict(progress.open)
        self.method.restrict(keep, progress.open)
        self.sizes = None if self.sizes is None else self.sizes[progress.open]
        self.measure.restrict(keep, progress.open)
        self.f.step = self.f.step.restrict(keep)
        self.nodes = keep if self.nodes is None else self.nodes[keep]
        self.z, self.best = self.z[keep], self.best[keep]
        self.scale = None if self.scale is None else self.scale[on_device(progress.open, keep)]
        progress.keep()
        self.partition = self.method.partition = smaller
        self.wasted = 0.0
        return fz[keep]

    def propose(self, fz: Tensor) -> None:
        """Go to the states that the solver proposes."""
        if self.measure.criterion != "channel":
            self.z = self._proposal(self.z, fz)
            return
        # The large channels' rounding errors would drown the small ones in inner products: the
        # solver sees all channels at the size that they had after the first evaluation.
        if self.scale is None:
            size = self.partition.channel_norm(fz)
            self.scale = torch.where((size > 0) & size.isfinite(), size, 1.0)
        scale = self.scale[self.partition.batch]
        self.z = self._proposal(self.z / scale, fz / scale) * scale

    def _proposal(self, z: Tensor, fz: Tensor) -> Tensor:
        sizes, self.sizes = self.sizes, None
        if sizes is None:
            sizes = self.partition.norms(fz - z)[0]
        self.method.watch(z, fz, sizes)
        return self.method.propose(z, fz)

    def step(self, z: Tensor) -> Tensor:
        """The map, as the solver sees it."""
        if self.scale is None:
            return self.f(z)
        scale = self.scale[self.partition.batch]
        return self.f(z * scale) / scale

    def solution(self) -> Solution:
        """The outcome."""
        del self.method  # which knows this loop: nothing is left for the garbage collector
        found = self.progress
        if found is None:  # there is no graph
            found = Progress(np.zeros(0), read(self.state.new_zeros(0)), self.tol)

        def tensor(numbers: Numbers) -> Tensor:
            return on_device(numbers, self.state)

        residual, diff, norm = map(tensor, found.outcome)
        trace = tensor(np.stack(self.history)) if self.history else None
        state = self.state.clone() if self.state is self.start else self.state
        return Solution(
            state, residual, diff, norm, tensor(found.steps), tensor(found.evaluations),
            tensor(found.status), self.tol, trace,
        )  # fmt: skip
