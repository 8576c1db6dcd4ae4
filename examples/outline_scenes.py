"""Scenes of outlines, some closed and some with a gap, and three graphs of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from scene_graphs import CORNERS, at_points, image_graph, means, places, shape_corners
from scipy.ndimage import label as _parts
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_count, check_number, check_seed

CLASSES = ("ground", "closed", "open")
"""What the labels mean."""

_WIDTH = 3  # of a line, in pixels
_SAMPLES = 9  # along an edge


def scene(
    seed: int, size: int = 48, noise: float = 0.1, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One to three outlines per 48 × 48 pixels, apart from each other, on noise.

    Discs, squares, triangles and stars are turned at random. Half of the outlines have a gap of
    about 6 pixels; all else about them is the same.

    Args:
        seed: Of the scene.
        size: Height and width in pixels, at least 32, and 32 times ``scale``.
        noise: Standard deviation of the noise on grey values of 0.2 and 0.8.
        scale: How many times as large the outlines are, and as many fewer per area; line and gap
            stay as wide.

    Returns:
        The image ``[1, size, size]``, and the label of every pixel ``[size, size]``, see
        :data:`CLASSES`.

    Example:
        >>> image, label = scene(0)
        >>> image.shape, label.unique().tolist()
        (torch.Size([1, 48, 48]), [0, 1, 2])
    """
    draw = np.random.default_rng(check_seed(seed))
    scale = check_number("scale", scale, above=0.0)
    size = check_count("size", size, math.ceil(32 * max(1.0, scale)))
    label = np.zeros((size, size), dtype=np.int64)
    wanted, placed = int(draw.integers(1, 4)) * max(1, int(size / scale) // 48) ** 2, []
    for _ in range(40 * wanted):
        radius = scale * draw.uniform(8.0, 13.0)
        middle = draw.uniform(radius + 3, size - radius - 3, 2)
        if any(math.dist(middle, m) < radius + r + 6 for m, r in placed):
            continue
        opened = bool(draw.uniform() < 0.5)
        line = _outline(draw, size, middle, radius, opened)
        if _parts(~line)[1] != 2 - opened:  # the tip of a star may be a closed outline by itself
            continue
        placed.append((middle, radius))
        label[line] = 1 + opened
        if len(placed) == wanted:
            break
    grey = np.where(label > 0, 0.8, 0.2) + noise * draw.standard_normal(label.shape)
    return torch.from_numpy(grey).clamp(0, 1).float()[None], torch.from_numpy(label)


def _outline(
    draw: np.random.Generator, size: int, middle: np.ndarray, radius: float, opened: bool
) -> np.ndarray:
    name = str(draw.choice(list(CORNERS)))
    points = shape_corners(name, middle, radius, draw.uniform(0, 2 * math.pi))
    canvas = Image.new("1", (size, size))
    pen = ImageDraw.Draw(canvas)
    ring = [tuple(p) for p in np.concatenate([points, points[:2]])]
    pen.line(ring, fill=1, width=_WIDTH, joint="curve")
    if opened:  # a disc of ground over the middle of a side, or of an arc
        k = int(draw.integers(len(points)))
        gap = (points[k] + points[(k + 1) % len(points)]) / 2
        pen.ellipse([*(gap - 4.0), *(gap + 4.0)], fill=0)
    return np.asarray(canvas).copy()


def to_graph(image: Tensor, label: Tensor, kind: str = "pixels", seed: int = 0) -> Data:
    """A scene as a graph whose edges know the ink on their way.

    A node is *ink* if its grey is above ½. The relation of an edge says what lies on the straight
    line along it: 0 ground alone, 1 ink alone, 2 first ground, then ink, 3 anything else.

    Args:
        image: ``[1, height, width]``.
        label: ``[height, width]``.
        kind: ``"pixels"``, four neighbours each; ``"superpixels"``, about a quarter as many, with
            edges between those that touch; or ``"delaunay"``, a triangulation of 600 random points
            per 48 × 48 pixels.
        seed: Of the points.

    Returns:
        ``Data`` with ``x`` ``[N, 2]``, grey and a mark on the frame; ``edge_index``, the relations
        in ``edge_attr``, ``pos`` (column, row), ``y``, and ``of_pixel`` ``[height * width]``, the
        node of every pixel (of points, the nearest).

    Example:
        >>> data = to_graph(*scene(0))
        >>> data.x.shape, data.edge_attr.unique().tolist()
        (torch.Size([2304, 2]), [0, 1, 2, 3])
    """
    data = image_graph(image, kind, seed)
    pos, of_pixel = data.pos, data.of_pixel
    height, width = label.shape
    if kind == "delaunay":
        x, y = at_points(image[0], pos), at_points(label, pos)
        hull = (pos < 3).any(1) | (pos[:, 0] > width - 4) | (pos[:, 1] > height - 4)
    else:
        x = means(image.flatten()[:, None], of_pixel)[:, 0]
        y = means(torch.nn.functional.one_hot(label.flatten(), 3).float(), of_pixel).argmax(1)
        last = torch.tensor([width - 1, height - 1])
        place = places(height, width)
        edge = ((place == 0) | (place == last)).any(1)
        hull = means(edge.float()[:, None], of_pixel)[:, 0] > 0
    ink = x > 0.5
    source, target = data.edge_index
    if kind == "delaunay":
        share = torch.linspace(0, 1, _SAMPLES)[:, None, None]
        way = (pos[source] * (1 - share) + pos[target] * share).round().long()
        seen = image[0, way[..., 1], way[..., 0]] > 0.5
    else:
        seen = torch.stack([ink[source], ink[target]])
    change = (seen[1:] != seen[:-1]).sum(0)
    relation = torch.full_like(source, 3)
    relation[(change == 0) & ~seen[0]] = 0
    relation[(change == 0) & seen[0]] = 1
    relation[(change == 1) & ~seen[0]] = 2
    data.x, data.y = torch.stack([x, hull.float()], 1), y
    data.edge_attr = relation
    return data
