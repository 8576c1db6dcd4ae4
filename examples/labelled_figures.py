"""Figures with a body and limbs: a family of surfaces whose parts are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from isosurface import isosurface
from numpy.typing import NDArray
from torch_geometric.data import Data

from gncadeq.check import check_number, check_seed

PARTS = ("body", "arm", "leg")
"""What the labels of :func:`figure` mean."""

_BLEND = 0.05
_MARGIN = 0.15


@dataclass(frozen=True)
class _Limb:
    joints: NDArray[np.float64]  # [3, 3]: in the body, elbow, end
    radius: float
    ball: float  # radius of the ball at the end, 0 for none

    def distance(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed distance to two capsules, and to the ball."""
        parts = [_segment(place, *self.joints[k : k + 2]) - self.radius for k in (0, 1)]
        if self.ball:
            parts.append(np.linalg.norm(place - self.joints[2], axis=1) - self.ball)
        nearest: NDArray[np.float64] = np.minimum.reduce(parts)
        return nearest


def figure(seed: int, spacing: float = 0.1, unevenness: float = 0.0) -> Data:
    r"""A random figure: an ellipsoid with three to five bent limbs, and the part of every vertex.

    Every limb is a tube whose radius, length and bend are drawn alike for arms and legs; *arms* end
    in a ball, *legs* in nothing but their own round end. So what a vertex in the middle of a limb
    belongs to is decided at the limb's end, out of its sight: no classifier of the local shape can
    know it. The parts are joined smoothly, and turned in space at random.

    Args:
        seed: Of the figure: the same seed is the same surface at any spacing.
        spacing: Distance of the grid that makes the mesh (:func:`isosurface`); the body's radii
            are 0.4 to 0.6, and 0.1 gives about 800 vertices. At most 0.15.
        unevenness: In [0, 1): neighbouring vertices are ``1 ± unevenness`` times as far apart,
            varying along each axis. ``spacing * (1 + unevenness)`` is at most 0.2.

    Returns:
        ``Data`` with ``pos`` ``[N, 3]``, ``face`` ``[3, F]`` and ``y`` ``[N]``, see :data:`PARTS`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> data = figure(seed=0)
        >>> data.y.unique().tolist()
        [0, 1, 2]
    """
    hint = "Limbs are lost between grid points that are farther apart"
    check_number("spacing", spacing, above=0.0, most=0.15, hint=hint)
    check_number("unevenness", unevenness, least=0.0, below=1.0)
    if spacing * (1 + unevenness) > 0.2:
        raise ValueError(
            "Expected 'spacing' * (1 + 'unevenness') of at most 0.2, or limbs are lost where the "
            f"grid is widest (got {spacing * (1 + unevenness):.3g}). Lower either"
        )
    draw = np.random.default_rng(check_seed(seed))
    radii = draw.uniform(0.4, 0.6, 3)
    limbs = _limbs(draw, radii)
    phase = draw.uniform(0, 2 * np.pi, 3)
    turn = torch.linalg.qr(torch.from_numpy(draw.standard_normal((3, 3))))[0].numpy()
    turn = turn * np.sign(np.linalg.det(turn))
    limbs = [_Limb(limb.joints @ turn.T, limb.radius, limb.ball) for limb in limbs]

    def parts(place: NDArray[np.float64]) -> NDArray[np.float64]:
        inner = place @ turn / radii
        size = np.linalg.norm(inner, axis=1)
        slope = np.linalg.norm(inner / radii, axis=1)
        body = size * (size - 1) / np.maximum(slope, 1e-9)
        return np.stack([body, *(limb.distance(place) for limb in limbs)], axis=1)

    def field(place: NDArray[np.float64]) -> NDArray[np.float64]:
        # The smooth minimum, -k log Σ exp(-d / k).
        distance = parts(place)
        least = distance.min(axis=1)
        blend: NDArray[np.float64] = np.exp((least[:, None] - distance) / _BLEND).sum(axis=1)
        blended: NDArray[np.float64] = least - _BLEND * np.log(blend)
        return blended

    ends = np.concatenate([limb.joints + s * (limb.ball or limb.radius) for limb in limbs
                           for s in (-1.0, 1.0)])  # fmt: skip
    low = np.minimum(ends.min(0), -radii.max()) - _MARGIN - spacing
    high = np.maximum(ends.max(0), radii.max()) + _MARGIN + spacing
    axes = [_axis(low[k], high[k], spacing, unevenness, phase[k]) for k in range(3)]
    data = isosurface(field, (axes[0], axes[1], axes[2]))
    kind = torch.tensor([0, *(1 if limb.ball else 2 for limb in limbs)])
    nearest = parts(data.pos.double().numpy()).argmin(axis=1)
    data.y = kind[torch.from_numpy(nearest)]
    return data


def _limbs(draw: np.random.Generator, radii: NDArray[np.float64]) -> list[_Limb]:
    count = int(draw.integers(3, 6))
    directions: list[NDArray[np.float64]] = []
    while len(directions) < count:
        d = draw.standard_normal(3)
        d /= np.linalg.norm(d)
        if all(d @ other < np.cos(np.radians(72)) for other in directions):
            directions.append(d)
        elif draw.uniform() < 0.02:  # no room is left: begin again
            directions.clear()
    arms = draw.uniform(size=count) < 0.5
    arms[:2] = True, False  # one of each at least
    limbs = []
    for d, arm in zip(directions, arms, strict=True):
        radius, length = draw.uniform(0.14, 0.19), draw.uniform(0.7, 1.1)
        root = d / np.linalg.norm(d / radii)  # on the ellipsoid
        bend = draw.standard_normal(3)
        bend -= (bend @ d) * d
        bend *= np.tan(np.radians(draw.uniform(0, 35))) / np.linalg.norm(bend)
        elbow = root + 0.5 * length * d
        end = elbow + 0.5 * length * (d + bend) / np.linalg.norm(d + bend)
        ball = radius * draw.uniform(1.5, 1.8) if arm else 0.0
        limbs.append(_Limb(np.stack([0.5 * root, elbow, end]), radius, ball))
    return limbs


def _segment(
    place: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    along = np.clip((place - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    distance: NDArray[np.float64] = np.linalg.norm(place - a - along[:, None] * (b - a), axis=1)
    return distance


def _axis(
    low: float, high: float, spacing: float, unevenness: float, phase: float
) -> NDArray[np.float64]:
    count = int(np.ceil((high - low) / spacing)) + 1
    middle = np.arange(count - 1) / (count - 1)
    steps = 1 + unevenness * np.sin(4 * np.pi * middle + phase)
    return low + (high - low) * np.concatenate([[0.0], steps.cumsum() / steps.sum()])
