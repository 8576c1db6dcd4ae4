"""Points without faces: tables as text, and NumPy arrays."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np

from gncadeq.files.content import Arrays, bad, check_count, cut_short, plain_text, unit_colors
from gncadeq.files.text import Words, is_number, table

_NAMES = {
    "pos": [("x", "y", "z")],
    "normal": [("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")],
    "color": [("r", "g", "b"), ("red", "green", "blue")],
}


def read_points(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, colours and normals of a table with a point a line.

    The columns may be named in the first line, as ``x,y,z,nx,ny,nz,red,green,blue``. Without
    names the first three are coordinates; three more are normals if all have length one, and
    colours otherwise. Commas, semicolons, tabs and spaces may separate them.

    Raises:
        ValueError: If it cannot be read, or has too many points.
    """
    numbers, rows = _lines(plain_text(content))
    if len(rows) > max_vertices:
        check_count(path, len(rows), max_vertices)
    names = None
    if rows and not all(map(is_number, rows[0])):
        words = [word.decode(errors="replace").strip("\"'").lower() for word in rows[0]]
        if (len(rows) > 1 and not all(map(is_number, rows[1]))) or "x" not in words:
            raise bad(
                path, "points, a line of numbers each, maybe under names with x, y and z",
                repr(b" ".join(rows[0])[:60].decode(errors="replace")), "Name the columns",
            )  # fmt: skip
        names, rows, numbers = words, rows[1:], numbers[1:]
    elif len(rows) > 1 and len(rows[0]) == 1 < len(rows[1]):  # PTS begins with its number of points
        declared = int(float(rows[0][0]))
        rows, numbers = rows[1:], numbers[1:]
        if len(rows) < declared:
            raise cut_short(path, f"{declared:,} points, as its first line says", f"{len(rows):,}")
    width = len(rows[0]) if rows else 3
    odd = next((k for k, row in enumerate(rows) if len(row) != width), None)
    if odd is not None:
        got = f"{len(rows[odd])} in line {numbers[odd]}"
        raise bad(path, f"{width} numbers in every line", got)
    value = table(path, rows, numbers, f"{width} numbers").reshape(-1, width)
    first = path.suffix.lower() == ".pts"  # its fourth column is the strength of the reflection
    return _columns(value, names, path, first)


def read_npy(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates of an array ``[N, 3 or more]``, or of one with the fields x, y and z.

    Arrays of Python objects are refused: to read one would run code.

    Raises:
        ValueError: If it cannot be read, or has too many points.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    read = read or np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if kind.hasobject:
        raise bad(path, "an array of numbers", "Python objects", "Save it as numbers")
    count, have = math.prod(shape), len(content) - file.tell()
    if count * kind.itemsize > have:
        raise cut_short(path, f"{count * kind.itemsize:,} bytes, as its header says", f"{have:,}")
    check_count(path, shape[0] if shape else 1, max_vertices)
    flat = np.frombuffer(content, kind, count, file.tell())
    value = flat.reshape(shape, order="F" if fortran else "C")
    names = None
    if kind.names is not None and len(shape) == 1:
        names = [name.lower() for name in kind.names]
        value = np.stack([value[name].astype(np.float64) for name in kind.names], axis=1)
    if value.ndim != 2 or value.dtype.kind not in "iuf":
        raise bad(path, "numbers of shape [N, 3]", f"{kind} of shape {list(shape)}")
    return _columns(value.astype(np.float64), names, path)


def _lines(text: bytes) -> tuple[list[int], list[Words]]:
    numbers, rows = [], []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        named = line.lstrip(b"/#")
        if number == 1 and b"x" in re.split(rb"[\s,;\"']+", named.lower()):
            line = named.strip()  # the names of columns may look like a comment
        if not line or line.startswith((b"#", b"//")):
            continue
        mark = next((mark for mark in (b";", b"\t", b",") if mark in line), None)
        numbers.append(number)
        rows.append(line.split() if mark is None else [w.strip() for w in line.split(mark)])
    return numbers, rows


def _columns(
    value: np.ndarray, names: list[str] | None, path: Path, skip_fourth: bool = False
) -> Arrays:
    width = value.shape[1]
    used: dict[str, list[int]] = {}
    if names is not None:
        for what, choices in _NAMES.items():
            for choice in choices:
                if all(name in names for name in choice):
                    used[what] = [names.index(name) for name in choice]
    elif width >= 3:
        used["pos"] = [0, 1, 2]
        start = 4 if skip_fourth and width % 3 == 1 else 3
        for k in range(start, width - 2, 3):
            triple = value[:, k : k + 3]
            unit = np.abs(np.linalg.norm(triple, axis=1) - 1) < 1e-2
            what = "normal" if unit.all() else "color"
            if what not in used and (what == "normal" or 0 <= triple.min() <= triple.max() <= 255):
                used[what] = [k, k + 1, k + 2]
    if "pos" not in used:
        raise bad(
            path, "points with x, y and z", f"the columns {names or width}",
            "Add a column of zeros to points in the plane",
        )  # fmt: skip
    left = width - sum(map(len, used.values()))
    color = unit_colors(value[:, used["color"]], path) if "color" in used else None
    normal = value[:, used["normal"]] if "normal" in used else None
    notes = (f"columns: {left}",) if left else ()
    return Arrays(value[:, used["pos"]], np.empty((0, 3), np.int64), color, normal, notes)
