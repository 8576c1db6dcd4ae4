"""Image files, read and written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gncadeq.files.atomic import write_atomically


def read_image(path: str | Path, channels: int = 1, size: int | None = None) -> Tensor:
    """Read an image file as ``[channels, H, W]`` in [0, 1]; transparency becomes black.

    Args:
        path: The file, in any format that Pillow reads.
        channels: 1 for grey levels, 3 for colours.
        size: Length of the longer side in pixels, to which the picture is scaled; by default its
            own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"Expected an image file (got {path}, which {what})")
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected an image file (got {path}: {error})") from error
    flat = Image.new("RGBA", image.size, (0, 0, 0, 255))
    flat.alpha_composite(image)
    if size is not None:
        width, height = (max(1, round(side * size / max(flat.size))) for side in flat.size)
        flat = flat.resize((width, height), Image.Resampling.BOX)
    array = np.asarray(flat.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    tensor = torch.from_numpy(array)
    return tensor.unsqueeze(0) if channels == 1 else tensor.permute(2, 0, 1).contiguous()


def write_gif(
    path: str | Path,
    frames: Sequence[Image.Image],
    ms: int | Sequence[int] = 120,
    last_ms: int = 1000,
) -> Path:
    """Write a GIF that starts over, atomically.

    Args:
        path: The file.
        frames: Pictures of one size.
        ms: Milliseconds that a frame is shown, for all frames or one number for each.
        last_ms: Milliseconds that the last frame is shown, where ``ms`` is for all.

    Raises:
        ValueError: If there are no frames.
    """
    if not frames:
        raise ValueError("Expected frames to write (got none)")
    pauses = [ms] * (len(frames) - 1) + [last_ms] if isinstance(ms, int) else list(ms)
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], loop=0, duration=pauses
    )
    write_atomically(path, buffer.getvalue())
    return Path(path)


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


__all__ = ["png", "read_image", "write_gif"]
