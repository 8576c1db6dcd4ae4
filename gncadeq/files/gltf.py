"""glTF 2.0, binary and text: all meshes, placed in the scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gncadeq.files.content import Arrays, bad, check_count, unit_colors
from gncadeq.files.gltf_data import Container, Tree, fractions
from gncadeq.files.polygons import strip

_HARMLESS = (
    "KHR_mesh_quantization", "KHR_materials_", "KHR_texture_", "EXT_texture_", "MSFT_texture_",
    "KHR_lights_", "KHR_animation_", "KHR_xmp",
)  # fmt: skip
# A mesh, its node, and the accessors of coordinates, colours and shape keys.
_Key = tuple[int, int, Any, Any, tuple[Any, ...]]
_CORNERS = 12  # a closed surface has six
_NO_FACES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}


def read_gltf(content: bytes, path: Path, max_vertices: int) -> Arrays:
    """Coordinates, triangles and colours of all meshes, in the file's order.

    Raises:
        ValueError: If it cannot be read, requires what is not read here, or has too many vertices.
    """
    file = Container(content, path, _CORNERS * max_vertices)
    for name in file.tree.get("extensionsRequired", []):
        if not str(name).startswith(_HARMLESS):
            raise bad(
                path, "glTF whose shape needs no extension", f"the required {name}",
                "Export it without compression, or decompress it with gltf-transform",
            )  # fmt: skip
    places = _places(file)
    parts, left_out = _parts(file, places)
    counts = [file.item("accessors", key[2])["count"] for key in parts]
    check_count(path, sum(counts), max_vertices)
    indexed = [p["indices"] for primitives in parts.values() for p in primitives if "indices" in p]
    corners = sum(file.item("accessors", index)["count"] for index in indexed)
    if corners > _CORNERS * max_vertices:  # one array may be named by many
        expected = f"at most {_CORNERS} corners of faces for each of max_vertices={max_vertices:,}"
        raise bad(path, expected, f"{corners:,}", "Simplify the mesh")
    vertices, faces, colors, offset = [], [], [], 0
    for key, primitives in parts.items():
        mesh, number, _, paint, _ = key
        place, pos = places[mesh, number], _vertices(file, key)
        vertices.append(pos @ place[:3, :3].T + place[:3, 3])
        colors.append(None if paint is None else _color(file, paint, len(pos)))
        with np.errstate(invalid="ignore"):
            mirrored = np.linalg.det(place[:3, :3]) < 0
        for primitive in primitives:
            face = _triangles(file, primitive, len(pos))
            if mirrored:  # a mirror turns faces inside out
                face = face[:, ::-1]
            faces.append(face + offset)
        offset += len(pos)
    notes = tuple(f"{name}: {count:,}" for name, count in left_out.items())
    if not vertices:
        return Arrays(np.empty((0, 3)), np.empty((0, 3), np.int64), notes=notes)
    rgb = None
    if any(c is not None for c in colors):  # parts without a colour are white, as glTF has it
        white = [np.ones((len(v), 3)) for v in vertices]
        rgb = np.concatenate([w if c is None else c for w, c in zip(white, colors, strict=True)])
    return Arrays(np.concatenate(vertices), np.concatenate(faces), rgb, notes=notes)


def _parts(
    file: Container, places: Mapping[tuple[int, int], np.ndarray]
) -> tuple[dict[_Key, list[Tree]], Counter[str]]:
    """What has faces, by the vertices that it is made of, in the file's order; and what has none.

    Several materials divide the faces of one set of vertices, which is read once.
    """
    parts: dict[_Key, list[Tree]] = {}
    left_out: Counter[str] = Counter()
    for mesh, number in sorted(places):
        if "skin" in _node(file, number):
            left_out["poses of skins"] += 1
        for primitive in file.item("meshes", mesh)["primitives"]:
            mode = primitive.get("mode", 4)
            if mode in _NO_FACES:
                left_out[_NO_FACES[mode]] += 1
                continue
            attributes = primitive["attributes"]
            targets = tuple(target.get("POSITION") for target in primitive.get("targets", ()))
            key = mesh, number, attributes["POSITION"], attributes.get("COLOR_0"), targets
            parts.setdefault(key, []).append(primitive)
    return parts, left_out


def _vertices(file: Container, key: _Key) -> np.ndarray:
    """Coordinates ``[N, 3]`` of a part, moved by its shape keys."""
    mesh, number, position, _, targets = key
    weights = _node(file, number).get("weights") or file.item("meshes", mesh).get("weights") or []
    pos = file.array(position).astype(np.float64)
    for target, weight in zip(targets, weights, strict=False):
        if target is not None and weight:
            moved = file.array(target)
            if moved.shape != pos.shape:
                raise bad(file.path, f"a shape key of {len(pos):,} vertices", f"{len(moved):,}")
            pos += weight * moved
    if pos.shape[1] != 3:
        raise bad(file.path, "coordinates of type VEC3", f"{pos.shape[1]} columns")
    return pos


def _node(file: Container, number: int) -> Tree:
    """A node of the scene; an empty one for a mesh that no node places."""
    return file.item("nodes", number) if number >= 0 else {}


def _color(file: Container, index: Any, count: int) -> np.ndarray:
    color = file.array(index, plain=True)
    if len(color) != count or color.shape[1] < 3:
        raise bad(file.path, f"{count:,} colours of three numbers or four", f"{color.shape}")
    return unit_colors(color if color.dtype.kind == "f" else fractions(color), file.path, 1.0)


def _triangles(file: Container, primitive: Tree, count: int) -> np.ndarray:
    mode = primitive.get("mode", 4)
    if "indices" in primitive:
        vertex = file.array(primitive["indices"], plain=True)[:, 0].astype(np.int64)
    else:
        vertex = np.arange(count)
    if len(vertex) and vertex.max() >= count:
        raise bad(file.path, f"faces of the vertices 0 … {count - 1}", f"{vertex.max()}")
    if mode == 4:
        return vertex[: len(vertex) // 3 * 3].reshape(-1, 3)
    if mode == 5:
        return strip(vertex)
    if mode == 6:
        first = np.broadcast_to(vertex[:1], max(len(vertex) - 2, 0))
        return np.stack([first, vertex[1:-1][: len(first)], vertex[2:]], axis=1)
    raise bad(file.path, "a mode of 0 … 6", repr(mode))


def _places(file: Container) -> dict[tuple[int, int], np.ndarray]:
    """The matrix of every mesh (first number) at every node that shows it (second)."""
    nodes = file.tree.get("nodes", [])
    if not nodes:
        return {(mesh, -1): np.eye(4) for mesh in range(len(file.tree.get("meshes", [])))}
    if file.tree.get("scenes"):
        roots = file.item("scenes", file.tree.get("scene", 0)).get("nodes", [])
    else:
        below = {child for node in nodes for child in node.get("children", [])}
        roots = [k for k in range(len(nodes)) if k not in below]
    found, seen = {}, set()
    todo = [(root, np.eye(4)) for root in roots]
    while todo:
        number, above = todo.pop()
        node = file.item("nodes", number)
        if number in seen:
            raise bad(file.path, "nodes with one parent each", f"node {number} below several")
        seen.add(number)
        place = above @ _matrix(node)
        if "mesh" in node:
            # glTF 2.0, section 3.7.3.3: a skin places its mesh, and the node does not.
            found[node["mesh"], number] = np.eye(4) if "skin" in node else place
        todo += [(child, place) for child in node.get("children", [])]
    return found


def _matrix(node: Tree) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T  # column by column
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
