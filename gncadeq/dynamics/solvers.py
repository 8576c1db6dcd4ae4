r"""Fixed-point solvers for batches of graphs of any sizes.

A solver proposes the next state from :math:`\mathbf{z}` and :math:`f(\mathbf{z})`; the loop in
:func:`gncadeq.dynamics.solve` owns everything else. Inner products run over the nodes of one graph,
so every graph has its own mixing weights, and what it gets doesn't depend on its batch-mates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from gncadeq.dynamics.partition import Partition

_ANDERSON_WORSE = 2.0
_BROYDEN_WORSE = 1e3  # the residuals of Broyden's method rise by far before they fall


class Solver(ABC):
    """Proposes states; one object serves one solve. Subclass it to add a solver.

    Example:
        >>> class Half(Solver):
        ...     def propose(self, z, fz):
        ...         return 0.5 * (z + fz)
        >>> register_solver("half", Half)
    """

    partition: Partition

    def begin(self, z: Tensor, partition: Partition) -> None:  # noqa: B027
        """Called once, before the first proposal; ``self.partition`` is set already."""

    @abstractmethod
    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the next state from the state ``z`` and its image ``fz = f(z)``."""

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:  # noqa: B027
        """Forget all but ``nodes`` (indices) of ``graphs`` (a mask), as the batch shrinks."""


class Picard(Solver):
    r"""Damped fixed-point iteration, :math:`\mathbf{z} \leftarrow (1-\tau)\mathbf{z} + \tau f`.

    Args:
        damping: The step :math:`\tau` in (0, 1].
    """

    def __init__(self, damping: float = 1.0) -> None:
        self.damping = _check_damping(damping)

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the damped step."""
        return fz if self.damping == 1.0 else torch.lerp(z, fz, self.damping)


class Anderson(Solver):
    r"""Anderson acceleration (Walker & Ni 2011), with mixing weights for each graph.

    With :math:`g = f(\mathbf{z}) - \mathbf{z}` and the last :math:`m` differences
    :math:`\Delta\mathbf{z}, \Delta g`,

    .. math::
        \gamma = \arg\min_\gamma \lVert g - \Delta g\, \gamma \rVert, \qquad
        \mathbf{z} \leftarrow \mathbf{z} + \tau g - (\Delta\mathbf{z} + \tau \Delta g)\, \gamma .

    The least-squares ridge is relative to :math:`\lVert \Delta g \rVert^2`. A graph whose residual
    doubles, or whose weights overflow, drops its history and takes a plain damped step.

    Args:
        history: Number of differences :math:`m`; memory is ``2 * history`` states.
        damping: The step :math:`\tau` in (0, 1].
        ridge: Relative ridge of the least-squares problem.
    """

    def __init__(self, history: int = 5, damping: float = 1.0, ridge: float = 1e-8) -> None:
        if history < 1:
            raise ValueError(f"Expected 'history' of at least 1 (got {history})")
        self.history, self.ridge = history, ridge
        self.damping = _check_damping(damping)

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start without a history."""
        b, m = partition.num_graphs, self.history
        self._count = 0
        self._last: tuple[Tensor, Tensor] | None = None
        self._dg: list[Tensor] = []
        self._dx: list[Tensor] = []  # dz + damping * dg
        self._gram = z.new_zeros(b, m, m, dtype=torch.float64)
        self._valid = torch.zeros(b, m, dtype=torch.bool, device=z.device)
        self._best = z.new_full((b,), float("inf"))

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the accelerated step."""
        p = self.partition
        g = fz - z
        size = p.norm(g)
        plain = z + self.damping * g if self.damping != 1.0 else fz
        worse = size > _ANDERSON_WORSE * self._best
        self._best = torch.minimum(self._best, size.nan_to_num(nan=float("inf")))
        if self._last is not None:
            self._remember(z - self._last[0], g - self._last[1])
            self._valid[worse] = False
        self._last = (z, g)
        if not self._dg:
            return plain
        k = len(self._dg)
        rhs = p.sum(torch.stack([torch.linalg.vecdot(d, g) for d in self._dg], 1)).double()
        gamma = self._mixing(self._gram[:, :k, :k], rhs, self._valid[:, :k]).to(z.dtype)
        gamma = gamma[p.batch]
        out = plain.clone() if self.damping == 1.0 else plain
        for j, dx in enumerate(self._dx):
            out.addcmul_(dx, gamma[:, j, None], value=-1)
        return out

    def _remember(self, dz: Tensor, dg: Tensor) -> None:
        slot = self._count % self.history
        dx = torch.add(dz, dg, alpha=self.damping)
        if slot == len(self._dg):
            self._dg.append(dg)
            self._dx.append(dx)
        else:
            self._dg[slot], self._dx[slot] = dg, dx
        row = self.partition.sum(
            torch.stack([torch.linalg.vecdot(d, dg) for d in self._dg], 1)
        ).double()
        k = len(self._dg)
        self._gram[:, slot, :k] = row
        self._gram[:, :k, slot] = row
        self._valid[:, slot] = True
        self._count += 1

    def _mixing(self, gram: Tensor, rhs: Tensor, valid: Tensor) -> Tensor:
        valid = valid & gram.isfinite().all(-1) & (gram.diagonal(dim1=1, dim2=2) > 0)
        both = valid[:, :, None] & valid[:, None, :]
        gram = torch.where(both, gram, 0.0)
        # Columns of unit length: the ridge is then relative for each of them.
        scale = torch.where(valid, gram.diagonal(dim1=1, dim2=2), 1.0).rsqrt()
        gram = gram * scale[:, :, None] * scale[:, None, :]
        gram = gram + torch.diag_embed(torch.where(valid, self.ridge, 1.0))
        rhs = torch.where(valid, rhs * scale, 0.0)
        gamma = torch.linalg.solve_ex(gram, rhs.unsqueeze(-1))[0].squeeze(-1) * scale
        return torch.where(gamma.isfinite().all(-1, keepdim=True), gamma, 0.0)

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep the history of the graphs that stay."""
        self._dg = [d[nodes] for d in self._dg]
        self._dx = [d[nodes] for d in self._dx]
        if self._last is not None:
            self._last = (self._last[0][nodes], self._last[1][nodes])
        self._gram, self._valid = self._gram[graphs], self._valid[graphs]
        self._best = self._best[graphs]


class Broyden(Solver):
    r"""Broyden's first method with limited memory, one inverse Jacobian for each graph.

    On :math:`g(\mathbf{z}) = f(\mathbf{z}) - \mathbf{z}`, with :math:`H = -I + \sum_k u_k v_k^\top`
    (Broyden 1965; Bai et al. 2019, eq. 10):

    .. math::
        v = H^\top s, \quad u = \frac{s - H y}{v^\top y}, \qquad
        \mathbf{z} \leftarrow \mathbf{z} - H g,
        \qquad s = \Delta\mathbf{z},\; y = \Delta g .

    A graph whose residual explodes starts again from :math:`H = -I`, a plain step, and so do all
    once the history is full: each term builds on the earlier ones, so none can be dropped alone.

    Args:
        history: Most rank-one terms; memory grows to ``2 * history`` states.
    """

    def __init__(self, history: int = 30) -> None:
        if history < 1:
            raise ValueError(f"Expected 'history' of at least 1 (got {history})")
        self.history = history

    def begin(self, z: Tensor, partition: Partition) -> None:
        """Start from the Jacobian of a plain step."""
        self._last: tuple[Tensor, Tensor] | None = None
        self._u: list[Tensor] = []
        self._v: list[Tensor] = []
        self._best = z.new_full((partition.num_graphs,), float("inf"))

    def _dots(self, left: list[Tensor], right: Tensor) -> Tensor:
        per_node = torch.stack([torch.linalg.vecdot(a, right) for a in left], 1)
        return self.partition.sum(per_node)[self.partition.batch]

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the quasi-Newton step."""
        p = self.partition
        g = fz - z
        size = p.norm(g)
        worse = size > _BROYDEN_WORSE * self._best
        self._best = torch.minimum(self._best, size.nan_to_num(nan=float("inf")))
        if len(self._u) == self.history:
            self._u, self._v = [], []
        elif self._last is not None:
            self._remember(z - self._last[0], g - self._last[1])
            keep = (~worse)[p.batch].to(z.dtype).unsqueeze(1)
            if bool(worse.any()):
                self._u = [torch.where(keep > 0, u, 0.0) for u in self._u]
                self._v = [torch.where(keep > 0, v, 0.0) for v in self._v]
        self._last = (z, g)
        if not self._u:
            return fz
        out = fz.clone()
        weight = self._dots(self._v, g)
        for k, u in enumerate(self._u):
            out.addcmul_(u, weight[:, k, None], value=-1)
        broken = ~p.sum(out.isfinite().all(-1).logical_not().to(z.dtype)).eq(0)
        return torch.where(broken[p.batch].unsqueeze(1), fz, out)

    def _remember(self, s: Tensor, y: Tensor) -> None:
        v, hy = -s, -y
        if self._u:
            su, vy = self._dots(self._u, s), self._dots(self._v, y)
            for k, (uk, vk) in enumerate(zip(self._u, self._v, strict=True)):
                v = torch.addcmul(v, vk, su[:, k, None])
                hy = torch.addcmul(hy, uk, vy[:, k, None])
        p = self.partition
        denominator = p.sum(torch.linalg.vecdot(v, y))
        tiny = 1e-10 * p.norm(v) * p.norm(y)
        usable = denominator.isfinite() & (denominator.abs() > tiny)
        inverse = torch.where(usable, 1.0 / torch.where(usable, denominator, 1.0), 0.0)
        u = (s - hy) * inverse[p.batch].unsqueeze(1)
        mask = usable[p.batch].unsqueeze(1)
        u, v = torch.where(mask, u, 0.0), torch.where(mask, v, 0.0)
        self._u.append(u)
        self._v.append(v)

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep the terms of the graphs that stay."""
        self._u = [u[nodes] for u in self._u]
        self._v = [v[nodes] for v in self._v]
        if self._last is not None:
            self._last = (self._last[0][nodes], self._last[1][nodes])
        self._best = self._best[graphs]


_SOLVERS: dict[str, type[Solver]] = {"picard": Picard, "anderson": Anderson, "broyden": Broyden}


def register_solver(name: str, solver: type[Solver]) -> None:
    """Make a solver selectable by ``name``."""
    _SOLVERS[name] = solver


def solver_names() -> list[str]:
    """The names that ``solver=`` accepts, TorchDEQ's own aside."""
    return sorted(_SOLVERS)


def make_solver(name: str, options: dict[str, Any] | None = None) -> Solver:
    """Return a fresh solver.

    Raises:
        ValueError: If there is no such solver.
        TypeError: If it doesn't know one of the options.
    """
    if name not in _SOLVERS:
        near = get_close_matches(str(name), _SOLVERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected 'solver' to be one of {solver_names()} or 'torchdeq:NAME' "
            f"(got {name!r}).{hint}"
        )
    try:
        return _SOLVERS[name](**(options or {}))
    except TypeError as error:
        raise TypeError(f"Unknown option of solver {name!r}: {error}") from error


def _check_damping(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"Expected 'damping' in (0, 1] (got {value})")
    return value


__all__ = [
    "Anderson",
    "Broyden",
    "Picard",
    "Solver",
    "make_solver",
    "register_solver",
    "solver_names",
]
