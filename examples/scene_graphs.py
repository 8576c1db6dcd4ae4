"""Corners of shapes; three graphs of an image: pixels, superpixels, a triangulation of points."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import Delaunay
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from gncadeq.check import check_choice, check_seed
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.superpixels import slic

GRAPHS = ("pixels", "superpixels", "delaunay")


CORNERS = {"disc": 40, "square": 4, "triangle": 3, "star": 10}


def shape_corners(
    name: str, middle: np.ndarray, radius: float, angle: float, inner: float = 0.55
) -> np.ndarray:
    """``[corners, 2]``, (column, row); every second one of a star is nearer to the middle."""
    number = CORNERS[name]
    turn = 2 * np.pi * np.arange(number) / number + angle
    reach = radius * np.where(np.arange(number) % 2 & (name == "star"), inner, 1.0)
    return middle + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)


def image_graph(image: Tensor, kind: str = "pixels", seed: int = 0) -> Data:
    """The nodes and edges of an image ``[1, height, width]``, without features.

    Args:
        image: Grey values in [0, 1].
        kind: ``"pixels"``, four neighbours each; ``"superpixels"``, about a quarter as many, with
            edges between those that touch; or ``"delaunay"``, a triangulation of 600 random points
            per 48 × 48 pixels.
        seed: Of the points.

    Returns:
        ``Data`` with ``edge_index``, ``pos`` (column, row) and ``of_pixel`` ``[height * width]``,
        the node of every pixel (of points, the nearest).
    """
    check_choice("kind", kind, GRAPHS)
    height, width = image.shape[1:]
    place = places(height, width)
    if kind == "pixels":
        edge_index = ImageToGraph("von_neumann")(image).edge_index
        return Data(edge_index=edge_index, pos=place, of_pixel=torch.arange(height * width))
    if kind == "superpixels":
        segment = slic(image, height * width // 4, compactness=0.3, min_size=0.1)
        beside = [torch.stack([segment[:, 1:], segment[:, :-1]]).flatten(1),
                  torch.stack([segment[1:], segment[:-1]]).flatten(1)]  # fmt: skip
        touching = torch.cat(beside, 1)
        edge_index = to_undirected(touching[:, touching[0] != touching[1]])
        of_pixel = segment.flatten()
        return Data(edge_index=edge_index, pos=means(place, of_pixel), of_pixel=of_pixel)
    draw = torch.Generator().manual_seed(check_seed(seed))
    number = 600 * height * width // 48**2
    pos = torch.rand(number, 2, generator=draw) * torch.tensor([width - 1.0, height - 1.0])
    triangles = torch.from_numpy(Delaunay(pos.numpy()).simplices).long()
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    of_pixel = torch.cdist(place, pos).argmin(1)
    return Data(edge_index=to_undirected(sides.T), pos=pos, of_pixel=of_pixel)


def places(height: int, width: int) -> Tensor:
    """``[height * width, 2]``, column and row of every pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], -1).view(-1, 2).float()


def means(value: Tensor, group: Tensor) -> Tensor:
    """The mean of the rows of each group."""
    count = torch.bincount(group).clamp(min=1)
    sums = value.new_zeros(len(count), value.size(1)).index_add(0, group, value)
    return sums / count[:, None]


def at_points(image: Tensor, pos: Tensor) -> Tensor:
    """The values of an image ``[height, width]`` at the pixels next to points."""
    at = pos.round().long()
    return image[at[:, 1], at[:, 0]]
