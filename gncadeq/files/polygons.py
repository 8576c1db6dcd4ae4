"""Polygons and strips to triangles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gncadeq.files.content import bad

_MOST = 1000
"""Corners of a polygon that is no fan: at this size ear clipping may take seconds."""


def triangulate(
    pos: np.ndarray, corner: np.ndarray, size: np.ndarray, where: Path | str = "the mesh"
) -> tuple[np.ndarray, int]:
    """Cut polygons into triangles of their orientation, without overlaps.

    A polygon is cut from its first corner, where that gives triangles of positive area, as it does
    for every convex one. Others are cut by ear clipping (`Meisters 1975
    <https://doi.org/10.2307/2319703>`_) in the plane of their mean normal.

    Args:
        pos: Coordinates ``[N, 3]``.
        corner: The vertices of all polygons, one after the other.
        size: How many corners each has. Those with fewer than three are left out.
        where: The file, for errors.

    Returns:
        Triangles ``[F, 3]``, in the order of the polygons, and the number of those left out.

    Raises:
        ValueError: If a polygon that is no fan has more than 1,000 corners.

    Example:
        >>> arrow = np.array([[0, 0, 0], [2, 1, 0], [0, 2, 0], [1, 1, 0]])
        >>> triangulate(arrow, np.arange(4), np.array([4]))[0].tolist()
        [[3, 0, 1], [1, 2, 3]]
    """
    first = np.cumsum(size) - size
    many = np.maximum(size - 2, 0)
    start = np.cumsum(many) - many  # of each polygon's triangles
    out = np.empty((int(many.sum()), 3), dtype=np.int64)
    # A corner that is no vertex is reported later; here it only must not stop the geometry.
    known = corner.clip(0, max(len(pos) - 1, 0))
    for n in np.unique(size[size >= 3]):
        rows = np.flatnonzero(size == n)
        at = first[rows, None] + np.arange(n)
        polygon = corner[at]
        fan = np.stack(
            [
                np.broadcast_to(polygon[:, :1], (len(rows), n - 2)), polygon[:, 1:-1],
                polygon[:, 2:],
            ],
            axis=2,
        )  # fmt: skip
        if n > 3:
            flat = _flattened(pos[known[at]])
            for k in np.flatnonzero(~_is_fan(flat)):
                if n > _MOST:
                    expected = f"concave polygons of at most {_MOST:,} corners"
                    raise bad(where, expected, f"one of {n:,}", "Triangulate it in a modeller")
                fan[k] = polygon[k][_clip_ears(flat[k])]
        out[(start[rows, None] + np.arange(n - 2)).reshape(-1)] = fan.reshape(-1, 3)
    return out, int((size < 3).sum())


def _flattened(point: np.ndarray) -> np.ndarray:
    """Polygons ``[B, n, 3]`` in the planes of their mean normals, ``[B, n, 2]``."""
    point = np.asarray(point - point[:, :1], dtype=np.float64)
    normal = np.cross(point, np.roll(point, -1, axis=1)).sum(1)  # Newell's
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    least = np.eye(3)[np.abs(normal).argmin(1)]
    east = np.cross(normal, least)
    east /= np.maximum(np.linalg.norm(east, axis=1, keepdims=True), 1e-300)
    north = np.cross(normal, east)
    return np.stack([(point * east[:, None]).sum(2), (point * north[:, None]).sum(2)], axis=2)


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles in the plane."""
    u, v = b - a, c - a
    area: np.ndarray = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
    return area


def _slack(flat: np.ndarray) -> np.ndarray:
    """What counts as no area, by the size of polygons ``[..., n, 2]``."""
    side = flat.max(axis=-2) - flat.min(axis=-2)
    slack: np.ndarray = 1e-13 * (side**2).sum(axis=-1)
    return slack


def _is_fan(flat: np.ndarray) -> np.ndarray:
    """Whether triangles from the first corner cover a polygon; true of those without an area."""
    area = _cross(flat[:, :1], flat[:, 1:-1], flat[:, 2:])
    slack = _slack(flat)[:, None]
    fan: np.ndarray = (area > slack).all(1) | (np.abs(area) <= slack).all(1)
    return fan


def _clip_ears(flat: np.ndarray) -> np.ndarray:
    """Triangles ``[n - 2, 3]`` of a polygon ``[n, 2]`` that runs counter-clockwise."""
    slack = float(_slack(flat))
    ring = list(range(len(flat)))
    triangles = []
    at = 0
    while len(ring) > 3:
        at = _ear(flat, np.array(ring), at, slack)
        before, after = ring[at - 1], ring[(at + 1) % len(ring)]
        triangles.append((before, ring.pop(at), after))
        at += 1  # the neighbours of an ear make slivers: go on behind the next corner
    return np.array([*triangles, ring])


def _ear(flat: np.ndarray, ring: np.ndarray, at: int, slack: float) -> int:
    """The first corner from ``at`` on whose triangle holds no other corner of the ring."""
    point = flat[ring]
    before, after = np.roll(point, 1, axis=0), np.roll(point, -1, axis=0)
    turn = _cross(before, point, after)
    reflex = point[turn <= slack]
    convex = np.flatnonzero(turn > slack)
    for k in np.roll(convex, -int(np.searchsorted(convex, at % len(ring)))):
        a, b, c = before[k], point[k], after[k]
        sides = np.stack([_cross(a, b, reflex), _cross(b, c, reflex), _cross(c, a, reflex)])
        # A corner at the place of one of these three is a bridge to a hole, and in nobody's way.
        apart = ((reflex[:, None] != np.stack([a, b, c])).any(2)).all(1)
        if not ((sides >= -slack).all(0) & apart).any():
            return int(k)
    # No ear: the polygon crosses itself, or lies on a line. Flat corners go first.
    return int(np.abs(turn).argmin() if not len(convex) else convex[0])


def strip(vertex: np.ndarray) -> np.ndarray:
    """Triangles ``[F, 3]`` of a strip, of one orientation, without those of two equal corners.

    Example:
        >>> strip(np.array([0, 1, 2, 3])).tolist()
        [[0, 1, 2], [2, 1, 3]]
    """
    triangles = np.stack([vertex[:-2], vertex[1:-1], vertex[2:]], axis=1)
    triangles[1::2] = triangles[1::2][:, [1, 0, 2]]
    proper: np.ndarray = triangles[(triangles != np.roll(triangles, 1, axis=1)).all(1)]
    return proper
