"""Maps whose spectrum, exponents and attractors are known."""

from __future__ import annotations

import math

import torch

GOLDEN = math.pi * (math.sqrt(5) - 1)  # the turn that comes back least well


def linear(matrix):
    """A map of the whole flattened state, of any coupling between nodes."""
    return lambda z: (matrix @ z.reshape(-1)).view_as(z)


def rotation(angle, size=1.0):
    c, s = math.cos(angle), math.sin(angle)
    return size * torch.tensor([[c, -s], [s, c]], dtype=torch.double)


def prepared(cell, data):
    return cell.prepare(data.x, data.edge_index, data.edge_attr)


def logistic(z):
    return 4 * z * (1 - z)
