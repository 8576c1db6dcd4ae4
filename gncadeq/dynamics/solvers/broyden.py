"""Broyden's method with limited memory, one inverse Jacobian for each graph."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.check import check_count
from gncadeq.dynamics.solvers.base import Numbers, Solver, columns
from gncadeq.graph.partition import Partition


class Broyden(Solver):
    r"""Broyden's first method with limited memory, one inverse Jacobian for each graph.

    On :math:`g(\mathbf{z}) = f(\mathbf{z}) - \mathbf{z}`, with :math:`H = -I + \sum_k u_k v_k^\top`
    (Broyden 1965; Bai et al. 2019, eq. 10):

    .. math::
        v = H^\top s, \quad u = \frac{s - H y}{v^\top y}, \qquad
        \mathbf{z} \leftarrow \mathbf{z} - H g,
        \qquad s = \Delta\mathbf{z},\; y = \Delta g .

    Once the history is full, all start again from :math:`H = -I`, a plain step: each term builds on
    the earlier ones, so none can be dropped alone.

    Args:
        history: Most rank-one terms; memory grows to ``2 * history`` states.
    """

    growth = 10.0

    def __init__(self, history: int = 30) -> None:
        self.history = check_count("history", history, least=1)

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start from the Jacobian of a plain step."""
        self._last: tuple[Tensor, Tensor] | None = None
        self._u: list[Tensor] = []
        self._v: list[Tensor] = []

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the quasi-Newton step."""
        p = self.partition
        g = fz - z
        if len(self._u) == self.history:
            self._u, self._v = [], []
        elif self._last is not None:
            self._remember(z - self._last[0], g - self._last[1])
        self._last = (z, g)
        if not self._u:
            return fz
        out = fz.clone()
        weight = p.dots(self._v, g).to(g.dtype)[p.batch]
        for k, u in enumerate(self._u):
            out.addcmul_(u, weight[:, k, None], value=-1)
        return out

    def _remember(self, s: Tensor, y: Tensor) -> None:
        p = self.partition
        size = p.norm(y)
        usable = (size > 0) & size.isfinite()
        unit = columns(torch.where(usable, size, 1.0), p)
        s, y = s / unit, y / unit  # the same secant, far from overflow
        v, hy = -s, -y
        if self._u:
            su = p.dots(self._u, s).to(s.dtype)[p.batch]
            vy = p.dots(self._v, y).to(s.dtype)[p.batch]
            for k, (uk, vk) in enumerate(zip(self._u, self._v, strict=True)):
                v = torch.addcmul(v, vk, su[:, k, None])
                hy = torch.addcmul(hy, uk, vy[:, k, None])
        denominator = p.dots([v], y).squeeze(1)
        usable = usable & denominator.isfinite() & (denominator.abs() > 1e-10 * p.norm(v))
        inverse = torch.where(usable, 1.0 / torch.where(usable, denominator, 1.0), 0.0)
        u = (s - hy) * columns(inverse.to(s.dtype), p)
        mask = columns(usable, p)
        self._u.append(torch.where(mask, u, 0.0))
        self._v.append(torch.where(mask, v, 0.0))

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep the terms of the graphs that stay."""
        self._u = [u[nodes] for u in self._u]
        self._v = [v[nodes] for v in self._v]
        if self._last is not None:
            self._last = (self._last[0][nodes], self._last[1][nodes])
