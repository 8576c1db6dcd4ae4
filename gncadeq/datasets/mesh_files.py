"""Triangle meshes from and to files: node ``i`` is vertex ``i`` of the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.datasets.mesh_report import MeshWarning, mesh_report
from gncadeq.datasets.mesh_text import Arrays, read_obj, read_off
from gncadeq.datasets.mesh_trimesh import load_trimesh, read_glb, read_ply, read_stl
from gncadeq.files.atomic import write_atomically
from gncadeq.transforms.surface_operators import vertex_normals

READABLE = (".obj", ".ply", ".off", ".stl", ".glb")
WRITABLE = (".ply", ".glb", ".obj")


def load_mesh(path: str | Path, merge: bool = False, max_vertices: int = 5_000_000) -> Data:
    r"""Read a triangle mesh from an OBJ, PLY, OFF, STL or GLB file.

    Node ``i`` is vertex ``i`` of the file: nothing is merged, split, dropped or reordered, whatever
    seams, parts or unused vertices there are (a GLB's parts follow each other, placed in the
    scene). Polygons are cut into triangles from their first corner. Textures and the file's own
    normals are not read. PLY, STL and GLB need the extra ``mesh``.

    STL files share no vertices: every triangle brings its own three, and no edge connects two of
    them. Use ``merge=True`` for those.

    Args:
        path: The file; its ending says what it is.
        merge: Make one vertex of all that lie at exactly the same place. The first keeps its rank.
        max_vertices: Refuse larger files before they fill the memory.

    Returns:
        ``Data`` with ``pos`` ``[N, 3]`` in the file's units, ``face`` ``[3, F]``, unit ``normal``
        ``[N, 3]`` (the faces' mean by area; zero at a vertex in no face) and, if the file has
        vertex colours, ``color`` ``[N, 3]`` in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If trimesh is missing.
        ValueError: If the ending is unknown, or the file is unreadable, cut short, empty, too
            large, without faces, or has coordinates that are no finite numbers.

    Warns:
        MeshWarning: Where the mesh is no clean surface, with the counts (see :func:`mesh_report`).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "square.obj"
        ...     _ = path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
        ...     load_mesh(path)
        Data(pos=[4, 3], face=[3, 2], normal=[4, 3])
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(
            f"Expected a mesh file ending in {', '.join(READABLE)} (got {path}). Convert it"
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected a mesh file (got no such file: {path})")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a mesh (got an empty file: {path}). Write it again")
    vertices, triangles, color = _READERS[suffix](path, max_vertices)
    _check(path, vertices, triangles)
    if merge:
        vertices, triangles, color = _merged(vertices, triangles, color)
    with np.errstate(over="ignore"):
        pos = torch.from_numpy(vertices.astype(np.float32))
    data = Data(
        pos=pos,
        face=torch.from_numpy(triangles.astype(np.int64)).t().contiguous(),
    )
    if not bool(data.pos.isfinite().all()):
        raise ValueError(
            f"Expected coordinates within the range of float32 (got larger ones in {path}). Scale "
            "the mesh"
        )
    data.normal = vertex_normals(data.pos, data.face)
    if color is not None:
        data.color = torch.from_numpy(color.astype(np.float32)).clamp(0.0, 1.0)
    report = mesh_report(data)
    if report.defects:
        warnings.warn(
            f"Expected a clean surface in {path} (got {report}). It is read as it is",
            MeshWarning, stacklevel=2,
        )  # fmt: skip
    return data


def save_mesh(data: Data, path: str | Path, color: Tensor | None = None) -> None:
    """Write ``pos`` and ``face`` to a PLY, GLB or OBJ file, at once or not at all.

    Positions keep every bit; colours are rounded to bytes in PLY and GLB.

    Args:
        data: The mesh.
        path: The file; its ending says what to write.
        color: ``[N, 3]`` in [0, 1]; by default ``data.color``, if there is one.

    Raises:
        ImportError: If trimesh is missing (PLY and GLB).
        ValueError: If the ending is unknown, or if the colours do not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"Expected a file ending in {', '.join(WRITABLE)} (got {path})")
    if data.pos is None or data.face is None:
        raise ValueError(f"Expected data with 'pos' and 'face' (got {data})")
    if color is None:
        color = getattr(data, "color", None)
    pos, face = data.pos.detach().cpu().float().numpy(), data.face.t().cpu().numpy()
    rgb = None
    if color is not None:
        if list(color.shape) != [len(pos), 3]:
            raise ValueError(
                f"Expected 'color' of shape [num_nodes, 3] = [{len(pos)}, 3] "
                f"(got {list(color.shape)})"
            )
        rgb = color.detach().cpu().double().numpy()
        if not ((rgb >= 0) & (rgb <= 1)).all():
            raise ValueError(
                f"Expected colours in [0, 1] (got {rgb.min():.3g} to {rgb.max():.3g}). Use "
                "color.clamp(0, 1), or color / 255 for bytes"
            )
    if suffix == ".obj":
        content = _obj(pos, face, rgb)
    else:
        trimesh = load_trimesh(path)
        rgba = None
        if rgb is not None:
            rgba = np.rint(np.c_[rgb, np.ones(len(rgb))] * 255).astype(np.uint8)
        mesh = trimesh.Trimesh(pos, face, vertex_colors=rgba, process=False, validate=False)
        content = mesh.export(file_type=suffix[1:])
    write_atomically(path, content)


def _obj(pos: np.ndarray, face: np.ndarray, color: np.ndarray | None) -> bytes:
    # Nine significant digits give every float32 back; a fixed number of decimals would not.
    columns = pos if color is None else np.c_[pos, color]
    lines = ["v " + " ".join(f"{value:.9g}" for value in row) for row in columns.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (face + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


_READERS = {
    ".obj": read_obj, ".off": read_off, ".ply": read_ply, ".stl": read_stl, ".glb": read_glb,
}  # fmt: skip


def _check(path: Path, vertices: np.ndarray, triangles: np.ndarray) -> None:
    if len(vertices) == 0:
        raise ValueError(f"Expected a mesh (got no vertices in {path}). Is it the right file?")
    bad = ~np.isfinite(vertices).all(axis=1)
    if bad.any():
        raise ValueError(
            f"Expected finite coordinates (got {int(bad.sum())} vertices with NaN or infinity in "
            f"{path}, the first is {int(bad.argmax())}). Repair the file"
        )
    if len(triangles) == 0:
        raise ValueError(
            f"Expected faces (got {len(vertices)} vertices without any in {path}). Read it as "
            "points and use gncadeq.transforms.PointsToGraph"
        )
    if triangles.min() < 0 or triangles.max() >= len(vertices):
        wrong = triangles.max() if triangles.max() >= len(vertices) else triangles.min()
        raise ValueError(
            f"Expected faces of the vertices 0 … {len(vertices) - 1} (got {int(wrong)} in {path}). "
            "The file is cut short or corrupt"
        )


def _merged(vertices: np.ndarray, triangles: np.ndarray, color: np.ndarray | None) -> Arrays:
    place = vertices.astype(np.float32) + np.float32(0)  # -0 is 0
    _, first, inverse = np.unique(place, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # the first of each place, in the file's order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = first[order]
    triangles = rank[inverse.reshape(-1)][triangles]
    return vertices[kept], triangles, None if color is None else color[kept]


__all__ = ["READABLE", "WRITABLE", "load_mesh", "save_mesh"]
