"""A graph in front of a camera: what is seen where, and how it is lit."""

from __future__ import annotations

import numpy as np

from gncadeq.viz.geometry import Geometry
from gncadeq.viz.raster import Floats, Ints, ZBuffer, barycentric

_MARGIN = 0.04
_LIGHT = np.array([-0.42, 0.55, 0.72]) / np.linalg.norm([-0.42, 0.55, 0.72])


def camera(azimuth: float, elevation: float) -> Floats:
    """The camera's right, up and backward directions, as rows, in the object's space.

    Example:
        >>> camera(90.0, 0.0).round(3) + 0.0
        array([[ 0.,  0., -1.],
               [ 0.,  1.,  0.],
               [ 1.,  0.,  0.]])
    """
    a, e = np.radians([azimuth, elevation])
    right = [np.cos(a), 0.0, -np.sin(a)]
    back = [np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]
    return np.array([right, np.cross(back, right), back])


def visible(
    shape: Geometry,
    turn: Floats,
    size: tuple[int, int],
    zoom: float,
    node_size: float,
    supersample: int,
    of_faces: bool = False,
) -> tuple[Ints, Ints, Floats, Floats]:
    """What the samples of a picture see of a graph.

    Args:
        shape: The graph.
        turn: The camera, from :func:`camera`.
        size: Width and height in pixels.
        zoom: Enlargement; at 1 the graph fills the picture.
        node_size: Enlargement of nodes.
        supersample: Rows and columns of samples in a pixel.
        of_faces: Whether faces are seen in the place of their nodes.

    Returns:
        For every sample that sees something: its pixel ``[P]``; three nodes ``[P, 3]``, where
        ``num_nodes`` stands for an edge; their weights ``[P, 3]``; and the light ``[P]``. With
        ``of_faces`` three times the face in the place of the nodes, and a weight of one for it.
    """
    view = shape.pos.astype(np.float64) @ turn.T
    width, height = size[0] * supersample, size[1] * supersample
    radius = shape.radius * node_size
    screen, unit = _fitted(view, radius, width, height, zoom)
    buffer = ZBuffer(width, height)
    corner, face, owner_of = screen, shape.face, np.arange(shape.num_nodes)
    if len(shape.edge):
        thin = max(0.16 * radius * unit, 0.45 * supersample)
        corner, face = _ribbons(screen[shape.edge], thin)
        owner_of = np.full(len(corner), shape.num_nodes)  # the colour of edges follows the nodes'
    buffer.triangles(corner, face)
    if not len(shape.face):
        buffer.discs(screen, np.full(shape.num_nodes, radius * unit), first=len(face))
    sample = np.flatnonzero(buffer.owner.reshape(-1) >= 0)
    owner = buffer.owner.reshape(-1)[sample]
    row, column = np.divmod(sample, width)
    point = np.stack([column + 0.5, row + 0.5], axis=1)
    node, weight = np.zeros((len(sample), 3), np.int64), np.zeros((len(sample), 3))
    normal = np.zeros((len(sample), 3))
    on_face = owner < len(face)
    seen = face[owner[on_face]]
    node[on_face] = owner_of[seen]
    weight[on_face] = barycentric(point[on_face], corner[seen][..., :2]).clip(0, 1)
    if len(shape.face):
        normal = (_normals(view, shape.face)[node] * weight[..., None]).sum(1)
    ball = owner[~on_face] - len(face)
    node[~on_face], weight[~on_face, 0] = ball[:, None], 1.0
    offset = (point[~on_face] - screen[ball, :2]) / (radius * unit or 1.0) * [1, -1]
    depth = np.sqrt(np.maximum(1 - (offset**2).sum(1), 0))
    normal[~on_face] = np.column_stack([offset, depth])
    light = _shade(normal)
    light[(node[:, 0] == shape.num_nodes) | shape.flat] = 1.0
    pixel = row // supersample * size[0] + column // supersample
    if of_faces:
        node, weight = (
            np.repeat(owner[:, None], 3, axis=1),
            np.tile([1.0, 0.0, 0.0], (len(owner), 1)),
        )
    return pixel, node, weight, light


def _fitted(
    view: Floats, radius: float, width: int, height: int, zoom: float
) -> tuple[Floats, float]:
    """Places on the screen, and the pixels of a unit of length."""
    low, high = view[:, :2].min(0) - radius, view[:, :2].max(0) + radius
    room = np.array([width, height]) * (1 - 2 * _MARGIN)
    unit = zoom * float((room / np.maximum(high - low, 1e-9)).min())
    flip = np.array([unit, -unit, unit])  # rows run downwards
    return (view - [*(low + high) / 2, 0.0]) * flip + [width / 2, height / 2, 0.0], unit


def _ribbons(end: Floats, half: float) -> tuple[Floats, Ints]:
    """Lines as pairs of triangles that face the camera: corners ``[4E, 3]``, faces ``[2E, 3]``."""
    along = end[:, 1, :2] - end[:, 0, :2]
    across = along[:, ::-1] * [-1, 1] / np.maximum(np.linalg.norm(along, axis=1), 1e-9)[:, None]
    side = np.column_stack([across * half, np.zeros(len(end))])
    corner = np.stack([end[:, 0] - side, end[:, 0] + side, end[:, 1] - side, end[:, 1] + side], 1)
    first = 4 * np.arange(len(end))[:, None]
    return corner.reshape(-1, 3), np.concatenate(
        [first + np.array(t) for t in ((0, 1, 2), (2, 1, 3))]
    )


def _normals(point: Floats, face: Ints) -> Floats:
    """Normals of vertices: the mean of those of their faces, by area."""
    a, b, c = point[face[:, 0]], point[face[:, 1]], point[face[:, 2]]
    normal = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    corner = face.reshape(-1)
    total = np.stack([np.bincount(corner, n, len(point)) for n in normal.T], axis=1)
    unit: Floats = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    return unit


def _shade(normal: Floats) -> Floats:
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal = np.where(normal[:, 2:] < 0, -normal, normal)  # both sides of a surface are lit
    diffuse = np.maximum(normal @ _LIGHT, 0)
    shade: Floats = (0.52 + 0.06 * normal[:, 1] + 0.5 * diffuse).clip(0, 1)
    return shade
