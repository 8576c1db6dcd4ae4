"""OFF, as Geomview has it and as it is written: COFF, NOFF, STOFF and their mixtures."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import numpy as np

from gncadeq.files.content import Arrays, bad, check_count, cut_short, plain_text, unit_colors
from gncadeq.files.polygons import triangulate
from gncadeq.files.text import Words, bad_line, numbered_lines, table

_KEYWORD = re.compile(rb"((?:ST|C|N|4|n)*)OFF|off")


def read_off(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, triangles and colours of an OFF file; normals and textures are not read.

    Raises:
        ValueError: If it is no such file, is cut short, or has too many vertices.
    """
    numbers, rows = numbered_lines(plain_text(content))
    kind = _header(path, numbers, rows)
    if not rows:
        raise bad(path, "the numbers of vertices and faces after OFF", "none")
    counts = rows[0][:3]
    if len(counts) < 2 or not all(word.isdigit() for word in counts):
        raise bad_line(path, numbers[0], "the numbers of vertices and faces after OFF", counts)
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    check_count(path, num_vertices, max_vertices)
    _, rows, numbers = _take(len(counts), rows, numbers)
    width = _width(path, kind, num_vertices, rows, numbers)
    have = sum(map(len, rows))
    if have < num_vertices * width:
        raise cut_short(
            path, f"{num_vertices:,} vertices, as its header says", f"{have // width:,}"
        )
    lines, behind, numbers_behind = _take(num_vertices * width, rows, numbers)
    flat = table(path, lines, numbers[: len(lines)], f"{width} numbers a vertex")
    vertex = flat.reshape(num_vertices, width)
    corner, size = _faces(path, num_faces, behind, numbers_behind)
    pos = vertex[:, :3]
    color = None
    if b"C" in kind:
        end = vertex.shape[1] - (2 if b"ST" in kind else 0)
        color = unit_colors(vertex[:, 6 if b"N" in kind else 3 : end], path)
    face, small = triangulate(pos, corner, size, path)
    notes = (f"faces of fewer than three corners: {small:,}",) if small else ()
    return Arrays(pos, face, color, notes=notes)


def _header(path: Path, numbers: list[int], rows: list[Words]) -> bytes:
    """Take the keyword off the first line; returns what stands before OFF in it."""
    first = rows[0][0] if rows else b""
    if first.isdigit():
        return b""  # the keyword may be missing
    found = _KEYWORD.match(first)
    glued = first[found.end() :] if found else b""
    if found is None or not (glued == b"" or glued.isdigit()):
        shown = first[:20].decode(errors="replace")
        raise bad(path, "a file that starts with OFF or COFF", repr(shown), "Save it as PLY")
    kind = found.group(1) or b""
    words = ([glued] if glued else []) + rows[0][1:]
    if words and words[0].upper() == b"BINARY":
        raise bad(path, "OFF as text", "the binary form", "Save it as text, or as binary PLY")
    if b"4" in kind or b"n" in kind:
        raise bad(path, "three coordinates a vertex", f"{kind.decode()}OFF", "Project it to three")
    rows[:1], numbers[:1] = ([words], numbers[:1]) if words else ([], [])
    return kind


def _take(
    count: int, rows: list[Words], numbers: list[int]
) -> tuple[list[Words], list[Words], list[int]]:
    """So many words as lines, and the lines behind them with their numbers."""
    taken = 0
    while count > 0:
        count -= len(rows[taken])
        taken += 1
    if count == 0:
        return rows[:taken], rows[taken:], numbers[taken:]
    last = rows[taken - 1]  # a line that ends behind them
    head = [*rows[: taken - 1], last[:count]]
    return head, [last[count:], *rows[taken:]], numbers[taken - 1 :]


def _width(path: Path, kind: bytes, count: int, rows: list[Words], numbers: list[int]) -> int:
    """The numbers that every vertex has."""
    width = 3 + (3 if b"N" in kind else 0) + (2 if b"ST" in kind else 0)
    widths = [width + 4, width + 3] if b"C" in kind else [width]
    lines = rows[:count]
    if lines and len(lines) == count and len({len(line) for line in lines}) == 1:
        if len(lines[0]) > widths[-1] and len(lines[0]) not in widths:
            remedy = "" if b"C" in kind else " (with colours, begin with COFF)"
            expected = f"{' or '.join(map(str, widths))} numbers a vertex{remedy}"
            raise bad_line(path, numbers[0], expected, lines[0])
        if len(lines[0]) in widths:
            return len(lines[0])
    # Not one vertex a line: they follow each other, wherever the lines end.
    return next((w for w in widths if lines and len(lines[0]) % w == 0), widths[0])


def _faces(
    path: Path, count: int, rows: list[Words], numbers: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The corners of all faces, and how many each has."""
    expected = "a number of corners and as many vertex numbers"
    lines = rows[:count]
    try:
        sizes = [int(row[0]) for row in lines]
        # A colour of up to four numbers may follow a face on its line.
        alone = len(lines) == count and all(
            n >= 0 and n + 1 <= len(row) <= n + 5 for n, row in zip(sizes, lines, strict=True)
        )
    except ValueError:
        alone = False
    if alone:
        corners = [row[1 : n + 1] for n, row in zip(sizes, lines, strict=True)]
        flat = table(path, corners, numbers[:count], expected, whole=True)
        return flat, np.array(sizes, dtype=np.int64)
    # Not one face a line: they follow each other, without colours.
    words = list(chain.from_iterable(rows))
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    corners, at = [], 0
    for _ in range(count):
        if at >= len(words):
            raise cut_short(path, f"{count:,} faces, as its header says", f"{len(corners):,}")
        end = at + 1 + (int(words[at]) if words[at].isdigit() else len(words))
        if end > len(words):
            raise bad_line(path, numbers[owner[at]], expected, rows[owner[at]])
        corners.append(words[at + 1 : end])
        at = end
    if at < len(words):
        row = owner[at]
        raise bad_line(path, numbers[row], "one face a line, or no more than faces", rows[row])
    flat = table(path, corners, [0] * count, expected, whole=True)
    return flat, np.array([len(row) for row in corners], dtype=np.int64)
