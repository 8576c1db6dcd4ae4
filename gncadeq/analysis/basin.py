"""The basin of an equilibrium: which starts around it lead to it, and how soon."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from gncadeq.analysis.independence import noise
from gncadeq.analysis.jacobian import check_state
from gncadeq.check import check_count, check_number
from gncadeq.dynamics import Partition, solve
from gncadeq.progress import progress_bar
from gncadeq.typing import OptTensor, Step


@dataclass(frozen=True)
class BasinMap:
    r"""Rollouts from a plane of starts around an equilibrium.

    Attributes:
        offset: ``[resolution]``, offsets along either direction, in norms of the equilibrium.
        distance: ``[resolution, resolution]``, distance of the end state from the equilibrium, in
            norms of the equilibrium; the second direction in rows.
        num_steps: ``[resolution, resolution]``, steps until the residual was within ``tol``.
        status: ``[resolution, resolution]``, the :class:`gncadeq.Status` codes.
        within: Distance within which a start counts as returned.
        max_steps: The most steps taken.
    """

    offset: Tensor
    distance: Tensor
    num_steps: Tensor
    status: Tensor
    within: float
    max_steps: int

    @property
    def returned(self) -> Tensor:
        """``[resolution, resolution]`` booleans: which starts lead back to the equilibrium."""
        return self.distance <= self.within

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(starts={self.distance.numel()}, "
            f"radius={float(self.offset.abs().max()):g}, "
            f"returned={float(self.returned.double().mean()):.0%})"
        )


@torch.no_grad()
def basin_map(
    step: Step,
    z: Tensor,
    *,
    directions: OptTensor = None,
    radius: float = 2.0,
    resolution: int = 15,
    max_steps: int = 100,
    tol: float = 1e-4,
    within: float = 1e-2,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> BasinMap:
    r"""Start rollouts on a plane through an equilibrium, and see which come back.

    .. math::
        \mathbf{z}^0(a, b) = \mathbf{z}^\star + \lVert \mathbf{z}^\star \rVert \,
        (a \, \mathbf{d}_1 + b \, \mathbf{d}_2), \qquad a, b \in [-r, r]

    Every start is run step by step, without acceleration, on one graph.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z: The equilibrium :math:`\mathbf{z}^\star` of one graph.
        directions: ``[2, num_nodes, channels]``, not parallel, made orthonormal; random by default.
        radius: :math:`r`, in norms of the equilibrium; of one per entry if that is zero.
        resolution: Number of offsets along either direction; odd ones meet the equilibrium.
        max_steps: Step limit of the rollouts.
        tol: Relative residual at which a rollout ends.
        within: Distance within which a start counts as returned; well above
            :math:`\texttt{tol} / (1 - \rho)`.
        generator: Source of randomness for the directions.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the state has fewer than two entries or isn't finite, or if a number or the
            directions are out of range.

    Example:
        >>> f = lambda z: torch.tanh(3 * z)  # every entry keeps its sign
        >>> z = torch.tensor([[0.9949, 0.9949]])
        >>> plane = torch.eye(2).view(2, 1, 2)
        >>> basin_map(f, z, directions=plane, resolution=8, radius=1.0).returned.sum()
        tensor(36)
    """
    check_state(z)
    if z.numel() < 2 or not bool(z.isfinite().all()):
        raise ValueError(
            f"Expected a finite 'z' with at least two entries (got {z.numel()} entries, "
            f"{int((~z.isfinite()).sum())} of them not finite)"
        )
    radius = check_number("radius", radius, above=0.0, most=1e30)
    resolution = check_count("resolution", resolution, 2)
    max_steps = check_count("max_steps", max_steps, 1)
    within = check_number("within", within, above=0.0)
    z = z.detach()
    plane = _plane(z, directions, generator)
    size = float(z.norm()) or float(z.numel()) ** 0.5
    offset = torch.linspace(-radius, radius, resolution, dtype=z.dtype)
    partition = Partition(None, z.size(0), like=z)
    shape = (resolution, resolution)
    distance = torch.empty(shape, dtype=z.dtype)
    steps, status = torch.empty(2, *shape, dtype=torch.long)
    cells = list(product(range(resolution), repeat=2))
    for row, col in progress_bar(cells, desc="basin", progress=progress, leave=False):
        a, b = float(offset[col]), float(offset[row])
        start = z + size * (a * plane[0] + b * plane[1])
        end = solve(step, start, partition, solver="picard", tol=tol, max_steps=max_steps)
        distance[row, col] = (end.state - z).norm() / size
        steps[row, col], status[row, col] = end.num_steps[0], end.status[0]
    return BasinMap(offset, distance, steps, status, within, max_steps)


def _plane(z: Tensor, directions: OptTensor, generator: torch.Generator | None) -> Tensor:
    directions = noise((2, *z.shape), z, generator) if directions is None else directions
    if list(directions.shape) != [2, *z.shape]:
        raise ValueError(
            f"Expected 'directions' of shape {[2, *z.shape]} (got {list(directions.shape)})"
        )
    basis, r = torch.linalg.qr(directions.to(z).reshape(2, -1).t())
    diagonal = r.diagonal()
    if not bool((diagonal.abs() > 1e-6 * r.norm()).all()):
        raise ValueError("Expected two 'directions' that aren't parallel (got parallel ones)")
    plane: Tensor = (basis * diagonal.sign()).t().reshape(2, *z.shape)
    return plane
