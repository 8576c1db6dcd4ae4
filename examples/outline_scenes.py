"""Scenes of outlines, some closed and some with a gap, and three graphs of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import label as _parts
from scipy.spatial import Delaunay
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from gncadeq.check import check_choice, check_count, check_number, check_seed
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.superpixels import slic

CLASSES = ("ground", "closed", "open")
"""What the labels mean."""

GRAPHS = ("pixels", "superpixels", "delaunay")
_CORNERS = {"disc": 40, "square": 4, "triangle": 3, "star": 10}
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
    corners = _CORNERS[str(draw.choice(list(_CORNERS)))]
    angle = 2 * math.pi * np.arange(corners) / corners + draw.uniform(0, 2 * math.pi)
    reach = radius * np.where(np.arange(corners) % 2 & (corners == 10), 0.55, 1.0)
    points = middle + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    canvas = Image.new("1", (size, size))
    pen = ImageDraw.Draw(canvas)
    ring = [tuple(p) for p in np.concatenate([points, points[:2]])]
    pen.line(ring, fill=1, width=_WIDTH, joint="curve")
    if opened:  # a disc of ground over the middle of a side, or of an arc
        k = int(draw.integers(corners))
        gap = (points[k] + points[(k + 1) % corners]) / 2
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
    check_choice("kind", kind, GRAPHS)
    height, width = label.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], -1).view(-1, 2).float()
    if kind == "pixels":
        edge_index, pos = ImageToGraph("von_neumann")(image).edge_index, place
        of_pixel = torch.arange(height * width)
    elif kind == "superpixels":
        segment = slic(image, height * width // 4, compactness=0.3, min_size=0.1)
        of_pixel = segment.flatten()
        beside = [torch.stack([segment[:, 1:], segment[:, :-1]]).flatten(1),
                  torch.stack([segment[1:], segment[:-1]]).flatten(1)]  # fmt: skip
        touching = torch.cat(beside, 1)
        edge_index = to_undirected(touching[:, touching[0] != touching[1]])
        pos = _means(place, of_pixel)
    else:
        draw = torch.Generator().manual_seed(check_seed(seed))
        number = 600 * height * width // 48**2
        pos = torch.rand(number, 2, generator=draw) * torch.tensor([width - 1.0, height - 1.0])
        triangles = torch.from_numpy(Delaunay(pos.numpy()).simplices).long()
        sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        edge_index = to_undirected(sides.T)
        of_pixel = torch.cdist(place, pos).argmin(1)
    grey = image.flatten()
    if kind == "delaunay":
        at = pos.round().long()
        x, y = image[0, at[:, 1], at[:, 0]], label[at[:, 1], at[:, 0]]
        hull = (pos < 3).any(1) | (pos[:, 0] > width - 4) | (pos[:, 1] > height - 4)
    else:
        x = _means(grey[:, None], of_pixel)[:, 0]
        y = _means(torch.nn.functional.one_hot(label.flatten(), 3).float(), of_pixel).argmax(1)
        edge = (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1)
        hull = _means(edge.flatten().float()[:, None], of_pixel)[:, 0] > 0
    ink = x > 0.5
    source, target = edge_index
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
    data = Data(x=torch.stack([x, hull.float()], 1), edge_index=edge_index, edge_attr=relation)
    data.pos, data.y = pos, y
    data.of_pixel = of_pixel
    return data


def _means(value: Tensor, group: Tensor) -> Tensor:
    count = torch.bincount(group).clamp(min=1)
    sums = value.new_zeros(len(count), value.size(1)).index_add(0, group, value)
    return sums / count[:, None]
