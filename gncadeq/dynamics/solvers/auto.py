"""The solver that changes its method where progress stalls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gncadeq.check import check_count
from gncadeq.dynamics.solvers.anderson import Anderson
from gncadeq.dynamics.solvers.base import Numbers, Picard, Solver, columns, read
from gncadeq.dynamics.solvers.flow import Flow
from gncadeq.dynamics.solvers.newton import Newton
from gncadeq.dynamics.solvers.safeguard import Safeguard
from gncadeq.graph.partition import Partition

_ANDERSON, _PLAIN, _NEWTON, _FLOW, _START = range(5)
_FAST, _SLOW = 0.5, 0.9  # of the residual, at most, is left by two plain steps, and by one of them
_ROUNDING = 64.0  # units of it
_AWAY = 1e12  # times as large as the smallest residual


class Auto(Solver):
    r"""Plain steps, then Anderson acceleration; Newton–Krylov and the flow where progress stalls.

    Every graph begins with plain steps, for as long as every two of them at least halve its
    residual and none leaves more than nine tenths: there another method costs more than it saves.
    Then it goes on with :class:`Anderson`. If its residual has not become ten times smaller for
    ``patience`` evaluations, it goes on

    - with plain steps, if more nodes have come to rest meanwhile: a signal that travels a step a
      hop is only held up by mixing states. They go on for as long as nodes come to rest;
    - else with :class:`Newton`, from the best state so far, then with :class:`Flow`, then with
      Anderson again and more patience.

    A method is left early where it gets nowhere, and where the residual has grown by
    :math:`10^{12}`.

    Args:
        history: Number of differences of Anderson's method.
        patience: Evaluations without progress before a graph first changes its method.
    """

    growth = None

    def __init__(self, history: int = 10, patience: int = 30) -> None:
        self.patience = check_count("patience", patience, least=1)
        self._anderson = Anderson(history)
        self._guard = Safeguard(self._anderson)
        self._methods: tuple[Safeguard | Newton | Flow, ...] = (
            self._guard, Safeguard(Picard()), Newton(), Flow(),
        )  # fmt: skip

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Begin with plain steps."""
        b = partition.num_graphs
        self._begun = [False] * len(self._methods)
        self._method = np.full(b, _START)
        self._in_use = [_START]  # methods of any graph
        self._best = (z, z)
        self._best_size = np.full_like(read(z.new_empty(b)), np.inf)
        self._goal = self._now = self._last = self._best_size
        self._left = np.full(b, self.patience)
        self._round, self._settled = np.ones_like(self._left), np.zeros_like(self._left)
        self._changing = np.zeros(b, bool)
        self._before: tuple[Tensor, Tensor] | None = None  # the last state, while there are starts

    def watch(self, z: Tensor, fz: Tensor, size: Numbers) -> None:
        """Count the evaluations without progress; mark the graphs that change their method."""
        earlier, self._last, self._now = self._last, self._now, size
        progress = size < self._goal
        if _PLAIN in self._in_use:
            plain = self._method == _PLAIN
            progress = progress | plain & self._settle(z, fz, plain)
        self._goal = np.where(progress, self._less() * size, self._goal)
        self._left = np.where(progress, self.patience * self._round, self._left - 1)
        change = self._left <= 0
        with np.errstate(invalid="ignore", over="ignore"):
            for k in self._in_use:
                mine = self._method == k
                if k == _START:
                    fast = (size <= _SLOW * self._last) & (size <= _FAST * earlier)
                    change = change | mine & ~fast
                if k == _ANDERSON:  # steps that lead away, ever further before they may do so again
                    change = change | mine & (size > _AWAY**self._round * self._best_size)
                if k != _START and self._begun[k]:
                    method = self._methods[k]
                    method.partition = self.partition
                    method.watch(z, fz, size)
                    stuck = method.stuck
                    change = change | mine & (read(stuck) if isinstance(stuck, Tensor) else stuck)
        self._changing = change

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the proposal of every graph's method."""
        p, size, changed = self.partition, self._now, False
        better = size < self._best_size
        if better.all():
            self._best, self._best_size = (z, fz), size
        elif better.any():
            self._keep(z, fz, better)
        if self._changing.any():
            # Where rounding alone is left, no other method gets further.
            rounding = _ROUNDING * torch.finfo(z.dtype).eps * read(p.norm(self._best[1]))
            change = self._changing & (self._best_size > rounding)
            changed = bool(change.any())
            if changed:
                z, fz, size = self._change(change, z, fz)
        before, self._before = self._before, (z, fz) if _START in self._in_use else None
        if self._in_use == [_START]:
            return fz
        # Beside others, a plain step is Anderson's without differences.
        starts, out = None if self._before is None else self._method == _START, z
        used = [k for k in self._in_use if k != _START]
        for k in used:
            method = self._methods[k]
            method.partition, method.step = p, self.step
            if not self._begun[k]:
                method.begin(z, p)
                self._begun[k] = changed = True
                if k == _ANDERSON and before is not None:  # its first difference begins there
                    self._guard.begin_after(*before, self._last)
            if changed:
                method.watch(z, fz, size)
            if k == _ANDERSON:
                self._anderson.hold(starts)
            proposal = method.propose(z, fz)
            if k == _ANDERSON and starts is not None:
                self._guard.took_plain_steps(starts)
            if len(used) == 1:
                return proposal
            mine = self._method == k
            if k == _ANDERSON and starts is not None:
                mine = mine | starts
            out = torch.where(columns(mine, p), proposal, out)
        return out

    def _look_up(self) -> None:
        """List which methods are in use."""
        used = np.unique(self._method).tolist()
        if used == [_START]:
            self._begun[_ANDERSON] = False
        elif _START in used:
            used = sorted({_ANDERSON, *used})
        self._in_use = used

    def _less(self) -> Numbers:
        """What counts as progress: Newton's method may crawl along a valley, and still be best."""
        return np.where(self._method == _NEWTON, 0.5, 0.1)

    def _settle(self, z: Tensor, fz: Tensor, graphs: Numbers) -> Numbers:
        """In which of ``graphs`` more nodes are at rest, away from zero, than ever before."""
        if not graphs.any():
            return graphs
        rest = torch.finfo(z.dtype).eps ** 0.5 * z.abs().amax(1)
        still = ((fz - z).abs().amax(1) <= rest) & (rest > 0)
        settled = read(self.partition.sum(still.long()))
        more: Numbers = graphs & (settled > self._settled)
        self._settled = np.where(more, settled, self._settled)
        return more

    def _keep(self, z: Tensor, fz: Tensor, better: Numbers) -> None:
        """Keep the best states, at which the next method begins."""
        rows, old = columns(better, self.partition), self._best
        self._best = (torch.where(rows, z, old[0]), torch.where(rows, fz, old[1]))
        self._best_size = np.where(better, self._now, self._best_size)

    def _change(self, graphs: Numbers, z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor, Numbers]:
        """Give ``graphs`` to their next methods; return the states that these begin at."""
        p, old, size = self.partition, self._method, self._now
        plain, started = self._settle(z, fz, graphs & (old == _ANDERSON)), old == _START
        # The flow may lead away from a state near which there is nothing better.
        onward = (plain | (old == _FLOW) | started) & np.isfinite(size)
        best = size <= self._best_size  # from there they go on in any case
        if not (best | ~graphs).all():
            back, on, best_size = graphs & ~onward, graphs & onward, self._best_size
            rows, (z_best, fz_best) = columns(back, p), self._best
            on_rows = columns(on, p)
            self._best = (torch.where(on_rows, z, z_best), torch.where(on_rows, fz, fz_best))
            z, fz = torch.where(rows, z_best, z), torch.where(rows, fz_best, fz)
            self._best_size = np.where(on, size, best_size)
            size = np.where(back, best_size, size)
        new = np.where((old == _ANDERSON) & ~plain, _NEWTON, (old + 1) % len(self._methods))
        new = np.where(started, _ANDERSON, new)
        self._method = np.where(graphs, new, old)
        self._look_up()
        again = graphs & (new == _ANDERSON) & ~started
        self._round = np.where(again, self._round + 1, self._round)
        self._left = np.where(graphs, self.patience * self._round, self._left)
        self._goal = np.where(graphs, self._less() * self._best_size, self._goal)
        for k, method in enumerate(self._methods):
            if self._begun[k]:
                method.restart(graphs & (self._method == k) & ~(started & onward))
        if self._begun[_ANDERSON]:
            self._anderson.forget(graphs & started & onward)
        return z, fz, size

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep what is known of the graphs that stay."""
        for begun, method in zip(self._begun, self._methods, strict=True):
            if begun:
                method.restrict(nodes, graphs)
        self._best = (self._best[0][nodes], self._best[1][nodes])
        if self._before is not None:
            self._before = (self._before[0][nodes], self._before[1][nodes])
        for name in (
            "_method", "_best_size", "_goal", "_left", "_round", "_settled", "_now", "_last",
            "_changing",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[graphs])
        self._look_up()
