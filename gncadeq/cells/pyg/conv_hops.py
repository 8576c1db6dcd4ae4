"""How far a conv of PyTorch Geometric reads in one call."""

from __future__ import annotations

from typing import Any

import torch_geometric.nn as pyg
from torch import nn

from gncadeq.cells.pyg.conv_bounds import is_exact

_ONE = (
    pyg.GCNConv, pyg.SAGEConv, pyg.GraphConv, pyg.LGConv, pyg.GCN2Conv, pyg.GINConv, pyg.GINEConv,
    pyg.GATConv, pyg.GATv2Conv, pyg.TransformerConv,
)  # fmt: skip
_AS_SAID = (pyg.SGConv, pyg.SSGConv, pyg.TAGConv, pyg.APPNP)


def conv_hops(conv: nn.Module) -> int | None:
    """How many hops away the nodes are that a conv reads, whose degrees may matter; ``None`` for
    subclasses and other convs, and where messages go against the edges.

    Example:
        >>> conv_hops(pyg.GCNConv(4, 4)), conv_hops(pyg.SGConv(4, 4, K=3))
        (1, 3)
        >>> conv_hops(pyg.ARMAConv(4, 4)) is None
        True
    """
    it: Any = conv
    if getattr(conv, "flow", None) != "source_to_target":
        return None
    if is_exact(conv, _ONE):
        return 1
    if is_exact(conv, _AS_SAID):
        return int(it.K)
    # Other Laplacians are scaled by the largest of all degrees.
    cheb = is_exact(conv, (pyg.ChebConv,)) and it.normalization == "sym"
    return len(it.lins) - 1 if cheb else None
