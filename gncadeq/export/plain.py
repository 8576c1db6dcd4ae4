"""Message passing in the few operations that other runtimes have: gather, multiply, sum.

The fast forms of :mod:`gncadeq.graph.neighborhood` and :mod:`gncadeq.graph.sparse` look at a graph
before they run. These do not: the graph is an input like any other, so that one traced program
runs on all graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.graph.adjacency import Normalization
from gncadeq.graph.neighborhood import check_range
from gncadeq.typing import OptTensor


class EdgeList:
    """Edges as PyTorch Geometric has them: messages are gathered, and scattered to receivers.

    Args:
        edge_index: ``[2, num_edges]``, sources in row 0 and targets in row 1.
        num_nodes: Number of nodes.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        self.edge_index, self.num_nodes = edge_index, num_nodes
        self.source, self.target = edge_index[0], edge_index[1]

    def total(self, message: Tensor) -> Tensor:
        """Sum ``[num_edges, ...]`` over the edges into every node: ``[num_nodes, ...]``."""
        out = message.new_zeros(self.num_nodes, *message.shape[1:])
        return out.index_add(0, self.target, message)

    def reversed(self) -> EdgeList:
        """Every edge turned round."""
        return EdgeList(self.edge_index.flip(0), self.num_nodes)

    def mean(self, value: Tensor, batch: Tensor) -> Tensor:
        """Average ``[num_nodes, C]`` over the nodes of each graph."""
        count = _num_graphs(batch)
        total = value.new_zeros(count, value.size(1)).index_add(0, batch, value)
        nodes = value.new_zeros(count, 1).index_add(0, batch, torch.ones_like(value[:, :1]))
        return total / nodes.clamp(min=1)

    def peak(self, value: Tensor, batch: Tensor) -> Tensor:
        """The maximum of ``[num_nodes, C]``, none of it negative, over the nodes of each graph."""
        out = value.new_zeros(_num_graphs(batch), value.size(1))
        return out.scatter_reduce(0, batch.unsqueeze(1).expand_as(value), value, "amax")


class NeighborTable:
    """Every node's neighbours in a row: messages are gathered, and summed where they are.

    Args:
        neighbors: ``[num_nodes, most]``, the nodes that a node senses, and -1 in what is left; see
            :func:`neighbor_table`.
    """

    def __init__(self, neighbors: Tensor) -> None:
        self.num_nodes = neighbors.size(0)
        self.present = neighbors >= 0
        self.source = neighbors.clamp(min=0)
        node = torch.arange(self.num_nodes, device=neighbors.device)
        self.target = node.unsqueeze(1).expand_as(neighbors)

    def total(self, message: Tensor) -> Tensor:
        """Sum ``[num_nodes, most, ...]`` over the neighbours of every node."""
        present = self.present.view(*self.present.shape, *[1] * (message.dim() - 2))
        return torch.where(present, message, 0.0).sum(1)  # NaN times zero would be NaN

    def mean(self, value: Tensor, batch: Tensor) -> Tensor:
        """Average ``[num_nodes, C]`` over the nodes of each graph."""
        member = self._member(value, batch)
        return member @ value / member.sum(1, keepdim=True).clamp(min=1)

    def peak(self, value: Tensor, batch: Tensor) -> Tensor:
        """The maximum of ``[num_nodes, C]``, none of it negative, over the nodes of each graph."""
        return (self._member(value, batch).unsqueeze(2) * value).amax(1)

    def _member(self, value: Tensor, batch: Tensor) -> Tensor:
        graph = torch.arange(_num_graphs(batch), device=batch.device)
        return (graph.unsqueeze(1) == batch).to(value.dtype)  # [num_graphs, num_nodes]


class Among:
    """Some edges of a graph: no messages go along the others.

    Args:
        graph: The graph.
        kept: Which edges, booleans in the shape of the graph's ``source``.
    """

    def __init__(self, graph: EdgeList | NeighborTable, kept: Tensor) -> None:
        self.graph, self.kept, self.num_nodes = graph, kept, graph.num_nodes
        self.source, self.target = graph.source, graph.target

    def total(self, message: Tensor) -> Tensor:
        """Sum over the edges that are kept into every node: ``[num_nodes, ...]``."""
        kept = self.kept.view(*self.kept.shape, *[1] * (message.dim() - self.kept.dim()))
        return self.graph.total(torch.where(kept, message, 0.0))


Graph = EdgeList | NeighborTable | Among


def _num_graphs(batch: Tensor) -> int:
    count: Any = batch.amax(0).item() + 1
    torch._check(count >= 0)
    return count  # type: ignore[no-any-return]


def neighbor_table(
    edge_index: Tensor, edge_attr: OptTensor, num_nodes: int, most: int | None = None
) -> tuple[Tensor, OptTensor]:
    """What the ``"gather"`` form takes instead of edges: every node's neighbours in a row.

    Args:
        edge_index: ``[2, num_edges]``, in any order.
        edge_attr: ``[num_edges, ...]``, or ``None``.
        num_nodes: Number of nodes.
        most: Width of the table; by default the largest number of edges into a node.

    Returns:
        ``neighbors`` ``[num_nodes, most]`` with -1 where there is none, and ``edge_attr``
        ``[num_nodes, most, ...]`` with zeros there.

    Raises:
        ValueError: If an index is out of range, or a node has more than ``most`` edges.

    Example:
        >>> neighbor_table(torch.tensor([[0, 2, 1], [1, 1, 0]]), torch.tensor([5, 3, 4]), 3)
        (tensor([[ 1, -1],
                [ 0,  2],
                [-1, -1]]), tensor([[4, 0],
                [5, 3],
                [0, 0]]))
    """
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    target, order = edge_index[1].sort(stable=True)
    degree = torch.bincount(target, minlength=num_nodes)
    widest = int(degree.max()) if num_nodes else 0
    most = widest if most is None else most
    if widest > most:
        raise ValueError(f"Expected at most {most} edges into a node (got {widest}). Raise 'most'")
    first = degree.cumsum(0) - degree
    slot = torch.arange(target.numel(), device=target.device) - first[target]
    neighbors = edge_index.new_full((num_nodes, most), -1)
    neighbors[target, slot] = edge_index[0, order]
    if edge_attr is None:
        return neighbors, None
    table = edge_attr.new_zeros(num_nodes, most, *edge_attr.shape[1:])
    table[target, slot] = edge_attr[order]
    return neighbors, table


def take(value: Tensor, index: Tensor) -> Tensor:
    """Rows of ``value`` ``[num_rows, C]``: ``[*index.shape, C]``."""
    return F.embedding(index, value)


class PlainStencil:
    """:class:`gncadeq.graph.neighborhood.Stencil` on a graph that is an input, with its own centre.

    Args:
        graph: The edges.
        relation: The relation of every edge, in the shape of the graph's ``source``.
        weight: ``[num_relations, in_channels, out_channels]``.
        center: Whether a node senses itself without an edge.
    """

    def __init__(self, graph: Graph, relation: Tensor, weight: Tensor, center: bool = True) -> None:
        self.graph, self.weight, self.center = graph, weight, center
        r, middle = weight.size(0), weight.size(0) // 2
        self.slot = graph.source * r + relation
        # the node itself is sensed once, whatever the edges say
        self.neighbor = (relation != middle) | (graph.source != graph.target)

    def __call__(self, z: Tensor) -> Tensor:
        """Convolve ``z``."""
        r, c_in, c_out = self.weight.shape
        packed = self.weight.transpose(0, 1).reshape(c_in, r * c_out)
        message = take((z @ packed).view(-1, c_out), self.slot)
        if not self.center:
            return self.graph.total(message)
        message = torch.where(self.neighbor.unsqueeze(-1), message, 0.0)
        return self.graph.total(message) + z @ self.weight[r // 2]


class PlainPerception:
    """:class:`gncadeq.cells.Perception` on a graph that is an input.

    Args:
        graph: The edges.
        weight: ``[num_edges, num_kernels]``, or ``[num_nodes, most, num_kernels]``.
    """

    def __init__(self, graph: Graph, weight: Tensor) -> None:
        self.graph, self.weight = graph, weight

    def in_blocks(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """All nodes, and what they perceive ``[num_nodes, num_kernels, channels]``."""
        message = self.weight.unsqueeze(-1) * take(z, self.graph.source).unsqueeze(-2)
        yield slice(None), self.graph.total(message)

    def count(self, mark: Tensor) -> Tensor:
        """``[num_nodes, C]``, above zero where a node senses one that is marked."""
        return self.graph.total(take(mark, self.graph.source))


class PlainAdjacency:
    """:class:`gncadeq.cells.WeightedAdjacency` with loops, normalised, on a graph that is an input.

    Args:
        graph: The edges.
        weight: ``[num_edges]``, or ``[num_nodes, most]``.
        normalization: ``"sym"``, ``"row"`` or ``"metropolis"``.
    """

    def __init__(self, graph: Graph, weight: Tensor, normalization: Normalization) -> None:
        self.graph, weight = graph, weight.unsqueeze(-1)
        loops = (graph.source == graph.target).to(weight.dtype).unsqueeze(-1)
        missing = (graph.total(loops) == 0).to(weight.dtype)
        degree = graph.total(weight.abs()) + missing
        degree = torch.where(degree > 0, degree, 1.0)
        if normalization == "metropolis":
            most = torch.maximum(take(degree, graph.source), take(degree, graph.target))
            self.weight = torch.where(loops > 0, 0.0, weight / most)
            self.own = 1.0 - graph.total(self.weight.abs())
            return
        if normalization == "sym":
            root = degree.sqrt()
            weight, self.own = weight / take(root, graph.source), missing / degree
        else:
            root, self.own = degree, missing / degree
        self.weight = weight / take(root, graph.target)

    def __call__(self, z: Tensor) -> Tensor:
        """Multiply ``z`` ``[num_nodes, channels]``."""
        return self.graph.total(self.weight * take(z, self.graph.source)) + self.own * z
