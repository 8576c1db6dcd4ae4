"""Colour bars, captions, and pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gncadeq.viz.colors import ColorScale, color_table

TEXT = "#333333"
"""The colour of text in all pictures."""
_ON_DARK = "#cccccc"
_PAGE = 800  # pixels: the width at which a picture is read
_CAPTION = 13  # pixels, the height of captions at that width
_GAP = 4


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, which is that of matplotlib's figures, so many pixels high."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def color_bar(scale: ColorScale, height: int) -> Image.Image:
    """The bar of a scalar's colours, with its least, middle and greatest value.

    Example:
        >>> color_bar(ColorScale("scalar", 0.0, 1.0), 200).height
        200
    """
    size = max(10, height // 28)
    letters = font(size)
    middle = (scale.low + scale.high) / 2
    if abs(middle) < 1e-6 * (scale.high - scale.low):
        middle = 0.0
    texts = [f"{value:.3g}" for value in (scale.high, middle, scale.low)]
    text_width = max(int(letters.getlength(text)) for text in texts) + size
    thick, length = max(6, height // 36), max(2, int(0.7 * height))
    top, left = (height - length) // 2, size // 2
    bar = Image.new("RGBA", (left + thick + 2 * (size // 2) + text_width, height), (0, 0, 0, 0))
    table = (color_table(scale.colormap).numpy() * 255).round().astype(np.uint8)
    column = table[np.linspace(255, 0, length).round().astype(int)]
    bar.paste(Image.fromarray(np.repeat(column[:, None], thick, axis=1)), (left, top))
    draw = ImageDraw.Draw(bar)
    for text, y in zip(texts, (top, top + length / 2, top + length), strict=True):
        draw.text((left + thick + size // 2, y), text, fill=TEXT, font=letters, anchor="lm")
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
    """Pictures of one size in rows, each with its caption above, as titles of figures are.

    The sheet has the colour of the pictures' corners, or is white where they differ. Captions are
    13 pixels high on a page of 800 pixels, or less if one were wider than its picture.

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
    across = columns * (width + _GAP) - _GAP
    size = round(_CAPTION * max(1.0, across / _PAGE))
    longest = max((font(size).getlength(text) for text in captions or ()), default=0.0)
    size = max(8, min(size, int(size * width / longest))) if longest else size
    above = round(1.6 * size) if captions else 0
    paper = _paper(pictures)
    sheet = Image.new(
        pictures[0].mode, (across, rows * (height + above + _GAP) - _GAP),
        (0, 0, 0, 0) if pictures[0].mode == "RGBA" else paper,
    )  # fmt: skip
    ink = TEXT if sum(paper) > 382 else _ON_DARK
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = i % columns * (width + _GAP), i // columns * (height + above + _GAP)
        sheet.paste(picture, (x, y + above))
        if captions:
            draw.text((x + width / 2, y + above / 2), captions[i], fill=ink, font=font(size),
                      anchor="mm")  # fmt: skip
    return sheet


def _paper(pictures: Sequence[Image.Image]) -> tuple[int, ...]:
    """The colour between pictures."""
    corners = {tuple(p.convert("RGBA").crop((0, 0, 1, 1)).tobytes()) for p in pictures}
    color = corners.pop()
    return (255, 255, 255) if corners or color[3] < 255 else color[:3]
