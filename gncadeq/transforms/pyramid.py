"""Levels of coarser pixels above an image's living pixels, as nodes of one graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_count
from gncadeq.graph.grid import GridShape
from gncadeq.graph.levels import Pyramid


def pixel_pyramids(living: Tensor, levels: int) -> Pyramid:
    """Pyramids above the ``living`` pixels ``[B, H, W]`` of a batch of images.

    The pixel (row, column) of a level stands at (2 row, 2 column) of the level below. It lives if
    one of its own 2 × 2 pixels there does, so nothing grows from level to level. It senses its
    living neighbours of the 3 × 3 window on its own level, and those of the 3 × 3 window around its
    place on the level below. Nodes are sorted by image, then by level.

    Args:
        living: Which pixels are nodes.
        levels: Number of levels, the image's own included.

    Example:
        >>> pixel_pyramids(torch.ones(1, 4, 4, dtype=torch.bool), levels=3)
        Pyramid(nodes=[16, 4, 1], kind='canvas')
    """
    grids, counts = [], []
    for level in range(levels):
        if level:
            pooled = F.max_pool2d(living.unsqueeze(1).float(), 2, ceil_mode=True)
            living = pooled.squeeze(1) > 0
        b, height, width = living.shape
        index = living.view(-1).nonzero().flatten()
        grids.append(GridShape(b, height, width, index=index))
        counts.append(living.flatten(1).sum(1))
    count = torch.stack(counts, 1)  # [B, levels]
    before = (count.flatten().cumsum(0) - count.flatten()).view_as(count)
    shift = before - (count.cumsum(0) - count)  # from the place on a level to that among all nodes
    rows = [
        torch.arange(grid.num_nodes) + shift[:, level].repeat_interleave(count[:, level])
        for level, grid in enumerate(grids)
    ]
    return Pyramid.of_grids(grids, rows)


def pixel_places(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """Where the nodes of pixel pyramids are: ``[N, 2]`` as (column, row) of the image, and the
    level of each ``[N]``."""
    pos = torch.empty(pyramid.num_nodes, 2, dtype=torch.float)
    level = torch.empty(pyramid.num_nodes, dtype=torch.long)
    for number, part in enumerate(pyramid.levels):
        grid = part.within.grid
        assert grid is not None
        assert grid.index is not None
        pixel = grid.index % (grid.height * grid.width)
        place = torch.stack([pixel % grid.width, pixel // grid.width], 1)
        pos[part.rows], level[part.rows] = place.float() * 2**number, number
    return pos, level


def window_peaks(value: Tensor, data: Data, radius: int) -> Tensor:
    """Mean and maximum ``[num_pixels, 2 C]`` of the top level in a square window around each pixel.

    A node of level ``l`` stands for ``2**l`` × ``2**l`` pixels; those that the window holds count
    in the mean. A window that holds those of all nodes gives the mean and the maximum over them.

    Args:
        value: Node values ``[N, C]`` that aren't negative.
        data: The pyramid of one image.
        radius: Half the window's width in pixels; 0 is the node above the pixel.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph(levels=2)(torch.rand(1, 4, 6))
        >>> value = torch.arange(30.0)[:, None]  # on the top level 24 to 29
        >>> around = window_peaks(value, data, radius=5)
        >>> around.shape, around[0]
        (torch.Size([24, 2]), tensor([26.5000, 29.0000]))
    """
    radius = check_count("radius", radius)
    height, width = (int(s) for s in data.image_size.view(-1))
    top, pixel = int(data.level.max()), data.level == 0
    side, above = 2**top, data.level == top
    coarse = value.new_zeros(value.size(1) + 1, -(-height // side), -(-width // side))
    col, row = (data.pos[above] / side).long().unbind(1)
    coarse[:-1, row, col], coarse[-1, row, col] = value[above].t(), 1.0
    fine = coarse.repeat_interleave(side, 1).repeat_interleave(side, 2).unsqueeze(0)
    size = 2 * radius + 1
    mean = F.avg_pool2d(fine, size, stride=1, padding=radius)[0]
    peak = F.max_pool2d(fine[:, :-1], (size, 1), 1, (radius, 0))
    peak = F.max_pool2d(peak, (1, size), 1, (0, radius))[0]
    col, row = data.pos[pixel].long().unbind(1)
    return torch.cat([mean[:-1, row, col] / mean[-1, row, col], peak[:, row, col]]).t()
