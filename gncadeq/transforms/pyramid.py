"""Levels of coarser pixels above an image's living pixels, as nodes of one graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    pos = torch.empty(pyramid.num_nodes, 2)
    level = torch.empty(pyramid.num_nodes, dtype=torch.long)
    for number, part in enumerate(pyramid.levels):
        grid = part.within.grid
        assert grid is not None
        assert grid.index is not None
        pixel = grid.index % (grid.height * grid.width)
        place = torch.stack([pixel % grid.width, pixel // grid.width], 1)
        pos[part.rows], level[part.rows] = place.float() * 2**number, number
    return pos, level
