"""The flow dz/dt = f(z) - z, followed to where it rests with steps of adaptive length."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gncadeq.check import check_number
from gncadeq.dynamics.solvers.base import Numbers, Solver, columns, on_device
from gncadeq.graph.partition import Partition

# Bogacki & Shampine 1989: where stage k + 1 is evaluated, and the error of the step.
_STAGES = ((0.5, 0.0, 0.0), (0.0, 0.75, 0.0), (2 / 9, 1 / 3, 4 / 9))
_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)


class Flow(Solver):
    r"""The flow :math:`\dot{\mathbf{z}} = f(\mathbf{z}) - \mathbf{z}`, with error control.

    Its rest states are the fixed points of :math:`f`. It reaches those where all eigenvalues of
    :math:`f'` have real parts below one; plain steps need moduli below one. The steps are those of
    Bogacki & Shampine (1989), of order three with an error estimate, three evaluations each.

    Args:
        tolerance: Error of a step, relative to the step itself.
    """

    growth = None

    def __init__(self, tolerance: float = 0.1) -> None:
        self.tolerance = check_number("tolerance", tolerance, above=0, most=1)

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start at ``z``."""
        b = partition.num_graphs
        self._z = z
        self._g = [torch.zeros_like(z) for _ in range(4)]
        self._stage = torch.full((b,), 3, dtype=torch.long, device=z.device)
        self._h = z.new_ones(b)
        self._fresh = torch.ones(b, dtype=torch.bool, device=z.device)
        self.stuck = ~self._fresh
        """Graphs where the flow gets nowhere: none, for its steps only become shorter."""

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the next stage of a step."""
        p = self.partition
        g, stage = fz - z, self._stage
        for k in range(1, 4):
            rows = columns(stage == k, p)
            self._g[k] = torch.where(rows, g, self._g[k])
        lost = ~p.norm(g).isfinite()
        end = (stage == 3) | lost
        h = columns(self._h, p)
        move = h * sum(c * k for c, k in zip(_STAGES[2], self._g, strict=False))
        error = h * sum(c * k for c, k in zip(_ERROR, self._g, strict=True))
        ratio = p.norm(error) / (self.tolerance * p.norm(move))
        good = end & ~lost & ((ratio <= 1) | self._fresh)
        factor = (0.9 * ratio.clamp(min=1e-3) ** (-1 / 3)).clamp(0.2, 3.0)
        factor = torch.where(ratio.isfinite(), factor, 0.2)
        factor = torch.where(lost, 0.2, factor)
        self._h = torch.where(end & ~(self._fresh & ~lost), self._h * factor, self._h)
        rows = columns(good, p)
        self._z, self._g[0] = torch.where(rows, z, self._z), torch.where(rows, g, self._g[0])
        self._fresh = self._fresh & ~good
        self._stage = torch.where(end, 1, stage + 1)
        weight = self._h.new_tensor(_STAGES)[self._stage - 1] * self._h.unsqueeze(1)
        out = self._z
        for k in range(3):
            # Stages of the last step may hold what isn't finite: nought times that is no nought.
            term = torch.where(columns(weight[:, k] != 0, p), self._g[k], 0.0)
            out = torch.addcmul(out, term, columns(weight[:, k], p))
        return out

    def restart(self, graphs: Numbers) -> None:
        """Take the next state of ``graphs`` as it is."""
        new = on_device(graphs, self._stage)
        self._stage = torch.where(new, 3, self._stage)
        self._fresh = self._fresh | new
        self._h = torch.where(new, 1.0, self._h)

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep what is known of the graphs that stay."""
        self._z, self._g = self._z[nodes], [k[nodes] for k in self._g]
        kept = on_device(np.flatnonzero(graphs), self._stage)
        self._stage, self._h = self._stage[kept], self._h[kept]
        self._fresh, self.stuck = self._fresh[kept], self.stuck[kept]
