"""Anderson acceleration, with mixing weights for each graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gncadeq.check import check_count, check_number, check_value
from gncadeq.dynamics.solvers.base import Numbers, Solver, columns, on_device
from gncadeq.graph.partition import Partition
from gncadeq.graph.precision import widest
from gncadeq.typing import OptTensor

_RIDGES = {  # by the types of states and of the systems of equations
    (torch.float64, torch.float64): 1e-12,
    (torch.float32, torch.float64): 1e-8,
    (torch.float32, torch.float32): 1e-6,
}


class Anderson(Solver):
    r"""Anderson acceleration (Walker & Ni 2011), with mixing weights for each graph.

    With :math:`g = f(\mathbf{z}) - \mathbf{z}` and the last :math:`m` differences
    :math:`\Delta\mathbf{z}, \Delta g`,

    .. math::
        \gamma = \arg\min_\gamma \lVert g - \Delta g\, \gamma \rVert, \qquad
        \mathbf{z} \leftarrow \mathbf{z} + \tau g - (\Delta\mathbf{z} + \tau \Delta g)\, \gamma .

    Args:
        history: Number of differences :math:`m`; memory is ``2 * history`` states. More help where
            the residual falls slowly, as on large graphs.
        damping: The step :math:`\tau` in (0, 1].
        ridge: Ridge of the least-squares problem, relative to :math:`\lVert \Delta g \rVert^2`; by
            default 1e-12 in double precision and 1e-8 in single. Where there are more differences
            than unknowns, rounding reaches the step enlarged by its inverse.
    """

    growth = 2.0

    def __init__(self, history: int = 5, damping: float = 1.0, ridge: float | None = None) -> None:
        self.history = check_count("history", history, least=1)
        self.damping = check_number("damping", damping, above=0, most=1)
        self.ridge = check_value("ridge", ridge, float | None, least=0)

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start without a history."""
        b, m = partition.num_graphs, self.history
        self._count = 0
        self._last: tuple[Tensor, Tensor] | None = None
        self._dg: OptTensor = None  # [history, num_nodes, channels], dg of unit length
        self._dx: list[Tensor] = []  # dz + damping * dg, in the same units
        self._gram = z.new_zeros(b, m, m, dtype=widest(z.device))
        self._valid = torch.zeros(b, m, dtype=torch.bool, device=z.device)
        self._jumped = torch.zeros(b, dtype=torch.bool, device=z.device)
        self._held: OptTensor = None
        self._ridge = self.ridge or _RIDGES[z.dtype, self._gram.dtype]

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the accelerated step."""
        g = fz - z
        plain = z + self.damping * g if self.damping != 1.0 else fz
        if self._last is not None:
            self._remember(z - self._last[0], g - self._last[1])
        self._last = (z, g)
        if not self._dx:
            return plain
        gamma = self._mixing(self.partition.dots(self._differences(), g))
        gamma = gamma.to(z.dtype)
        if self.partition.num_graphs > 1:
            gamma = gamma[self.partition.batch]
        out = plain.clone() if self.damping == 1.0 else plain
        for j, dx in enumerate(self._dx):
            out.addcmul_(dx, gamma[:, j, None], value=-1)
        return out

    def _remember(self, dz: Tensor, dg: Tensor) -> None:
        slot = self._count % self.history
        size = self.partition.norm(dg)
        valid = (size > 0) & size.isfinite() & ~self._jumped
        self._jumped = torch.zeros_like(self._jumped)
        unit = columns(torch.where(valid, 1.0 / size, 0.0), self.partition)
        dx = torch.add(dz, dg, alpha=self.damping).mul_(unit)
        if self._dg is None:
            self._dg = dg.new_empty(self.history, *dg.shape)
        dg = torch.mul(dg, unit, out=self._dg[slot])
        self._dx[slot : slot + 1] = [dx]
        k = len(self._dx)
        row = self.partition.dots(self._differences(), dg)
        self._gram[:, slot, :k] = row
        self._gram[:, :k, slot] = row
        self._valid[:, slot] = valid
        self._count += 1

    def _differences(self) -> Tensor:
        assert self._dg is not None
        return self._dg[: len(self._dx)]

    def _mixing(self, rhs: Tensor) -> Tensor:
        k = rhs.size(1)
        valid = self._valid[:, :k]
        if self._held is not None:
            valid, self._held = valid & ~self._held.unsqueeze(1), None
        both = valid[:, :, None] & valid[:, None, :]
        gram = torch.where(both, self._gram[:, :k, :k], 0.0)
        gram = gram + torch.diag_embed(torch.where(valid, self._ridge, 1.0))
        rhs = torch.where(valid, rhs, 0.0)
        gamma = torch.linalg.solve_ex(gram, rhs.unsqueeze(-1))[0].squeeze(-1)
        return torch.where(gamma.isfinite().all(-1, keepdim=True), gamma, 0.0)

    def forget(self, graphs: Numbers) -> None:
        """Drop the differences of ``graphs``."""
        self._valid = self._valid & ~on_device(graphs, self._valid).unsqueeze(1)

    def hold(self, graphs: Numbers | None) -> None:
        """Let the next proposal of ``graphs`` be the plain step."""
        self._held = None if graphs is None else on_device(graphs, self._valid)

    def restart(self, graphs: Numbers) -> None:
        """Drop the differences of ``graphs``, and the next one, which would span the jump."""
        self.forget(graphs)
        self._jumped = self._jumped | on_device(graphs, self._jumped)

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep the history of the graphs that stay."""
        self._dg = None if self._dg is None else self._dg[:, nodes]
        self._dx = [d[nodes] for d in self._dx]
        if self._last is not None:
            self._last = (self._last[0][nodes], self._last[1][nodes])
        kept = on_device(np.flatnonzero(graphs), self._valid)
        self._gram, self._valid = self._gram[kept], self._valid[kept]
        self._jumped = self._jumped[kept]
