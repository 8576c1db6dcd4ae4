"""Small surfaces for tests."""

from __future__ import annotations

import torch
from torch_geometric.data import Data


def sphere(subdivisions: int) -> Data:
    """The unit icosphere: 12, 42, 162, 642, … vertices."""
    g = (1 + 5**0.5) / 2
    corners = [(0, s, t * g) for s in (-1, 1) for t in (-1, 1)]
    pos = torch.tensor([p[i:] + p[:i] for i in range(3) for p in corners], dtype=torch.float)
    distance = torch.cdist(pos, pos)
    near = (distance < 2.1) & (distance > 0)
    face = [
        (a, b, c)
        for a in range(12) for b in range(a + 1, 12) for c in range(b + 1, 12)
        if near[a, b] and near[b, c] and near[a, c]
    ]  # fmt: skip
    f = torch.tensor(face)
    outward = (torch.linalg.cross(pos[f[:, 1]] - pos[f[:, 0]], pos[f[:, 2]] - pos[f[:, 0]])
               * pos[f].sum(1)).sum(1) > 0  # fmt: skip
    f = torch.where(outward[:, None], f, f[:, [0, 2, 1]])
    for _ in range(subdivisions):
        sides = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).sort(1).values
        unique, middle = sides.unique(dim=0, return_inverse=True)
        ab, bc, ca = (middle + len(pos)).chunk(3)
        pos = torch.cat([pos, pos[unique].sum(1)])
        pos = pos / pos.norm(dim=1, keepdim=True)
        a, b, c = f.T
        f = torch.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], 1).reshape(-1, 3)
    return Data(pos=pos / pos.norm(dim=1, keepdim=True), face=f.T.contiguous())
