"""Digits in a picture, each brought to the size and stroke of the digits that a model knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when they are used
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_count, check_number
from gncadeq.transforms.image import check_image
from gncadeq.transforms.ink import find_ink

_SMALL = 112  # smaller pictures are enlarged first, so that strokes are some pixels wide
_FINE = 80  # a digit's side while its strokes are worked on, at least
_SHARPEN = 4.0  # opens the holes of digits that are blurred or drawn with few pixels
_MOST = 500  # digits a picture
_EIGHT = np.ones((3, 3), bool)  # pixels that share a corner touch

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class FoundDigit:
    """A digit that was found in a picture.

    Attributes:
        image: ``[1, canvas, canvas]`` in [0, 1], bright on black, as the model knows digits.
        box: Left, top, right and bottom in pixels of the picture; right and bottom are exclusive.
        stroke: The width of its strokes in the picture, relative to the digit's longer side.
        dark: Whether it is darker than its paper.
    """

    image: Tensor
    box: Box
    stroke: float
    dark: bool


class FindDigits(BaseTransform):  # type: ignore[misc]
    """Find the digits of a picture, and make of each an image like those of MNIST.

    The ink is what stands out from the paper, dark or bright, whatever the colours and the light;
    its parts are grouped into digits. Each digit is cropped, sharpened, thinned or thickened
    towards one width of stroke, scaled so that its longer side is ``size`` pixels, and placed with
    its centre of mass in the middle of a square canvas, as MNIST was made (`LeCun et al., 1998
    <https://doi.org/10.1109/5.726791>`_), but for the stroke. Digits that touch are not separated.

    Args:
        size: The longer side of a digit, in pixels.
        canvas: The side of the images, in pixels.
        stroke: The width of the strokes, in pixels of the images, as :func:`stroke_width` measures
            it.

    Returns (when called with an image ``[C, H, W]`` in [0, 1]):
        The digits in reading order, a list of :class:`FoundDigit`.

    Raises:
        TypeError: If the image is no tensor or array, or of an unknown dtype.
        ValueError: If its rank or range is wrong, if it holds NaN, or if nothing stands out.

    Example:
        >>> picture = torch.ones(1, 120, 200)  # white paper
        >>> picture[:, 20:90, 30:38] = 0.2  # two dark bars
        >>> picture[:, 20:90, 140:148] = 0.2
        >>> [digit.box for digit in FindDigits()(picture)]
        [(30, 20, 38, 90), (140, 20, 148, 90)]
    """

    def __init__(self, size: int = 20, canvas: int = 28, stroke: float = 2.4) -> None:
        self.size = check_count("size", size, least=2)
        self.canvas = check_count("canvas", canvas, least=size)
        self.stroke = check_number("stroke", stroke, above=0, most=size)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> FindDigits:
        """The transform for weights whose card states the digits that they were trained on.

        Raises:
            ValueError: If the card doesn't.

        Example:
            >>> from gncadeq.models import PixelGraphClassifier
            >>> FindDigits.from_card(PixelGraphClassifier.from_pretrained("mnist").card)
            FindDigits(size=20, canvas=28, stroke=2.37)
        """
        known = card.get("inputs", {})
        if not known.get("drawn"):
            raise ValueError(
                "Expected weights whose card states that they were trained on ink, and its size "
                f"and stroke (got a card with {sorted(known) or 'nothing'} under 'inputs'). Use "
                "gncadeq.training.describe.describe_inputs, or FindDigits(size, canvas, stroke)"
            )
        return cls(known["size"], known["canvas"], known["stroke_median"])

    def forward(self, image: Tensor | np.ndarray) -> list[FoundDigit]:
        """Find the digits of ``image``."""
        array = check_image(image).detach().cpu().float().numpy()
        height, width = array.shape[1:]
        strength, ink, dark = find_ink(_enlarge(_undo_repetition(array)))
        groups, number = _group(ink)
        if number == 0:
            raise ValueError(
                "Expected a picture with a digit (nothing stands out from the paper). Use a "
                "sharper picture with more contrast"
            )
        if number > _MOST:
            raise ValueError(
                f"Expected a picture with at most {_MOST} digits (got {number} pieces that might "
                "be one). Crop it, or use a picture with even paper"
            )
        down, across = height / ink.shape[0], width / ink.shape[1]
        found = []
        for k, (rows, cols) in enumerate(scipy.ndimage.find_objects(groups), 1):
            digit, stroke = self._normalize(strength, groups, k, rows, cols)
            box = (
                round(cols.start * across), round(rows.start * down),
                max(round(cols.stop * across), round(cols.start * across) + 1),
                max(round(rows.stop * down), round(rows.start * down) + 1),
            )  # fmt: skip
            found.append(FoundDigit(torch.from_numpy(digit)[None], box, stroke, dark))
        return _reading_order(found)

    __call__ = forward

    def _normalize(
        self, strength: np.ndarray, groups: np.ndarray, number: int, rows: slice, cols: slice
    ) -> tuple[np.ndarray, float]:
        """One digit as an image ``[canvas, canvas]``, and its relative stroke before."""
        fine = -(-_FINE // self.size)
        side = max(rows.stop - rows.start, cols.stop - cols.start)
        edge = max(1, round(0.02 * side))  # soft edges reach beyond the ink
        rows = slice(max(0, rows.start - edge), rows.stop + edge)
        cols = slice(max(0, cols.start - edge), cols.stop + edge)
        own = groups[rows, cols] == number
        near = scipy.ndimage.binary_dilation(own, _EIGHT, edge) & (own | (groups[rows, cols] == 0))
        value = strength[rows, cols] / np.quantile(strength[rows, cols][own], 0.9)
        value = np.pad(_fit(np.clip(value, 0, 1) * near, own, self.size * fine), 3 * fine)
        stroke = stroke_width(value) / (self.size * fine)
        blurred = scipy.ndimage.gaussian_filter(value, self.stroke * fine)
        shape = (value + _SHARPEN * (value - blurred) > 0.5) & (value > 0.2)
        shape = _without_specks(shape if shape.any() else value > 0.5)
        depth = _depth(np.pad(shape, self.size * fine // 4))
        image = self._at_depth(depth, 0.0, fine)
        # One correction: what is far from the stroke that it should have stays part of the way.
        excess = (stroke_width(image) - self.stroke) / 2 * fine
        excess = min(excess, float(depth.max()) - 1.0)  # what is thinned away is lost
        return self._at_depth(depth, excess, fine), stroke

    def _at_depth(self, depth: np.ndarray, level: float, fine: int) -> np.ndarray:
        """What lies deeper than ``level`` within a shape, scaled and placed."""
        outline = np.clip(depth - level + 0.5, 0, 1)
        return self._place(_fit(outline, depth > level, self.size * fine), fine)

    def _place(self, value: np.ndarray, fine: int) -> np.ndarray:
        """Shrink by ``fine``, and put the centre of mass into the canvas's middle."""
        h, w = (-(-n // fine) for n in value.shape)
        down, across = ((n * fine - m) // 2 for n, m in zip((h, w), value.shape, strict=True))
        padded = np.zeros((h * fine, w * fine), np.float32)
        padded[down : down + value.shape[0], across : across + value.shape[1]] = value
        small = padded.reshape(h, fine, w, fine).mean(axis=(1, 3))
        middle = scipy.ndimage.center_of_mass(small)
        top, left = (
            int(np.clip(round(self.canvas / 2 - 0.5 - m), 0, self.canvas - n))
            for m, n in zip(middle, small.shape, strict=True)
        )
        image = np.zeros((self.canvas, self.canvas), np.float32)
        image[top : top + h, left : left + w] = small
        return image

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(size={self.size}, canvas={self.canvas}, "
            f"stroke={self.stroke:.3g})"
        )


def stroke_width(image: Tensor | np.ndarray) -> float:
    r"""The mean width of strokes ``[H, W]`` in [0, 1], in pixels.

    .. math::
        w = 2 \, \frac{\sum_i x_i}{\sum_i \lVert \nabla x_i \rVert},

    twice the area over the length of the outline (the total variation), whether edges are soft
    or hard.

    Example:
        >>> image = torch.zeros(100, 20)
        >>> image[5:95, 8:11] = 1
        >>> round(stroke_width(image), 1)
        2.9
    """
    value = np.pad(np.asarray(image, dtype=np.float64), 1)
    across, down = value[1:, 1:] - value[1:, :-1], value[1:, 1:] - value[:-1, 1:]
    outline = float(np.hypot(across, down).sum())
    return 2 * float(value.sum()) / outline if outline else 0.0


def _undo_repetition(image: np.ndarray) -> np.ndarray:
    """Pictures enlarged by repeating each pixel are brought back to their own pixels."""
    changes = [
        np.flatnonzero((np.diff(image, axis=k) != 0).any(axis=(0, 3 - k))) + 1 for k in (1, 2)
    ]
    if not all(len(c) for c in changes):
        return image
    period = int(np.gcd.reduce(np.concatenate([np.diff(c) for c in changes])))
    if period < 2:
        return image
    for axis, change in enumerate(changes, 1):
        start = int(change[0]) % period
        inner = np.arange(start, image.shape[axis], period)
        image = np.take(image, inner if start == 0 else np.r_[0, inner], axis)
    return image


def _enlarge(image: np.ndarray) -> np.ndarray:
    factor = -(-_SMALL // max(image.shape[1:]))
    if factor == 1:
        return image
    large = scipy.ndimage.zoom(image, (1, factor, factor), mode="nearest", grid_mode=True)
    clipped: np.ndarray = np.clip(large, 0, 1)
    return clipped


def _group(ink: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the digits: pieces of ink, the small ones with the digit that they are near to."""
    label, count = scipy.ndimage.label(ink, _EIGHT)
    if count == 0:
        return label, 0
    boxes = np.array(
        [(r.start, c.start, r.stop, c.stop) for r, c in scipy.ndimage.find_objects(label)]
    )
    area = np.bincount(label.ravel(), minlength=count + 1)[1:]
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-area, kind="stable")
    largest = int(side[order[0]])
    owner = np.zeros(count + 1, label.dtype)
    groups: list[np.ndarray] = []
    for k in order:
        if area[k] < 0.002 * area[order[0]]:
            break
        near = [g for g, box in enumerate(groups) if _belongs(boxes[k], box, largest)]
        if near:
            g = near[0]
            groups[g] = np.r_[
                np.minimum(groups[g][:2], boxes[k][:2]), np.maximum(groups[g][2:], boxes[k][2:])
            ]
            owner[k + 1] = g + 1
        elif side[k] >= 0.4 * largest:
            groups.append(boxes[k])
            owner[k + 1] = len(groups)
    return owner[label], len(groups)


def _belongs(piece: np.ndarray, digit: np.ndarray, largest: int) -> bool:
    """Whether a piece is part of a digit: right above, below or inside it."""
    gap = np.maximum(piece[:2], digit[:2]) - np.minimum(piece[2:], digit[2:])
    down, across = (int(g) for g in gap)  # negative where they overlap
    width = min(piece[3] - piece[1], digit[3] - digit[1])
    return down <= 0.1 * largest and across <= -0.5 * width


def _without_specks(shape: np.ndarray) -> np.ndarray:
    label, _ = scipy.ndimage.label(shape, _EIGHT)
    area = np.bincount(label.ravel())
    area[0] = 0
    large: np.ndarray = (area >= 0.03 * area.max())[label]
    return large


def _depth(shape: np.ndarray) -> np.ndarray:
    """The distance from the outline, positive within the shape."""
    inside, outside = (scipy.ndimage.distance_transform_edt(s) for s in (shape, ~shape))
    depth: np.ndarray = (inside - outside).astype(np.float32)
    return depth


def _fit(value: np.ndarray, shape: np.ndarray, side: int) -> np.ndarray:
    """Crop to the shape's box, and scale the longer side to ``side``."""
    rows, cols = (np.flatnonzero(shape.any(axis=k)) for k in (1, 0))
    crop = value[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    size = [max(1, round(n * side / max(crop.shape))) for n in crop.shape]
    tensor = torch.from_numpy(np.ascontiguousarray(crop, np.float32))[None, None]
    scaled = F.interpolate(tensor, size, mode="bicubic", antialias=True)
    fitted: np.ndarray = scaled[0, 0].clamp(0, 1).numpy()
    return fitted


def _reading_order(found: list[FoundDigit]) -> list[FoundDigit]:
    """From left to right, line after line."""
    lines: list[list[FoundDigit]] = []
    for digit in sorted(found, key=lambda d: d.box[1]):
        middle = (digit.box[1] + digit.box[3]) / 2
        line = next((x for x in lines if x[0].box[1] <= middle < x[0].box[3]), None)
        lines.append([digit]) if line is None else line.append(digit)
    return [d for line in lines for d in sorted(line, key=lambda d: d.box[0])]
