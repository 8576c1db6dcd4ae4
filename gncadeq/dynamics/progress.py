"""What a solve knows of every graph, on the host: how it gets on, and how it ended.

These are a few numbers of every graph, by which Python decides how to go on. They are read of the
device once a check, and go on from there in NumPy, whose operations on small arrays take a fraction
of the time of torch's.
"""

from __future__ import annotations

import numpy as np

from gncadeq.dynamics.growth import Growth
from gncadeq.dynamics.solution import Status
from gncadeq.dynamics.solvers.base import Numbers

_GROWN = 1e6  # a state that has grown so much, without progress, is called diverged
_NO_PROGRESS = 30  # steps, and at least as many as a graph has nodes: signals take a step a hop
_TRIES = 12  # states in a row that aren't finite or lost in rounding, before a graph is given up


class Progress:
    """The graphs in the batch, and the outcome of those that have left it.

    Args:
        count: The number of nodes of every graph.
        first: The norm of its start.
        tol: The relative residual at which it ends.

    Attributes:
        open: Which graphs in the batch have no end yet.
        better: Where the last check found the smallest residual so far, and ``worse``, whether it
            found a larger one of a graph without an end.
        ended: Which graphs it ended.
        left: How many graphs have no end, and ``left_nodes``, how many nodes they have.
    """

    def __init__(self, count: Numbers, first: Numbers, tol: float) -> None:
        b = count.size
        self.tol, self.count, self.growth = tol, count.astype(np.int64), Growth(first, tol)
        self.outcome = np.full((3, b), np.inf, first.dtype)  # residuals, differences, norms
        self.status = np.full(b, int(Status.MAX_STEPS))
        self.steps, self.evaluations = np.zeros_like(self.status), np.zeros_like(self.status)
        self.graphs = np.arange(b)  # where those in the batch stand
        self.open = self.better = np.ones(b, bool)
        self.ended = self.converged = self.finite = self.valid = ~self.open
        self.worse = False
        self.left, self.left_nodes = b, int(self.count.sum())
        self.best, self.size = self.outcome, first
        self.goal = self.outcome[0]
        self.ahead = np.zeros(b, np.int64)  # the step of the last progress
        self.lost = np.zeros(b, np.int64)  # states in a row that aren't valid

    def check(self, k: int, numbers: Numbers, last: bool) -> None:
        """Take in the relative residuals, the differences and the norms of the ``k``-th states."""
        rel, diff, self.size = numbers
        with np.errstate(invalid="ignore"):
            self.finite = np.maximum(diff, self.size) < np.inf
            lost, away = self.growth.check(diff, self.size)
            self.valid = self.finite & ~lost
            self.converged = self.valid & (rel <= self.tol) & ~away
            # While a signal spreads, the residual of the node at its front stays one. A state that
            # ran away may have had a smaller one than the state that has converged.
            self.better = self.valid & (rel <= self.best[0]) | self.converged
            ahead = rel < self.goal
            self.goal = np.where(ahead, 0.9 * rel, self.goal)
            self.ahead = np.where(ahead, k, self.ahead)
            self.lost = np.where(self.valid, 0, self.lost + 1)
        self.worse = bool((self.open & ~self.better).any())
        self.best = np.where(self.better, numbers, self.best)
        given_up = ~self.valid & (self.lost >= (_TRIES if k else 0))
        self.ended = self.open & (self.converged | given_up | last)
        self.open = self.open & ~self.ended
        self.left, self.left_nodes = int(self.open.sum()), int(self.count[self.open].sum())

    def end(self, k: int, evaluations: int, best_size: Numbers | None) -> Numbers:
        """Write down the ends of the last check.

        Args:
            k: The number of steps.
            evaluations: The number of evaluations.
            best_size: The norms of the best states, where graphs ended without convergence.

        Returns:
            Which graphs have no state: where the cell was never finite enough, none is made up.
        """
        code = np.where(self.finite, int(Status.MAX_STEPS), int(Status.NON_FINITE))
        code = np.where(self.finite & ~self.valid, int(Status.DIVERGED), code)
        if best_size is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                grown = np.maximum(best_size, self.size) > _GROWN * self.growth.first
            stalled = k - self.ahead >= np.maximum(self.count, _NO_PROGRESS)
            code = np.where(grown & (stalled | ~self.valid), int(Status.DIVERGED), code)
        code = np.where(self.converged, int(Status.CONVERGED), code)
        gone: Numbers = self.ended & (code == int(Status.NON_FINITE))
        rows = self.graphs[self.ended]
        self.outcome[:, rows] = np.where(gone, np.inf, self.best)[:, self.ended]
        self.status[rows] = code[self.ended]
        self.steps[rows], self.evaluations[rows] = k, evaluations
        return gone

    def keep(self) -> None:
        """Let the graphs that ended leave the batch."""
        kept = self.open
        self.best = self.best[:, kept]
        self.growth.keep(kept)
        for name in ("graphs", "count", "size", "goal", "ahead", "lost", "open"):
            setattr(self, name, getattr(self, name)[kept])

    def row(self, numbers: Numbers) -> Numbers:
        """Numbers of the graphs without an end, among all graphs; NaN for the others."""
        out = np.full(self.status.size, np.nan, numbers.dtype)
        out[self.graphs[self.open]] = numbers[self.open]
        return out
