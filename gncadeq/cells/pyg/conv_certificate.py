"""The norm in which a wrapped conv is a contraction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells.pyg.conv_attention import head_bounds
from gncadeq.cells.pyg.conv_scale import ScaledConvCell
from gncadeq.certificate import Certificate
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.precision import widened
from gncadeq.typing import Adj, OptTensor


def conv_certificate(
    cell: ScaledConvCell,
    edge_index: Adj,
    edge_attr: OptTensor,
    num_nodes: int,
    context: Mapping[str, Tensor],
) -> Certificate | None:
    """The certificate of a wrapped conv on a graph, or ``None`` where nothing is proven."""
    if not isinstance(edge_index, Tensor) or cell.contraction is None:
        return None
    weight = context.get("edge_weight", edge_attr if cell.signature.edge == "edge_weight" else None)
    graph = Data(edge_index=edge_index, edge_attr=edge_attr, num_nodes=num_nodes, **context)
    rates = cell.lipschitz_bounds(graph)
    if not bool((rates < 1.0).any()):
        return None
    rate = float(rates) if rates.numel() == 1 else rates
    conv: Any = cell.conv
    if cell.sums_neighbors:
        return Certificate(rate, "max")
    if cell.bounded_by_graph:
        ends = edge_index if conv.flow == "source_to_target" else edge_index.flip(0)
        like = widened(cell.inject.weight.detach())
        v, _ = WeightedAdjacency(ends, weight, num_nodes, like).perron()
        return Certificate(rate, "max", node_weight=1.0 / v)
    if cell.holds_attention:
        total, blocks = head_bounds(conv)
        by_head = blocks is not None and bool(blocks < total)
        return Certificate(rate, "max", groups=int(conv.heads) if by_head else 1)
    if isinstance(conv, pyg.SAGEConv):
        degree = torch.bincount(edge_index[1], minlength=num_nodes).clamp(min=1)
        return Certificate(rate, node_weight=widened(degree).sqrt())
    return Certificate(rate)
