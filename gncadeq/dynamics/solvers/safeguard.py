"""The replacement of proposals that leave the domain of the map or increase the residual."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.dynamics.solvers.base import Solver, columns
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
        self._size = z.new_zeros(partition.num_graphs)
        # The part of the plain step that was taken; 0 is the method's own proposal.
        self._part = z.new_zeros(partition.num_graphs)
        self.stuck = torch.zeros_like(self._part, dtype=torch.bool)
        """Graphs where hardly a part of the plain step stays within the domain."""
        self._now, self._bad = self._size, self.stuck

    def watch(self, z: Tensor, fz: Tensor) -> Tensor:
        """Mark the graphs whose last proposal was bad."""
        self._now = self.partition.distance(z, fz)
        worse = (self._part == 0) & (self._now > self._growth * self._size)
        self._bad = worse | ~(self._now < float("inf"))
        return self._bad

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the method's proposal, and plain steps where the last one was bad."""
        p = self.partition
        self.method.partition, self.method.step = p, self.step
        bad = self._bad if self.calm is not None else self.watch(z, fz)
        kept, calm, size = self._kept, self.calm, self._now
        self.calm = None
        if kept is None or (not bool(bad.any()) if calm is None else calm):
            self._kept, self._size = (z, fz), size
            self._part, self.stuck = torch.zeros_like(self._part), torch.zeros_like(bad)
            return self.method.propose(z, fz)
        rows, lost = columns(bad, p), columns(~size.isfinite(), p)
        z_kept, fz_kept = kept
        # What is finite has taught the method something, even if it isn't where to go on from.
        out = self.method.propose(torch.where(lost, z_kept, z), torch.where(lost, fz_kept, fz))
        self._kept = (torch.where(rows, z_kept, z), torch.where(rows, fz_kept, fz))
        self._size = torch.where(bad, self._size, size)
        part = torch.where(self._part == 0, 1.0, 0.5 * self._part)
        self._part = torch.where(bad, part, 0.0)
        self.stuck = (self._part > 0) & (self._part < _STUCK)
        z_kept, fz_kept = self._kept
        plain = torch.lerp(z_kept, fz_kept, columns(self._part, p))
        return torch.where(rows, plain, out)

    def begin_after(self, z: Tensor, fz: Tensor) -> None:
        """Take in the first state, from which the plain step was taken already."""
        self.propose(z, fz)
        self._part = torch.ones_like(self._part)

    def restart(self, graphs: Tensor) -> None:
        """Go on from the next state whatever it is."""
        self.method.restart(graphs)
        self.calm = None
        self._size = torch.where(graphs, float("inf"), self._size)
        self._part = torch.where(graphs, 0.0, self._part)
        self.stuck = self.stuck & ~graphs

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep what is known of the graphs that stay."""
        self.method.restrict(nodes, graphs)
        if self._kept is not None:
            self._kept = (self._kept[0][nodes], self._kept[1][nodes])
        for name in ("_size", "_part", "stuck", "_now", "_bad"):
            setattr(self, name, getattr(self, name)[graphs])
