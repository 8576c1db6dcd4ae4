"""Point clouds to graphs whose edges carry the geometry as kernel weights."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import scipy  # its parts load when they are used
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_count, check_value
from gncadeq.transforms.mesh import check_positions
from gncadeq.transforms.surface_operators import (
    least_squares_gradient,
    mean_lengths,
    neighbor_weights,
    normalized_rows,
    with_self_loops,
)

PointKernels = Literal["isotropic", "harmonics"]
PointWeights = Literal["distance", "uniform"]


class PointsToGraph(BaseTransform):  # type: ignore[misc]
    r"""Turn points in the plane or in space into a graph that a cell perceives through kernels.

    .. math::
        y_i^k = \sum_{(j \to i) \in \mathcal{E}} a_{ij}^k \, z_j, \qquad \sum_j a_{ij}^k = 0

    The kernels are those of :class:`MeshToGraph`'s one ring: ``"isotropic"`` is ``[Laplacian]``,
    :math:`\sum_j \hat w_{ij} (z_j - z_i)` with :math:`\sum_j \hat w_{ij} = 1`; ``"harmonics"`` is
    ``[Laplacian, ∂x, ∂y(, ∂z)]``, the gradient by weighted least squares in units of a point's mean
    distance to its neighbours. Points with a unit ``normal`` lie on a surface, and the gradient is
    that along it. Derivatives in directions in which the neighbours hardly spread are damped: rows
    of kernels are bounded on every cloud (:func:`gncadeq.testing.assert_bounded_perception`).

    Args:
        k: Every point senses its ``k`` nearest; those need not sense it.
        radius: Every point senses all within this distance, in the units of ``pos``. Give one of
            ``k`` and ``radius``.
        kernels: ``"isotropic"`` or ``"harmonics"``.
        weights: ``"distance"``, falling with the distance, or ``"uniform"``.
        max_edges: Refuse a ``radius`` that would need more edges, before they fill the memory.

    Returns (when called with ``Data`` of ``pos`` ``[N, 2]`` or ``[N, 3]``):
        The same with ``edge_index`` ``[2, E]`` sorted by target, loops included, and ``edge_attr``
        ``[E, K]``. A point without neighbours has weights of zero.

    Raises:
        ValueError: On an unknown option, a missing or wrong attribute, coordinates that are no
            finite numbers, too few points for ``k``, or a ``radius`` too small or too large.

    Example:
        >>> PointsToGraph(k=6, kernels="harmonics")(Data(pos=torch.rand(50, 3)))
        Data(pos=[50, 3], edge_index=[2, 350], edge_attr=[350, 4])
    """

    def __init__(
        self,
        k: int | None = None,
        radius: float | None = None,
        kernels: PointKernels = "isotropic",
        weights: PointWeights = "distance",
        max_edges: int = 50_000_000,
    ) -> None:
        if (k is None) == (radius is None):
            raise ValueError(f"Expected one of 'k' and 'radius' (got k={k}, radius={radius})")
        k = check_value("k", k, int | None, least=1, hint="Or give 'radius'")
        radius = check_value("radius", radius, float | None, above=0.0, hint="Or give 'k'")
        check_choice("kernels", kernels, get_args(PointKernels))
        check_choice("weights", weights, get_args(PointWeights))
        max_edges = check_count("max_edges", max_edges, 1)
        self.k, self.radius, self.kernels, self.weights = k, radius, kernels, weights
        self.max_edges = max_edges

    def forward(self, data: Data) -> Data:
        """Add edges and kernel weights to ``data``."""
        check_positions(data, (2, 3))
        pos, n = data.pos, data.pos.size(0)
        edges = self._edges(pos)
        source, target = edges
        weight = neighbor_weights(pos, edges, self.weights)
        edge_attr = normalized_rows(weight, target, n)[:, None]
        if self.kernels == "harmonics":
            offset = pos.double()[source] - pos.double()[target]
            length, unit = mean_lengths(offset, target, n)
            normal = getattr(data, "normal", None)
            if normal is not None:
                if normal.shape != pos.shape:
                    raise ValueError(
                        f"Expected 'normal' of the shape of 'pos', {list(pos.shape)} "
                        f"(got {list(normal.shape)})"
                    )
                across = normal.double()[target]
                offset = offset - (offset * across).sum(1, keepdim=True) * across
            gradient = least_squares_gradient(offset, length, weight, target, unit)
            edge_attr = torch.cat([edge_attr, gradient], dim=1)
        data.edge_index, data.edge_attr = with_self_loops(edges, edge_attr, n, pos.dtype)
        return data

    def _edges(self, pos: Tensor) -> Tensor:
        if self.k is not None:
            if self.k >= pos.size(0):
                raise ValueError(
                    f"Expected more points than k={self.k} (got {pos.size(0)}). Lower k, or use a "
                    "radius"
                )
            return nearest_neighbors(pos, self.k)
        place = pos.detach().double().cpu().numpy()
        n, tree = len(place), scipy.spatial.KDTree(place)
        count = int(tree.count_neighbors(tree, self.radius)) - n
        if count > self.max_edges:
            raise ValueError(
                f"Expected at most max_edges={self.max_edges:,} (got {count:,} within "
                f"radius={self.radius:g}). Lower it"
            )
        if count == 0 and n > 1:
            nearest = float(tree.query(place, 2)[0][:, 1].min())
            raise ValueError(
                f"Expected a 'radius' with neighbours in it (got {self.radius:g}; the nearest "
                f"two points are {nearest:.3g} apart). Raise it, or use k"
            )
        a, b = tree.query_pairs(self.radius, output_type="ndarray").T
        edges = np.stack([np.concatenate([a, b]), np.concatenate([b, a])]).astype(np.int64)
        return torch.from_numpy(edges).to(pos.device)

    def __repr__(self) -> str:
        size = f"k={self.k}" if self.k is not None else f"radius={self.radius}"
        return (
            f"{self.__class__.__name__}({size}, kernels={self.kernels!r}, weights={self.weights!r})"
        )


def nearest_neighbors(pos: Tensor, k: int, batch: Tensor | None = None) -> Tensor:
    """Edges ``[2, E]`` from the ``k`` nearest points to every point, the nearest first.

    Args:
        pos: Finite positions ``[N, D]``.
        k: How many; all others where a graph has no more.
        batch: ``[N]``, the graph of every point, ascending: edges stay within graphs.

    Example:
        >>> nearest_neighbors(torch.tensor([[0.0], [1.0], [3.0]]), 1)
        tensor([[1, 0, 1],
                [0, 1, 2]])
    """
    place = pos.detach().double().cpu().numpy()
    count = np.array([len(place)]) if batch is None else np.bincount(batch.cpu().numpy())
    edges, first = [np.empty((2, 0), np.int64)], 0
    for n in count:  # each alone: which of equally near ones are taken depends on no other graph
        if n > 1:
            alone = place[first : first + n]
            _, near = scipy.spatial.KDTree(alone).query(alone, np.arange(1, min(k + 1, n) + 1))
            own = near == np.arange(n)[:, None]
            own[~own.any(axis=1), -1] = True  # one of many coincident points may not find itself
            target = np.arange(n).repeat(min(k, n - 1))
            edges.append(np.stack([near[~own], target]) + first)
        first += n
    return torch.from_numpy(np.concatenate(edges, axis=1)).to(pos.device)
