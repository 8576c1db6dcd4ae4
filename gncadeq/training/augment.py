"""Random distortions of images, drawn from a seed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.training.processes import ALONE, Processes


def random_affine(
    images: Tensor,
    seed: int,
    degrees: float = 12.0,
    scale: float = 0.12,
    shear: float = 0.2,
    shift: float = 0.0,
    among: Processes = ALONE,
) -> Tensor:
    r"""Rotate, stretch and shear every image a little, about its centre, and shift it.

    Pixel graphs of one level don't know where they are; those of pyramids know it modulo the width
    of their coarsest pixels.

    Args:
        images: ``[B, C, H, W]``.
        seed: Seed of the draw; the same seed gives the same images.
        degrees: Largest rotation.
        scale: Largest relative change of either side.
        shear: Largest shear.
        shift: Largest shift in pixels, in either direction.
        among: The images are this process's share of a batch, and are distorted as the whole
            batch would be.

    Example:
        >>> image = torch.rand(2, 1, 8, 8)
        >>> torch.equal(random_affine(image, seed=1), random_affine(image, seed=1))
        True
    """
    b = images.size(0)
    generator = torch.Generator().manual_seed(seed)
    draw = among.share(2 * torch.rand(4, b * among.count, generator=generator) - 1, dim=1)
    angle = draw[0] * math.radians(degrees)
    sx, sy, k = 1 + scale * draw[1], 1 + scale * draw[2], shear * draw[3]
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.zeros(b, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * sx, (cos * k - sin) * sy
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * sx, (sin * k + cos) * sy
    if shift > 0:
        moved = torch.Generator().manual_seed(seed + 2)
        draw = among.share(2 * torch.rand(2, b * among.count, generator=moved) - 1, dim=1)
        height, width = images.shape[2:]
        matrix[:, 0, 2], matrix[:, 1, 2] = draw[0] * 2 * shift / width, draw[1] * 2 * shift / height
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)


def random_window(
    images: Tensor,
    seed: int,
    share: float,
    smallest: float = 0.4,
    among: Processes = ALONE,
) -> Tensor:
    """Blacken some images outside a random window, as if they had been truncated.

    Args:
        images: ``[B, C, H, W]``.
        seed: Seed of the draw; the same seed gives the same images.
        share: Share of the images, in [0, 1].
        smallest: Least side of a window, relative to the image's. An image of which the window
            shows less than a tenth stays whole.
        among: The images are this process's share of a batch, of which the windows are those of
            the whole.

    Example:
        >>> images = torch.ones(100, 1, 10, 10)
        >>> seen = random_window(images, seed=0, share=0.5).sum((1, 2, 3))
        >>> int((seen < 100).sum()), int(seen.min()) >= 16
        (44, True)
    """
    b, _, h, w = images.shape
    generator = torch.Generator().manual_seed(seed + 1)
    draw = among.share(torch.rand(5, b * among.count, 1, generator=generator), dim=1)
    inside = []
    for n, side, start in ((h, draw[0], draw[1]), (w, draw[2], draw[3])):
        length = (smallest + (1 - smallest) * side) * n
        first = start * (n - length)
        pixel = torch.arange(n) + 0.5
        inside.append((pixel >= first) & (pixel < first + length))
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    cut = images * window
    enough = cut.sum((1, 2, 3)) >= 0.1 * images.sum((1, 2, 3))
    chosen = (draw[4, :, 0] < share) & enough
    return torch.where(chosen[:, None, None, None], cut, images)
