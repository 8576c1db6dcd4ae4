"""The solver that changes its method where progress stalls."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.check import check_count
from gncadeq.dynamics.solvers.anderson import Anderson
from gncadeq.dynamics.solvers.base import Picard, Solver, columns
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
        self._method = torch.full((b,), _START, dtype=torch.long, device=z.device)
        self._starts = self._method == _START
        self._in_use = [_START]  # methods of any graph: asked of a device when they change alone
        self._best = (z, z)
        self._best_size = z.new_full((b,), float("inf"))
        self._goal = self._best_size.clone()
        self._left = torch.full((b,), self.patience, dtype=torch.long, device=z.device)
        self._round = torch.ones_like(self._left)
        self._settled = torch.zeros_like(self._left)
        self._now = self._last = self._best_size
        self._changing = torch.zeros_like(self._left, dtype=torch.bool)
        self._closer = self._changing
        self._before: tuple[Tensor, Tensor] | None = None  # the last state, while there are starts

    def watch(self, z: Tensor, fz: Tensor) -> Tensor:
        """Count the evaluations without progress; mark the graphs without, and those whose method
        must look closer itself."""
        earlier, self._last, self._now = self._last, self._now, self.partition.distance(z, fz)
        size = self._now
        progress = size < self._goal
        if _PLAIN in self._in_use:
            plain = self._method == _PLAIN
            progress = progress | plain & self._settle(z, fz, plain)
        self._goal = torch.where(progress, self._less() * size, self._goal)
        self._left = torch.where(progress, self.patience * self._round, self._left - 1)
        # Steps that lead away, ever further before they may do so again.
        away = (size > _AWAY**self._round * self._best_size) & (self._method == _ANDERSON)
        change = (self._left <= 0) | away
        closer = ~(size < self._best_size)
        for k in self._in_use:
            if k == _START:
                fast = (size <= _SLOW * self._last) & (size <= _FAST * earlier)
                change = change | self._starts & ~fast
            elif self._begun[k]:
                method = self._methods[k]
                method.partition = self.partition
                change = change | (self._method == k) & method.stuck
                watched = method.watch(z, fz)
                closer = closer if watched is None else closer | watched
        self._closer, self._changing = closer, change
        return closer | change

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the proposal of every graph's method."""
        p = self.partition
        if self.calm is None:
            self.calm = not bool(self.watch(z, fz).any())
        calm, self.calm = self.calm, None
        if calm:
            self._best, self._best_size = (z, fz), self._now
        else:
            closer, changing = torch.stack([self._closer, self._changing]).any(1).tolist()
            if closer:
                self._keep(z, fz, self._now)
            else:
                self._best, self._best_size = (z, fz), self._now
            if changing:
                # Where rounding alone is left, no other method gets further.
                rounding = _ROUNDING * torch.finfo(z.dtype).eps * p.norm(self._best[1])
                change = self._changing & (self._best_size > rounding)
                z, fz = self._change(change, z, fz, self._now)
        before, self._before = self._before, (z, fz) if _START in self._in_use else None
        if self._in_use == [_START]:
            return fz
        # Beside others, a plain step is Anderson's without differences.
        starts, out = None if self._before is None else self._starts, z
        used = [k for k in self._in_use if k != _START]
        for k in used:
            method = self._methods[k]
            method.partition, method.step = p, self.step
            method.calm = True if calm and self._begun[k] else None
            if not self._begun[k]:
                method.begin(z, p)
                self._begun[k] = True
                if k == _ANDERSON and before is not None:
                    self._guard.begin_after(*before)  # its first difference begins there
            if k == _ANDERSON:
                self._anderson.hold(starts)
            proposal = method.propose(z, fz)
            if len(used) == 1:
                return proposal
            mine = self._method == k
            if k == _ANDERSON and starts is not None:
                mine = mine | starts
            out = torch.where(columns(mine, p), proposal, out)
        return out

    def _look_up(self) -> None:
        """Ask the device which methods are in use."""
        self._starts = self._method == _START
        used = torch.unique(self._method).tolist()
        if used == [_START]:
            self._begun[_ANDERSON] = False
        elif _START in used:
            used = sorted({_ANDERSON, *used})
        self._in_use = used

    def _less(self) -> Tensor:
        """What counts as progress: Newton's method may crawl along a valley, and still be best."""
        return torch.where(self._method == _NEWTON, 0.5, 0.1).to(self._best_size)

    def _settle(self, z: Tensor, fz: Tensor, graphs: Tensor) -> Tensor:
        """In which of ``graphs`` more nodes are at rest, away from zero, than ever before."""
        rest = torch.finfo(z.dtype).eps ** 0.5 * z.abs().amax(1)
        settled = self.partition.sum((((fz - z).abs().amax(1) <= rest) & (rest > 0)).long())
        more = graphs & (settled > self._settled)
        self._settled = torch.where(more, settled, self._settled)
        return more

    def _keep(self, z: Tensor, fz: Tensor, size: Tensor) -> None:
        """Keep the best states, at which the next method begins."""
        better = size < self._best_size
        rows = columns(better, self.partition)
        old = self._best
        self._best = (torch.where(rows, z, old[0]), torch.where(rows, fz, old[1]))
        self._best_size = torch.where(better, size, self._best_size)

    def _change(self, graphs: Tensor, z: Tensor, fz: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``graphs`` to their next methods; return the states that these begin at."""
        p, old = self.partition, self._method
        plain, started = self._settle(z, fz, graphs & (old == _ANDERSON)), old == _START
        # The flow may lead away from a state near which there is nothing better.
        onward = (plain | (old == _FLOW) | started) & size.isfinite()
        best = size <= self._best_size  # from there they go on in any case
        if not bool((best | ~graphs).all()):
            rows = columns(graphs & ~onward, p)
            z = torch.where(rows, self._best[0], z)
            fz = torch.where(rows, self._best[1], fz)
            self._best_size = torch.where(graphs & onward, size, self._best_size)
            rows = columns(graphs & onward, p)
            self._best = (torch.where(rows, z, self._best[0]), torch.where(rows, fz, self._best[1]))
        new = torch.where((old == _ANDERSON) & ~plain, _NEWTON, (old + 1) % len(self._methods))
        new = torch.where(started, _ANDERSON, new)
        self._method = torch.where(graphs, new, old)
        self._look_up()
        again = graphs & (new == _ANDERSON) & ~started
        self._round = torch.where(again, self._round + 1, self._round)
        self._left = torch.where(graphs, self.patience * self._round, self._left)
        self._goal = torch.where(graphs, self._less() * self._best_size, self._goal)
        for k, method in enumerate(self._methods):
            if self._begun[k]:
                method.restart(graphs & (self._method == k) & ~(started & onward))
        if self._begun[_ANDERSON]:
            self._anderson.forget(graphs & started & onward)
        return z, fz

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep what is known of the graphs that stay."""
        for begun, method in zip(self._begun, self._methods, strict=True):
            if begun:
                method.restrict(nodes, graphs)
        self._best = (self._best[0][nodes], self._best[1][nodes])
        if self._before is not None:
            self._before = (self._before[0][nodes], self._before[1][nodes])
        for name in (
            "_method", "_best_size", "_goal", "_left", "_round", "_settled", "_now", "_last",
            "_changing", "_closer",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[graphs])
        self._look_up()
