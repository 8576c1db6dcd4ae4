"""PLY, as text and binary of both byte orders: points, polygons and triangle strips."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gncadeq.files.content import (
    Arrays,
    bad,
    check_count,
    cut_short,
    unit_colors,
)
from gncadeq.files.polygons import strip, triangulate
from gncadeq.files.text import bad_line, numbered_lines, table

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4",
    "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"),
           ("r", "g", "b"))  # fmt: skip
_CORNERS = ("vertex_indices", "vertex_index")


class _Property(NamedTuple):
    name: str
    kind: str
    length: str | None  # the type of a list's length


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


class _List(NamedTuple):
    """Lists of a property: all values one after the other, and how many each list has."""

    value: np.ndarray
    size: np.ndarray


def read_ply(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, triangles, colours and normals of a PLY file.

    Raises:
        ValueError: If it cannot be read, is cut short, or has too many vertices.
    """
    order, elements, start = _header(content, path)
    for element in elements:
        if element.name == "vertex":
            check_count(path, element.rows, max_vertices)
    if order:
        found, left = _binary(content, start, order, elements, path)
    else:
        found, left = _ascii(content[start:], content[:start].count(b"\n"), elements, path)
    vertex = found.get("vertex", {})
    pos = _columns(vertex, ("x", "y", "z"))
    if pos is None:
        raise bad(path, "vertices with x, y and z", f"{sorted(vertex) or 'none'}")
    notes = [f"{left[1]} behind the last element: {left[0]:,}"] if left[0] else []
    triangles = []
    for element in elements:
        lists = {k: v for k, v in found[element.name].items() if isinstance(v, _List)}
        corner = next((lists[name] for name in _CORNERS if name in lists), None)
        if element.name == "face":
            if corner is None and len(lists) == 1:
                corner = next(iter(lists.values()))
            if corner is None and element.rows:
                raise bad(path, "faces with the list 'vertex_indices'", f"{sorted(found['face'])}")
            if corner is not None:
                face, small = triangulate(pos, _whole(corner.value, path), corner.size, path)
                triangles.append(face)
                if small:
                    notes.append(f"faces of fewer than three corners: {small:,}")
        elif element.name == "tristrips" and corner is not None:
            value = _whole(corner.value, path)
            ends = np.union1d(np.cumsum(corner.size), np.flatnonzero(value < 0))
            triangles += [strip(part[part >= 0]) for part in np.split(value, ends)]
    face = np.concatenate(triangles) if triangles else np.empty((0, 3), np.int64)
    color = None
    for names in _COLORS:
        rgb = _columns(vertex, names)
        if rgb is not None:
            kinds = [p.kind for e in elements if e.name == "vertex" for p in e.properties
                     if p.name == names[0]]  # fmt: skip
            full = {"u1": 255.0, "u2": 65535.0}.get(kinds[0])
            color = unit_colors(rgb, path, full)
            break
    normal = _columns(vertex, ("nx", "ny", "nz"))
    return Arrays(pos, face, color, normal, tuple(notes))


def _header(content: bytes, path: Path) -> tuple[str, list[_Element], int]:
    """The byte order, the elements, and where the data begin."""
    first = re.match(rb"(?:\xef\xbb\xbf)?ply[ \t]*(\r\n|\n|\r)", content)
    if first is None:
        raise bad(path, "a PLY file, which starts with 'ply'", repr(content[:8])[1:])
    # A lone \r may stand before data that begin with \n: the header's own line ends decide.
    ends = rb"\r" if first.group(1) == b"\r" else rb"(?:\r\n|\n|\Z)"
    last = re.search(rb"[\r\n]end_header[ \t]*" + ends, content)
    if last is None:
        raise cut_short(path, "'end_header' in a PLY file", "none")
    order: str | None = None
    elements: list[_Element] = []
    for line in content[first.end() : last.start()].decode("latin-1").splitlines():
        words = line.split()
        try:
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format":
                order = _ORDERS[words[1]]
            elif words[0] == "element" and words[2].isdigit():
                elements.append(_Element(words[1], int(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                count = _TYPES[words[2]]
                if count[0] == "f":
                    raise KeyError(words[2])
                elements[-1].properties.append(_Property(words[4], _TYPES[words[3]], count))
            elif words[0] == "property":
                elements[-1].properties.append(_Property(words[2], _TYPES[words[1]], None))
            else:
                raise KeyError(words[0])
        except LookupError as error:
            raise bad(path, "a PLY header", f"the line {line[:60]!r}") from error
    names = [element.name for element in elements]
    if order is None or len(set(names)) != len(names):
        raise bad(path, "a PLY header with one format and each element once", f"{names}")
    return order, elements, last.end()


def _binary(
    content: bytes, at: int, order: str, elements: list[_Element], path: Path
) -> tuple[dict[str, dict[str, Any]], tuple[int, str]]:
    found = {}
    for element in elements:
        least = element.rows * sum(
            np.dtype(p.length or p.kind).itemsize for p in element.properties
        )
        if least > len(content) - at:
            raise _missing(path, element, f"{len(content) - at:,} bytes of at least {least:,}")
        found[element.name], at = _rows(content, at, order, element, path)
    return found, (len(content) - at, "bytes")


def _missing(path: Path, element: _Element, got: str) -> ValueError:
    return cut_short(path, f"{element.rows:,} rows of '{element.name}', as its header says", got)


def _rows(
    content: bytes, at: int, order: str, element: _Element, path: Path
) -> tuple[dict[str, Any], int]:
    """The columns of an element, and where the next begins."""
    properties = element.properties
    if not element.rows or not properties:
        empty = np.empty(0)
        return {p.name: _List(empty, empty) if p.length else empty for p in properties}, at
    # Most files have lists of one length: as long as those of the first row.
    fields: list[tuple[str, Any]] = []
    end = at
    for k, p in enumerate(properties):
        shape: tuple[int, ...] = ()
        if p.length:
            length = _length(content, end, order, p)
            end += np.dtype(p.length).itemsize
            fields.append((f"n{k}", order + p.length))
            shape = (length,)
        end += np.dtype(p.kind).itemsize * (shape[0] if shape else 1)
        if end > len(content) or (shape and shape[0] < 0):
            raise _missing(path, element, f"a first row of {end - at:,} bytes or more")
        fields.append((f"p{k}", order + p.kind, shape))  # type: ignore[arg-type]
    kind = np.dtype(fields)
    if element.rows * kind.itemsize <= len(content) - at:
        rows = np.frombuffer(content, kind, element.rows, at)
        same = [
            (rows[f"n{k}"] == rows[f"n{k}"][0]).all() for k, p in enumerate(properties) if p.length
        ]
        if all(same):
            columns: dict[str, Any] = {}
            for k, p in enumerate(properties):
                value = rows[f"p{k}"]
                columns[p.name] = value
                if p.length:
                    size = np.full(element.rows, value.shape[1], dtype=np.int64)
                    columns[p.name] = _List(value.reshape(-1), size)
            return columns, at + element.rows * kind.itemsize
    return _ragged(content, at, order, element, path)


def _length(content: bytes, at: int, order: str, p: _Property) -> int:
    assert p.length is not None
    part = content[at : at + int(p.length[1])]
    return int.from_bytes(part, "big" if order == ">" else "little", signed=p.length[0] == "i")


def _ragged(
    content: bytes, at: int, order: str, element: _Element, path: Path
) -> tuple[dict[str, Any], int]:
    """The same of rows whose lists differ in length, row by row."""
    properties = [(k, p, np.dtype(p.kind).itemsize) for k, p in enumerate(element.properties)]
    parts: list[list[bytes]] = [[] for _ in properties]
    sizes: list[list[int]] = [[] for _ in properties]
    for row in range(element.rows):
        for k, p, width in properties:
            if p.length:
                length = _length(content, at, order, p)
                at += int(p.length[1])
                sizes[k].append(length)
                width *= length
            if width < 0 or at + width > len(content):
                raise _missing(path, element, f"{row:,}")
            parts[k].append(content[at : at + width])
            at += width
    columns: dict[str, Any] = {}
    for k, p, _ in properties:
        value = np.frombuffer(b"".join(parts[k]), order + p.kind)
        columns[p.name] = _List(value, np.array(sizes[k], dtype=np.int64)) if p.length else value
    return columns, at


def _ascii(
    text: bytes, before: int, elements: list[_Element], path: Path
) -> tuple[dict[str, dict[str, Any]], tuple[int, str]]:
    """The columns of all elements, in which every line is a row."""
    numbers, rows = numbered_lines(text, comment=b"\0")
    numbers = [number + before for number in numbers]
    found, at = {}, 0
    for element in elements:
        count = element.rows if element.properties else 0
        lines, line = rows[at : at + count], numbers[at : at + count]
        if len(lines) < count:
            raise _missing(path, element, f"{len(lines):,}")
        at += count
        value = table(path, lines, line, f"the numbers of '{element.name}'")
        widths = np.array([len(row) for row in lines], dtype=np.int64)
        end = np.cumsum(widths)
        first = end - widths
        columns: dict[str, Any] = {}
        wrong = np.zeros(count, dtype=bool)
        for p in element.properties:
            size = np.ones(count, dtype=np.int64)
            wrong |= first >= end
            if p.length and not wrong.any():
                size = np.nan_to_num(value[first], nan=-1).clip(-1, len(value) + 1).astype(np.int64)
                wrong |= (size < 0) | (size != value[first])
                first = first + 1
            wrong |= first + size > end
            if wrong.any():
                break
            index = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
            columns[p.name] = _List(value[index], size) if p.length else value[index]
            first = first + size
        wrong |= first != end
        if wrong.any():
            k = int(wrong.argmax())
            names = " ".join(p.name for p in element.properties)
            raise bad_line(path, line[k], f"a row of '{element.name}' ({names})", lines[k])
        found[element.name] = columns
    return found, (len(rows) - at, "lines")


def _columns(element: dict[str, Any], names: tuple[str, ...]) -> np.ndarray | None:
    columns = [element.get(name) for name in names]
    if any(column is None or isinstance(column, _List) for column in columns):
        return None
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _whole(value: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole: np.ndarray = value.astype(np.int64)
    if not (whole == value).all():
        raise bad(path, "whole numbers in lists of faces", "fractions")
    return whole
