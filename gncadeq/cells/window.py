"""Whether the nodes of a graph are pixels that sense their whole window."""

from __future__ import annotations

from math import isqrt

import numpy as np
from torch import Tensor

from gncadeq.graph.neighborhood import Neighborhood


def senses_window(neighborhood: Neighborhood, relations: Tensor | None = None) -> bool:
    """Whether the nodes can be laid out as pixels, each with an edge from every pixel that is
    present in its window.

    The bounds of stencils are those of such graphs: the convolution of an image whose absent pixels
    are zero. Where edges are missing, taps no longer cancel, and the norm may be larger.

    Args:
        neighborhood: The edges, with a relation for each offset of a square window.
        relations: ``[num_relations]`` booleans, the part of the window that nodes sense; by default
            all of it.

    Example:
        >>> import torch
        >>> from gncadeq.cells import prepare_neighborhood
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph(living_threshold=0.5)(torch.rand(1, 6, 6))
        >>> edges, kind, n = data.edge_index, data.edge_attr, data.num_nodes
        >>> senses_window(prepare_neighborhood(edges, kind, n, 9))
        True
        >>> senses_window(prepare_neighborhood(edges[:, 1:], kind[1:], n, 9))
        False
    """
    if neighborhood.grid is not None:
        return True
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    r = neighborhood.num_relations
    width = isqrt(r)
    if width * width != r or width % 2 == 0:
        return False
    e, n = neighborhood.incoming, neighborhood.num_nodes
    source, target, kind = (v.cpu().numpy() for v in (e.sender, e.receiver, e.relation))
    offset = np.stack([kind // width, kind % width], 1) - width // 2  # of the source
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
    place = place[:n]
    if not np.array_equal(place[source] - place[target], offset):
        return False
    span = int(np.abs(place).max(initial=0)) + width
    code = (component * (2 * span + 1) + place[:, 0] + span) * (2 * span + 1) + place[:, 1] + span
    if len(np.unique(code)) < n:
        return False  # two nodes at one place
    expected = 0
    for k in range(r) if relations is None else relations.nonzero().flatten().tolist():
        neighbor = code + (k // width - width // 2) * (2 * span + 1) + k % width - width // 2
        expected += int(np.isin(neighbor, code).sum())
    return len(np.unique(np.stack([source, target]), axis=1).T) == len(source) == expected
