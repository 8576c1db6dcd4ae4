"""Meshes of about as many vertices as an example can afford."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import scatter


def merged(mesh: Data, length: float) -> Data:
    """The mesh, its vertices merged in the cells of a grid whose cubes have that side."""
    node = torch.unique((mesh.pos / length).round(), dim=0, return_inverse=True)[1]
    face = node[mesh.face]
    apart = (face != face.roll(1, 0)).all(0)
    return Data(pos=scatter(mesh.pos, node, reduce="mean"), face=face[:, apart])


def resized(mesh: Data, vertices: int) -> Data:
    """The mesh, subdivided (Loop 1987) until it has as many vertices at least; one with twice as
    many is merged on a grid until it has at most so many."""
    if mesh.num_nodes >= 2 * vertices:
        length = float((mesh.pos.amax(0) - mesh.pos.amin(0)).max()) / vertices**0.5
        while (coarse := merged(mesh, length)).num_nodes > vertices:
            length *= 1.05
        return coarse
    if mesh.num_nodes >= vertices:
        return mesh
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"Expected trimesh to subdivide a mesh of {mesh.num_nodes} vertices (not installed). "
            "pip install trimesh, or give a finer mesh"
        ) from error
    shape = trimesh.Trimesh(mesh.pos.numpy(), mesh.face.T.numpy(), process=False)
    shape.remove_unreferenced_vertices()
    while len(shape.vertices) < vertices:
        shape = shape.subdivide_loop(1)
    face = torch.from_numpy(shape.faces.T.copy()).long()
    return Data(pos=torch.from_numpy(shape.vertices.copy()).float(), face=face)
