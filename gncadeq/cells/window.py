"""Whether the nodes of a graph are pixels that sense their whole window."""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells.stencil import prepare_neighborhood, stencil_bound
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.graph.precision import widened, widest
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
    if width * width != r or width % 2 == 0 or neighborhood.weighted:
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

    Where pixels sense their whole window it is :func:`stencil_bound`; else, with weights of edges
    of relation :math:`r` that sum to at most :math:`a_r` at a target and :math:`b_r` at a source
    (one for each edge, unless they are given),
    :math:`\sum_r \sqrt{a_r b_r} \, \lVert \mathbf{K}_r \rVert_2`.
    """
    hood = prepare_neighborhood(edge_index, edge_attr, num_nodes, weight.size(0))
    square = hood.grid is not None or hood.num_sources == hood.num_nodes
    if square and bool(senses_window(hood).all()):
        return float(stencil_bound(weight, 64))
    most = hood.row_sums().amax(0) * hood.reversed().row_sums().amax(0)
    return float((most.to(weight.dtype).sqrt() * torch.linalg.matrix_norm(weight, 2)).sum())


def present_relations(graph: Data, num_relations: int) -> Tensor:
    """``[num_relations]`` booleans: which relations occur in the graph, the central one always.

    Raises:
        ValueError: If the graph has no relations in ``edge_attr``.
    """
    if graph.edge_attr is None:
        raise ValueError("Expected a graph with the relations in 'edge_attr' (got None)")
    present = torch.zeros(num_relations, dtype=torch.bool, device=graph.edge_attr.device)
    present[graph.edge_attr.long().flatten()] = True
    present[num_relations // 2] = True
    return present


def window_rate(
    cell: Any, edge_index: Adj, relation: OptTensor, num_nodes: int, batch: OptTensor = None
) -> float | Tensor | None:
    """The Lipschitz bound of a stencil's cell on a graph, or of each graph of a batch: ``None``, or
    infinity, where it has none."""
    count = int(cell.num_relations)
    hood = prepare_neighborhood(edge_index, relation, num_nodes, count)
    whole = senses_window(hood, batch=batch)
    if bool(whole.all()):
        return float(cell.lipschitz_bound())
    rate = torch.full_like(whole, float("inf"), dtype=widest(whole.device))
    if bool(whole.any()):
        rate[whole] = float(cell.lipschitz_bound())
    # Else by what occurs of the window: a bound for each set of relations, not for each graph.
    edges = hood.incoming
    present = whole.new_zeros(whole.numel(), count)
    present[:, count // 2] = True
    present[0 if batch is None else batch[edges.receiver], edges.relation] = True
    part = senses_window(hood, present, batch) & ~whole
    for relations in torch.unique(present[part], dim=0):
        same = part & (present == relations).all(1)
        rate[same] = float(cell.lipschitz_bound(Data(edge_attr=relations.nonzero().flatten())))
    if not bool(rate.isfinite().any()):
        return None
    return float(rate) if batch is None else rate


def rows_rate(weight: Tensor, hood: Neighborhood, batch: OptTensor = None) -> float | Tensor:
    r"""How much a stencil stretches the largest norm of a node, on any graph or each of a batch.

    With weights of relation :math:`r` whose absolute values sum to :math:`a_{ir}` at node
    :math:`i`, :math:`\max_i \sum_r a_{ir} \lVert \mathbf{K}_r \rVert_2`.

    Example:
        >>> edge_index = torch.tensor([[0, 1], [1, 1]])
        >>> hood = Neighborhood(edge_index, torch.tensor([0, 0]), 2, 1)
        >>> rows_rate(torch.full((1, 1, 1), 0.25), hood)
        0.5
    """
    norms = torch.linalg.matrix_norm(widened(weight), 2)
    each = hood.row_sums().to(norms) @ norms
    if batch is None:
        return float(each.max()) if each.numel() else 0.0
    graphs = int(batch.max()) + 1 if batch.numel() else 0
    largest: Tensor = each.new_zeros(graphs).scatter_reduce_(0, batch, each, "amax")
    return largest
