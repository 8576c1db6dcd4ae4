"""What long rollouts settle into: the census of attractors, "ash"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from gncadeq.analysis.jacobian import check_state
from gncadeq.analysis.lyapunov import follow_tangents
from gncadeq.check import check_count, check_number, check_seed
from gncadeq.dynamics import Partition
from gncadeq.typing import OptTensor, Step

_GROWTH_LIMIT = 1e6
_SMALL = 1e-3  # below this share of its largest size, a state's size is not what to compare with
_AWAY, _BACK = 0.5, 0.25  # in diameters: an orbit recurs if it goes away and comes back
_SHRINK = 0.99  # a cycle's recurrence distance shrinks; that of an irrational rotation doesn't


class Attractor(IntEnum):
    """What the rollout of one graph settles into."""

    FIXED_POINT = 0
    """The state stays what it is."""
    PERIODIC = 1
    """The state comes back every ``period`` steps, ever more exactly."""
    QUASI_PERIODIC = 2
    """The state comes close time and again, never quite; changes neither grow nor die out."""
    CHAOTIC = 3
    """Changes grow, as the largest Lyapunov exponent is positive."""
    DIVERGED = 4
    """The state grows beyond all bounds, or becomes NaN."""
    UNSETTLED = 5
    """The rollout was too short to tell."""


@dataclass(frozen=True)
class AttractorCensus:
    r"""The attractor of every graph of a batch, with the evidence.

    Attributes:
        label: ``[num_graphs]``, the :class:`Attractor` codes.
        period: ``[num_graphs]``, one for fixed points, :math:`k` for cycles, zero for all else.
        residual: ``[num_graphs]``, :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert
            f(\mathbf{z}) \rVert` at the end of the rollout.
        recurrence: ``[num_graphs]``, the closest return to an earlier state, in diameters of the
            orbit; of a cycle, the distance after one period.
        diameter: ``[num_graphs]``, the largest distance from an earlier state on the orbit.
        lyapunov: ``[num_graphs]``, the largest Lyapunov exponent per step (NaN if diverged).
        distance: ``[max_period, num_graphs]``, distances from the state at the end of the
            transient, 1, 2, … steps later.
        state: ``[num_nodes, channels]``, the last state; where a graph diverged, that before.
    """

    label: Tensor
    period: Tensor
    residual: Tensor
    recurrence: Tensor
    diameter: Tensor
    lyapunov: Tensor
    distance: Tensor
    state: Tensor

    def names(self) -> list[str]:
        """What each graph settles into, in words."""
        kinds = [Attractor(code).name.lower().replace("_", " ") for code in self.label.tolist()]
        pairs = zip(kinds, self.period.tolist(), strict=True)
        return [f"period {period}" if kind == "periodic" else kind for kind, period in pairs]

    def counts(self) -> dict[str, int]:
        """How many graphs settle into what, the most frequent first."""
        names = self.names()
        return {n: names.count(n) for n in sorted(set(names), key=lambda n: (-names.count(n), n))}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={count}" for name, count in self.counts().items())
        return f"{self.__class__.__name__}(graphs={self.label.numel()}, {counts})"


@torch.no_grad()
def classify_attractor(
    step: Step,
    z0: Tensor,
    batch: OptTensor = None,
    *,
    transient: int = 1000,
    max_period: int = 128,
    lyapunov_steps: int = 256,
    tol: float = 1e-5,
    recurrence_tol: float = 1e-4,
    lyapunov_tol: float = 5e-3,
    seed: int = 0,
) -> AttractorCensus:
    r"""Run a step for long and say what every graph settles into.

    After the transient, a graph's orbit is compared with two of its own states
    :math:`\mathbf{r}`, ``max_period`` steps apart, in units of its diameter :math:`D = \max_k d_k`:

    .. math::
        d_k = \lVert f^k(\mathbf{r}) - \mathbf{r} \rVert

    It is the first of these:

    - *diverged* if the state grew a million times or became NaN;
    - a *fixed point* if the relative residual is at most ``tol``;
    - *periodic* with the smallest :math:`k` for which :math:`d_k \le` ``recurrence_tol``
      :math:`\cdot D` from both states, and less from the second, down to rounding;
    - *chaotic* if the largest Lyapunov exponent (:func:`lyapunov_exponents`) is above
      ``lyapunov_tol``;
    - *quasi-periodic* if the exponent is within ``lyapunov_tol`` of zero and the orbit goes
      :math:`D/2` away and comes back to :math:`D/4`;
    - else *unsettled*: raise ``transient`` or ``max_period``.

    A decay slower than ``lyapunov_tol`` per step counts as none, and a period longer than
    ``max_period`` as quasi-periodic. The step must be deterministic: no update masks.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z0: The start.
        batch: Ascending graph index of every node; ``None`` for a single graph.
        transient: Steps before anything is measured.
        max_period: Longest period looked for; the rollout takes twice as many steps more.
        lyapunov_steps: Steps over which the Lyapunov exponent is averaged, after half as many for
            the tangent to turn.
        tol: Bound on a fixed point's relative residual.
        recurrence_tol: Bound on a cycle's recurrence distance, in diameters.
        lyapunov_tol: Exponents up to this size count as zero.
        seed: Seed of the first tangent.

    Raises:
        ValueError: If a number of steps is out of range, or the state or the batch is malformed.

    Example:
        >>> shift = lambda z: z.roll(1, dims=0)  # three nodes pass their state around
        >>> census = classify_attractor(shift, torch.tensor([[1.0], [2.0], [5.0]]), transient=10)
        >>> census
        AttractorCensus(graphs=1, period 3=1)
        >>> float(census.recurrence)
        0.0
    """
    check_state(z0)
    seed = check_seed(seed)
    transient = check_count("transient", transient)
    max_period = check_count("max_period", max_period, 2)
    lyapunov_steps = check_count("lyapunov_steps", lyapunov_steps, 1)
    tol = check_number("tol", tol, above=0.0)
    recurrence_tol = check_number("recurrence_tol", recurrence_tol, above=0.0)
    lyapunov_tol = check_number("lyapunov_tol", lyapunov_tol, above=0.0)
    partition = Partition(batch, z0.size(0), like=z0)
    run = _Rollout(step, z0.detach(), partition)
    for _ in range(transient):
        run.advance()
    warmup = lyapunov_steps // 2
    exponent = follow_tangents(run, run.z, partition, lyapunov_steps, 1, warmup, seed).squeeze(1)
    early, late = (_distances(run, partition, max_period) for _ in range(2))
    state = run.z
    change, size = partition.norm(step(state) - state), partition.norm(step(state))
    residual = torch.where(change == 0, 0.0, change / size)
    residual = torch.where(run.diverged, float("inf"), residual)
    diameter = torch.cat([early, late]).amax(0)
    unit = torch.where(diameter > 0, diameter, 1.0)
    period = _period(early, late, recurrence_tol * unit, partition.norm(state), z0.dtype)
    cyclic = period > 0
    at_period = late.gather(0, (period - 1).clamp(min=0)[None]).squeeze(0)
    returned, closest = _returns(early, unit)
    recurrence = torch.where(cyclic, at_period / unit, closest)
    still = change <= tol * torch.maximum(size, _SMALL * run.largest)
    label = torch.full_like(period, int(Attractor.UNSETTLED))
    for kind, found in (  # a later one goes before those above
        (Attractor.QUASI_PERIODIC, (exponent.abs() <= lyapunov_tol) & returned),
        (Attractor.CHAOTIC, exponent > lyapunov_tol), (Attractor.PERIODIC, cyclic),
        (Attractor.FIXED_POINT, still), (Attractor.DIVERGED, run.diverged),
    ):  # fmt: skip
        label[found] = int(kind)
    period = torch.where(label == Attractor.PERIODIC, period, 0)
    period[label == Attractor.FIXED_POINT] = 1
    exponent = torch.where(run.diverged, float("nan"), exponent)
    return AttractorCensus(label, period, residual, recurrence, diameter, exponent, early, state)


class _Rollout:
    """A rollout in which a graph that diverges is held where it last was finite and bounded."""

    def __init__(self, step: Step, z: Tensor, partition: Partition) -> None:
        self.step, self.partition = step, partition
        size = partition.norm(z)
        self.diverged = ~size.isfinite()
        self.z = self._held(torch.zeros_like(z), z)
        self.largest = size.nan_to_num(nan=0.0, posinf=0.0)
        self._bound = _GROWTH_LIMIT * (self.largest + partition.norm(step(self.z)) + 1.0)

    def advance(self) -> None:
        """Take one step."""
        new = self.step(self.z).to(self.z.dtype)
        size = self.partition.norm(new)
        self.diverged = self.diverged | ~(size.isfinite() & (size <= self._bound))
        self.largest = torch.where(self.diverged, self.largest, self.largest.maximum(size))
        self.z = self._held(self.z, new)

    def __call__(self, z: Tensor) -> Tensor:
        """One step from ``z``, for tangents; diverged graphs stay."""
        return self._held(z, self.step(z))

    def _held(self, old: Tensor, new: Tensor) -> Tensor:
        if not bool(self.diverged.any()):
            return new
        return torch.where(self.diverged[self.partition.batch].unsqueeze(1), old, new)


def _distances(run: _Rollout, partition: Partition, count: int) -> Tensor:
    """Distances ``[count, num_graphs]`` from the present state, as the rollout goes on."""
    reference, rows = run.z, []
    for _ in range(count):
        run.advance()
        rows.append(partition.norm(run.z - reference))
    return torch.stack(rows)


def _period(early: Tensor, late: Tensor, near: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest period of each graph, zero if there is none."""
    count = torch.arange(1, early.size(0) + 1, device=early.device, dtype=early.dtype)
    rounding = 16 * torch.finfo(dtype).eps * count.sqrt()[:, None] * size
    shrinks = late <= torch.maximum(_SHRINK * early, rounding)
    cycle = (early <= near) & (late <= near) & shrinks & (early.amax(0) > rounding)
    cycle[0] = False  # what comes back after one step is a fixed point
    first = cycle.to(torch.uint8).argmax(0) + 1
    return torch.where(cycle.any(0), first, 0)


def _returns(distance: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each orbit went away and came back, and its closest return in diameters."""
    share = distance / unit
    away = (share >= _AWAY).cummax(0).values if share.numel() else share.bool()
    closest = torch.where(away, share, float("inf")).amin(0)
    return closest <= _BACK, torch.where(closest.isfinite(), closest, share[-1])
