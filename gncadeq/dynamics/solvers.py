r"""Fixed-point solvers for batches of graphs of any sizes.

A solver proposes the next state from :math:`\mathbf{z}` and :math:`f(\mathbf{z})`; the loop in
:func:`solve` owns everything else: the residual of each graph, stopping, failures, compaction.
Inner products run over the nodes of one graph, so every graph has its own mixing weights, its
own number of steps and its own end, and what it gets doesn't depend on its batch-mates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from gncadeq.choices import Criterion
from gncadeq.dynamics.partition import Partition
from gncadeq.dynamics.solution import Solution, Status, no_trace
from gncadeq.typing import Step

_COMPACTION_COST = 2.0  # in steps of the whole batch, measured
_GROWTH_LIMIT = 1e6
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


@torch.no_grad()
def solve(
    step: Step,
    z0: Tensor,
    partition: Partition,
    *,
    solver: str = "anderson",
    tol: float = 1e-3,
    criterion: Criterion = "graph",
    max_steps: int = 60,
    check_every: int = 1,
    compact: bool = True,
    trace: bool = False,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Solve :math:`\mathbf{z} = f(\mathbf{z})` for every graph of a batch.

    A graph ends when its relative residual is at most ``tol``, when it diverges or returns NaN, or
    after ``max_steps`` steps. Ended graphs leave the batch once the steps spent on them amount to
    two of the whole batch, if ``step`` can be restricted (see
    :class:`gncadeq.typing.RestrictableStep`). A start in half precision is converted to float32, in
    which the solve then runs.

    Args:
        step: The map :math:`f` on states ``[num_nodes, channels]``.
        z0: The start.
        partition: The nodes of each graph.
        solver: ``"picard"``, ``"anderson"``, ``"broyden"`` or a registered name.
        tol: Bound on the relative residual of each graph.
        criterion: ``"graph"``: :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert
            f(\mathbf{z}) \rVert` over the nodes and channels of a graph. ``"node"``: the same of
            every node, of which the largest counts; states below the smallest normal number over
            the machine's epsilon count as that.
        max_steps: Most solver steps; a solve takes at most ``max_steps + 1`` evaluations.
        check_every: Look at the residuals every so many steps; more spares an accelerator
            synchronisations, and makes step counts multiples of it.
        compact: Let ended graphs leave the batch.
        trace: Record the residuals of every check.
        options: Options of the solver.

    Example:
        >>> b = torch.tensor([[1.0], [2.0]])
        >>> p = Partition(torch.tensor([0, 1]), num_nodes=2)
        >>> solve(lambda z: 0.5 * z + b, torch.zeros(2, 1), p, tol=1e-6).state
        tensor([[2.],
                [4.]])
    """
    if z0.dtype in (torch.float16, torch.bfloat16):
        z0 = z0.float()  # half precision cannot resolve the residuals
    check_criterion(criterion)
    b, device = partition.num_graphs, z0.device
    method = make_solver(solver, options)
    method.partition = partition
    method.begin(z0, partition)

    state = z0.clone()
    residual = z0.new_full((b,), float("inf"))
    residual_abs = residual.clone()
    status = torch.full((b,), int(Status.MAX_STEPS), dtype=torch.long, device=device)
    steps = torch.zeros(b, dtype=torch.long, device=device)
    evaluations = torch.zeros(b, dtype=torch.long, device=device)
    history: list[Tensor] = []

    z, f = z0, step
    nodes: Tensor | None = None  # where the rows of z stand in the whole batch; None is everywhere
    graphs = torch.arange(b, device=device)
    open_ = torch.ones(b, dtype=torch.bool, device=device)
    best, best_rel, best_abs = z0, residual, residual_abs
    bound: Tensor | None = None
    left, wasted = partition.num_nodes, 0.0

    for k in range(max_steps + 1 if b else 0):
        fz = f(z).to(z.dtype)
        last = k == max_steps
        if last or k % check_every == 0:
            p = method.partition
            rel, diff, size = residuals(z, fz, p, criterion)
            finite = diff.isfinite() & size.isfinite()
            better = finite & (rel <= best_rel)  # while a signal spreads, its front node counts one
            if bool(better.all()):
                best, best_rel, best_abs = z, rel, diff
            else:
                best = torch.where(better[p.batch].unsqueeze(1), z, best)
                best_abs = torch.where(better, diff, best_abs)
                best_rel = torch.where(better, rel, best_rel)
            if bound is None:
                bound = _GROWTH_LIMIT * (size.nan_to_num(posinf=0.0) + p.norm(z) + 1.0)
            diverged = finite & (size > bound)
            converged = rel <= tol
            if trace:
                row = residual.new_full((b,), float("nan"))
                row[graphs[open_]] = rel[open_]
                history.append(row)
            ended = open_ & (converged | diverged | ~finite | last)
            if bool(ended.any()):
                code = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_STEPS))
                code = torch.where(diverged & ~converged, int(Status.DIVERGED), code)
                code = torch.where(finite, code, int(Status.NON_FINITE))
                where = graphs[ended]
                status[where], steps[where], evaluations[where] = code[ended], k, k + 1
                residual[where], residual_abs[where] = best_rel[ended], best_abs[ended]
                rows = ended[p.batch]
                whole = rows if nodes is None else nodes[rows]
                state[whole] = best[rows]
                open_ = open_ & ~ended
                left = int(open_[p.batch].sum())
                if not bool(open_.any()):
                    break
            if compact and left < p.num_nodes and not last and hasattr(f, "restrict"):
                # The ended graphs leave the batch as soon as carrying them along has cost as much
                # as that does: never more than twice what the best choice in hindsight costs.
                wasted += (1 - left / p.num_nodes) * check_every
                if wasted >= _COMPACTION_COST:
                    keep, smaller = p.restrict(open_)
                    method.restrict(keep, open_)
                    f, z, fz, best = f.restrict(keep), z[keep], fz[keep], best[keep]
                    best_rel, best_abs, bound = best_rel[open_], best_abs[open_], bound[open_]
                    nodes = keep if nodes is None else nodes[keep]
                    graphs, open_ = graphs[open_], open_[open_]
                    method.partition, left, wasted = smaller, smaller.num_nodes, 0.0
        if not last:
            z = method.propose(z, fz)
    return Solution(
        state, residual, residual_abs, steps, evaluations, status, tol, no_trace(history)
    )


def residuals(
    z: Tensor, fz: Tensor, partition: Partition, criterion: Criterion
) -> tuple[Tensor, Tensor, Tensor]:
    """What a state lacks to a fixed point, for every graph.

    Returns:
        Each ``[num_graphs]``: the relative residual by the criterion, infinite where anything isn't
        finite; ``‖f(z) − z‖``; and ``‖f(z)‖``.
    """
    diff, size = partition.norm(fz - z), partition.norm(fz)
    if criterion == "graph":
        rel = torch.where(diff == 0, 0.0, diff / size)
    else:
        rel = _worst_node(z, fz, partition)
    return torch.where(diff.isfinite() & size.isfinite(), rel, float("inf")), diff, size


def _worst_node(z: Tensor, fz: Tensor, partition: Partition) -> Tensor:
    """The largest relative residual of a graph's nodes, ``[num_graphs]``."""
    kind = torch.finfo(z.dtype)
    size = torch.linalg.vector_norm(fz, dim=1).clamp(min=kind.tiny / kind.eps)
    ratio = torch.linalg.vector_norm(fz - z, dim=1) / size
    out = ratio.new_zeros(partition.num_graphs)
    worst: Tensor = out.scatter_reduce_(0, partition.batch, ratio, "amax")
    return worst


def check_criterion(value: str) -> Criterion:
    """Return ``value`` if it is a known criterion, else raise ``ValueError``."""
    if value not in ("graph", "node"):
        raise ValueError(f"Expected 'criterion' to be 'graph' or 'node' (got {value!r})")
    return value  # type: ignore[return-value]


def _check_damping(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"Expected 'damping' in (0, 1] (got {value})")
    return value


__all__ = [
    "Anderson",
    "Broyden",
    "Picard",
    "Solver",
    "check_criterion",
    "make_solver",
    "register_solver",
    "residuals",
    "solve",
    "solver_names",
]
