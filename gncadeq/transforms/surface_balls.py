"""Neighbours on a surface within a radius, whatever its resolution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy  # its parts load when they are used
import torch
from torch import Tensor


def surface_balls(
    pos: Tensor, edge_index: Tensor, radius: float, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The vertices that each vertex reaches along edges without leaving its ball.

    Two sheets that pass close by, or two parts, are no neighbours, however near they are.

    Args:
        pos: Positions ``[N, D]``.
        edge_index: Both directions of every edge ``[2, E]``.
        radius: The balls' radius, a straight distance.
        rows: How many vertices to do at once: memory grows with them.

    Yields:
        Pairs (neighbour, vertex) ``[2, P]`` without the vertex itself, and their distances ``[P]``
        in float64, for ``rows`` vertices after the other.

    Example:
        >>> pos = torch.tensor([[0.0], [1.0], [2.0], [0.1]])
        >>> line = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> pairs, distance = next(surface_balls(pos, line, radius=1.5, rows=4))
        >>> pairs.tolist()
        [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    place = pos.double().cpu().numpy()
    source, target = edge_index.cpu().numpy()
    n = len(place)
    adjacency = scipy.sparse.csr_matrix(
        (np.ones(len(source), np.int32), (target, source)), shape=(n, n)
    )
    for first in range(0, n, rows):
        last = min(first + rows, n)
        pairs, distances = _reach(place, adjacency, np.arange(first, last), radius)
        pairs[1] += first
        yield torch.from_numpy(pairs), torch.from_numpy(distances)


def _reach(
    place: np.ndarray, adjacency: scipy.sparse.csr_matrix, center: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(center), len(place))
    ones = np.ones(len(center), np.int32)
    layer = scipy.sparse.csr_matrix((ones, center, np.arange(len(center) + 1)), shape=shape)
    before = scipy.sparse.csr_matrix(shape, dtype=np.int32)
    found, distances = [], []
    while layer.nnz:
        # Breadth first: an edge leads into the layer before, the same or the next, nowhere else.
        step = layer @ adjacency - (layer + before) * np.int32(1 << 20)
        row = np.repeat(np.arange(shape[0]), np.diff(step.indptr))
        fresh = step.data > 0
        row, col = row[fresh], step.indices[fresh].astype(np.int64)
        distance = np.linalg.norm(place[col] - place[center[row]], axis=1)
        inside = distance <= radius
        row, col = row[inside], col[inside]
        found.append(np.stack([col, row]))
        distances.append(distance[inside])
        start = np.concatenate([[0], np.bincount(row, minlength=shape[0]).cumsum()])
        before, layer = (
            layer,
            scipy.sparse.csr_matrix((np.ones(len(row), np.int32), col, start), shape=shape),
        )
    pairs, distance = np.concatenate(found, axis=1), np.concatenate(distances)
    order = np.argsort(pairs[1] * shape[1] + pairs[0])
    return pairs[:, order], distance[order]
