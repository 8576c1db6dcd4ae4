"""Wavefront OBJ: vertices with colours, and polygons."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from gncadeq.files.content import Arrays, check_count, plain_text, unit_colors
from gncadeq.files.polygons import triangulate
from gncadeq.files.text import bad_line, block, table

_LEFT_OUT = {
    b"l": "lines", b"p": "points", b"surf": "free-form surfaces", b"curv": "free-form curves",
    b"call": "calls of other files",
}  # fmt: skip


def read_obj(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, triangles and colours of an OBJ file; its normals and textures are not read.

    Raises:
        ValueError: If a line cannot be read, or if there are more than ``max_vertices`` vertices.
    """
    vertices: list[bytes] = []
    faces: list[bytes] = []
    vertex_line, face_line, seen = [], [], []
    left_out: Counter[str] = Counter()
    begun = b""
    # The empty line at the end finishes one that is continued, and never ended.
    for number, line in enumerate([*plain_text(content).splitlines(), b""], 1):
        if b"#" in line:
            line = line.partition(b"#")[0]
        if begun:
            line, begun = begun + line, b""
        if line.endswith((b"\\", b" ", b"\t")):
            line = line.rstrip()
            if line.endswith(b"\\"):
                begun = line[:-1] + b" "
                continue
        word, _, rest = line.partition(b" ")
        if word not in (b"v", b"f") and line:  # other spaces, or other statements
            word, rest = (*line.split(None, 1), b"", b"")[:2]
        if word == b"v":
            vertices.append(rest)
            vertex_line.append(number)
            if len(vertices) > max_vertices:
                check_count(path, len(vertices), max_vertices)
        elif word in (b"f", b"fo"):
            faces.append(rest)
            face_line.append(number)
            seen.append(len(vertices))
        elif word in _LEFT_OUT:
            left_out[_LEFT_OUT[word]] += 1
    pos, color = _vertices(path, vertices, vertex_line)
    corner, size = _corners(path, faces, face_line)
    # Negative numbers count back from the last vertex read so far.
    corner = np.where(corner > 0, corner - 1, corner + np.repeat(np.array(seen, int), size))
    face, small = triangulate(pos, corner, size, path)
    if small:
        left_out["faces of fewer than three corners"] = small
    notes = tuple(f"{name}: {count:,}" for name, count in left_out.items())
    return Arrays(pos, face, color, notes=notes)


def _vertices(
    path: Path, lines: list[bytes], numbers: list[int]
) -> tuple[np.ndarray, np.ndarray | None]:
    found = block(lines)
    if found is not None and found.shape[1] >= 3:
        color = found[:, 3:6] if found.shape[1] >= 6 else None  # a fourth number is a weight
        return found[:, :3].copy(), None if color is None else unit_colors(color, path)
    rows, expected = [line.split() for line in lines], "three numbers a vertex"
    short = next((k for k, row in enumerate(rows) if len(row) < 3), None)
    if short is not None:
        raise bad_line(path, numbers[short], expected, [b"v", *rows[short]])
    pos = table(path, [row[:3] for row in rows], numbers, expected).reshape(-1, 3)
    has = [k for k, row in enumerate(rows) if len(row) >= 6]
    if not has:
        return pos, None
    words, where = [rows[k][3:6] for k in has], [numbers[k] for k in has]
    color = np.ones((len(rows), 3))  # vertices without a colour among others that have one
    color[has] = unit_colors(table(path, words, where, "three colours").reshape(-1, 3), path)
    return pos, color


def _corners(path: Path, lines: list[bytes], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The vertex numbers of all faces, and how many each has."""
    plain = re.sub(rb"/[^ \t\n]*", b"", b"\n".join(lines)).split(b"\n") if lines else []
    found = block(plain, whole=True)
    if found is not None:
        corner, size = found.reshape(-1), np.full(len(lines), found.shape[1])
    else:
        rows = [line.split() for line in plain]
        corner = table(path, rows, numbers, "'f' and vertex numbers", whole=True)
        size = np.array([len(row) for row in rows], dtype=np.int64)
    if not corner.all():
        owner = int(np.searchsorted(np.cumsum(size), (corner == 0).argmax(), side="right"))
        expected = "'f' and vertex numbers from 1 on"
        raise bad_line(path, numbers[owner], expected, lines[owner].split())
    return corner, size
