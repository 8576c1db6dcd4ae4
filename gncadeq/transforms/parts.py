"""Graphs in parts: for processes that solve them together, or to be solved piece by piece."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch_geometric import typing
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph, to_scipy_sparse_matrix

from gncadeq.check import check_choice, check_count, check_type
from gncadeq.graph.neighborhood import check_edge_index, check_range
from gncadeq.typing import OptTensor

Method = Literal["auto", "metis", "coordinates", "breadth-first"]


def partition(
    edge_index: Tensor,
    num_nodes: int,
    num_parts: int,
    pos: OptTensor = None,
    method: Method = "breadth-first",
) -> list[Tensor]:
    """Parts of nodes that are near each other: the ascending indices of each.

    Args:
        edge_index: Edge indices ``[2, num_edges]``.
        num_nodes: Number of nodes.
        num_parts: Number of parts, in [1, num_nodes].
        pos: ``[num_nodes, dimensions]``, where the nodes are.
        method: ``"breadth-first"``: parts of equal size, one after the other in the order of
            Cuthill and McKee (1969). ``"coordinates"``: parts of equal size, by halving the longest
            side of a box around ``pos`` again and again. ``"metis"``: parts of about equal size
            that cut few edges (Karypis and Kumar 1998), by
            :class:`torch_geometric.loader.ClusterData`, which needs pyg-lib or torch-sparse.
            ``"auto"``: METIS where it is installed, else by coordinates where there are some.

    Raises:
        ValueError: If there are more parts than nodes, or none, or there are no coordinates to
            halve, or METIS left a part empty.
        ImportError: If METIS isn't installed.

    Example:
        >>> ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
        >>> partition(ring, num_nodes=4, num_parts=2)
        [tensor([0, 1]), tensor([2, 3])]
    """
    num_nodes = check_count("num_nodes", num_nodes, 1)
    num_parts = check_count("num_parts", num_parts, 1, num_nodes)
    check_choice("method", method, get_args(Method))
    check_edge_index(edge_index)
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    if method == "auto":
        method = "metis" if typing.WITH_METIS else "breadth-first" if pos is None else "coordinates"
    if method == "metis":
        parts = _metis(edge_index, num_nodes, num_parts)
    elif method == "coordinates":
        found = "none" if pos is None else str(list(pos.shape))
        if pos is not None and not bool(pos.isfinite().all()):
            found = "NaN or infinity"
        elif pos is not None and pos.dim() == 2 and pos.size(0) == num_nodes and pos.size(1):
            found = ""
        if pos is None or found:
            raise ValueError(
                f"Expected finite 'pos' of shape [{num_nodes}, dimensions] for "
                f"method='coordinates' (got {found}). Use method='breadth-first'"
            )
        parts = _halved(pos, torch.arange(num_nodes, device=pos.device), num_parts)
    else:
        parts = _breadth_first(edge_index, num_nodes, num_parts)
    return sorted((part.sort().values for part in parts), key=lambda part: int(part[0]))


def _breadth_first(edge_index: Tensor, num_nodes: int, num_parts: int) -> list[Tensor]:
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    both = torch.cat([edge_index, edge_index.flip(0)], dim=1).cpu()
    matrix = to_scipy_sparse_matrix(both, num_nodes=num_nodes).tocsr()
    order = torch.from_numpy(reverse_cuthill_mckee(matrix, symmetric_mode=True).astype("int64"))
    return list(order.to(edge_index.device).tensor_split(num_parts))


def _halved(pos: Tensor, nodes: Tensor, num_parts: int) -> list[Tensor]:
    if num_parts == 1:
        return [nodes]
    mine, first = pos[nodes], num_parts // 2
    axis = int((mine.amax(0) - mine.amin(0)).argmax())
    order = nodes[mine[:, axis].argsort(stable=True)]
    cut = order.numel() * first // num_parts
    return _halved(pos, order[:cut], first) + _halved(pos, order[cut:], num_parts - first)


def _metis(edge_index: Tensor, num_nodes: int, num_parts: int) -> list[Tensor]:
    if not typing.WITH_METIS:
        raise ImportError(
            "Expected METIS, by pyg-lib or torch-sparse, for method='metis' (got neither). Use "
            "method='coordinates' or 'breadth-first'"
        )
    if num_parts == 1:
        return [torch.arange(num_nodes, device=edge_index.device)]
    from torch_geometric.loader import ClusterData

    graph = Data(edge_index=edge_index.cpu(), num_nodes=num_nodes)
    found = ClusterData(graph, num_parts, log=False).partition
    sizes = found.partptr.diff()
    if bool((sizes == 0).any()):
        raise ValueError(
            f"Expected nodes in each of {num_parts} parts (got an empty one from METIS). Use fewer "
            "parts, or another method"
        )
    return list(found.node_perm.to(edge_index.device).split(sizes.tolist()))


def split_graph(data: Data, num_parts: int, hops: int = 1, method: Method = "auto") -> list[Data]:
    r"""The parts of one graph for several processes, which solve or run it together, exactly.

    A part has the rows of its own nodes alone, in ``x``, ``y``, masks and whatever else has a row
    for every node. Its edges join its own nodes, numbered from 0, those of the halo, which follow,
    and a last node that stands for all nodes beyond, so that the degrees of nodes in the halo are
    those of the whole graph. A :class:`gncadeq.Halo` knows whom to ask for the states of the halo:

    .. code-block:: python

        part = split_graph(data, num_parts=2)[rank]
        z = deq(part.x, part.edge_index, part.edge_attr, halo=Halo(part))  # of part.node

    Args:
        data: The graph.
        num_parts: Number of parts, one for each process.
        hops: Width of the halo: how far a step of the rule reads, :attr:`gncadeq.Cell.hops`.
        method: How to find parts, as of :func:`partition`; coordinates are ``data.pos``.

    Returns:
        The parts, with ``node`` ``[num_own]``, every own node's index in ``data``. Further indices
        of nodes, such as ``face``, are left out.

    Raises:
        TypeError: If ``data`` is no ``Data``.
        ValueError: If it is a batch, or there are more parts than nodes, or ``hops`` is below 1.

    Example:
        >>> line = Data(x=torch.rand(4, 1), edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
        >>> first, second = split_graph(line, num_parts=2)
        >>> second.node, second.x.shape
        (tensor([2, 3]), torch.Size([2, 1]))
        >>> second.edge_index  # 2 is the halo, 3 is beyond
        tensor([[3, 2, 0],
                [2, 0, 1]])
    """
    check_type("data", data, Data)
    hops = check_count("hops", hops, 1)
    if "batch" in data:
        raise ValueError("Expected one graph (got a batch). Split each graph of it by itself")
    check_edge_index(data.edge_index)
    n, edge_index = int(data.num_nodes), data.edge_index.long()
    owned = partition(edge_index, n, num_parts, data.pos, method)
    owner = torch.empty(n, dtype=torch.long, device=edge_index.device)
    place = owner.clone()
    for rank, nodes in enumerate(owned):
        owner[nodes] = rank
        place[nodes] = torch.arange(nodes.numel(), device=place.device)
    halos = []
    for rank in range(num_parts):
        seen = owner == rank
        for _ in range(hops):
            seen = seen.index_fill(0, edge_index[0, seen[edge_index[1]]], True)
        around = (seen & (owner != rank)).nonzero().flatten()
        halos.append(around[owner[around].argsort(stable=True)])
    parts = []
    for rank, nodes in enumerate(owned):
        part = _own(data, edge_index, nodes, torch.cat([nodes, halos[rank]]))
        part.part, part.num_parts, part.hops = rank, num_parts, hops
        part.halo_from = owner[halos[rank]]
        sent = [around[owner[around] == rank] for around in halos]
        part.send_row = place[torch.cat(sent)]
        counts = torch.tensor([rows.numel() for rows in sent], device=place.device)
        part.send_to = torch.arange(num_parts, device=place.device).repeat_interleave(counts)
        parts.append(part)
    return parts


def _own(data: Data, edge_index: Tensor, nodes: Tensor, local: Tensor) -> Data:
    """The rows of ``nodes``, and all edges of the ``local`` ones, which those are the first of."""
    place = local.new_full((int(data.num_nodes),), local.numel())
    place[local] = torch.arange(local.numel(), device=local.device)
    ends = place[edge_index]
    kept = (ends < local.numel()).any(0)
    part = Data(edge_index=ends[:, kept], node=nodes, num_nodes=nodes.numel())
    for key, value in data.to_dict().items():
        if key in ("edge_index", "num_nodes") or "index" in key or key == "face":
            continue
        rows = nodes if data.is_node_attr(key) else kept if data.is_edge_attr(key) else None
        if rows is not None and isinstance(value, Tensor):
            value = value[rows]
        elif rows is not None:  # a list of names
            chosen = rows if rows is nodes else kept.nonzero().flatten()
            value = [value[k] for k in chosen.tolist()]
        part[key] = value
    return part


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
    hops = check_count("hops", hops)
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
