"""Small surfaces for tests."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data


def sphere(subdivisions: int) -> Data:
    """The unit icosphere: 12, 42, 162, 642, … vertices."""
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, of the mesh extra")
    mesh = trimesh.creation.icosphere(subdivisions)
    pos = torch.tensor(mesh.vertices, dtype=torch.float)
    return Data(pos=pos, face=torch.tensor(mesh.faces.T.copy(), dtype=torch.long))
