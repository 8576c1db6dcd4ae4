"""Small surfaces for tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch_geometric.data import Data


def sphere(subdivisions: int) -> Data:
    """The unit icosphere: 12, 42, 162, 642, … vertices."""
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, of the extra dev")
    mesh = trimesh.creation.icosphere(subdivisions)
    pos = torch.tensor(mesh.vertices, dtype=torch.float)
    return Data(pos=pos, face=torch.tensor(mesh.faces.T.copy(), dtype=torch.long))


def evenly_spread(data: Data, columns: slice, uniform: bool = False) -> Tensor:
    """``[N]``, where a one ring's gradient is the plain fit: neither damped nor scaled down."""
    n, dim = data.pos.size(0), data.edge_attr[:, columns].size(1)
    flat = dim if data.pos.size(1) == dim and "face" not in data else 2
    zero = torch.zeros(n, dtype=torch.double)
    size = zero.index_add(0, data.edge_index[1], data.edge_attr[:, columns].double().norm(dim=1))
    source, target = data.edge_index[:, data.edge_index[0] != data.edge_index[1]]
    offset = data.pos[source].double() - data.pos[target].double()
    if not uniform:
        offset = offset / offset.norm(dim=1, keepdim=True).sqrt()
    moment = torch.zeros(n, 3, 3).double()[:, : offset.size(1), : offset.size(1)].contiguous()
    moment.index_add_(0, target, offset[:, :, None] * offset[:, None])
    share = torch.linalg.eigvalsh(moment)
    least = share[:, -flat] / share.sum(1).clamp_min(1e-300)
    return (size < 3 * flat - 1e-6) & (least > 0.05 + 1e-6)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def square() -> Data:
    """A square in the plane, of two triangles."""
    pos = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    return Data(pos=pos, face=torch.tensor([[0, 2], [1, 1], [2, 3]]))
