"""The bytes of a file: unpacked if they are compressed, and never more than memory allows."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAX_BYTES = 2 << 30
"""Files with more bytes than this, unpacked, are refused."""

_RATIO, _ROOM = 200, 64 << 20  # meshes and tables pack by a factor of 3 to 50


class Arrays(NamedTuple):
    """What a reader returns.

    Attributes:
        pos: Coordinates ``[N, 3]``, as float64.
        face: Triangles ``[F, 3]``.
        color: Colours ``[N, 3]`` in [0, 1], where the file has them.
        normal: Normals ``[N, 3]`` as the file has them, of points without faces.
        notes: What was left out, in words.
    """

    pos: np.ndarray
    face: np.ndarray
    color: np.ndarray | None = None
    normal: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def suffix_of(path: str | Path) -> str:
    """The lower-case ending that names the format, without ``.gz``.

    Example:
        >>> suffix_of("Bunny.PLY.gz")
        '.ply'
    """
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_bytes(path: str | Path, what: str) -> bytes:
    """Read a file, and unpack it if it ends in ``.gz``.

    Args:
        path: The file.
        what: What it is expected to be, with its article, for errors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, too large, or compressed and damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected {what} (got no such file: {path})")
    size = path.stat().st_size
    packed = path.suffix.lower() == ".gz"
    most = min(MAX_BYTES, max(_ROOM, _RATIO * size)) if packed else MAX_BYTES
    content = bytearray()
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            while part := file.read(1 << 20):
                content += part
                if len(content) > most:
                    raise bad(
                        path, f"at most {most:,} bytes", "more",
                        "Split the file" + (", or unpack it yourself" if packed else ""),
                    )  # fmt: skip
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise bad(path, "a whole gzip file", str(error), "Fetch it again") from error
    if not content:
        raise ValueError(f"Expected {what} (got an empty file: {path}). Write it again")
    return bytes(content)


def plain_text(content: bytes) -> bytes:
    """The text as UTF-8, without a byte order mark.

    Example:
        >>> plain_text("\ufeffv 1 2 3".encode("utf-16"))
        b'v 1 2 3'
    """
    for mark, encoding in (
        (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):  # fmt: skip
        if content.startswith(mark):
            content = content.decode(encoding, errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


class FileError(ValueError):
    """A file cannot be read; the message names it, what was expected and what to do."""


def bad(path: Path | str, expected: str, got: str, remedy: str = "Export it again") -> FileError:
    """The error for content that cannot be read."""
    return FileError(f"Expected {expected} (got {got} in {path}). {remedy}")


def cut_short(path: Path, expected: str, got: str) -> FileError:
    """The error for a file that ends before what it declares."""
    return bad(path, expected, got, "The file is cut short. Fetch or export it again")


def check_count(path: Path, count: int, most: int) -> None:
    """Refuse a file with more vertices than asked for.

    Raises:
        ValueError: If there are too many.
    """
    if count > most:
        raise bad(
            path, f"at most max_vertices={most:,} vertices", f"{count:,}",
            "Simplify the mesh, or raise max_vertices if the memory suffices",
        )  # fmt: skip


def unit_colors(color: np.ndarray, path: Path, full: float | None = None) -> np.ndarray:
    """Colours in [0, 1] of fractions or bytes.

    Args:
        color: ``[N, 3 or more]``; beyond the third column they only help to tell bytes.
        path: The file, for errors.
        full: The value that stands for 1, where the file's format says so. By default 1, or 255 if
            any value is above 1.

    Raises:
        ValueError: If a value is no finite number, negative, or above 255.

    Example:
        >>> unit_colors(np.array([[0.0, 51.0, 255.0]]), Path("a.obj")).tolist()
        [[0.0, 0.2, 1.0]]
    """
    color = np.asarray(color, dtype=np.float64)
    low, high = (color.min(), color.max()) if color.size else (0.0, 0.0)
    slack = 1e-3  # of what was computed in float32, and rounded
    if full is None:
        full = 255.0 if high > 1 + slack else 1.0
    if not (low >= -slack and high <= full * (1 + slack)):
        raise bad(
            path, f"colours from 0 to {full:g}", f"{low:g} to {high:g}", "Scale or remove them"
        )
    return (color[:, :3] / full).clip(0.0, 1.0)
