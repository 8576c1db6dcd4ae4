"""Meshes to PLY, GLB and OBJ."""

from __future__ import annotations

import json
import struct

import numpy as np


def write_ply(pos: np.ndarray, face: np.ndarray, color: np.ndarray | None) -> bytes:
    """Binary PLY: coordinates in the precision of ``pos``, colours as bytes.

    Args:
        pos: ``[N, 3]``, float32 or float64.
        face: ``[F, 3]``, maybe none.
        color: ``[N, 3]`` in [0, 1].
    """
    kind, name = ("<f8", "double") if pos.dtype == np.float64 else ("<f4", "float")
    fields = [("pos", kind, 3)]
    properties = [f"property {name} {axis}" for axis in "xyz"]
    if color is not None:
        fields.append(("color", "u1", 3))
        properties += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    vertices = np.empty(len(pos), np.dtype(fields))
    vertices["pos"] = pos
    if color is not None:
        vertices["color"] = np.rint(color * 255)
    faces = np.empty(len(face), np.dtype([("size", "u1"), ("corner", "<i4", 3)]))
    faces["size"], faces["corner"] = 3, face
    header = [
        "ply", "format binary_little_endian 1.0", f"element vertex {len(pos)}", *properties,
        f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", "",
    ]  # fmt: skip
    return "\n".join(header).encode() + vertices.tobytes() + faces.tobytes()


def write_obj(pos: np.ndarray, face: np.ndarray, color: np.ndarray | None) -> bytes:
    """OBJ with as many digits as give every number of ``pos`` back; colours in [0, 1]."""
    digits = 17 if pos.dtype == np.float64 else 9
    place = [" ".join(f"{value:.{digits}g}" for value in row) for row in pos.tolist()]
    paint = [""] * len(pos)
    if color is not None:
        paint = [" " + " ".join(f"{value:.9g}" for value in row) for row in color.tolist()]
    lines = [f"v {a}{b}" for a, b in zip(place, paint, strict=True)]
    lines += [f"f {a} {b} {c}" for a, b, c in (face + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def write_glb(
    pos: np.ndarray, face: np.ndarray, color: np.ndarray | None, origin: np.ndarray | None
) -> bytes:
    """GLB of one mesh: float32 coordinates, placed by a node at ``origin``; colours as bytes."""
    arrays = [
        (pos.astype("<f4"), "VEC3", 5126),
        (face.reshape(-1, 1).astype("<u4"), "SCALAR", 5125),
    ]
    attributes = {"POSITION": 0}
    if color is not None:
        rgba = np.rint(np.c_[color, np.ones(len(color))] * 255)
        arrays.append((rgba.astype("u1"), "VEC4", 5121))
        attributes["COLOR_0"] = 2
    binary = b"".join(array.tobytes() for array, _, _ in arrays)  # each of multiples of four bytes
    views, accessors, at = [], [], 0
    for k, (array, kind, component) in enumerate(arrays):
        views.append({"buffer": 0, "byteOffset": at, "byteLength": array.nbytes})
        accessor = {"bufferView": k, "componentType": component, "count": len(array), "type": kind}
        if kind == "VEC3":
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        accessors.append(accessor | ({"normalized": True} if component == 5121 else {}))
        at += array.nbytes
    place = {} if origin is None else {"translation": origin.tolist()}
    tree = {
        "asset": {"version": "2.0", "generator": "gncadeq"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **place}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(binary)}],
    }  # fmt: skip
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sIIII", b"glTF", 2, length, len(text), 0x4E4F534A)
    return head + text + struct.pack("<II", len(binary), 0x004E4942) + binary
