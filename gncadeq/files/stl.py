"""STL, binary and text: three vertices for every triangle."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from gncadeq.files.content import Arrays, bad, check_count, cut_short, plain_text
from gncadeq.files.text import Words, bad_line, numbered_lines, table

_HEAD = 84
_FACET = np.dtype([("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, three vertices for each triangle; STL has no vertex colours.

    Raises:
        ValueError: If it cannot be read, is cut short, or has too many vertices.
    """
    size = len(content)
    declared = struct.unpack_from("<I", content, 80)[0] if size >= _HEAD else 0
    needed = _HEAD + declared * _FACET.itemsize
    text = plain_text(content)
    # Many binary files begin with "solid", too: the text form has its facets right behind.
    written = text.lstrip()[:5].lower() == b"solid" and (
        size < _HEAD or b"facet" in text[:4096].lower() or b"endsolid" in text[:4096].lower()
    )
    if size == needed or not written:
        if size < needed or size < _HEAD:
            raise bad(
                path, f"an STL file of {needed:,} bytes, or one that starts with 'solid'",
                f"{size:,} bytes", "The file is cut short, or no STL",
            )  # fmt: skip
        check_count(path, 3 * declared, max_vertices)
        corner = np.frombuffer(content, _FACET, declared, _HEAD)["corner"].astype(np.float64)
        left = size - needed
        notes = (f"bytes behind the last triangle: {left:,}",) if left else ()
    else:
        corner, notes = _corners(text, path, max_vertices), ()
    pos = corner.reshape(-1, 3)
    return Arrays(pos, np.arange(len(pos)).reshape(-1, 3), notes=notes)


def _corners(text: bytes, path: Path, max_vertices: int) -> np.ndarray:
    numbers, rows = numbered_lines(text, comment=b"\0")
    found: list[Words] = []
    lines: list[int] = []
    ended, loop = False, 0
    for number, words in zip(numbers, rows, strict=True):
        word = words[0].lower()
        if word == b"vertex":
            found.append(words[1:])
            lines.append(number)
            if len(words) != 4:
                raise bad_line(path, number, "'vertex' and three numbers", words)
            if len(found) > max_vertices:
                check_count(path, len(found), max_vertices)
        elif word == b"endloop":
            if len(found) - loop != 3:
                raise bad(
                    path, "three vertices a loop",
                    f"{len(found) - loop} before line {number}", "Triangulate the mesh",
                )  # fmt: skip
            loop = len(found)
        elif word in (b"solid", b"endsolid"):
            ended = word == b"endsolid"
    if not ended or loop != len(found):
        raise cut_short(path, "'endsolid' after the last triangle", "none")
    return table(path, found, lines, "'vertex' and three numbers")
