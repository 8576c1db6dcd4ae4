"""A z-buffer in numpy: which triangle or disc is seen at which pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
_CHUNK = 1 << 21  # pixels in flight: bounds the memory, whatever the size of the triangles


class ZBuffer:
    """The nearest surface at every pixel, orthographic.

    Coordinates are in pixels, *x* to the right and *y* down; pixel ``(column, row)`` is sampled at
    ``(column + 0.5, row + 0.5)``. Larger *z* is nearer.

    Example:
        >>> buffer = ZBuffer(4, 3)
        >>> corners = np.array([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
        >>> buffer.triangles(corners, np.array([[0, 1, 2]]))
        >>> buffer.owner
        array([[ 0,  0,  0, -1],
               [ 0,  0, -1, -1],
               [ 0, -1, -1, -1]])
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.depth = np.full((height, width), -np.inf)
        self.owner = np.full((height, width), -1, dtype=np.int64)

    def triangles(self, corner: Floats, face: Ints, first: int = 0) -> None:
        """Draw triangles of vertices ``[V, 3]``, ``first``, ``first + 1``, … in ``owner``."""
        p = corner[face]  # [F, 3 corners, xyz]
        # The plane z = a x + b y + c; a triangle seen edge-on covers no pixel.
        u, v = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
        normal = np.cross(u, v)
        kept = np.flatnonzero(np.abs(normal[:, 2]) > 1e-12)
        p, normal = p[kept], normal[kept]
        slope = -normal[:, :2] / normal[:, 2:]
        offset = p[:, 0, 2] - (slope * p[:, 0, :2]).sum(1)
        # Its rows, and in every row the columns between its sides.
        top = _centers(p[:, :, 1].min(1), self.height)
        bottom = _centers(p[:, :, 1].max(1), self.height)
        for tri, row in _ranges(top, bottom):
            left, right = _span(p[tri], row + 0.5)
            begin, end = _centers(left, self.width), _centers(right, self.width)
            for i, column in _ranges(begin, end):
                t, y = tri[i], row[i]
                z = slope[t, 0] * (column + 0.5) + slope[t, 1] * (y + 0.5) + offset[t]
                self._draw(y * self.width + column, z, first + kept[t])

    def discs(self, center: Floats, radius: Floats, first: int = 0) -> None:
        """Draw spheres of centres ``[N, 3]`` and radii ``[N]``, which are seen as discs, as
        ``first``, ``first + 1``, … in ``owner``.
        """
        top = _centers(center[:, 1] - radius, self.height)
        bottom = _centers(center[:, 1] + radius, self.height)
        for disc, row in _ranges(top, bottom):
            half = np.sqrt(np.maximum(radius[disc] ** 2 - (row + 0.5 - center[disc, 1]) ** 2, 0))
            begin = _centers(center[disc, 0] - half, self.width)
            end = _centers(center[disc, 0] + half, self.width)
            for i, column in _ranges(begin, end):
                d, y = disc[i], row[i]
                square = (column + 0.5 - center[d, 0]) ** 2 + (y + 0.5 - center[d, 1]) ** 2
                z = center[d, 2] + np.sqrt(np.maximum(radius[d] ** 2 - square, 0))
                self._draw(y * self.width + column, z, first + d)

    def _draw(self, pixel: Ints, z: Floats, name: Ints) -> None:
        depth, owner = self.depth.reshape(-1), self.owner.reshape(-1)
        before = depth[pixel]
        nearer = np.flatnonzero(z > before)
        pixel, z, name = pixel[nearer], z[nearer], name[nearer]
        np.maximum.at(depth, pixel, z)
        seen = z == depth[pixel]
        owner[pixel[seen]] = name[seen]


def barycentric(point: Floats, corner: Floats) -> Floats:
    """The weights ``[P, 3]`` of the corners ``[P, 3, 2]`` of triangles at points ``[P, 2]``.

    Example:
        >>> corner = np.array([[[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]])
        >>> barycentric(np.array([[1.0, 2.0]]), corner)
        array([[0.25, 0.25, 0.5 ]])
    """
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    u, v, w = b - a, c - a, point - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    beta = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / area
    gamma = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / area
    return np.stack([1 - beta - gamma, beta, gamma], axis=1)


def _centers(edge: Floats, size: int) -> Ints:
    """The first pixel whose centre isn't before ``edge``, within the picture."""
    center: Ints = np.clip(np.ceil(edge - 0.5), 0, size).astype(np.int64)
    return center


def _span(p: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Where the line at height ``y`` enters and leaves each triangle."""
    left, right = np.full(len(p), np.inf), np.full(len(p), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        # Upwards in both triangles of a side: rounded alike, they leave no gap between them.
        down = (p[:, i, 1] > p[:, j, 1])[:, None]
        xi, yi = np.where(down, p[:, j], p[:, i])[:, :2].T
        xj, yj = np.where(down, p[:, i], p[:, j])[:, :2].T
        rise = yj - yi
        with np.errstate(divide="ignore", invalid="ignore"):
            x = xi + (y - yi) * (xj - xi) / rise
        crossed = (rise != 0) & ((yi <= y) != (yj <= y))
        left = np.where(crossed, np.minimum(left, x), left)
        right = np.where(crossed, np.maximum(right, x), right)
    return left, right


def _ranges(begin: Ints, end: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs (i, n) with ``begin[i] <= n < end[i]``, a few million at a time."""
    count = np.maximum(end - begin, 0)
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        before = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, before + _CHUNK, side="right")), start + 1)
        n = count[start:stop]
        index = np.repeat(np.arange(start, stop), n)
        within = np.arange(len(index)) - np.repeat(total[start:stop] - n - before, n)
        yield index, begin[index] + within
        start = stop
