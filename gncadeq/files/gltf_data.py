"""The container of glTF 2.0: its JSON, its buffers, and the arrays in them."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from gncadeq.files.content import bad, cut_short, plain_text, read_bytes

Tree = dict[str, Any]

_KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_JSON, _BIN = 0x4E4F534A, 0x004E4942


class Container:
    """A glTF file: the parts of its JSON by kind and index, and its arrays.

    Args:
        content: The bytes of the file.
        path: The file; data beside it are read from its folder alone.
        most: The greatest length of an array that the file does not hold, but its sparse values.

    Raises:
        ValueError: If it is no glTF 2.0, or cut short.
    """

    def __init__(self, content: bytes, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._binary: bytes | None = None
        text = self._chunks(content) if content[:4] == b"glTF" else plain_text(content)
        try:
            self.tree = json.loads(text)
        except ValueError as error:
            got = f"an unreadable file: {error}"
            raise bad(path, "glTF, which is JSON or starts with 'glTF'", got) from error
        version = str(self.tree["asset"]["version"])
        if not version.startswith("2."):
            raise bad(path, "glTF 2.0", f"version {version[:10]}", "Convert it to version 2")
        self._buffers: dict[int, bytes] = {}

    def _chunks(self, content: bytes) -> bytes:
        """The JSON of a GLB; its binary chunk is kept."""
        _, version, length = struct.unpack_from("<4sII", content)
        if version != 2:
            got = f"an unreadable version {version}"
            raise bad(self.path, "glTF 2.0", got, "Convert it to version 2")
        if length > len(content):
            expected = f"{length:,} bytes, as its header says"
            raise cut_short(self.path, expected, f"{len(content):,}")
        text, at = b"", 12
        while at + 8 <= length:
            size, kind = struct.unpack_from("<II", content, at)
            at += 8 + size
            if at > length:
                raise cut_short(self.path, f"a chunk of {size:,} bytes", "fewer")
            if kind == _JSON:
                text = content[at - size : at]
            elif kind == _BIN and self._binary is None:
                self._binary = content[at - size : at]
        return text

    def item(self, kind: str, index: Any) -> Tree:
        """The part of a kind (``"nodes"``, ``"accessors"``) with an index."""
        items = self.tree.get(kind, [])
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(items):
            raise bad(self.path, f"one of {len(items)} {kind}", repr(index))
        found: Tree = items[index]
        return found

    def array(self, index: Any, plain: bool = False) -> np.ndarray:
        """The numbers ``[count, width]`` of an accessor.

        Normalised integers become fractions (glTF 2.0, section 3.6.2.2); sparse values replace
        those they name.

        Args:
            index: The accessor.
            plain: Whether to leave integers as they are.
        """
        accessor = self.item("accessors", index)
        count, width = accessor["count"], _WIDTHS[accessor["type"]]
        sparse = accessor.get("sparse")
        if "bufferView" in accessor:
            value = self._view(accessor, accessor["componentType"], count, width)
        elif sparse is not None:
            if count > self.most:
                raise bad(self.path, f"at most {self.most:,} sparse rows", f"{count:,}")
            value = np.zeros((count, width), _KINDS[accessor["componentType"]])
        else:
            raise bad(
                self.path, f"data for accessor {index}", "none: it may be compressed",
                "Export it without compression",
            )  # fmt: skip
        if sparse is not None:
            at, n = sparse["indices"], sparse["count"]
            rows = self._view(at, at["componentType"], n, 1)[:, 0]
            if len(rows) and rows.max() >= count:
                raise bad(self.path, f"sparse values for {count:,} rows", f"one for {rows.max()}")
            value = value.copy()
            value[rows] = self._view(sparse["values"], accessor["componentType"], n, width)
        if plain or value.dtype.kind == "f" or not accessor.get("normalized", False):
            return value
        return fractions(value)

    def _view(self, part: Tree, component: int, count: int, width: int) -> np.ndarray:
        """Rows of a buffer; nothing is allocated that the file does not hold."""
        view, kind = self.item("bufferViews", part["bufferView"]), np.dtype(_KINDS[component])
        data = self._buffer(view["buffer"])
        offset, first = view.get("byteOffset", 0), part.get("byteOffset", 0)
        stride, row = view.get("byteStride", 0) or kind.itemsize * width, kind.itemsize * width
        start, end = offset + first, offset + view["byteLength"]
        needed = start + stride * (count - 1) + row if count > 0 else start
        if min(count, offset, first) < 0 or stride < row or needed > min(end, len(data)):
            have = min(end, len(data)) - start
            expected = f"{count:,} rows of {row} bytes"
            raise cut_short(self.path, expected, f"{max(have, 0):,} bytes for them")
        if count == 0:
            return np.empty((0, width), kind)
        return np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))

    def _buffer(self, index: Any) -> bytes:
        buffer = self.item("buffers", index)
        if index not in self._buffers:
            uri = buffer.get("uri")
            if uri is None and index == 0 and self._binary is not None:
                self._buffers[index] = self._binary
            elif uri is None:
                raise bad(self.path, f"data for buffer {index}", "none: it may be compressed")
            else:
                self._buffers[index] = self._resource(str(uri))
        return self._buffers[index]

    def _resource(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            try:
                plain = unquote_to_bytes(body)
                return base64.b64decode(plain, validate=True) if head.endswith(";base64") else plain
            except binascii.Error as error:
                raise bad(self.path, "data in base64", str(error)) from error
        name = unquote_to_bytes(uri).decode(errors="replace")
        folder = self.path.parent.resolve()
        file = (folder / name).resolve()
        if ":" in name or not file.is_relative_to(folder):
            got = f"{name[:60]!r}"
            raise bad(self.path, "data in the folder of the file", got, "Move them there")
        return read_bytes(file, f"the data {name!r} of {self.path}")


def fractions(value: np.ndarray) -> np.ndarray:
    """Normalised integers as numbers in [0, 1], or in [-1, 1] if they have a sign.

    Example:
        >>> fractions(np.array([0, 51, 255], np.uint8)).tolist()
        [0.0, 0.2, 1.0]
    """
    return np.maximum(value / np.float64(np.iinfo(value.dtype).max), -1.0)
