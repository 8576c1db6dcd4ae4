r"""Convs that sum or average their neighbours between two Lipschitz maps, bounded node by node.

Where a node's size is its Euclidean norm and a state's that of its largest node,

.. math::
    \lVert \mathrm{conv}(\mathbf{y})_i - \mathrm{conv}(\mathbf{z})_i \rVert \le
    ( L_0 + L_1 d_i ) \max_j \lVert \mathbf{y}_j - \mathbf{z}_j \rVert ,

with :math:`d_i` the sum of the absolute weights of the edges into :math:`i` (for averages over
their number). It holds on any graph, directed or not, with weights of any sign; and as every node
has a bound of its own, a hub doesn't silence the others.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation

from gncadeq.cells.conv_bounds import NON_EXPANSIVE
from gncadeq.typing import OptTensor


def _lipschitz(module: Any) -> Tensor | None:
    """Of a network of one node's channels, ``None`` where it isn't known."""
    if isinstance(module, nn.Linear | pyg.Linear):
        return torch.linalg.matrix_norm(module.weight, 2)  # type: ignore[no-any-return]
    if isinstance(module, NON_EXPANSIVE):
        return torch.ones(())
    if type(module) is not nn.Sequential:
        return None
    product: Tensor | None = torch.ones(())
    for part in module:
        factor = _lipschitz(part)
        product = None if product is None or factor is None else product * factor
    return product


def _parts(conv: Any) -> tuple[Tensor, Tensor] | None:
    """:math:`L_0` and :math:`L_1`; subclasses are other convs."""
    if type(conv) in (pyg.GINConv, pyg.GINEConv):
        inner = _lipschitz(conv.nn)
        return None if inner is None else (inner * (1 + conv.eps).abs().squeeze(), inner)
    if type(conv) is pyg.GraphConv:
        own, other = _lipschitz(conv.lin_root), _lipschitz(conv.lin_rel)
        assert own is not None
        assert other is not None
        return own, other
    return None


def sums_neighbors(conv: nn.Module) -> bool:
    """Whether the bound of this module is known for a conv.

    Example:
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4))), sums_neighbors(pyg.GraphConv(4, 4))
        (True, True)
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4), aggr="max"))
        False
    """
    aggregation: Any = getattr(conv, "aggr_module", None)
    known = isinstance(aggregation, SumAggregation | MeanAggregation)
    return known and _parts(conv) is not None


def node_bound(
    conv: nn.Module, edge_index: Tensor, edge_weight: OptTensor, num_nodes: int
) -> Tensor:
    r"""The Lipschitz constant :math:`L_0 + L_1 d_i` of every node.

    Args:
        conv: A conv of which :func:`sums_neighbors` is true.
        edge_index: Edge indices ``[2, num_edges]``.
        edge_weight: ``[num_edges]``, of any sign, or ``None`` for ones.
        num_nodes: Number of nodes.

    Returns:
        ``[num_nodes, 1]``, differentiable to the conv's parameters and the weights.

    Example:
        >>> conv = pyg.GINConv(nn.Identity())
        >>> node_bound(conv, torch.tensor([[0, 1], [2, 2]]), None, num_nodes=3).flatten()
        tensor([1., 1., 3.])
    """
    parts, summing = _parts(conv), cast(Any, conv)
    assert parts is not None
    target = edge_index[1 if summing.flow == "source_to_target" else 0]
    like = next((p for p in conv.parameters() if p.is_floating_point()), torch.ones(()))
    weight = like.new_ones(target.numel()) if edge_weight is None else edge_weight.abs()
    total = weight.new_zeros(num_nodes).index_add(0, target, weight)
    if isinstance(summing.aggr_module, MeanAggregation):
        total = total / torch.bincount(target, minlength=num_nodes).clamp(min=1)
    own, other = parts
    return (own + other * total).unsqueeze(1)


__all__ = ["node_bound", "sums_neighbors"]
