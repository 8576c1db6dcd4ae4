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

from gncadeq.cells.pyg.conv_bounds import LINEAR, NON_EXPANSIVE, is_known, spectral_norm
from gncadeq.typing import OptTensor

_NETWORK = (*LINEAR, *NON_EXPANSIVE, nn.Sequential, nn.ModuleList, nn.Dropout, pyg.MLP)
_PARTS = (*_NETWORK, SumAggregation, MeanAggregation)


def _lipschitz(module: Any) -> Tensor:
    """Of a network of the classes above, dropout left out."""
    if isinstance(module, (nn.Linear, pyg.Linear)):
        return spectral_norm(module.weight)
    product = torch.ones(())
    parts = module.lins if isinstance(module, pyg.MLP) else module
    for part in parts if isinstance(module, nn.Sequential | pyg.MLP) else ():
        product = product * _lipschitz(part)
    return product


def _parts(conv: Any) -> tuple[Tensor, Tensor]:
    """:math:`L_0` and :math:`L_1`."""
    if isinstance(conv, pyg.GraphConv):
        return _lipschitz(conv.lin_root), _lipschitz(conv.lin_rel)
    inner = _lipschitz(conv.nn)
    return inner * (1 + conv.eps).abs().squeeze(), inner


def sums_neighbors(conv: nn.Module) -> bool:
    """Whether the bound of this module is known for a conv.

    Networks within may be made of linear maps, non-expansive activations and dropout, in a
    :class:`torch.nn.Sequential` or a :class:`~torch_geometric.nn.MLP` without a norm. The bound is
    that of evaluation, where dropout does nothing.

    Example:
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4))), sums_neighbors(pyg.GraphConv(4, 4))
        (True, True)
        >>> sums_neighbors(pyg.GINConv(nn.Linear(4, 4), aggr="max"))
        False
    """
    return is_known(conv, (pyg.GINConv, pyg.GINEConv, pyg.GraphConv), _PARTS)


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
