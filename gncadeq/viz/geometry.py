"""The drawable geometry of a graph: upright positions, faces or edges, and the size of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from gncadeq.check import check_choice, check_flag
from gncadeq.choices import UPRIGHT, Up


@dataclass(frozen=True)
class Geometry:
    """What is drawn of a graph.

    Attributes:
        pos: ``[N, 3]``, *y* up, centred, the farthest node at distance one.
        face: ``[F, 3]`` triangles, or none of them.
        edge: ``[E, 2]``, every edge once; none of them where there are faces.
        size: How long that distance is in the graph's own units.
        radius: The radius of a node in the units of ``pos``.
        flat: Whether the positions were in a plane (``[N, 2]``), to be looked at from the front.
    """

    pos: NDArray[np.float32]
    face: NDArray[np.int64]
    edge: NDArray[np.int64]
    size: float
    radius: float
    flat: bool

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self.pos)


def geometry(data: Any, up: Up = "y", edges: bool = True) -> Geometry:
    """Read the drawable geometry of one graph.

    Args:
        data: ``Data`` with ``pos`` ``[N, 3]`` or ``[N, 2]``; ``face`` ``[3, F]`` makes it a mesh,
            otherwise ``edge_index`` ``[2, E]`` is drawn. In a plane *y* points up, but down where
            there is an ``image_size``, as rows do.
        up: The axis of ``pos`` that points up in the picture.
        edges: Whether edges are drawn where there are no faces.

    Raises:
        ValueError: If ``data`` has no positions, if they aren't finite, if a face or an edge names
            an absent node, or if it holds several graphs.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> graph = geometry(ImageToGraph("von_neumann")(torch.rand(1, 4, 5)))
        >>> graph.num_nodes, graph.edge.shape, graph.flat
        (20, (31, 2), True)
    """
    check_choice("up", up, get_args(Up))
    check_flag("edges", edges)
    if getattr(data, "num_graphs", 1) > 1:
        raise ValueError(f"Expected one graph (got a batch of {data.num_graphs}). Use batch[i]")
    pos = getattr(data, "pos", None)
    if pos is None:
        raise ValueError(
            "Expected 'pos' of shape [num_nodes, 3] or [num_nodes, 2] (got none). Lay the graph "
            "out first, for example with networkx.spring_layout(graph, dim=3)"
        )
    if pos.dim() != 2 or pos.size(1) not in (2, 3) or not pos.size(0):
        raise ValueError(
            f"Expected 'pos' of shape [num_nodes, 3] or [num_nodes, 2] (got {list(pos.shape)})"
        )
    points = pos.detach().cpu().double().numpy()
    if not np.isfinite(points).all():
        raise ValueError(
            f"Expected finite positions (got {int((~np.isfinite(points)).any(1).sum())} nodes "
            "with NaN or infinity in 'pos')"
        )
    flat = points.shape[1] == 2
    if flat:
        down = getattr(data, "image_size", None) is not None
        points = np.c_[points[:, 0], -points[:, 1] if down else points[:, 1], np.zeros(len(points))]
    else:
        points = points[:, UPRIGHT[up]]
    points -= (points.min(0) + points.max(0)) / 2
    size = max(float(np.linalg.norm(points, axis=1).max()), 1e-12)
    points /= size
    face = _indices(data, "face", 3, len(points))
    edge = _indices(data, "edge_index", 2, len(points)) if edges and not len(face) else face[:0, :2]
    edge = np.unique(np.sort(edge[edge[:, 0] != edge[:, 1]], axis=1), axis=0)
    radius = 0.0 if len(face) else _radius(points, edge)
    return Geometry(points.astype(np.float32), face, edge, size, radius, flat)


def _indices(data: Any, name: str, rows: int, num_nodes: int) -> NDArray[np.int64]:
    index = getattr(data, name, None)
    if index is None:
        return np.zeros((0, rows), dtype=np.int64)
    if index.dim() != 2 or index.size(0) != rows:
        raise ValueError(f"Expected {name!r} of shape [{rows}, *] (got {list(index.shape)})")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < num_nodes:
        raise ValueError(
            f"Expected {name!r} to name nodes 0 to {num_nodes - 1} "
            f"(got {int(index.min())} to {int(index.max())})"
        )
    rows_first: NDArray[np.int64] = index.detach().cpu().to(torch.int64).numpy()
    return rows_first.T


def _radius(points: NDArray[np.float64], edge: NDArray[np.int64]) -> float:
    """Nodes at the ends of edges are small; points that make up a surface nearly touch."""
    if len(edge):
        length = np.linalg.norm(points[edge[:, 0]] - points[edge[:, 1]], axis=1)
        return float(np.clip(0.28 * np.median(length), 2e-3, 0.06))
    if len(points) == 1:
        return 0.06
    from scipy.spatial import cKDTree

    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    return float(np.clip(0.7 * np.median(nearest), 2e-3, 0.06))
