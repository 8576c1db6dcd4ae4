"""Draw emoji to small RGBA pictures, targets for growing automata.

    python datasets/draw_emoji.py                       # lizard, butterfly, eye … to datasets/emoji
    python datasets/draw_emoji.py lizard 🐙 --size 40 --padding 4

The glyphs are those of Noto Color Emoji (SIL Open Font License 1.1), which Debian and Ubuntu ship
as the package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "NotoColorEmoji.ttf",  # wherever FreeType looks
)
NAMES = {
    "lizard": "🦎", "butterfly": "🦋", "eye": "👁", "fish": "🐠", "ladybug": "🐞", "pretzel": "🥨",
    "smiley": "😀", "explosion": "💥", "web": "🕸",
}  # fmt: skip
GLYPH_SIZE = 109  # the one size at which the font has bitmaps


def find_font(path: str | None = None) -> ImageFont.FreeTypeFont:
    """Open the font.

    Raises:
        FileNotFoundError: If it is nowhere to be found; the message says how to install it.
        ImportError: If Pillow was built without FreeType.
    """
    if not features.check("freetype2"):
        raise ImportError("Expected a Pillow with FreeType (got one without). pip install pillow")
    for place in (path,) if path else FONTS:
        try:
            return ImageFont.truetype(place, GLYPH_SIZE)
        except OSError:
            continue
    raise FileNotFoundError(
        f"Expected the font Noto Color Emoji (found it neither in {path or ', '.join(FONTS[:3])}). "
        "sudo apt-get install fonts-noto-color-emoji, or name the file with --font"
    )


def draw(emoji: str, size: int = 40, padding: int = 4, font: str | None = None) -> Image.Image:
    """Draw one emoji, its longer side ``size - 2 * padding`` pixels, on a transparent square.

    Args:
        emoji: A character, or a name such as ``"lizard"``.
        size: Side of the picture in pixels.
        padding: Least transparent border in pixels.
        font: The font's file, if it isn't where Debian puts it.

    Raises:
        ValueError: If the font has no such glyph, or nothing is left between the borders.
    """
    inner = size - 2 * padding
    if padding < 0 or inner < 1:
        raise ValueError(f"Expected room between the borders (got size {size}, padding {padding})")
    canvas = Image.new("RGBA", (3 * GLYPH_SIZE, 3 * GLYPH_SIZE))
    place = (GLYPH_SIZE // 2, GLYPH_SIZE // 2)
    ImageDraw.Draw(canvas).text(
        place, NAMES.get(emoji, emoji), font=find_font(font), embedded_color=True
    )
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"Expected an emoji that the font can draw, or one of {list(NAMES)} "
                         f"(got {emoji!r})")  # fmt: skip
    # Transparent pixels have no colour to average: shrink with the colours multiplied by alpha.
    glyph = canvas.crop(box).convert("RGBa")
    scale = inner / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    glyph = glyph.resize((width, height), Image.Resampling.BOX).convert("RGBA")
    picture = Image.new("RGBA", (size, size))
    picture.paste(glyph, ((size - width) // 2, (size - height) // 2))
    return picture


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", nargs="*", default=list(NAMES), help="names or characters")
    parser.add_argument("--size", type=int, default=40, help="side in pixels")
    parser.add_argument("--padding", type=int, default=4, help="least border in pixels")
    parser.add_argument("--font", help="the font's file")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "emoji")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for emoji in args.emoji:
        try:
            picture = draw(emoji, args.size, args.padding, args.font)
        except (OSError, ImportError, ValueError) as error:
            parser.exit(1, f"Error: {error}\n")
        name = emoji if emoji in NAMES else "_".join(f"{ord(c):x}" for c in emoji)
        path = args.out / f"{name}.png"
        picture.save(path)
        share = float((np.asarray(picture)[..., 3] > 0).mean())
        print(f"{path}: {args.size} x {args.size}, {share:.0%} of the pixels not transparent")


if __name__ == "__main__":
    main()
