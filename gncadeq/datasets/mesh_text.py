"""OBJ and OFF, read line by line so that vertices keep their number and order.

Common readers drop, split or renumber the vertices of these two formats (at texture seams, between
objects, where polygons are mixed), and node ``i`` of the graph has to be vertex ``i`` of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

Arrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Positions ``[N, 3]``, triangles ``[F, 3]`` and, where the file has them, colours ``[N, 3]``."""


def read_obj(path: Path, max_vertices: int) -> Arrays:
    """Positions, triangles and colours of an OBJ file; its normals and textures are not read.

    Raises:
        ValueError: If a line cannot be read, or if there are more than ``max_vertices`` vertices.
    """
    vertices: list[list[str]] = []
    polygons: list[list[int]] = []
    for number, line in _lines(path):
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append(rest.split())
            if len(vertices) > max_vertices:
                raise too_many(path, f"more than {max_vertices:,}", max_vertices)
        elif word == "f":
            try:
                corners = [int(corner.partition("/")[0]) for corner in rest.split()]
            except ValueError as error:
                raise _bad_line(path, number, "'f' and vertex numbers", line) from error
            if 0 in corners:
                raise _bad_line(path, number, "vertex numbers from 1 on", line)
            # Negative numbers count back from the last vertex read so far.
            polygons.append([c - 1 if c > 0 else len(vertices) + c for c in corners])
    pos, color = _columns(path, vertices)
    return pos, fan(polygons), color


def read_off(path: Path, max_vertices: int) -> Arrays:
    """Positions, triangles and colours of an OFF or COFF file.

    Raises:
        ValueError: If it is no such file, is cut short, or has too many vertices.
    """
    lines = _lines(path)
    _, header = next(lines, (0, ""))
    keyword, _, rest = header.partition(" ")
    if keyword not in ("OFF", "COFF"):
        raise ValueError(
            f"Expected a file that starts with OFF or COFF (got {header[:20]!r} in {path}). Save "
            "it as PLY"
        )
    counts = rest.split() or next(lines, (0, ""))[1].split()
    try:
        num_vertices, num_faces = int(counts[0]), int(counts[1])
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"Expected the numbers of vertices and faces after {keyword} (got {counts} in {path})"
        ) from error
    if num_vertices > max_vertices:
        raise too_many(path, f"{num_vertices:,}", max_vertices)
    vertices = [line.split() for _, (_, line) in zip(range(num_vertices), lines, strict=False)]
    polygons = []
    for _, (number, line) in zip(range(num_faces), lines, strict=False):
        try:
            size, *corners = [int(c) for c in line.split()[: int(line.split()[0]) + 1]]
        except ValueError as error:
            raise _bad_line(path, number, "a count and vertex numbers", line) from error
        if len(corners) != size:
            raise _bad_line(path, number, f"{size} vertex numbers", line)
        polygons.append(corners)
    if len(vertices) != num_vertices or len(polygons) != num_faces:
        raise ValueError(
            f"Expected {num_vertices} vertices and {num_faces} faces, as its header says (got "
            f"{len(vertices)} and {len(polygons)} in {path}). The file is cut short"
        )
    pos, color = _columns(path, vertices)
    if keyword == "OFF" and color is not None:
        raise ValueError(
            f"Expected three coordinates a vertex after OFF (got more in {path}). Colours need COFF"
        )
    return pos, fan(polygons), color


def fan(polygons: list[list[int]]) -> np.ndarray:
    """Cut convex polygons into triangles ``[F, 3]``, from each one's first corner.

    Example:
        >>> fan([[0, 1, 2, 3], [4, 5]]).tolist()
        [[0, 1, 2], [0, 2, 3]]
    """
    triangles = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def too_many(path: Path, count: str, max_vertices: int) -> ValueError:
    """The error for a file with more vertices than asked for."""
    return ValueError(
        f"Expected at most max_vertices={max_vertices:,} vertices (got {count} in {path}). "
        "Simplify the mesh, or raise max_vertices if the memory suffices"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with words one space apart: no comment, no empty line."""
    begun = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, raw in enumerate(file, 1):
            line = begun + " ".join(raw.partition("#")[0].split())
            begun = line[:-1] + " " if line.endswith("\\") else ""
            if line and not begun:
                yield number, line


def _columns(path: Path, vertices: list[list[str]]) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates and, from six or seven columns, colours: floats in [0, 1], or bytes."""
    widths = {len(v) for v in vertices}
    try:
        if min(widths, default=3) < 3:
            raise ValueError("fewer than three coordinates")
        pos = np.array([v[:3] for v in vertices], dtype=np.float64).reshape(-1, 3)
        if max(widths, default=0) < 6:
            return pos, None  # a fourth number is a weight
        grey = ["1", "1", "1"]  # of a vertex without a colour among others that have one
        words = [v[3:6] if len(v) >= 6 else grey for v in vertices]
        color = np.array(words, dtype=np.float64).reshape(-1, 3)
    except ValueError as error:
        raise ValueError(f"Expected three numbers a vertex (got {error} in {path})") from error
    bytes_written = all(word.isdigit() for row in words if row is not grey for word in row)
    if bytes_written and color.max() > 1:
        color[[row is not grey for row in words]] /= 255
    return pos, color


def _bad_line(path: Path, number: int, expected: str, line: str) -> ValueError:
    return ValueError(f"Expected {expected} (got {line[:60]!r} in line {number} of {path})")


__all__ = ["Arrays", "fan", "read_obj", "read_off", "too_many"]
