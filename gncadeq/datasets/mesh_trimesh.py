"""PLY, STL and GLB, read by trimesh past its defaults, which merge and renumber vertices."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gncadeq.datasets.mesh_text import Arrays, fan, too_many


def load_trimesh(path: Path) -> Any:
    """The package trimesh.

    Raises:
        ImportError: If it is missing.
    """
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"Expected trimesh for {path} (not installed). pip install 'gncadeq[mesh]'"
        ) from error
    return trimesh


def read_ply(path: Path, max_vertices: int) -> Arrays:
    """Positions, triangles and colours of a PLY file.

    Raises:
        ValueError: If it cannot be read, is cut short, or has too many vertices.
    """
    load_trimesh(path)
    from trimesh.exchange.ply import load_ply

    with path.open("rb") as file:
        head = file.read(1 << 16).partition(b"end_header")[0]
        counts = {name: int(n) for name, n in re.findall(rb"element (\w+) (\d+)", head)}
        declared, polygons = counts.get(b"vertex", 0), counts.get(b"face", 0)
        if declared > max_vertices:
            raise too_many(path, f"{declared:,}", max_vertices)
        file.seek(0)
        try:
            mesh = load_ply(file, fix_texture=False, skip_materials=True)
            vertices = np.asarray(mesh.get("vertices", ()), dtype=np.float64).reshape(-1, 3)
            triangles = _triangles(mesh.get("faces"))
        except Exception as error:
            raise _unreadable(path, error) from error
    if len(vertices) != declared or len(triangles) < polygons:
        raise ValueError(
            f"Expected {declared} vertices and at least {polygons} triangles, as its header says "
            f"(got {len(vertices)} and {len(triangles)} in {path}). The file is cut short"
        )
    color = mesh.get("vertex_colors")
    if color is not None:
        color = np.asarray(color)
        # What is not written as bytes is a fraction, or a byte all the same.
        full = 255.0 if color.dtype.kind in "iu" or color.max(initial=0) > 1 else 1.0
        color = color[:, :3].astype(np.float64) / full
    return vertices, triangles, color


def _triangles(faces: Any) -> np.ndarray:
    if faces is None or len(faces) == 0:
        return np.empty((0, 3), dtype=np.int64)
    if isinstance(faces, np.ndarray) and faces.ndim == 2 and faces.shape[1] == 3:
        return faces.astype(np.int64)
    return fan([[int(v) for v in polygon] for polygon in faces])


def read_stl(path: Path, max_vertices: int) -> Arrays:
    """Positions, three for each triangle, of an STL file; it has no vertex colours.

    Raises:
        ValueError: If it cannot be read, is cut short, or has too many vertices.
    """
    load_trimesh(path)
    from trimesh.exchange.stl import load_stl

    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(84)
        declared = struct.unpack("<I", head[80:])[0] if len(head) == 84 else 0
        binary = size == 84 + 50 * declared
        if not binary:
            if not head.lstrip().lower().startswith(b"solid"):
                raise ValueError(
                    f"Expected an STL file of {84 + 50 * declared:,} bytes or one that starts with "
                    f"'solid' (got {size:,} bytes: {path}). The file is cut short, or no STL"
                )
            file.seek(0)
            declared = sum(b"vertex" in line for line in file) // 3
        if 3 * declared > max_vertices:
            raise too_many(path, f"{3 * declared:,}", max_vertices)
        file.seek(0)
        try:
            mesh = load_stl(file)
            geometry = list(mesh["geometry"].values()) if "geometry" in mesh else [mesh]
            vertices = np.concatenate([np.asarray(g["vertices"]) for g in geometry])
        except Exception as error:
            raise _unreadable(path, error) from error
    # Every three corners are a face; its reader orders them like this, part by part.
    return vertices.astype(np.float64), np.arange(len(vertices)).reshape(-1, 3), None


def read_glb(path: Path, max_vertices: int) -> Arrays:
    """Positions, triangles and colours of all meshes of a GLB file, placed in its scene.

    Raises:
        ValueError: If it cannot be read, or has too many vertices.
    """
    trimesh = load_trimesh(path)
    with path.open("rb") as file:
        head = file.read(20)
        try:
            magic, _, _, length, kind = struct.unpack("<4sIIII", head)
            tree = json.loads(file.read(length)) if (magic, kind) == (b"glTF", 0x4E4F534A) else None
            if tree is None:
                raise ValueError("it does not start with glTF")
            accessors = tree.get("accessors", [])
            declared = sum(
                accessors[primitive["attributes"]["POSITION"]]["count"]
                for mesh in tree.get("meshes", [])
                for primitive in mesh["primitives"]
            )
        except (struct.error, ValueError, LookupError, TypeError) as error:
            raise _unreadable(path, error) from error
    if declared > max_vertices:
        raise too_many(path, f"{declared:,}", max_vertices)
    try:
        scene = trimesh.load_scene(str(path), file_type="glb", process=False)
        parts = []
        rank = {name: k for k, name in enumerate(scene.geometry)}
        nodes = [(rank[scene.graph[node][1]], node) for node in scene.graph.nodes_geometry]
        for _, node in sorted(nodes):  # in the file's order
            place, name = scene.graph[node]
            part = scene.geometry[name]
            if hasattr(part, "faces"):
                parts.append((part, part.vertices @ place[:3, :3].T + place[:3, 3], place))
    except Exception as error:
        raise _unreadable(path, error) from error
    vertices, triangles, colors, offset = [], [], [], 0
    for part, vertex, place in parts:
        face = np.asarray(part.faces)
        mirrored = np.linalg.det(place[:3, :3]) < 0  # a mirror turns the faces inside out
        vertices.append(vertex)
        triangles.append((face[:, ::-1] if mirrored else face) + offset)
        offset += len(vertex)
        coloured = part.visual.kind == "vertex"
        colors.append(part.visual.vertex_colors[:, :3] / 255.0 if coloured else None)
    if not vertices:
        return np.empty((0, 3)), np.empty((0, 3), dtype=np.int64), None
    color = None
    if any(c is not None for c in colors):  # parts without a colour are white, as glTF has it
        color = np.concatenate(
            [
                np.ones((len(v), 3)) if c is None else c
                for v, c in zip(vertices, colors, strict=True)
            ]
        )
    return np.concatenate(vertices), np.concatenate(triangles), color


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a {path.suffix[1:].upper()} file (got an unreadable one: {path}: {error!r}). "
        "Export it again"
    )


__all__ = ["load_trimesh", "read_glb", "read_ply", "read_stl"]
