"""Surfaces made by formula: ``Data(pos, face)``, oriented outward (upward, on the plane)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_count, check_number, check_seed

_MOST = 4096  # vertices along a side, or 17 million in all


def plane(height: int, width: int) -> Data:
    """A flat sheet of ``height`` × ``width`` vertices, one apart, numbered row by row.

    ``pos`` is (column, row, 0), as :class:`~gncadeq.transforms.ImageToGraph` has it.

    Example:
        >>> plane(3, 4)
        Data(pos=[12, 3], face=[3, 12])
    """
    height, width = _at_least(2, height=height, width=width)
    face = _grid_faces(height, width, wrap_rows=False, wrap_columns=False)
    row, column = _grid(height, width)
    return _mesh(np.stack([column, row, 0 * row], axis=1), face)


def icosphere(subdivisions: int) -> Data:
    """The unit sphere: an icosahedron whose triangles are quartered ``subdivisions`` times.

    It has ``10 · 4 ** subdivisions + 2`` vertices; those of a coarser one come first.

    Args:
        subdivisions: From 0 (the icosahedron) to 11.

    Example:
        >>> icosphere(3)
        Data(pos=[642, 3], face=[3, 1280])
    """
    subdivisions = check_count("subdivisions", subdivisions, 0, 11)
    golden = (1 + math.sqrt(5)) / 2
    signs = [(-1, golden), (1, golden), (-1, -golden), (1, -golden)]
    corners = [(a, b, 0) for a, b in signs] + [(0, a, b) for a, b in signs]
    pos = np.array(corners + [(b, 0, a) for a, b in signs], dtype=np.float64)
    pos /= np.linalg.norm(pos[0])
    face = np.array([
        (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4),
        (11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9),
        (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
    ])  # fmt: skip
    for _ in range(subdivisions):
        pos, face = _quarter(pos, face)
    return _mesh(pos, face)


def _quarter(pos: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put a vertex on the sphere over the middle of every edge."""
    n = len(pos)
    low = np.minimum(face, face[:, [1, 2, 0]])
    high = np.maximum(face, face[:, [1, 2, 0]])
    edge, middle = np.unique((low * n + high).ravel(), return_inverse=True)
    between = pos[edge // n] + pos[edge % n]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    ab, bc, ca = (middle.reshape(-1, 3) + n).T
    a, b, c = face.T
    corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([pos, between]), np.concatenate([np.stack(t, 1) for t in corners])


def torus(around: int = 64, across: int = 32, radius: float = 1.0, tube: float = 0.4) -> Data:
    """A torus around the z axis.

    Args:
        around: Vertices along the large circle, of this ``radius``.
        across: Vertices along the small one.
        radius: Of the large circle.
        tube: Of the small one, below ``radius``.

    Example:
        >>> torus(8, 6)
        Data(pos=[48, 3], face=[3, 96])
    """
    around, across = _at_least(3, around=around, across=across)
    radius = check_number("radius", radius, above=0.0)
    tube = check_number("tube", tube, above=0.0, below=radius, hint="It is below 'radius'")
    row, column = _grid(across, around)
    u, v = column * (2 * math.pi / around), row * (2 * math.pi / across)
    ring = radius + tube * np.cos(v)
    pos = np.stack([ring * np.cos(u), ring * np.sin(u), tube * np.sin(v)], axis=1)
    return _mesh(pos, _grid_faces(across, around, wrap_rows=True, wrap_columns=True))


def cylinder(
    around: int = 32, along: int = 16, radius: float = 1.0, height: float = 2.0
) -> Data:  # fmt: skip
    """The side of a cylinder around the z axis, open at both ends.

    Args:
        around: Vertices along the circle.
        along: Circles, from ``-height / 2`` to ``height / 2``.
        radius: Of the circle.
        height: From end to end.

    Example:
        >>> cylinder(6, 3)
        Data(pos=[18, 3], face=[3, 24])
    """
    (around,) = _at_least(3, around=around)
    (along,) = _at_least(2, along=along)
    radius = check_number("radius", radius, above=0.0)
    height = check_number("height", height, above=0.0)
    row, column = _grid(along, around)
    u = column * (2 * math.pi / around)
    z = (row / (along - 1) - 0.5) * height
    pos = np.stack([radius * np.cos(u), radius * np.sin(u), z], axis=1)
    return _mesh(pos, _grid_faces(along, around, wrap_rows=False, wrap_columns=True))


def moebius(around: int = 64, across: int = 9, radius: float = 1.0, width: float = 0.6) -> Data:
    """A Möbius strip around the z axis: it has one side, so no outside, and a seam.

    Args:
        around: Vertices along the circle.
        across: Vertices from border to border.
        radius: Of the circle.
        width: From border to border, below ``2 * radius``.

    Example:
        >>> moebius(8, 3)
        Data(pos=[24, 3], face=[3, 32])
    """
    (around,) = _at_least(3, around=around)
    (across,) = _at_least(2, across=across)
    radius = check_number("radius", radius, above=0.0)
    width = check_number("width", width, above=0.0, below=2 * radius, hint="It is below 2 'radius'")
    row, column = _grid(across, around)
    u, v = column * (2 * math.pi / around), (row / (across - 1) - 0.5) * width
    ring = radius + v * np.cos(u / 2)
    pos = np.stack([ring * np.cos(u), ring * np.sin(u), v * np.sin(u / 2)], axis=1)
    face = _grid_faces(across, around + 1, wrap_rows=False, wrap_columns=False)
    # The column after the last is the first one, upside down.
    row, column = face // (around + 1), face % (around + 1)
    seam = column == around
    row, column = np.where(seam, across - 1 - row, row), np.where(seam, 0, column)
    return _mesh(pos, row * around + column)


def delaunay_blob(num_points: int, seed: int = 0) -> Data:
    """A flat, smoothly bounded blob of random points, triangulated by Delaunay: an uneven mesh.

    Args:
        num_points: At least 3; all of them are vertices.
        seed: Of points and outline.

    Example:
        >>> blob = delaunay_blob(100)
        >>> blob.pos.shape, int(blob.face.max())
        (torch.Size([100, 3]), 99)
    """
    from scipy.spatial import Delaunay

    (num_points,) = _at_least(3, num_points=num_points)
    generator = np.random.default_rng(check_seed(seed))
    angle = generator.uniform(0, 2 * math.pi, num_points)
    wave = generator.normal(size=(2, 3)) / (4 * np.arange(2, 5))
    turn = np.arange(2, 5)[:, None] * angle
    outline = np.exp(wave[0] @ np.cos(turn) + wave[1] @ np.sin(turn))
    r = outline * np.sqrt(generator.uniform(0, 1, num_points))
    flat = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
    face = Delaunay(flat).simplices.astype(np.int64)
    a, b, c = flat[face[:, 0]], flat[face[:, 1]], flat[face[:, 2]]
    u, v = b - a, c - a
    clockwise = u[:, 0] * v[:, 1] < u[:, 1] * v[:, 0]
    face[clockwise] = face[clockwise][:, ::-1]
    return _mesh(np.c_[flat, np.zeros(num_points)], face)


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.divmod(np.arange(rows * columns), columns)
    return row.astype(np.float64), column.astype(np.float64)


def _grid_faces(rows: int, columns: int, wrap_rows: bool, wrap_columns: bool) -> np.ndarray:
    """Two triangles a cell, counterclockwise where columns run right and rows run up."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    inside = (wrap_rows | (row < rows - 1)) & (wrap_columns | (column < columns - 1))
    row, column = row[inside], column[inside]
    up, right = (row + 1) % rows, (column + 1) % columns
    a, b = row * columns + column, row * columns + right
    c, d = up * columns + right, up * columns + column
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _mesh(pos: np.ndarray, face: np.ndarray) -> Data:
    triangles: Tensor = torch.from_numpy(face.astype(np.int64)).t().contiguous()
    return Data(pos=torch.from_numpy(pos.astype(np.float32)), face=triangles)


def _at_least(least: int, **counts: int) -> list[int]:
    return [check_count(name, count, least, _MOST) for name, count in counts.items()]
