"""Whether the nodes of a graph are pixels that sense their whole window."""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
from torch import Tensor

from gncadeq.cells.stencil import prepare_neighborhood, stencil_bound
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.typing import Adj, OptTensor


def senses_window(
    neighborhood: Neighborhood, relations: OptTensor = None, batch: OptTensor = None
) -> Tensor:
    """Whether the nodes of each graph can be laid out as pixels, each with an edge from every pixel
    that is present in its window: ``[num_graphs]`` booleans.

    The bounds of stencils are those of such graphs: the convolution of an image whose absent pixels
    are zero. Where edges are missing, taps no longer cancel, and the norm may be larger.

    Args:
        neighborhood: The edges, with a relation for each offset of a square window.
        relations: ``[num_graphs, num_relations]`` booleans, the part of the window that nodes
            sense; by default all of it.
        batch: The graph of every node; ``None`` for a single graph.

    Example:
        >>> import torch
        >>> from gncadeq.cells import prepare_neighborhood
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph(living_threshold=0.5)(torch.rand(1, 6, 6))
        >>> edges, kind, n = data.edge_index, data.edge_attr, data.num_nodes
        >>> senses_window(prepare_neighborhood(edges, kind, n, 9))
        tensor([True])
        >>> senses_window(prepare_neighborhood(edges[:, 1:], kind[1:], n, 9))
        tensor([False])
    """
    graphs = 1 if batch is None else int(batch.max()) + 1 if batch.numel() else 0
    like = neighborhood.incoming.relation if batch is None else batch
    if neighborhood.grid is not None:
        return torch.ones(graphs, dtype=torch.bool, device=like.device)
    r = neighborhood.num_relations
    width = isqrt(r)
    if width * width != r or width % 2 == 0:
        return torch.zeros(graphs, dtype=torch.bool, device=like.device)
    e, n = neighborhood.incoming, neighborhood.num_nodes
    source, target, kind = (v.cpu().numpy() for v in (e.sender, e.receiver, e.relation))
    offset = np.stack([kind // width, kind % width], 1) - width // 2  # of the source
    component, place = _laid_out(source, target, offset, n)
    graph = np.zeros(n, np.int64) if batch is None else batch.cpu().numpy()

    def count(nodes: np.ndarray) -> np.ndarray:
        return np.bincount(graph[nodes], minlength=graphs)

    misplaced = (place[source] - place[target] != offset).any(1)
    span = int(np.abs(place).max(initial=0)) + width
    code = (component * (2 * span + 1) + place[:, 0] + span) * (2 * span + 1) + place[:, 1] + span
    places = np.unique(code, return_index=True)[1]  # of two nodes at one place, the first
    sensed = np.ones((graphs, r), bool) if relations is None else relations.cpu().numpy()
    expected = np.zeros(graphs, np.int64)
    for k in range(r):
        neighbor = code + (k // width - width // 2) * (2 * span + 1) + k % width - width // 2
        expected += count(np.flatnonzero(np.isin(neighbor, code) & sensed[graph, k]))
    edges = count(target)
    different = count(np.unique(source.astype(np.int64) * n + target) % max(n, 1))
    good = (count(target[misplaced]) == 0) & (count(places) == count(np.arange(n)))
    good &= (different == edges) & (edges == expected)
    return torch.from_numpy(good).to(like.device)


def _laid_out(
    source: np.ndarray, target: np.ndarray, offset: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The component of every node, and its place by the offsets along a tree over it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    ones = np.ones(len(source), np.int8)
    matrix = coo_array((ones, (source, target)), (n, n)).tocsr()
    _, component = connected_components(matrix, directed=False)
    # A tree over each component, all under one root, and where it puts the pixels.
    first = np.unique(component, return_index=True)[1]
    rows = np.concatenate([source, target, np.full(len(first), n)])
    columns = np.concatenate([target, source, first])
    tree = coo_array((np.ones(len(rows), np.int8), (rows, columns)), (n + 1, n + 1)).tocsr()
    parent = breadth_first_order(tree, n, return_predecessors=True)[1][:n].astype(np.int64)
    place = np.zeros((n + 1, 2), np.int64)
    step = np.concatenate([offset, -offset])  # of the child from its parent
    child, above = np.concatenate([source, target]), np.concatenate([target, source])
    of_tree = parent[child] == above
    place[child[of_tree]] = step[of_tree]
    ancestor = np.append(parent, n)
    while (ancestor != n).any():  # each round doubles how far up the places are counted from
        place = place + place[ancestor]
        ancestor = ancestor[ancestor]
    return component, place[:n]


@torch.no_grad()
def stencil_gain(weight: Tensor, edge_index: Adj, edge_attr: OptTensor, num_nodes: int) -> float:
    r"""How much a stencil ``[kernel², in_channels, out_channels]`` stretches Euclidean distances on
    a graph at most.

    Where pixels sense their whole window it is :func:`stencil_bound`; else, with at most
    :math:`a_r` edges of relation :math:`r` to a node and :math:`b_r` from one,
    :math:`\sum_r \sqrt{a_r b_r} \, \lVert \mathbf{K}_r \rVert_2`.
    """
    hood = prepare_neighborhood(edge_index, edge_attr, num_nodes, weight.size(0))
    square = hood.grid is not None or hood.num_sources == hood.num_nodes
    if square and bool(senses_window(hood).all()):
        return float(stencil_bound(weight, 64))
    e, r = hood.incoming, hood.num_relations
    most = [
        torch.bincount(node.long() * r + e.relation.long(), minlength=size * r).view(-1, r).amax(0)
        for node, size in ((e.receiver, hood.num_nodes), (e.sender, hood.num_sources))
    ]
    size = (most[0] * most[1]).to(weight.dtype).sqrt()
    return float((size * torch.linalg.matrix_norm(weight, 2)).sum())
