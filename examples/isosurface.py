"""Surfaces where a function of space is zero, as meshes of any fineness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Data

Array = NDArray[np.float64]
Field = Callable[[Array], Array]
"""Places ``[N, 3]`` to values ``[N]``, negative inside."""

_CORNERS = np.array(list(np.ndindex(2, 2, 2)))
_EDGES = [
    (a, b) for a in range(8) for b in range(8) if (_CORNERS[b] - _CORNERS[a]).sum() == 1
    and (_CORNERS[b] >= _CORNERS[a]).all()
]  # fmt: skip
_NEWTON_STEPS = 3


def isosurface(field: Field, axes: tuple[Array, Array, Array]) -> Data:
    r"""The surface :math:`f(\mathbf{p}) = 0` of a function that is negative inside.

    By surface nets (`Gibson, "Constrained Elastic Surface Nets", 1998
    <https://doi.org/10.1007/BFb0056277>`_): one vertex in every cell of the grid that the surface
    crosses, at the mean of the crossings of the cell's edges, and a quadrilateral, cut along its
    shorter diagonal, for every edge of the grid that it crosses. The vertices are then brought onto
    the surface by Newton's method, :math:`\mathbf{p} \mapsto \mathbf{p} - f \nabla f / \lVert
    \nabla f \rVert^2`. Their triangles are evener than those of marching cubes; parts thinner than
    two cells are lost, and where two sheets meet in one cell an edge may have four faces.

    Args:
        field: Maps places ``[N, 3]`` to values ``[N]``.
        axes: The grid's ascending coordinates along x, y and z; unevenly spaced ones make an uneven
            mesh. The surface must lie inside.

    Returns:
        ``Data`` with ``pos`` and ``face``, oriented outward.

    Raises:
        ValueError: If an axis isn't ascending, the field isn't finite, or the surface meets the
            border of the grid or none of its cells.

    Example:
        >>> axis = np.linspace(-1.2, 1.2, 9)
        >>> ball = isosurface(lambda p: np.linalg.norm(p, axis=1) - 1, (axis, axis, axis))
        >>> ball, bool((ball.pos.norm(dim=1) - 1).abs().max() < 1e-5)
        (Data(pos=[224, 3], face=[3, 444]), True)
    """
    for name, axis in zip("xyz", axes, strict=True):
        if axis.ndim != 1 or len(axis) < 2 or not (np.diff(axis) > 0).all():
            raise ValueError(
                f"Expected an ascending axis {name} of two numbers at least (got {axis})"
            )
    shape = tuple(len(axis) for axis in axes)
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    value = field(place.reshape(-1, 3)).reshape(shape)
    if not np.isfinite(value).all():
        raise ValueError(
            "Expected a field of finite values everywhere on the grid (got NaN or infinity at "
            f"{int((~np.isfinite(value)).sum())} of {value.size} places)"
        )
    inside = value < 0
    border = np.ones(shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    if not inside.any() or (inside & border).any():
        raise ValueError(
            "Expected a surface within the grid (got one that is "
            f"{'cut by its border' if inside.any() else 'nowhere'}). Move or refine the axes"
        )
    pos, number = _vertices(value, place)
    face = _faces(inside, number, pos)
    pos = _project(field, pos, step=1e-4 * min(float(np.diff(axis).min()) for axis in axes))
    return Data(
        pos=torch.from_numpy(pos.astype(np.float32)),
        face=torch.from_numpy(np.ascontiguousarray(face.T)).long(),
    )


def _vertices(value: Array, place: Array) -> tuple[Array, NDArray[np.int64]]:
    """A vertex for every cell with corners on both sides, and its number, or -1, by cell."""
    cells = tuple(n - 1 for n in value.shape)

    def corner(array: Array, which: NDArray[np.int64]) -> Array:
        i, j, k = which
        return array[i : i + cells[0], j : j + cells[1], k : k + cells[2]]

    signs = np.sum([corner(value, c) < 0 for c in _CORNERS], axis=0)
    active: NDArray[np.bool_] = (signs > 0) & (signs < 8)
    number = np.full(cells, -1)
    number[active] = np.arange(active.sum())
    total, count = np.zeros((int(active.sum()), 3)), np.zeros((int(active.sum()), 1))
    for a, b in _EDGES:
        f, g = (corner(value, _CORNERS[c])[active] for c in (a, b))
        p, q = (corner(place, _CORNERS[c])[active] for c in (a, b))
        crossed = (f < 0) != (g < 0)
        t = f[crossed] / (f[crossed] - g[crossed])
        total[crossed] += p[crossed] + t[:, None] * (q - p)[crossed]
        count[crossed] += 1
    return total / count, number


def _faces(inside: NDArray[np.bool_], number: NDArray[np.int64], pos: Array) -> NDArray[np.int64]:
    """Two triangles around every crossed edge of the grid, from the four cells that share it."""
    quads = []
    for axis in range(3):
        ends = np.moveaxis(inside, axis, 0), np.moveaxis(number, axis, 0)
        here, there = ends[0][:-1, 1:-1, 1:-1], ends[0][1:, 1:-1, 1:-1]
        cell = ends[1]
        around = np.stack(
            [cell[:, :-1, :-1], cell[:, 1:, :-1], cell[:, 1:, 1:], cell[:, :-1, 1:]], axis=-1
        )
        # Counterclockwise as seen from the end of the axis; moving y to the front mirrors space.
        leaves = (here & ~there) if axis != 1 else (~here & there)
        quads += [around[leaves], around[(here != there) & ~leaves][:, ::-1]]
    quad = np.concatenate(quads)
    a, b, c, d = quad.T
    short = np.linalg.norm(pos[a] - pos[c], axis=1) <= np.linalg.norm(pos[b] - pos[d], axis=1)
    first = np.where(short[:, None], np.stack([a, b, c], 1), np.stack([a, b, d], 1))
    second = np.where(short[:, None], np.stack([a, c, d], 1), np.stack([b, c, d], 1))
    return np.concatenate([first, second])


def _project(field: Field, pos: Array, step: float) -> Array:
    for _ in range(_NEWTON_STEPS):
        offsets = step * np.eye(3)
        slope = [(field(pos + o) - field(pos - o)) / (2 * step) for o in offsets]
        gradient = np.stack(slope, axis=1)
        square = np.maximum((gradient**2).sum(1, keepdims=True), 1e-12)
        pos = pos - field(pos)[:, None] * gradient / square
    return pos
