"""What is unusual about a mesh: counts, never a crash."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are used
from torch_geometric.data import Data

from gncadeq.transforms.surface_operators import degenerate_faces


class MeshWarning(UserWarning):
    """A mesh was read or used that is not a clean surface; the message counts its defects."""


@dataclass(frozen=True)
class MeshReport:
    r"""The counts of a mesh.

    Attributes:
        vertices: Vertices, those in no face included.
        faces: Triangles.
        parts: Connected parts, of the vertices in some face.
        boundary_edges: Edges of one face.
        nonmanifold_edges: Edges of more than two faces.
        inconsistent_edges: Edges whose two faces are oriented against each other.
        unreferenced_vertices: Vertices in no face.
        duplicate_faces: Faces with the vertices of an earlier one.
        degenerate_faces: Faces without area, to rounding.
        euler_characteristic: Vertices in some face, minus edges, plus faces: 2 on a sphere.
        orientable: Whether all faces can be oriented alike.
    """

    vertices: int
    faces: int
    parts: int
    boundary_edges: int
    nonmanifold_edges: int
    inconsistent_edges: int
    unreferenced_vertices: int
    duplicate_faces: int
    degenerate_faces: int
    euler_characteristic: int
    orientable: bool

    @property
    def defects(self) -> dict[str, int]:
        """What keeps it from being an oriented surface; an open boundary does not."""
        names = (
            "nonmanifold_edges", "inconsistent_edges", "unreferenced_vertices", "duplicate_faces",
            "degenerate_faces",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def __str__(self) -> str:
        counts = {"parts": self.parts, "boundary_edges": self.boundary_edges, **self.defects}
        told = ", ".join(f"{name.replace('_', ' ')}: {n:,}" for name, n in counts.items())
        return f"{self.vertices:,} vertices, {self.faces:,} faces; {told}"


def mesh_report(data: Data) -> MeshReport:
    """Count the parts, boundaries and defects of the mesh ``data`` (``pos``, ``face``).

    Example:
        >>> from gncadeq.datasets import primitives
        >>> report = mesh_report(primitives.torus(8, 6))
        >>> print(report)
        48 vertices, 96 faces; parts: 1, boundary edges: 0
        >>> report.euler_characteristic, report.orientable
        (0, True)
    """
    face = data.face.t().cpu().numpy()
    n, f = int(data.num_nodes), len(face)
    referenced = np.unique(face)
    proper = (face != np.roll(face, 1, axis=1)).all(axis=1)  # three different vertices
    side = face[proper][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # each face's three directed edges
    owner = proper.nonzero()[0].repeat(3)
    forward = side[:, 0] < side[:, 1]
    key = np.where(forward, side[:, 0] * n + side[:, 1], side[:, 1] * n + side[:, 0])
    order = np.argsort(key, kind="stable")
    key, owner, forward = key[order], owner[order], forward[order]
    _, start, count = np.unique(key, return_index=True, return_counts=True)
    first = start[count == 2]
    alike = forward[first] == forward[first + 1]
    parts = scipy.sparse.csgraph.connected_components(
        scipy.sparse.coo_matrix((np.ones(len(side)), side.T), shape=(n, n))
    )[0]
    distinct = len(np.unique(np.sort(face, axis=1), axis=0))
    return MeshReport(
        vertices=n,
        faces=f,
        parts=int(parts) - (n - len(referenced)),
        boundary_edges=int((count == 1).sum()),
        nonmanifold_edges=int((count > 2).sum()),
        inconsistent_edges=int(alike.sum()),
        unreferenced_vertices=n - len(referenced),
        duplicate_faces=f - distinct,
        degenerate_faces=int(degenerate_faces(data.pos, data.face).sum()),
        euler_characteristic=len(referenced) - len(count) + int(proper.sum()),
        orientable=_orientable(owner[first], owner[first + 1], alike, f),
    )


def _orientable(a: np.ndarray, b: np.ndarray, flips: np.ndarray, num_faces: int) -> bool:
    """Whether the two copies of every face, one of each orientation, stay apart."""
    f = num_faces
    rows, cols = np.concatenate([a, a + f]), np.concatenate([b + flips * f, b + ~flips * f])
    graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, cols)), shape=(2 * f, 2 * f))
    _, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return bool((label[:f] != label[f:]).all())
