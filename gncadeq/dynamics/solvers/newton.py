"""Newton's method without a Jacobian: GMRES on differences of the map, for each graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gncadeq.check import check_count, check_number
from gncadeq.dynamics.solvers.base import Numbers, Solver, columns, on_device
from gncadeq.graph.partition import Partition
from gncadeq.graph.precision import widened, widest

_TRIES = 8


class Newton(Solver):
    r"""Newton–Krylov with a line search (Knoll & Keyes 2004), each graph at its own pace.

    On :math:`g(\mathbf{z}) = f(\mathbf{z}) - \mathbf{z}`, GMRES solves :math:`g'(\mathbf{z})\,
    \mathbf{d} = -g(\mathbf{z})` with the products

    .. math::
        g'(\mathbf{z})\, \mathbf{v} \approx
        \frac{g(\mathbf{z} + \epsilon \mathbf{v}) - g(\mathbf{z})}{\epsilon},

    one evaluation of the map each, and :math:`\mathbf{z} \leftarrow \mathbf{z} + t\, \mathbf{d}`
    with the first :math:`t = 1, 1/2, 1/4, \dots` at which the residual falls. Every evaluation is
    one step of the solve.

    Args:
        history: Most products for one direction :math:`\mathbf{d}`; memory grows to ``history``
            states.
        accuracy: GMRES ends at this part of the residual.
    """

    growth = None

    def __init__(self, history: int = 30, accuracy: float = 1e-4) -> None:
        self.history = check_count("history", history, least=1)
        self.accuracy = check_number("accuracy", accuracy, above=0, below=1)

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start at ``z``."""
        b, m = partition.num_graphs, self.history
        self._basis: list[Tensor] = []
        self._hessenberg = z.new_zeros(b, m + 1, m, dtype=widest(z.device))
        self._z, self._g, self._d = z, torch.zeros_like(z), torch.zeros_like(z)
        self._size = z.new_full((b,), float("inf"))  # of the residual at z
        self._probing = torch.zeros(b, dtype=torch.bool, device=z.device)
        self._column = torch.zeros(b, dtype=torch.long, device=z.device)
        self._length = z.new_ones(b)  # of the line search's step
        self._epsilon = z.new_ones(b)
        self.stuck = torch.zeros(b, dtype=torch.bool, device=z.device)
        """Graphs whose last direction was none: neither GMRES nor the line search got ahead."""

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the next point of GMRES or of the line search."""
        g = fz - z
        size = self.partition.norm(g)
        searching = ~self._probing
        better = size <= (1 - 1e-4 * self._length) * self._size
        arrived = searching & size.isfinite() & (better | (self._length == 0))
        failed = searching & ~arrived
        done = self._arnoldi(g) if bool(self._probing.any()) else self._probing
        self._arrive(arrived, z, g, size)
        self._aim(done)
        self._shorten(failed)
        return self._next()

    def _arrive(self, graphs: Tensor, z: Tensor, g: Tensor, size: Tensor) -> None:
        """Make the points of ``graphs`` those to differentiate at."""
        if not bool(graphs.any()):
            return
        rows = columns(graphs, self.partition)
        self._z, self._g = torch.where(rows, z, self._z), torch.where(rows, g, self._g)
        self._size = torch.where(graphs, size, self._size)
        self._hessenberg[graphs] = 0.0
        self._column = torch.where(graphs, 0, self._column)
        self._probing = self._probing | graphs
        scale = torch.maximum(self.partition.norm(z), size) * torch.finfo(z.dtype).eps ** 0.5
        self._epsilon = torch.where(graphs, torch.where(scale > 0, scale, 1.0), self._epsilon)
        self._put(graphs, 0, g, size)

    def _put(self, graphs: Tensor, slot: int, vector: Tensor, size: Tensor) -> None:
        """Store a vector of ``graphs``, made one of unit length."""
        if slot == len(self._basis):
            self._basis.append(torch.zeros_like(vector))
        unit = vector / columns(torch.where(size > 0, size, 1.0), self.partition)
        rows = columns(graphs, self.partition)
        self._basis[slot] = torch.where(rows, unit, self._basis[slot])

    def _arnoldi(self, g: Tensor) -> Tensor:
        """Take in one product of the probing graphs; return those whose GMRES is at its end."""
        p, column = self.partition, self._column
        w = (g - self._g) / columns(self._epsilon, p)
        lost = ~p.norm(w).isfinite()
        w = torch.where(columns(lost | ~self._probing, p), 0.0, w)
        before = p.norm(w)
        slots = torch.arange(len(self._basis), device=g.device)
        used = slots <= column.unsqueeze(1)
        coefficients = torch.zeros_like(used, dtype=self._hessenberg.dtype)
        for _ in range(2):  # twice is enough for orthogonality
            part = torch.where(used, p.dots(self._basis, w), 0.0)
            coefficients = coefficients + part
            for k, v in enumerate(self._basis):
                w = torch.addcmul(w, v, columns(part[:, k], p).to(w.dtype), value=-1)
        after = p.norm(w)
        broken = lost | (after <= torch.finfo(w.dtype).eps * 10 * before)
        graphs = self._probing.nonzero().flatten()
        own = column[graphs]
        self._hessenberg[graphs, : len(self._basis), own] = coefficients[graphs]
        self._hessenberg[graphs, own + 1, own] = widened(torch.where(broken, 0.0, after)[graphs])
        self._column = torch.where(self._probing, column + 1, column)
        for k in set(own.tolist()):
            if k + 1 < self.history:
                self._put(self._probing & (column == k) & ~broken, k + 1, w, after)
        weights, left = self._least_squares()
        self._weights = weights
        small = left <= self.accuracy
        self._idle = left > 0.99
        return self._probing & (small | broken | (self._column >= self.history))

    def _least_squares(self) -> tuple[Tensor, Tensor]:
        """The minimiser over the Krylov space, and the part of the residual that is left."""
        h = self._hessenberg
        rhs = h.new_zeros(h.size(0), h.size(1), 1)
        rhs[:, 0] = -1.0
        y = torch.linalg.pinv(h) @ rhs
        left = torch.linalg.vector_norm(h @ y - rhs, dim=(1, 2))
        return y.squeeze(2), left

    def _aim(self, graphs: Tensor) -> None:
        """Turn the Krylov spaces of ``graphs`` into directions."""
        if not bool(graphs.any()):
            return
        p = self.partition
        weights = (self._weights * widened(self._size.unsqueeze(1))).to(self._d.dtype)[p.batch]
        d = torch.zeros_like(self._d)
        for k, v in enumerate(self._basis[: self.history]):
            d = torch.addcmul(d, v, weights[:, k, None])
        self._d = torch.where(columns(graphs, p), d, self._d)
        self.stuck = torch.where(graphs, self._idle, self.stuck)
        self._length = torch.where(graphs, 1.0, self._length)
        self._probing = self._probing & ~graphs

    def _shorten(self, graphs: Tensor) -> None:
        """Halve the steps of ``graphs``; in the end take a plain one, which is length 0 here."""
        shorter = 0.5 * self._length
        over = graphs & (shorter < 0.5**_TRIES)
        self.stuck = self.stuck | over
        self._length = torch.where(graphs, torch.where(over, 0.0, shorter), self._length)

    def _next(self) -> Tensor:
        p = self.partition
        step = columns(self._length, p) * self._d
        step = torch.where(columns(self._length == 0, p), self._g, step)
        if bool(self._probing.any()):
            slot = self._column[p.batch].clamp(max=len(self._basis) - 1)
            v = self._basis[0]
            for k in range(1, len(self._basis)):
                v = torch.where((slot == k).unsqueeze(1), self._basis[k], v)
            step = torch.where(columns(self._probing, p), columns(self._epsilon, p) * v, step)
        return self._z + step

    def restart(self, graphs: Numbers) -> None:
        """Take the next state of ``graphs`` as it is."""
        new = on_device(graphs, self._size)
        self._size = torch.where(new, float("inf"), self._size)
        self._probing, self.stuck = self._probing & ~new, self.stuck & ~new
        self._length = torch.where(new, 1.0, self._length)

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep what is known of the graphs that stay."""
        self._basis = [v[nodes] for v in self._basis]
        self._z, self._g, self._d = self._z[nodes], self._g[nodes], self._d[nodes]
        kept = on_device(np.flatnonzero(graphs), self._size)
        for name in ("_hessenberg", "_size", "_probing", "_column", "_length", "_epsilon", "stuck"):
            setattr(self, name, getattr(self, name)[kept])
