"""Image files, read and written."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gncadeq.check import check_value
from gncadeq.files.atomic import write_atomically

MOST_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""
_WORKING_PIXELS = 8_000_000  # larger ones are shrunk by a whole number
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def read_image(path: str | Path, channels: int = 1, size: int | None = None) -> Tensor:
    """Read an image file as ``[channels, H, W]`` in [0, 1], the right way up.

    Grey levels of 16 or 32 bits and floats keep their precision. What is transparent becomes white
    behind dark colours and black behind bright ones, so that what is drawn shows. Pictures of more
    than 8 million pixels are shrunk by a whole number.

    Args:
        path: The file, in any format that Pillow reads; of several frames the first is read.
        channels: 1 for grey levels, 3 for colours.
        size: Length of the longer side in pixels, to which the picture is scaled; by default its
            own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, a damaged one, or one of more than 64 million pixels.
    """
    size = check_value("size", size, int | None, least=1, most=16_384)
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"Expected an image file (got {path}, which {what})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            # From memory: a chunk that declares 4 GB reads what there is, and reserves no more.
            with Image.open(io.BytesIO(path.read_bytes())) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise ValueError(_too_large(f"{file.width} × {file.height}"))
                array = _pixels(ImageOps.exif_transpose(file))
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"Expected an image file (got {path}: {_too_large('too many')})"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError(f"Expected an image file (got {path}: {error})") from error
    if channels == 1 and array.shape[2] == 3:
        array = array @ _LUMA[:, None]
    elif channels == 3 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    if size is not None:
        shape = [max(1, round(side * size / max(tensor.shape[1:]))) for side in tensor.shape[1:]]
        tensor = F.interpolate(tensor[None], shape, mode="area")[0]
    return tensor


def _too_large(pixels: str) -> str:
    return f"{pixels} pixels, more than {MOST_PIXELS // 10**6} million. Make it smaller"


def _pixels(image: Image.Image) -> np.ndarray:
    """Pixels ``[H, W, 1 or 3]`` in [0, 1], without transparency."""
    factor = math.isqrt(max(0, image.width * image.height - 1) // _WORKING_PIXELS) + 1
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255
        level: np.ndarray = np.asarray(image).astype(np.float32)
        if not np.isfinite(level).all():
            raise ValueError("NaN or infinity among its pixels")
        low, high = float(level.min()), float(level.max())
        top = next((t for t in (1.0, 255.0, 65535.0) if high <= t), high)
        if image.mode.startswith("I"):
            top = 65535.0 if image.mode.startswith("I;16") else max(top, 255.0)
        low = min(low, 0.0)
        grey = Image.fromarray((level - low) / (top - low))
        return np.asarray(grey.reduce(factor) if factor > 1 else grey)[:, :, None]
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if clear:
        image = image.convert("RGBA")
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    if factor > 1:
        image = image.reduce(factor)
    array: np.ndarray = np.asarray(image, dtype=np.float32) / 255
    array = array if array.ndim == 3 else array[:, :, None]
    if clear:
        color, seen = array[:, :, :3], array[:, :, 3:]
        weight = float(seen.sum())
        dark = weight > 0 and float((color @ _LUMA[:, None] * seen).sum()) < 0.5 * weight
        array = color * seen + (1 - seen) * np.float32(dark)
    return array


def write_gif(
    path: str | Path,
    frames: Sequence[Image.Image],
    ms: int | Sequence[int] = 120,
    last_ms: int = 1000,
) -> Path:
    """Write pictures of one size as a GIF that starts over, atomically.

    Args:
        path: The file.
        frames: Pictures of one size, at least one.
        ms: Milliseconds that a frame is shown, for all frames or one number for each.
        last_ms: Milliseconds that the last frame is shown, where ``ms`` is for all.
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


def enlarged(picture: Tensor, scale: int) -> Image.Image:
    """Pixels ``[H, W, 3]`` in [0, 1], each as a square of ``scale`` × ``scale``."""
    image = Image.fromarray((255 * picture.clamp(0, 1)).round().byte().numpy())
    width, height = image.size
    return image.resize((scale * width, scale * height), Image.Resampling.NEAREST)


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
