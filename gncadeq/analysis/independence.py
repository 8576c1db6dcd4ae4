"""Path independence: whether an equilibrium depends on where the solve started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gncadeq.analysis.jacobian import check_state
from gncadeq.check import check_count, check_number
from gncadeq.dynamics import Partition, solve
from gncadeq.typing import OptTensor, Step


@dataclass(frozen=True)
class PathIndependence:
    r"""Where several starts of every graph of a batch end.

    Attributes:
        distance: ``[num_graphs]``, the largest distance between two end states of a graph,
            relative to the larger one's norm; over all starts, the usual one included.
        alignment: ``[num_graphs]``, the asymptotic-alignment score, see
            :func:`asymptotic_alignment`.
        residual: ``[num_starts + 1, num_graphs]``, relative residuals; the usual start first.
        converged: ``[num_graphs]``, the share of starts whose solve reached ``tol``.
        tol: The relative residual that was asked for.
    """

    distance: Tensor
    alignment: Tensor
    residual: Tensor
    converged: Tensor
    tol: float

    def independent(self, within: float = 1e-2) -> Tensor:
        """``[num_graphs]``: whether all starts converged, to states ``within`` that distance."""
        return (self.converged == 1.0) & (self.distance <= within)

    def __repr__(self) -> str:
        if self.distance.numel() == 0:
            return f"{self.__class__.__name__}(graphs=0)"
        return (
            f"{self.__class__.__name__}(graphs={self.distance.numel()}, "
            f"starts={self.residual.size(0)}, distance≤{float(self.distance.max()):.1e}, "
            f"alignment≥{float(self.alignment.min()):.4f}, "
            f"converged={float(self.converged.mean()):.0%})"
        )


@torch.no_grad()
def asymptotic_alignment(
    step: Step,
    z0: Tensor,
    batch: OptTensor = None,
    *,
    other: OptTensor = None,
    solver: str = "auto",
    tol: float = 1e-4,
    max_steps: int = 200,
    options: dict[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The asymptotic-alignment score of `"Path Independent Equilibrium Models Can Better Exploit
    Test-Time Computation" <https://arxiv.org/abs/2211.09961>`_ (Anil et al. 2022), Algorithm 1.

    .. math::
        \mathrm{AA} = \frac{\langle \mathbf{z}_a^\star, \mathbf{z}_b^\star \rangle}
        {\lVert \mathbf{z}_a^\star \rVert \lVert \mathbf{z}_b^\star \rVert}

    with :math:`\mathbf{z}_a^\star` the state reached from the usual start, and
    :math:`\mathbf{z}_b^\star` from the equilibrium of another input. One means that the start
    doesn't matter. Solves that don't converge count with the best state they saw.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z0: The usual start.
        batch: Ascending graph index of every node; ``None`` for a single graph.
        other: The other start; by default every node takes the equilibrium state of a random
            node of the batch, none twice.
        solver: As for :func:`gncadeq.dynamics.solve`.
        tol: Relative residual of both solves.
        max_steps: Their step limit.
        options: Options of the solver.
        generator: Source of randomness for the default ``other``.

    Returns:
        ``[num_graphs]`` in [-1, 1]; one where both states are zero.

    Raises:
        ValueError: If ``other`` has another shape than the state.

    Example:
        >>> f = lambda z: torch.tanh(3 * z)  # two attractors, of opposite sign
        >>> start = torch.tensor([[1.0], [0.5]])
        >>> away = asymptotic_alignment(f, start, other=-start)
        >>> round(away.item(), 3), round(asymptotic_alignment(f, start).item(), 3)
        (-1.0, 1.0)
    """
    check_state(z0)
    partition = Partition(batch, z0.size(0), like=z0)
    arguments: dict[str, Any] = {
        "solver": solver, "tol": tol, "max_steps": max_steps, "options": options
    }  # fmt: skip
    usual = solve(step, z0, partition, **arguments).state
    if other is not None and other.shape != z0.shape:
        raise ValueError(
            f"Expected 'other' of the state's shape {list(z0.shape)} (got {list(other.shape)})"
        )
    start = shuffled(usual, generator) if other is None else other.to(z0)
    reached = solve(step, start, partition, **arguments).state
    return cosine(usual, reached, partition)


@torch.no_grad()
def path_independence(
    step: Step,
    z0: Tensor,
    batch: OptTensor = None,
    *,
    starts: int = 4,
    scale: float = 1.0,
    solver: str = "auto",
    tol: float = 1e-4,
    max_steps: int = 200,
    options: dict[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> PathIndependence:
    r"""Solve every graph from the usual and from random starts, and compare where they end.

    .. math::
        \delta = \max_{a, b} \frac{\lVert \mathbf{z}_a^\star - \mathbf{z}_b^\star \rVert}
        {\max(\lVert \mathbf{z}_a^\star \rVert, \lVert \mathbf{z}_b^\star \rVert)}

    The first of the other starts is a shuffled equilibrium, which gives the alignment score
    (:func:`asymptotic_alignment`); the rest are Gaussian noise. Distances of about
    :math:`\texttt{tol} / (1 - \rho)` have no meaning: a solve comes no closer than that to its
    equilibrium.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z0: The usual start.
        batch: Ascending graph index of every node; ``None`` for a single graph.
        starts: Number of other starts.
        scale: Standard deviation of the Gaussian ones.
        solver: As for :func:`gncadeq.dynamics.solve`.
        tol: Relative residual of the solves.
        max_steps: Their step limit.
        options: Options of the solver.
        generator: Source of randomness for the starts.

    Raises:
        ValueError: If there is no other start, or ``scale`` isn't positive.

    Example:
        >>> f = lambda z: 0.5 * torch.tanh(z) + 1.0
        >>> path_independence(f, torch.zeros(4, 2)).independent()
        tensor([True])
    """
    check_state(z0)
    starts = check_count("starts", starts, 1)
    scale = check_number("scale", scale, above=0.0)
    tol = check_number("tol", tol, above=0.0)
    partition = Partition(batch, z0.size(0), like=z0)
    arguments: dict[str, Any] = {
        "solver": solver, "tol": tol, "max_steps": max_steps, "options": options
    }  # fmt: skip
    solutions = [solve(step, z0, partition, **arguments)]
    starting = [shuffled(solutions[0].state, generator)]
    starting += [scale * noise(z0.shape, z0, generator) for _ in range(starts - 1)]
    solutions += [solve(step, start, partition, **arguments) for start in starting]
    states = [s.state for s in solutions]
    distance = z0.new_zeros(partition.num_graphs)
    for a, b in combinations(states, 2):
        size, gap = torch.maximum(partition.norm(a), partition.norm(b)), partition.norm(a - b)
        distance = torch.maximum(distance, torch.where(gap == 0, 0.0, gap / size))
    return PathIndependence(
        distance,
        cosine(states[0], states[1], partition),
        torch.stack([s.residual for s in solutions]),
        torch.stack([s.converged for s in solutions]).to(z0.dtype).mean(0),
        tol,
    )


def cosine(a: Tensor, b: Tensor, partition: Partition) -> Tensor:
    """Cosine of the angle between two states of each graph; one if both are zero."""
    product = partition.norm(a) * partition.norm(b)
    both_zero = (partition.norm(a) == 0) & (partition.norm(b) == 0)
    value = partition.sum((a * b).sum(1)) / torch.where(product > 0, product, 1.0)
    return torch.where(both_zero, 1.0, value.clamp(-1.0, 1.0))


def shuffled(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """The states of ``z``, each at another random node of the batch."""
    device = None if generator is None else generator.device
    return z[torch.randperm(z.size(0), generator=generator, device=device).to(z.device)]


def noise(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian numbers in the type and on the device of ``like``."""
    device = None if generator is None else generator.device
    return torch.randn(*shape, generator=generator, dtype=like.dtype, device=device).to(like)
