"""The replacement of proposals that leave the domain of the map or increase the residual."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gncadeq.dynamics.solvers.base import Numbers, Solver, columns, read
from gncadeq.graph.partition import Partition

_STUCK = 0.1  # of a plain step


class Safeguard(Solver):
    r"""Replaces bad proposals of another solver by plain steps, graph by graph.

    The state is kept from which a proposal was made. If the residual there is not finite, or more
    than ``method.growth`` times as large, the graph goes on with the plain step :math:`f` from the
    kept state; if that leaves the domain as well, with a half of it, a quarter, and so on. A plain
    step within the domain is always taken: so a solve costs at most twice the evaluations of plain
    steps until it is where these lead.

    Args:
        method: The solver whose proposals are held.
    """

    growth = None

    def __init__(self, method: Solver) -> None:
        self.method = method
        self._growth = float("inf") if method.growth is None else method.growth

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Begin the method."""
        self.method.partition, self.method.step = partition, self.step
        self.method.begin(z, partition)
        self._kept: tuple[Tensor, Tensor] | None = None
        self._now = self._size = read(z.new_zeros(partition.num_graphs))
        # The part of the plain step that was taken; 0 is the method's own proposal.
        self._part = np.zeros_like(self._size)
        self._bad = self.stuck = np.zeros(partition.num_graphs, bool)
        """Graphs where hardly a part of the plain step stays within the domain."""

    def watch(self, z: Tensor, fz: Tensor, size: Numbers) -> None:
        """Mark the graphs whose last proposal was bad."""
        self._now = size
        with np.errstate(invalid="ignore", over="ignore"):
            worse = (self._part == 0) & (size > self._growth * self._size)
            self._bad = worse | ~(size < np.inf)

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the method's proposal, and plain steps where the last one was bad."""
        p = self.partition
        self.method.partition, self.method.step = p, self.step
        bad, kept, size = self._bad, self._kept, self._now
        if kept is None or not bad.any():
            self._kept, self._size = (z, fz), size
            self._part, self.stuck = np.zeros_like(self._part), np.zeros_like(bad)
            return self.method.propose(z, fz)
        rows, lost = columns(bad, p), columns(~np.isfinite(size), p)
        z_kept, fz_kept = kept
        # What is finite has taught the method something, even if it isn't where to go on from.
        out = self.method.propose(torch.where(lost, z_kept, z), torch.where(lost, fz_kept, fz))
        self._kept = (torch.where(rows, z_kept, z), torch.where(rows, fz_kept, fz))
        self._size = np.where(bad, self._size, size)
        part = np.where(self._part == 0, 1.0, 0.5 * self._part)
        self._part = np.where(bad, part, 0.0).astype(size.dtype)
        self.stuck = (self._part > 0) & (self._part < _STUCK)
        z_kept, fz_kept = self._kept
        plain = torch.lerp(z_kept, fz_kept, columns(self._part, p))
        return torch.where(rows, plain, out)

    def begin_after(self, z: Tensor, fz: Tensor, size: Numbers) -> None:
        """Take in the first state, from which the plain step was taken already."""
        self.watch(z, fz, size)
        self.propose(z, fz)
        self.took_plain_steps(np.ones_like(self._bad))

    def took_plain_steps(self, graphs: Numbers) -> None:
        """Note that the last proposals of ``graphs`` were plain steps, which are never bad."""
        self._part = np.where(graphs, 1.0, self._part).astype(self._part.dtype)

    def restart(self, graphs: Numbers) -> None:
        """Go on from the next state whatever it is."""
        self.method.restart(graphs)
        self._size = np.where(graphs, np.inf, self._size).astype(self._size.dtype)
        self._part = np.where(graphs, 0.0, self._part).astype(self._size.dtype)
        self.stuck = self.stuck & ~graphs

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep what is known of the graphs that stay."""
        self.method.restrict(nodes, graphs)
        if self._kept is not None:
            self._kept = (self._kept[0][nodes], self._kept[1][nodes])
        for name in ("_size", "_part", "stuck", "_now", "_bad"):
            setattr(self, name, getattr(self, name)[graphs])
