"""Meshes and points from and to files: node ``i`` is vertex ``i`` of the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.datasets.mesh_report import MeshWarning, mesh_report
from gncadeq.files.atomic import write_atomically
from gncadeq.files.content import Arrays, FileError, bad, read_bytes, suffix_of
from gncadeq.files.gltf import read_gltf
from gncadeq.files.obj import read_obj
from gncadeq.files.off import read_off
from gncadeq.files.ply import read_ply
from gncadeq.files.point_tables import read_npy, read_points
from gncadeq.files.stl import read_stl
from gncadeq.files.write_meshes import write_glb, write_obj, write_ply
from gncadeq.transforms.surface_operators import vertex_normals

Reader = Callable[[bytes, Path, int], Arrays]

_MESHES: dict[str, Reader] = {
    ".obj": read_obj, ".ply": read_ply, ".off": read_off, ".stl": read_stl, ".glb": read_gltf,
    ".gltf": read_gltf,
}  # fmt: skip
_POINTS: dict[str, Reader] = {
    ".xyz": read_points, ".pts": read_points, ".asc": read_points, ".txt": read_points,
    ".csv": read_points, ".npy": read_npy,
}  # fmt: skip

READABLE = tuple(_MESHES)
SHAPES = (*_MESHES, *_POINTS)
WRITABLE = (".ply", ".glb", ".obj")

_FAR = 1e-5


def load_mesh(path: str | Path, merge: bool = False, max_vertices: int = 5_000_000) -> Data:
    r"""Read a triangle mesh from an OBJ, PLY, OFF, STL, GLB or glTF file.

    Node ``i`` is vertex ``i`` of the file: nothing is merged, split, dropped or reordered (the
    parts of a glTF file follow each other, placed in the scene). Polygons are cut into triangles of
    their orientation. Textures, materials and the file's own normals are not read
    (``docs/files.md``). A file that ends in ``.gz`` is unpacked. In STL files every triangle brings
    three vertices of its own: use ``merge=True`` for those.

    Args:
        path: The file; its ending says what it is.
        merge: Make one vertex of all that lie at exactly the same place. The first keeps its rank.
        max_vertices: Refuse larger files before they fill the memory.

    Returns:
        ``Data`` with ``pos`` ``[N, 3]`` in the file's units, ``face`` ``[3, F]``, unit ``normal``
        ``[N, 3]`` (the faces' mean by area; zero at a vertex in no face) and, if the file has
        vertex colours, ``color`` ``[N, 3]`` in [0, 1]. A mesh so far from the origin that float32
        would blur it, by more than 1e-5 of its extent, is moved: ``pos`` then starts from
        ``origin`` ``[1, 3]`` (float64), which :func:`save_mesh` adds again.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, or the file is unreadable, cut short, empty, too
            large, without faces, or has coordinates that are no finite numbers.

    Warns:
        MeshWarning: Where the mesh is no clean surface, with the counts (see :func:`mesh_report`),
            and where something in the file was left out.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "square.obj"
        ...     _ = path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
        ...     load_mesh(path)
        Data(pos=[4, 3], face=[3, 2], normal=[4, 3])
    """
    arrays = _read(Path(path), _MESHES, "mesh", max_vertices)
    if len(arrays.face) == 0:
        raise bad(
            Path(path), "faces", f"{len(arrays.pos):,} vertices without any",
            "Read it with gncadeq.load_points, and use gncadeq.transforms.PointsToGraph",
        )  # fmt: skip
    return _to_data(arrays, Path(path), merge)


def load_points(path: str | Path, merge: bool = False, max_vertices: int = 5_000_000) -> Data:
    r"""Read points without faces: XYZ, PTS, ASC, TXT, CSV, NPY, or the vertices of a mesh file.

    A table has a point a line, its columns separated by commas, semicolons, tabs or spaces, and
    maybe named in the first line (``x,y,z,nx,ny,nz,red,green,blue``). Without names the first
    three are coordinates; three more are normals if all have length one, and else colours. An NPY
    file holds an array ``[N, 3 or more]`` of the same columns; one of Python objects is refused.

    Args:
        path: The file; its ending says what it is, and may be followed by ``.gz``.
        merge: Make one point of all that lie at exactly the same place. The first keeps its rank.
        max_vertices: Refuse larger files before they fill the memory.

    Returns:
        ``Data`` with ``pos`` ``[N, 3]``, and where the file has them, unit ``normal`` ``[N, 3]``
        and ``color`` ``[N, 3]`` in [0, 1]; ``origin`` as of :func:`load_mesh`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, or the file is unreadable, cut short, empty, too
            large, or has coordinates that are no finite numbers.

    Warns:
        MeshWarning: Where something in the file was left out.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cloud.csv"
        ...     _ = path.write_text("x,y,z,red,green,blue\n0,0,0,255,0,0\n1,2,3,0,255,0\n")
        ...     load_points(path)
        Data(pos=[2, 3], color=[2, 3])
    """
    arrays = _read(Path(path), _MESHES | _POINTS, "point", max_vertices)
    return _to_data(arrays._replace(face=arrays.face[:0]), Path(path), merge)


def load_shape(path: str | Path, merge: bool = False) -> Data:
    """Read a mesh, or points where the file has no faces."""
    return _to_data(_read(Path(path), _MESHES | _POINTS, "point or mesh"), Path(path), merge)


def save_mesh(data: Data, path: str | Path, color: Tensor | None = None) -> None:
    """Write ``pos`` and ``face`` to a PLY, GLB or OBJ file, at once or not at all.

    Positions keep every bit; colours are rounded to bytes in PLY and GLB. Points without faces
    can be written as PLY. An ``origin`` is added to the positions, in double precision.

    Args:
        data: The mesh.
        path: The file; its ending says what to write.
        color: ``[N, 3]`` in [0, 1]; by default ``data.color``, if there is one.

    Raises:
        ValueError: If the ending is unknown, or if the colours do not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"Expected a file ending in {', '.join(WRITABLE)} (got {path})")
    if data.pos is None or (data.face is None and suffix != ".ply"):
        hint = ". Points without faces can be written as PLY" if data.pos is not None else ""
        raise ValueError(f"Expected data with 'pos' and 'face' (got {data}){hint}")
    if color is None:
        color = getattr(data, "color", None)
    pos = data.pos.detach().cpu().float().numpy()
    face = np.empty((0, 3), np.int64) if data.face is None else data.face.t().cpu().numpy()
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
    origin = getattr(data, "origin", None)
    place = None if origin is None else origin.detach().cpu().double().numpy().reshape(3)
    if suffix == ".glb":  # its coordinates are float32: the node that places them is not
        content = write_glb(pos, face, rgb, place)
    else:
        write = write_ply if suffix == ".ply" else write_obj
        content = write(pos if place is None else pos + place, face, rgb)
    write_atomically(path, content)


def _read(path: Path, readers: Mapping[str, Reader], what: str, most: int = 5_000_000) -> Arrays:
    """What the file holds, checked; every error names the file."""
    suffix = suffix_of(path)
    if suffix not in readers:
        raise ValueError(
            f"Expected a file ending in {', '.join(readers)}, maybe with .gz (got {path}). "
            "Convert it"
        )
    content = read_bytes(path, f"a {what} file")
    try:
        arrays = readers[suffix](content, path, most)
    except (FileError, FileNotFoundError):
        raise
    except Exception as error:  # whatever a damaged file brings about
        kind = suffix[1:].upper()
        raise bad(path, f"{kind} content", f"an unreadable one: {error!r}") from error
    pos, face = arrays.pos, arrays.face
    if len(pos) == 0:
        raise bad(path, f"a {what} file", "no vertices", "Is it the right file?")
    wrong = ~np.isfinite(pos).all(axis=1)
    if wrong.any():
        got = f"{wrong.sum()} vertices with NaN or infinity, the first is {wrong.argmax()},"
        raise bad(path, "finite coordinates", got, "Repair the file")
    if len(face) and (face.min() < 0 or face.max() >= len(pos)):
        index = face.max() if face.max() >= len(pos) else face.min()
        raise bad(
            path, f"faces of the vertices 0 … {len(pos) - 1}", str(int(index)),
            "The file is cut short or corrupt",
        )  # fmt: skip
    return arrays


def _to_data(arrays: Arrays, path: Path, merge: bool) -> Data:
    place, origin = _local(arrays.pos)
    if not np.abs(place).max() <= np.finfo(np.float32).max:
        raise bad(path, "coordinates within the range of float32", "larger ones", "Scale the mesh")
    pos = place.astype(np.float32) + np.float32(0)  # -0 is 0
    face, rows = arrays.face, np.arange(len(pos))
    if merge:
        rows, face = _merged(pos, face)
    data = Data(pos=torch.from_numpy(pos[rows]))
    if len(face):
        data.face = torch.from_numpy(face.astype(np.int64)).t().contiguous()
        data.normal = vertex_normals(data.pos, data.face)
    elif arrays.normal is not None and len(arrays.face) == 0:
        normal = torch.from_numpy(arrays.normal[rows].astype(np.float32))
        data.normal = torch.nn.functional.normalize(normal, dim=1)
    if arrays.color is not None:
        data.color = torch.from_numpy(arrays.color[rows].astype(np.float32))
    if origin is not None:
        data.origin = torch.from_numpy(origin)[None]
    _warn(arrays, data, path)
    return data


def _local(pos: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates that float32 can hold, and the origin that was taken from them, if any."""
    low, high = pos.min(0), pos.max(0)
    with np.errstate(over="ignore"):
        extent, far = (high - low).max(), np.abs([low, high]).max()
    blur = far * np.finfo(np.float32).eps
    if not extent > 0 or not blur > _FAR * extent:
        return pos, None
    origin: np.ndarray = low + (high - low) / 2
    return pos - origin, origin


def _merged(pos: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first vertex of each place, in the file's order, and faces of these."""
    _, first, inverse = np.unique(pos, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)][face]


def _warn(arrays: Arrays, data: Data, path: Path) -> None:
    told = [f"left out: {', '.join(arrays.notes)}"] if arrays.notes else []
    if data.face is not None:
        report = mesh_report(data)
        if report.defects:
            told.append(str(report))
    if told:
        got = "; ".join(told)
        warnings.warn(
            f"Expected a clean surface in {path} (got {got}). It is read as it is", MeshWarning,
            stacklevel=4,
        )  # fmt: skip
