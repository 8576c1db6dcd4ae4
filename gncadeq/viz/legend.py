"""Colour bars, captions, and pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gncadeq.viz.colors import ColorScale, color_table

_TEXT = "#555555"
_GAP = 4


def color_bar(scale: ColorScale, height: int) -> Image.Image:
    """The bar of a scalar's colours, with its least, middle and greatest value.

    Example:
        >>> color_bar(ColorScale("scalar", 0.0, 1.0), 200).height
        200
    """
    size = max(10, height // 28)
    font = ImageFont.load_default(size)
    middle = (scale.low + scale.high) / 2
    if abs(middle) < 1e-6 * (scale.high - scale.low):
        middle = 0.0
    texts = [f"{value:.3g}" for value in (scale.high, middle, scale.low)]
    text_width = max(int(font.getlength(text)) for text in texts) + size
    thick, length = max(6, height // 36), max(2, int(0.7 * height))
    top, left = (height - length) // 2, size // 2
    bar = Image.new("RGBA", (left + thick + 2 * (size // 2) + text_width, height), (0, 0, 0, 0))
    table = (color_table(scale.colormap).numpy() * 255).round().astype(np.uint8)
    column = table[np.linspace(255, 0, length).round().astype(int)]
    bar.paste(Image.fromarray(np.repeat(column[:, None], thick, axis=1)), (left, top))
    draw = ImageDraw.Draw(bar)
    for text, y in zip(texts, (top, top + length / 2, top + length), strict=True):
        draw.text((left + thick + size // 2, y), text, fill=_TEXT, font=font, anchor="lm")
    return bar


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, on the colour of the first one's corner."""
    width, height = sum(p.width for p in pictures), max(p.height for p in pictures)
    row = pictures[0].convert("RGBA").crop((0, 0, 1, 1)).resize((width, height))
    x = 0
    for picture in pictures:
        row.alpha_composite(picture.convert("RGBA"), (x, 0))
        x += picture.width
    return row.convert(pictures[0].mode)


def tile(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Pictures of one size in rows, with captions below.

    Raises:
        ValueError: If there are none, if their sizes differ, or if captions are missing.
    """
    if not pictures or len({(p.size, p.mode) for p in pictures}) != 1:
        raise ValueError(
            "Expected pictures of one size and mode "
            f"(got {sorted({(*p.size, p.mode) for p in pictures})})"
        )
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(
            f"Expected a caption for each of {len(pictures)} pictures (got {len(captions)})"
        )
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    size = max(10, min(width, height) // 16)
    below = round(1.7 * size) if captions else 0
    corner = pictures[0].getpixel((0, 0))
    sheet = Image.new(
        pictures[0].mode,
        (columns * (width + _GAP) - _GAP, rows * (height + below + _GAP) - _GAP),
        (0, 0, 0, 0) if pictures[0].mode == "RGBA" else corner,
    )
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = i % columns * (width + _GAP), i // columns * (height + below + _GAP)
        sheet.paste(picture, (x, y))
        if captions:
            draw.text((x + width / 2, y + height + below / 2), captions[i], fill=_TEXT,
                      font=ImageFont.load_default(size), anchor="mm")  # fmt: skip
    return sheet
