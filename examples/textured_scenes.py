"""Scenes of shapes that only the borders of textures show."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from scene_graphs import shape_corners
from torch import Tensor

from gncadeq.check import check_count, check_seed

CLASSES = ("ground", "disc", "square", "triangle", "star")
"""What the labels mean."""

TEXTURES = ("stripes", "dots", "noise")
_TURN = math.pi / 12  # at most
_HIDDEN = 0.5  # the largest share of a shape that another one may hide
_UPRIGHT = {"disc": 0.0, "square": math.pi / 4, "triangle": -math.pi / 2, "star": -math.pi / 2}
_SIZE = {"disc": 1.0, "square": 1.2, "triangle": 1.45, "star": 1.4}  # for areas that are alike


def scene(seed: int, size: int = 48) -> tuple[Tensor, Tensor]:
    """One to three shapes per 48 × 48 pixels, each with a texture, on a texture.

    A shape has any of the two textures that the ground doesn't have. Textures have random
    directions and periods, and all of them the mean ½ and the same deviation: neither a grey value
    nor a texture tells the class. Later shapes cover earlier ones, of which at least about half
    stays, and which have another texture where they touch. Shapes are turned by 15° at most, and
    may leave the image.

    Args:
        seed: Of the scene.
        size: Height and width in pixels, at least 32. The shapes are as large in pixels.

    Returns:
        The image ``[1, size, size]``, and the label of every pixel ``[size, size]``, see
        :data:`CLASSES`.

    Example:
        >>> image, label = scene(0)
        >>> image.shape, label.unique().tolist()
        (torch.Size([1, 48, 48]), [0, 1, 3])
    """
    draw = np.random.default_rng(check_seed(seed))
    size = check_count("size", size, 32)
    textures = draw.permutation(3)
    grey = _texture(draw, int(textures[0]), size)
    owner = np.full((size, size), -1)
    wanted = int(draw.integers(1, 4)) * max(1, size // 48) ** 2
    shapes: list[tuple[int, int, int]] = []
    for _ in range(40 * wanted):
        which, texture = int(draw.integers(4)), int(textures[draw.integers(1, 3)])
        inside = _shape(draw, CLASSES[1 + which], size)
        touched = set(np.unique(owner[_wider(inside)]).tolist()) - {-1}
        if any(shapes[k][1] == texture for k in touched):
            continue
        if any((owner == k)[~inside].sum() < (1 - _HIDDEN) * shapes[k][2] for k in touched):
            continue
        owner[inside] = len(shapes)
        shapes.append((which, texture, int(inside.sum())))
        grey = np.where(inside, _texture(draw, texture, size), grey)
        if len(shapes) == wanted:
            break
    label = np.array([which + 1 for which, _, _ in shapes] + [0])[owner]
    grey = grey + 0.05 * draw.standard_normal(grey.shape)
    return torch.from_numpy(grey).clamp(0, 1).float()[None], torch.from_numpy(label)


def _wider(inside: np.ndarray) -> np.ndarray:
    """With the pixels around."""
    padded = np.pad(inside, 1)
    return np.logical_or.reduce([padded[1:-1, 1:-1], padded[2:, 1:-1], padded[:-2, 1:-1],
                                 padded[1:-1, 2:], padded[1:-1, :-2]])  # fmt: skip


def _shape(draw: np.random.Generator, name: str, size: int) -> np.ndarray:
    """The pixels of a shape."""
    angle = _UPRIGHT[name] + draw.uniform(-_TURN, _TURN)
    radius = draw.uniform(8.5, 11.0) * _SIZE[name]
    points = shape_corners(name, draw.uniform(10, size - 10, 2), radius, angle, 0.45)
    canvas = Image.new("1", (size, size))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in points], fill=1)
    return np.asarray(canvas).copy()


def _texture(draw: np.random.Generator, kind: int, size: int) -> np.ndarray:
    """Grey values of mean ½ and of the same deviation."""
    rows, columns = np.mgrid[:size, :size]
    angle, period = draw.uniform(0, math.pi), draw.uniform(3, 4.5)
    along = (columns * math.cos(angle) + rows * math.sin(angle)) / period + draw.uniform()
    across = (rows * math.cos(angle) - columns * math.sin(angle)) / period + draw.uniform()
    if TEXTURES[kind] == "stripes":
        value = np.sin(2 * math.pi * along)
    elif TEXTURES[kind] == "dots":
        value = np.maximum(np.cos(2 * math.pi * along) + np.cos(2 * math.pi * across), 0)
    else:
        value = draw.standard_normal((size, size))
    return np.clip(0.5 + 0.2 * (value - value.mean()) / value.std(), 0, 1)
