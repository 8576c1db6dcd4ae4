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

from gncadeq.cells.conv_bounds import NON_EXPANSIVE, spectral_norm
from gncadeq.typing import OptTensor


def _is_known(module: Any) -> bool:
    """Whether a network of one node's channels is one of :func:`_lipschitz`; it may be lazy."""
    if type(module) is nn.Sequential:
        return all(_is_known(part) for part in module)
    return isinstance(module, (nn.Linear, pyg.Linear, *NON_EXPANSIVE))


def _lipschitz(module: Any) -> Tensor:
    if isinstance(module, nn.Linear | pyg.Linear):
        return spectral_norm(module.weight)
    product = torch.ones(())
    for part in module if isinstance(module, nn.Sequential) else ():
        product = product * _lipschitz(part)
    return product


def _parts(conv: Any) -> tuple[Tensor, Tensor]:
    """:math:`L_0` and :math:`L_1`."""
    if type(conv) is pyg.GraphConv:
        return _lipschitz(conv.lin_root), _lipschitz(conv.lin_rel)
    inner = _lipschitz(conv.nn)
    return inner * (1 + conv.eps).abs().squeeze(), inner


def sums_neighbors(conv: nn.Module) -> bool:
    """Whether the bound of this module is known for a conv.

    Example:
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4))), sums_neighbors(pyg.GraphConv(4, 4))
        (True, True)
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4), aggr="max"))
        False
    """
    summing = cast(Any, conv)
    if type(conv) in (pyg.GINConv, pyg.GINEConv):  # subclasses are other convs
        known = _is_known(summing.nn)
    elif type(conv) is pyg.GraphConv:
        known = _is_known(summing.lin_root) and _is_known(summing.lin_rel)
    else:
        return False
    return known and isinstance(summing.aggr_module, SumAggregation | MeanAggregation)


def node_bound(
    conv: nn.Module, edge_index: Tensor, edge_weight: OptTensor, num_nodes: int
) -> Tensor:
    r"""The Lipschitz constant :math:`L_0 + L_1 d_i` of every node.

    Args:
        conv: A conv of which :func:`sums_neighbors` is true.
        edge_index: Edge indices ``[2, num_edges]``.
        edge_weight: ``[num_edges]`` or ``[num_edges, 1]``, of any sign, or ``None`` for ones.
        num_nodes: Number of nodes.

    Returns:
        ``[num_nodes, 1]``, differentiable to the conv's parameters and the weights.

    Example:
        >>> conv = pyg.GINConv(nn.Identity())
        >>> node_bound(conv, torch.tensor([[0, 1], [2, 2]]), None, num_nodes=3).flatten()
        tensor([1., 1., 3.])
    """
    summing = cast(Any, conv)
    target = edge_index[1 if summing.flow == "source_to_target" else 0]
    own, other = _parts(conv)
    weight = torch.ones_like(target, dtype=other.dtype) if edge_weight is None else edge_weight
    weight = weight.abs().view(-1).to(other.dtype)  # half precision can't count beyond 256
    total = weight.new_zeros(num_nodes).index_add(0, target, weight)
    if isinstance(summing.aggr_module, MeanAggregation):
        total = total / torch.bincount(target, minlength=num_nodes).clamp(min=1)
    return (own + other * total).unsqueeze(1)


__all__ = ["node_bound", "sums_neighbors"]
