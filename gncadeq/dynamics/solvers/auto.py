"""The solver that changes its method where progress stalls."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.check import check_count
from gncadeq.dynamics.partition import Partition
from gncadeq.dynamics.solvers.anderson import Anderson
from gncadeq.dynamics.solvers.base import Solver, columns
from gncadeq.dynamics.solvers.flow import Flow
from gncadeq.dynamics.solvers.newton import Newton
from gncadeq.dynamics.solvers.safeguard import Safeguard

_ROUNDING = 64.0  # units of it
_AWAY = 1e12  # times as large as the smallest residual


class Auto(Solver):
    r"""Anderson acceleration first; Newton–Krylov and the flow where progress stalls.

    Every graph begins with :class:`Anderson`. If its residual has not become ten times smaller for
    ``patience`` evaluations, it goes on with :class:`Newton`, then with :class:`Flow`, then with
    Anderson again and twice the patience. Newton's method ends early where neither GMRES nor the
    line search gets ahead, and then leaves the state as it was.

    Args:
        history: Number of differences of Anderson's method.
        patience: Evaluations without progress before a graph first changes its method.
    """

    growth = None

    def __init__(self, history: int = 10, patience: int = 30) -> None:
        self.patience = check_count("patience", patience, least=1)
        first = Safeguard(Anderson(history))
        self._methods: tuple[Safeguard | Newton | Flow, ...] = (first, Newton(), Flow())

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Begin with Anderson acceleration."""
        b = partition.num_graphs
        self._begun = [False] * len(self._methods)
        self._method = torch.zeros(b, dtype=torch.long, device=z.device)
        self._best = (z, z)
        self._best_size = z.new_full((b,), float("inf"))
        self._goal = self._best_size.clone()
        self._left = torch.full((b,), self.patience, dtype=torch.long, device=z.device)
        self._round = torch.ones_like(self._left)

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the proposal of every graph's method."""
        p = self.partition
        size = p.norm(fz - z)
        self._keep(z, fz, size)
        progress = size < self._goal
        self._goal = torch.where(progress, 0.1 * size, self._goal)
        self._left = torch.where(progress, self.patience * self._round, self._left - 1)
        # Steps that lead away, ever further before they may do so again.
        away = (size > _AWAY**self._round * self._best_size) & (self._method == 0)
        change = (self._left <= 0) | away
        for k, method in enumerate(self._methods):
            if self._begun[k]:
                change = change | (self._method == k) & method.stuck
        if bool(change.any()):
            # Where rounding alone is left, no other method gets further.
            rounding = _ROUNDING * torch.finfo(z.dtype).eps * p.norm(self._best[1])
            change = change & (self._best_size > rounding)
            z, fz = self._change(change, z, fz, size)
        out = z
        for k, method in enumerate(self._methods):
            own = self._method == k
            if not bool(own.any()):
                continue
            method.partition, method.step = p, self.step
            if not self._begun[k]:
                method.begin(z, p)
                self._begun[k] = True
            proposal = method.propose(z, fz)
            out = proposal if bool(own.all()) else torch.where(columns(own, p), proposal, out)
        return out

    def _keep(self, z: Tensor, fz: Tensor, size: Tensor) -> None:
        """Keep the best states, at which the next method begins."""
        better = size < self._best_size
        if bool(better.all()):
            self._best = (z, fz)
        elif bool(better.any()):
            rows = columns(better, self.partition)
            old = self._best
            self._best = (torch.where(rows, z, old[0]), torch.where(rows, fz, old[1]))
        self._best_size = torch.where(better, size, self._best_size)

    def _change(self, graphs: Tensor, z: Tensor, fz: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``graphs`` to their next methods; return the states that these begin at."""
        p = self.partition
        # The flow may lead away from a state near which there is nothing better.
        onward = (self._method == 2) & size.isfinite()
        rows = columns(graphs & ~onward, p)
        z = torch.where(rows, self._best[0], z)
        fz = torch.where(rows, self._best[1], fz)
        self._best_size = torch.where(graphs & onward, size, self._best_size)
        rows = columns(graphs & onward, p)
        self._best = (torch.where(rows, z, self._best[0]), torch.where(rows, fz, self._best[1]))
        self._method = torch.where(graphs, (self._method + 1) % len(self._methods), self._method)
        self._round = torch.where(graphs & (self._method == 0), self._round + 1, self._round)
        self._left = torch.where(graphs, self.patience * self._round, self._left)
        self._goal = torch.where(graphs, 0.1 * self._best_size, self._goal)
        for k, method in enumerate(self._methods):
            if self._begun[k]:
                method.restart(graphs & (self._method == k))
        return z, fz

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep what is known of the graphs that stay."""
        for begun, method in zip(self._begun, self._methods, strict=True):
            if begun:
                method.restrict(nodes, graphs)
        self._best = (self._best[0][nodes], self._best[1][nodes])
        for name in ("_method", "_best_size", "_goal", "_left", "_round"):
            setattr(self, name, getattr(self, name)[graphs])


__all__ = ["Auto"]
