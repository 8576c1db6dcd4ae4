"""Points without faces to grow on: neighbours, normals, and the kernels of surfaces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.choices import Kernels
from gncadeq.transforms import PointsToGraph
from gncadeq.transforms.points import nearest_neighbors
from gncadeq.transforms.surface_operators import tangent_frames

_NEAR = 6  # as many as a vertex of a mesh has: derivatives are as large as on the mesh
_FIT = 12  # neighbours that a tangent plane is fitted to


def point_graph(points: Data, kernels: Kernels, up: tuple[float, float, float]) -> Data:
    """The graph of points on a surface, with kernels as of :class:`gncadeq.transforms.MeshToGraph`.

    Every point senses its six nearest (:class:`gncadeq.transforms.PointsToGraph`).
    Derivatives are those along the surface, by the normals of ``points``, or else by
    :func:`point_normals`.

    Args:
        points: ``pos`` ``[N, 3]``, and maybe unit ``normal`` ``[N, 3]``.
        kernels: ``"tangent"``, ``"gradient"``, ``"harmonics"`` or ``"isotropic"``.
        up: The axis to which tangent kernels have their north.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> point_graph(Data(pos=primitives.icosphere(2).pos), "tangent", (0.0, 1.0, 0.0))
        Data(pos=[162, 3], normal=[162, 3], edge_index=[2, 1134], edge_attr=[1134, 3])
    """
    pos, normal = points.pos, points.get("normal")
    if pos.size(0) < 3:
        raise ValueError(f"Expected three points or more to grow on (got {pos.size(0)})")
    if kernels != "isotropic" and normal is None:
        normal = point_normals(pos)
    data = Data(pos=pos) if normal is None else Data(pos=pos, normal=normal)
    k = min(_NEAR, pos.size(0) - 1)
    data = PointsToGraph(k, kernels="isotropic" if kernels == "isotropic" else "harmonics")(data)
    if kernels in ("tangent", "gradient"):
        frame = tangent_frames(data.normal, up).to(data.edge_attr)
        along = (frame[data.edge_index[1]] @ data.edge_attr[:, 1:, None]).squeeze(2)
        laplacian = data.edge_attr[:, :1] if kernels == "tangent" else along[:, :0]
        data.edge_attr = torch.cat([along, laplacian], 1)  # ∂east, ∂north, Laplacian
    return data


def point_normals(pos: Tensor, k: int = _FIT) -> Tensor:
    """Unit normals of points on a surface (`Hoppe et al. 1992 <https://doi.org/10.1145/133994.134011>`_).

    The normal is the direction in which the ``k`` nearest points spread least. Along a tree of
    neighbours whose planes are most parallel, each takes the side of the one before; the outermost
    point of every connected part looks away from the middle.

    Args:
        pos: ``[N, 3]``.
        k: How many neighbours a plane is fitted to.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> pos = primitives.icosphere(2).pos  # where the normal is the place itself
        >>> bool(((point_normals(pos) * pos).sum(1) > 0.99).all())
        True
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import (
        breadth_first_order,
        connected_components,
        minimum_spanning_tree,
    )

    n, k = pos.size(0), min(k, pos.size(0) - 1)
    source, target = nearest_neighbors(pos, k)
    place = pos.detach().double().cpu()
    ring = place[source].view(n, k, 3)
    ring = torch.cat([ring, place[:, None]], 1)
    ring = ring - ring.mean(1, keepdim=True)
    normal = torch.linalg.eigh(ring.mT @ ring)[1][:, :, 0].numpy()
    a, b = source.numpy(), target.numpy()
    bend = 1.0 - np.abs((normal[a] * normal[b]).sum(1)) + 1e-6  # a weight of zero is no edge
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, once = np.unique(low * n + high, return_index=True)
    graph = coo_matrix((bend[once], (low[once], high[once])), shape=(n, n))
    tree = minimum_spanning_tree(graph.tocsr())
    label = connected_components(tree, directed=False)[1]
    outward = (place - (place.amin(0) + place.amax(0)) / 2).numpy()
    far = np.linalg.norm(outward, axis=1)
    for part in range(label.max() + 1):
        members = np.flatnonzero(label == part)
        start = members[far[members].argmax()]
        if (normal[start] * outward[start]).sum() < 0:
            normal[start] *= -1
        order, before = breadth_first_order(tree, start, directed=False)
        for node in order[1:]:
            if (normal[node] * normal[before[node]]).sum() < 0:
                normal[node] *= -1
    return torch.from_numpy(normal).to(pos)
