r"""Differential operators of a triangle mesh, from each vertex and its one ring.

Everything is computed in float64, without a loop over vertices, and stays finite on any mesh:
faces without area contribute nothing, and vertices that no face shapes fall back to distances. The
kernels are bounded on every mesh (:func:`gncadeq.testing.assert_bounded_perception`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy  # its parts load when they are used
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Literal["cotangent", "distance", "uniform"]

_SLIVER = 1e-6
"""The sine of a face's angle below which its direction is rounding."""
_LEAST_SPREAD = 0.05
"""The share of the mean square distance below which a direction's derivative is damped."""
_LARGEST = 3.0
"""The largest sum of a gradient's coefficients, in units of that of evenly spread neighbours."""
_SHORTEST = 1e-2
"""Edges count as no shorter than this fraction of the mean one: coincident vertices stay finite."""


def face_normals(pos: Tensor, face: Tensor) -> Tensor:
    """Each face's normal ``[F, 3]``, as long as twice its area, in float64."""
    a, b, c = pos.double()[face]
    out: Tensor = torch.linalg.cross(b - a, c - a)
    return out


def degenerate_faces(pos: Tensor, face: Tensor) -> Tensor:
    """Which faces have no area, to rounding: ``[F]`` booleans.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
        >>> degenerate_faces(pos, torch.tensor([[0, 0, 0], [1, 1, 0], [2, 3, 1]]))
        tensor([ True, False,  True])
    """
    corner = pos.double()[face]
    longest = (corner - corner.roll(1, dims=0)).norm(dim=2).amax(dim=0)
    out: Tensor = face_normals(pos, face).norm(dim=1) <= _SLIVER * longest.square()
    return out


def vertex_normals(pos: Tensor, face: Tensor) -> Tensor:
    """Unit normals ``[N, 3]``: the mean of the faces around a vertex, weighted by their areas.

    Where oppositely oriented faces cancel, as along the seam of a Möbius strip, the normal is that
    of their common plane. A vertex in no face with an area has the normal zero.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
        >>> vertex_normals(pos, torch.tensor([[0], [1], [2]]))[[0, 3]].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    n = pos.size(0)
    normal = face_normals(pos, face) * ~degenerate_faces(pos, face)[:, None]
    size = normal.norm(dim=1)
    total, area = normal.new_zeros(n, 3), normal.new_zeros(n)
    for corner in face:
        total.index_add_(0, corner, normal)
        area.index_add_(0, corner, size)
    cancelled = (total.norm(dim=1) < 0.1 * area).nonzero().view(-1)
    if cancelled.numel():
        # The plane of Σ_f A_f n_f n_fᵀ does not know the orientation of its faces.
        place = torch.full((n,), -1, device=pos.device)
        place[cancelled] = torch.arange(cancelled.numel(), device=pos.device)
        tensor = normal.new_zeros(cancelled.numel(), 3, 3)
        for corner in face:
            near = place[corner] >= 0
            m = normal[near]
            outer = m[:, :, None] * m[:, None] / size[near].clamp_min(1e-300)[:, None, None]
            tensor.index_add_(0, place[corner[near]], outer)
        scale = area[cancelled].clamp_min(1e-300)[:, None, None]
        total[cancelled] = torch.linalg.eigh(tensor / scale)[1][..., -1]
    unit: Tensor = total / total.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return unit.to(pos.dtype)


def vertex_areas(pos: Tensor, face: Tensor) -> Tensor:
    """Lumped areas ``[N]``: a third of the area of every face around a vertex.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> float(vertex_areas(pos, torch.tensor([[0], [1], [2]])).sum())
        0.5
    """
    third = face_normals(pos, face).norm(dim=1) / 6
    area: Tensor = third.new_zeros(pos.size(0))
    for corner in face:
        area.index_add_(0, corner, third)
    return area.to(pos.dtype)


def mesh_edges(face: Tensor, num_nodes: int) -> Tensor:
    """Both directions of every edge, once each and sorted by target: ``[2, E]``.

    Example:
        >>> mesh_edges(torch.tensor([[0], [1], [2]]), 3)
        tensor([[1, 2, 0, 2, 0, 1],
                [0, 0, 1, 1, 2, 2]])
    """
    return _summed_edges(face, torch.ones_like(face, dtype=torch.int8), num_nodes)[0]


def _summed_edges(face: Tensor, opposite: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """The edges, and the sums ``[E]`` of what the corners opposite them hold, ``[3, F]``."""
    u, v = face[[1, 2, 0]].reshape(-1).cpu().numpy(), face[[2, 0, 1]].reshape(-1).cpu().numpy()
    value = opposite.reshape(-1).cpu().numpy()
    proper = u != v
    u, v, value = u[proper], v[proper], value[proper]
    entries = np.concatenate([value, value]), (np.concatenate([v, u]), np.concatenate([u, v]))
    matrix = scipy.sparse.coo_matrix(
        entries, shape=(num_nodes, num_nodes)
    ).tocsr()  # sums, and sorts by bucket
    matrix.sort_indices()
    target = np.repeat(np.arange(num_nodes), np.diff(matrix.indptr))
    edge_index = torch.from_numpy(np.stack([matrix.indices.astype(np.int64), target]))
    return edge_index.to(face.device), torch.from_numpy(matrix.data).to(face.device)


def neighbor_weights(
    pos: Tensor, edge_index: Tensor, weights: Weights = "distance", face: Tensor | None = None
) -> Tensor:
    r"""Symmetric weights :math:`w_{ij} \ge 0` ``[E]`` of the edges, in float64.

    ``"uniform"`` is one. ``"distance"`` is the mean edge's length over the edge's own.
    ``"cotangent"`` is :math:`\tfrac{1}{2} (\cot \alpha_{ij} + \cot \beta_{ij})` (`Pinkall and
    Polthier, "Computing Discrete Minimal Surfaces and Their Conjugates", 1993
    <https://doi.org/10.1080/10586458.1993.10504266>`_), zero where negative; the edges of a vertex
    that is left without weight take their distance.

    Args:
        pos: Positions ``[N, D]``.
        edge_index: Edges ``[2, E]``; cotangents need them as :func:`mesh_edges` sorts them.
        weights: Which.
        face: Triangles ``[3, F]``, for cotangents.
    """
    source, target = edge_index
    if weights == "uniform":
        return torch.ones(source.numel(), dtype=torch.double, device=pos.device)
    length = (pos.double()[source] - pos.double()[target]).norm(dim=1)
    mean = length.mean() if length.numel() else length.new_zeros(())
    distance = torch.where(mean > 0, mean / length.clamp_min(mean * _SHORTEST), 1.0)
    if weights == "distance":
        return distance
    assert face is not None
    corner = pos.double()[face]
    p, q = corner.roll(-1, dims=0) - corner, corner.roll(-2, dims=0) - corner
    half = 0.5 * (p * q).sum(dim=2) / face_normals(pos, face).norm(dim=1)
    half[:, degenerate_faces(pos, face)] = 0.0
    total = _summed_edges(face, half, pos.size(0))[1].clamp_min(0.0)
    row = total.new_zeros(pos.size(0)).index_add_(0, target, total)
    bare = row <= 1e-12  # both directions of its edges, so that the weights stay symmetric
    return torch.where(bare[source] | bare[target], distance, total)


def normalized_rows(weight: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    r"""Weights over their sum at the target, :math:`\sum_j \hat w_{ij} = 1`."""
    row = weight.new_zeros(num_nodes).index_add_(0, target, weight)
    return weight / row[target].clamp_min(1e-300)


def mean_lengths(offset: Tensor, target: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """The lengths ``[E]`` of edges, and their mean at every target ``[N]``."""
    length = offset.norm(dim=1)
    share = normalized_rows(torch.ones_like(length), target, num_nodes) * length
    return length, length.new_zeros(num_nodes).index_add_(0, target, share)


def least_squares_gradient(
    offset: Tensor, length: Tensor, weight: Tensor, target: Tensor, unit: Tensor
) -> Tensor:
    r"""Coefficients ``[E, D]`` of the gradient that fits :math:`z_j - z_i` best, within a bound.

    .. math::
        \mathbf{g}_i = \sum_j \mathbf{c}_{ij} (z_j - z_i), \quad \mathbf{c}_{ij} = \ell_i \,
        \frac{\omega_{ij}}{s_i} \, [\mathbf{M}_i]^{-1} \mathbf{u}_{ij}, \quad \mathbf{M}_i =
        \sum_j \frac{\omega_{ij}}{s_i} \mathbf{u}_{ij} \mathbf{u}_{ij}^\top, \quad s_i = \sum_j
        \omega_{ij} d_{ij}^2

    where :math:`[\mathbf{M}]` has the eigenvectors of :math:`\mathbf{M}`, and its eigenvalues or
    0.05, whichever is larger. The fit is exact for linear functions where the neighbours spread
    by that share of their mean square distance in every direction; where they spread less the
    derivative fades to zero continuously. Coefficients that are still large, together with the
    vertex's own :math:`-\sum_j \mathbf{c}_{ij}`, are scaled down to

    .. math::
        \sum_j \lVert \mathbf{c}_{ij} \rVert + \Big\lVert \sum_j \mathbf{c}_{ij} \Big\rVert \le 3 D

    where neighbours at equal distances that are spread evenly all around have :math:`D`.

    Args:
        offset: :math:`\mathbf{u}_{ij}` ``[E, D]``, from the target, maybe projected onto a plane.
        length: The neighbours' distances :math:`d_{ij}` ``[E]``.
        weight: :math:`\omega_{ij} \ge 0` ``[E]``.
        target: The target of every edge.
        unit: The length :math:`\ell_i` ``[N]`` in which the gradient is measured.
    """
    num_nodes, dim = unit.numel(), offset.size(1)
    spread = weight.new_zeros(num_nodes).index_add_(0, target, weight * length.square())
    weighted = (weight / spread.clamp_min(1e-300)[target])[:, None] * offset
    moment = offset.new_zeros(num_nodes, dim, dim)
    for row in range(dim):
        moment[:, row].index_add_(0, target, weighted[:, row : row + 1] * offset)
    value, axis = torch.linalg.eigh(moment)
    inverse = (axis / value.clamp_min(_LEAST_SPREAD)[:, None]) @ axis.transpose(1, 2)
    out = torch.einsum("edk,ek->ed", inverse[target], weighted) * unit[target, None]
    own = out.new_zeros(num_nodes, dim).index_add_(0, target, out).norm(dim=1)
    size = own.index_add(0, target, out.norm(dim=1))
    scaled: Tensor = out * (_LARGEST * dim / size.clamp_min(_LARGEST * dim))[target, None]
    return scaled


def tangent_frames(normal: Tensor, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    r"""Orthonormal axes ``[N, 2, 3]`` of the tangent planes, (east, north), in float64.

    North is ``up`` projected onto the plane, east completes it: north × normal. Near the poles,
    where ``up`` is normal to the plane to within a thousandth, the coordinate axis that is least
    aligned with ``up`` takes its place (y for z): on a plane seen from above, (x, y).

    Example:
        >>> tangent_frames(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).tolist()
        [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    axis = F.normalize(torch.tensor(up, dtype=torch.double, device=normal.device), dim=0)
    # A vertex without a normal gets the plane that is normal to `up`, as good as any.
    bare = normal.double().norm(dim=1, keepdim=True) < 0.5
    normal = torch.where(bare, axis, normal.double())
    # y before x before z, if they are equally far from `up`
    least = min((1, 0, 2), key=lambda k: abs(float(axis[k])))
    spare = F.one_hot(torch.tensor(least, device=normal.device), 3).double()
    north, fallback = (v - normal * (normal @ v)[:, None] for v in (axis, spare))
    north = torch.where(north.norm(dim=1, keepdim=True) < 1e-3, fallback, north)
    north = F.normalize(north, dim=1)
    return torch.stack([torch.linalg.cross(north, normal), north], dim=1)


def centered_rows(edge_index: Tensor, edge_attr: Tensor) -> Tensor:
    r"""Derivatives that give a node itself no weight, as those of pixels.

    .. math::
        a'_{ij} = a_{ij} + a_{ii} \frac{g_{ij}}{\sum_{k \neq i} g_{ik}} , \qquad a'_{ii} = 0

    with the Laplacian's weights :math:`g`. Where the neighbours of a node lie
    to one side, a derivative by least squares gives the node a weight :math:`a_{ii}` of its own.

    Args:
        edge_index: Edges ``[2, E]`` with a loop at every node.
        edge_attr: Weights ``[E, K]``: the Laplacian's in the last column, derivatives before.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 1, 1]])
        >>> weight = torch.tensor([[0.0, 0.5], [-1.0, -1.0], [1.0, 0.5]])
        >>> centered_rows(edge_index, weight)[:, 0]
        tensor([-0.5000,  0.0000,  0.5000])
    """
    target, own = edge_index[1], edge_index[0] == edge_index[1]
    derivative, laplacian = edge_attr[:, :-1], edge_attr[:, -1].masked_fill(own, 0.0)
    num_nodes = int(edge_index.max()) + 1
    # In double precision, in which a sum of zero, as of faces without area, divides to zero.
    share = normalized_rows(laplacian.double(), target, num_nodes).to(laplacian.dtype)
    loop = derivative.new_zeros(num_nodes, derivative.size(1))
    loop[target[own]] = derivative[own]
    spread = derivative + share[:, None] * loop[target]
    return torch.cat([spread.masked_fill(own[:, None], 0.0), edge_attr[:, -1:]], 1)


def with_self_loops(
    edge_index: Tensor, edge_attr: Tensor, num_nodes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add a loop to every node, so that its weights add up to zero; sort by target, then source.

    Args:
        edge_index: Edges ``[2, E]`` without loops.
        edge_attr: Their weights ``[E, K]``.
        num_nodes: How many nodes there are.
        dtype: Of the result; the weights are rounded first, and add up to zero all the same.

    Example:
        >>> edge_index = torch.tensor([[0, 2], [1, 1]])
        >>> with_self_loops(edge_index, torch.tensor([[0.25], [0.75]]), 3, torch.float)[1].flatten()
        tensor([ 0.0000,  0.2500, -1.0000,  0.7500,  0.0000])
    """
    edge_attr = edge_attr.to(dtype)
    row = edge_attr.new_zeros(num_nodes, edge_attr.size(1), dtype=torch.double)
    row.index_add_(0, edge_index[1], edge_attr.double())
    loop = torch.arange(num_nodes, device=edge_index.device)
    edge_index = torch.cat([edge_index, loop.expand(2, -1)], dim=1)
    edge_attr = torch.cat([edge_attr, 0.0 - row.to(dtype)])
    order = (edge_index[1] * num_nodes + edge_index[0]).argsort()
    return edge_index[:, order], edge_attr[order]
