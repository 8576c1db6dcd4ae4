"""Small pictures drawn for this project: ellipses, polygons and thick lines in a unit square."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from gncadeq.check import check_choice, check_count

_RED, _ORANGE, _YELLOW, _GREEN = "#d8343c", "#ef8a2b", "#f7d13d", "#3f9d4f"
_BLUE, _SKY, _VIOLET, _PINK = "#2f6fc4", "#7cc3ee", "#8a52b5", "#f08fb3"
_BROWN, _DARK, _WHITE = "#8b5a33", "#2a2a33", "#f7f4ec"


def _star(points: int, inner: float, outer: float = 0.44) -> tuple[float, ...]:
    """Corners of a star around the middle, one of them up."""
    angle = [math.pi * k / points for k in range(2 * points)]
    radius = [outer, inner] * points
    return tuple(
        c
        for a, r in zip(angle, radius, strict=True)
        for c in (0.5 + r * math.sin(a), 0.5 - r * math.cos(a))
    )


Shape = tuple[str, str, tuple[float, ...]]
PICTURES: dict[str, list[Shape]] = {
    "heart": [
        ("ellipse", _RED, (0.08, 0.12, 0.54, 0.58)),
        ("ellipse", _RED, (0.46, 0.12, 0.92, 0.58)),
        ("polygon", _RED, (0.12, 0.46, 0.5, 0.92, 0.88, 0.46, 0.5, 0.3)),
        ("ellipse", _PINK, (0.18, 0.2, 0.34, 0.36)),
    ],
    "star": [("polygon", _YELLOW, _star(5, 0.19)), ("ellipse", _ORANGE, (0.4, 0.4, 0.6, 0.6))],
    "mushroom": [
        ("ellipse", _WHITE, (0.34, 0.42, 0.66, 0.94)),
        ("pieslice", _RED, (0.08, 0.08, 0.92, 0.98, 180, 360)),
        ("ellipse", _WHITE, (0.2, 0.3, 0.38, 0.48)),
        ("ellipse", _WHITE, (0.48, 0.16, 0.64, 0.32)),
        ("ellipse", _WHITE, (0.68, 0.36, 0.82, 0.5)),
    ],
    "tree": [
        ("polygon", _BROWN, (0.43, 0.7, 0.57, 0.7, 0.57, 0.94, 0.43, 0.94)),
        ("polygon", _GREEN, (0.5, 0.34, 0.86, 0.78, 0.14, 0.78)),
        ("polygon", _GREEN, (0.5, 0.06, 0.76, 0.46, 0.24, 0.46)),
        ("ellipse", _RED, (0.38, 0.56, 0.48, 0.66)),
        ("ellipse", _YELLOW, (0.54, 0.3, 0.62, 0.38)),
    ],
    "fish": [
        ("polygon", _BLUE, (0.66, 0.5, 0.94, 0.24, 0.94, 0.76)),
        ("ellipse", _ORANGE, (0.08, 0.24, 0.76, 0.76)),
        ("polygon", _WHITE, (0.4, 0.25, 0.5, 0.25, 0.5, 0.75, 0.4, 0.75)),
        ("ellipse", _DARK, (0.18, 0.38, 0.28, 0.48)),
    ],
    "house": [
        ("polygon", _WHITE, (0.18, 0.46, 0.82, 0.46, 0.82, 0.92, 0.18, 0.92)),
        ("polygon", _VIOLET, (0.5, 0.08, 0.94, 0.5, 0.06, 0.5)),
        ("polygon", _BROWN, (0.42, 0.62, 0.58, 0.62, 0.58, 0.92, 0.42, 0.92)),
        ("polygon", _SKY, (0.64, 0.58, 0.76, 0.58, 0.76, 0.72, 0.64, 0.72)),
    ],
    "flower": [
        ("line", _GREEN, (0.5, 0.5, 0.5, 0.94, 0.07)),
        *[
            ("ellipse", _PINK, (x - 0.15, y - 0.15, x + 0.15, y + 0.15))
            for x, y in ((0.5, 0.2), (0.72, 0.34), (0.64, 0.58), (0.36, 0.58), (0.28, 0.34))
        ],
        ("ellipse", _YELLOW, (0.39, 0.3, 0.61, 0.52)),
    ],
    "owl": [
        ("ellipse", _BROWN, (0.18, 0.12, 0.82, 0.94)),
        ("ellipse", _WHITE, (0.22, 0.2, 0.5, 0.48)),
        ("ellipse", _WHITE, (0.5, 0.2, 0.78, 0.48)),
        ("ellipse", _DARK, (0.31, 0.29, 0.43, 0.41)),
        ("ellipse", _DARK, (0.57, 0.29, 0.69, 0.41)),
        ("polygon", _ORANGE, (0.44, 0.44, 0.56, 0.44, 0.5, 0.56)),
    ],
    # Not trained on by examples that fit unseen ones:
    "sun": [("polygon", _ORANGE, _star(9, 0.32, 0.46)), ("ellipse", _YELLOW, (0.2, 0.2, 0.8, 0.8))],
    "apple": [
        ("ellipse", _GREEN, (0.12, 0.24, 0.88, 0.94)),
        ("line", _BROWN, (0.5, 0.3, 0.56, 0.08, 0.06)),
        ("ellipse", _WHITE, (0.24, 0.36, 0.38, 0.52)),
    ],
}


def small_picture(name: str, size: int = 24) -> Tensor:
    """A picture ``[4, size, size]`` in [0, 1], its colours multiplied by alpha.

    Args:
        name: A name of :data:`PICTURES`.
        size: Side in pixels, at least 8.

    Raises:
        ValueError: If the name is unknown, or the size too small.

    Example:
        >>> small_picture("star", 8)[:, 4, 4].round(decimals=1)
        tensor([0.9000, 0.7000, 0.2000, 1.0000])
    """
    check_choice("name", name, PICTURES)
    side = 8 * check_count("size", size, 8)
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    for shape, color, place in PICTURES[name]:
        at = [side * c for c in place[:4]]
        if shape == "pieslice":
            draw.pieslice(at, *place[4:], fill=color)
        elif shape == "line":
            draw.line(at, color, round(side * place[4]))
        else:
            getattr(draw, shape)([side * c for c in place], fill=color)
    small = image.convert("RGBa").resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()
