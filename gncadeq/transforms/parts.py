"""Graphs in parts, each with a halo of the nodes around it, to be solved piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph, to_scipy_sparse_matrix

from gncadeq.check import check_count, check_type
from gncadeq.graph.neighborhood import check_edge_index, check_range


def partition(edge_index: Tensor, num_nodes: int, num_parts: int) -> list[Tensor]:
    """Parts of equal size, of nodes that are near each other: the ascending indices of each.

    The order is that of Cuthill and McKee (1969), breadth first; METIS, with which
    :class:`torch_geometric.loader.ClusterData` cuts fewer edges, needs pyg-lib or torch-sparse.

    Args:
        edge_index: Edge indices ``[2, num_edges]``.
        num_nodes: Number of nodes.
        num_parts: Number of parts, in [1, num_nodes].

    Raises:
        ValueError: If there are more parts than nodes, or none.

    Example:
        >>> ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
        >>> partition(ring, num_nodes=4, num_parts=2)
        [tensor([0, 1]), tensor([2, 3])]
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    check_count("num_nodes", num_nodes, 1)
    check_count("num_parts", num_parts, 1, num_nodes)
    check_edge_index(edge_index)
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    both = torch.cat([edge_index, edge_index.flip(0)], dim=1).cpu()
    matrix = to_scipy_sparse_matrix(both, num_nodes=num_nodes).tocsr()
    order = torch.from_numpy(reverse_cuthill_mckee(matrix, symmetric_mode=True).astype("int64"))
    parts = order.to(edge_index.device).tensor_split(num_parts)
    return sorted((part.sort().values for part in parts), key=lambda part: int(part[0]))


def halo(data: Data, nodes: Tensor, hops: int) -> Data:
    r"""The subgraph of some nodes and of all whose messages reach them within ``hops`` steps.

    From the same states, ``hops`` steps of a local rule on the result (``hops - 1`` of a conv that
    weighs messages by the degree of the sender) give ``nodes`` the same states as on the whole
    graph; an equilibrium of a contraction by :math:`\kappa` differs by the order of
    :math:`\kappa^{\text{hops}}` at most (measured in ``docs/works_with.md``).

    Args:
        data: The graph.
        nodes: Indices of the nodes, or a boolean for every node of the graph.
        hops: Width of the halo, at least 0.

    Returns:
        The subgraph, with ``node`` ``[num_nodes]``, every node's index in ``data``, and ``inner``
        ``[num_nodes]``, true for those of ``nodes``.

    Raises:
        TypeError: If ``nodes`` is no tensor of integers or booleans.
        ValueError: If ``hops`` is negative or an index is out of range.

    Example:
        >>> line = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), num_nodes=5)
        >>> part = halo(line, torch.tensor([4]), hops=2)
        >>> part.node, part.inner
        (tensor([2, 3, 4]), tensor([False, False,  True]))
    """
    check_type("data", data, Data)
    check_count("hops", hops)
    if not isinstance(nodes, Tensor) or nodes.is_floating_point():
        kind = nodes.dtype if isinstance(nodes, Tensor) else type(nodes).__name__
        raise TypeError(
            f"Expected 'nodes' as a tensor of indices or booleans (got {kind}). Use "
            "torch.tensor([...])"
        )
    count = int(data.num_nodes)
    if nodes.dtype == torch.bool:
        if nodes.shape != (count,):
            raise ValueError(
                f"Expected 'nodes' as indices, or a boolean for each of {count} nodes (got "
                f"{list(nodes.shape)} booleans)"
            )
        nodes = nodes.nonzero().flatten()
    if nodes.dim() != 1:
        raise ValueError(f"Expected 'nodes' of shape [count] (got {list(nodes.shape)})")
    check_range("nodes", nodes, count, "num_nodes")
    node, _, place, _ = k_hop_subgraph(nodes, hops, data.edge_index, num_nodes=count)
    part = data.subgraph(node)
    part.node = node
    part.inner = torch.zeros(node.numel(), dtype=torch.bool, device=node.device)
    part.inner[place] = True
    return part
