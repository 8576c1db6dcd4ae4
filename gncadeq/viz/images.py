"""Image files to tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor


def read_image(path: str | Path, channels: int = 1) -> Tensor:
    """Read an image file as ``[channels, H, W]`` in [0, 1]; transparency becomes black.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an image file (got {path}, which does not exist)")
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected an image file (got {path}: {error})") from error
    flat = Image.new("RGBA", image.size, (0, 0, 0, 255))
    flat.alpha_composite(image)
    array = np.asarray(flat.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    tensor = torch.from_numpy(array)
    return tensor.unsqueeze(0) if channels == 1 else tensor.permute(2, 0, 1).contiguous()


__all__ = ["read_image"]
