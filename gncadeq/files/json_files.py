"""JSON that every reader takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gncadeq.files.atomic import write_atomically


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become text.

    Example:
        >>> plain({"residual": float("inf"), "steps": (1, 2)})
        {'residual': 'inf', 'steps': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def to_json(value: Any) -> str:
    """A value as JSON; NaN and infinities become text."""
    return json.dumps(plain(value), indent=2, allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, atomically; NaN and infinities become text.

    Raises:
        OSError: If the file can't be written.
    """
    write_atomically(path, f"{to_json(value)}\n".encode())
