r"""Attention that is held for a solve: its weights come from the injection, not from the state.

With the weights :math:`a_{ij}^h` of the heads at :math:`\mathbf{z}_0 = \sigma(\mathbf{U} \mathbf{x}
+ \mathbf{b})`, an attention conv is linear in its state,

.. math::
    \mathbf{z}_i \mapsto \big\Vert_h \sum_j a_{ij}^h \mathbf{V}_h \mathbf{z}_j +
    \mathbf{S} \mathbf{z}_i + \mathbf{c}_i , \qquad \sum_j a_{ij}^h \le 1 ,

and the weights being averages, its Lipschitz constant follows from those of the matrices on *any*
graph, directed or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn.aggr import SumAggregation

from gncadeq.cells.pyg.conv_bounds import (
    LINEAR,
    has_hooks,
    is_exact,
    is_hooked,
    is_known,
    spectral_norm,
)
from gncadeq.cells.pyg.conv_step import (
    RestrictableConvStep,
    WrappedConvStep,
    knows_slope,
    remembered,
)
from gncadeq.graph.sparse import SparseRows
from gncadeq.typing import OptTensor


class _Parts(NamedTuple):
    value: Any  # the linear map V of what is averaged
    skip: Any  # S, of the node itself, or None
    bias: Any


_HELD = (pyg.GATConv, pyg.GATv2Conv, pyg.TransformerConv)


def _parts(conv: Any) -> _Parts:
    """The linear maps of an attention conv."""
    if isinstance(conv, pyg.GATConv):
        return _Parts(conv.lin, conv.res, conv.bias)
    if isinstance(conv, pyg.GATv2Conv):
        return _Parts(conv.lin_l, conv.res, conv.bias)
    return _Parts(conv.lin_value, conv.lin_skip if conv.root_weight else None, None)


def can_hold_attention(conv: nn.Module) -> bool:
    """Whether the conv is linear in its state once its attention is held.

    Example:
        >>> can_hold_attention(pyg.GATv2Conv(4, 2, heads=2)), can_hold_attention(pyg.AGNNConv())
        (True, False)
    """
    attention: Any = conv
    if not is_exact(conv, _HELD) or type(attention.aggr_module) is not SumAggregation:
        return False
    if "explain_message" in vars(conv):  # an explainer that looks at every message
        return False
    return not getattr(conv, "beta", False) and getattr(conv, "lin", True) is not None


def held_bound(conv: nn.Module) -> OptTensor:
    r"""A Lipschitz constant of an attention conv with held weights, on every graph.

    The smaller of two, each in its own norm. Where a node's size is its Euclidean norm,
    :math:`\max_i \lVert \mathbf{z}_i \rVert`, it is :math:`(\sum_h \lVert \mathbf{V}_h
    \rVert^2)^{1/2} + \lVert \mathbf{S} \rVert` (without concatenation the mean of the
    :math:`\lVert \mathbf{V}_h \rVert`); where it is that of its largest head, :math:`\max_{i, h}
    \lVert \mathbf{z}_i^h \rVert`, it is :math:`\max_h \sum_k \lVert \mathbf{V}_{hk} \rVert +
    \lVert \mathbf{S}_{hk} \rVert`.

    Args:
        conv: A conv of which :func:`can_hold_attention` is true.

    Returns:
        A scalar, differentiable to the conv's parameters; ``None`` if its linear maps were replaced
        or hooked.

    Example:
        >>> conv = pyg.GATConv(4, 2, heads=2)
        >>> _ = torch.nn.init.eye_(conv.lin.weight)
        >>> round(held_bound(conv).item(), 3)
        1.0
    """
    if not is_known(conv, _HELD):
        return None
    total, blocks = head_bounds(conv)
    return total if blocks is None else torch.minimum(total, blocks)


def head_bounds(conv: nn.Module) -> tuple[Tensor, OptTensor]:
    """The two bounds of :func:`held_bound`, the second where states have heads.

    Example:
        >>> head_bounds(pyg.GATConv(4, 4))[1] is None
        True
    """
    attention: Any = conv
    parts, width = _parts(attention), int(attention.out_channels)
    value: Tensor = parts.value.weight
    size = spectral_norm(value.view(-1, width, value.size(1)))  # of every head
    skip = size.new_zeros(()) if parts.skip is None else spectral_norm(parts.skip.weight)
    if not conv.concat:
        return size.mean() + skip, None
    total: Tensor = torch.linalg.vector_norm(size) + skip
    if size.numel() == 1 or value.size(0) != value.size(1):
        return total, None
    blocks = _blocks(value, width)
    if parts.skip is not None:
        blocks = blocks + _blocks(parts.skip.weight, width)
    return total, blocks.sum(1).max()


def _blocks(weight: Tensor, width: int) -> Tensor:
    heads = weight.size(0) // width
    return spectral_norm(weight.view(heads, width, heads, width).transpose(1, 2))


class HeldAttentionStep(RestrictableConvStep):
    """A :class:`WrappedConvStep` of an attention conv, with the weights of a given state."""

    heads: int
    weight: Tensor  # [entries · heads]
    rows: Any
    carried: Tensor | None  # [num_nodes, heads, out_channels], the average of what edges carry

    @classmethod
    def at(cls, step: WrappedConvStep, start: Tensor) -> HeldAttentionStep:
        """Hold the weights that the conv has at the state ``start``.

        Raises:
            ValueError: If the conv doesn't map states to states.
        """
        conv: Any = step.conv
        if has_hooks(conv):
            raise ValueError(
                f"Expected {type(conv).__name__} without forward hooks of its own, which held "
                "attention doesn't call (got some). Hook the cell, or use attention='state'"
            )
        y, (edge_index, weight) = step.call(start, return_attention_weights=True)
        step.check(start, y)
        if getattr(conv, "explain", None):
            weight = conv.explain_message(weight, start.size(0))
        if isinstance(conv, pyg.TransformerConv):  # which returns them as they are before
            weight = F.dropout(weight, conv.dropout, conv.training)
        if conv.training and conv.dropout > 0:  # what is left may be more than an average
            target = edge_index[_target(conv)]
            total = weight.new_zeros(start.size(0), weight.size(1)).index_add(0, target, weight)
            weight = weight / total.clamp(min=1.0)[target]
        parts = [p for p in _parts(conv)[:2] if p is not None]
        plain = knows_slope(step.cell) and not is_hooked(conv)
        plain = plain and all(is_exact(part, LINEAR) for part in parts)
        kind = HeldAdjointStep if plain else cls
        new = kind(step.cell, step.edge_index, step.drive, step.arguments)
        new.heads = weight.size(1)
        new.carried = None
        if isinstance(conv, pyg.TransformerConv) and conv.lin_edge is not None:
            edge = conv.lin_edge(step.arguments["edge_attr"])
            edge = weight.unsqueeze(2) * edge.view(*weight.shape, conv.out_channels)
            carried = edge.new_zeros(start.size(0), *edge.shape[1:])
            new.carried = carried.index_add(0, edge_index[_target(conv)], edge)
        # A row of the matrix for every node and head.
        head = torch.arange(new.heads, device=edge_index.device)
        entry = (edge_index.unsqueeze(2) * new.heads + head).flatten(1)
        target, n = _target(conv), start.size(0) * new.heads
        if torch.compiler.is_compiling():
            new.rows, new.weight = _Scatter(entry[target], entry[1 - target]), weight.flatten()
        else:
            new.rows, order = remembered(
                conv, (target, n), (entry,),
                lambda: SparseRows.sort(entry[target], entry[1 - target], n, n),
            )  # fmt: skip
            new.weight = weight.flatten()[order]
        return new

    def output(self, z: Tensor) -> Tensor:
        """The conv of a state."""
        conv: Any = self.conv
        parts = _parts(conv)
        value = parts.value(z).view(-1, conv.out_channels)
        # Under autocast the weights are wider than the values.
        y: Tensor = self.rows.matmul(value, self.weight.to(value.dtype))
        y = y.view(z.size(0), self.heads, conv.out_channels)
        y = y if self.carried is None else y + self.carried
        y = y.flatten(1) if conv.concat else y.mean(1)
        if parts.skip is not None:
            y = y + parts.skip(z)
        return y if parts.bias is None else y + parts.bias

    def restrict(self, nodes: Tensor) -> HeldAttentionStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        new: Any = super().restrict(nodes)
        new.heads = self.heads
        new.carried = None if self.carried is None else self.carried[nodes]
        new.rows, kept = self.rows.cut(_entries(nodes, self.heads))
        new.weight = self.weight[kept]
        return new  # type: ignore[no-any-return]


class HeldAdjointStep(HeldAttentionStep):
    """A :class:`HeldAttentionStep` with an activation whose slope is known."""

    def adjoint(self, z: Tensor, fz: Tensor) -> _HeldAdjoint:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        conv: Any = self.conv
        parts, slope = _parts(conv), self.slope(fz)
        rows, order = self.rows.transposed
        skip = None if parts.skip is None else parts.skip.weight
        return _HeldAdjoint(
            rows, self.weight[order], slope, parts.value.weight, skip, self.heads, conv.concat
        )


@dataclass(eq=False)
class _HeldAdjoint:
    """The transposed Jacobian of a :class:`HeldAdjointStep` at a state."""

    rows: SparseRows
    weight: Tensor
    slope: Tensor
    value: Tensor
    skip: OptTensor
    heads: int
    concat: bool

    def __call__(self, u: Tensor) -> Tensor:
        """Multiply ``u`` ``[num_nodes, channels]``."""
        u = self.slope * u
        each = u if self.concat else (u / self.heads).repeat(1, self.heads)
        back = self.rows.matmul(each.view(u.size(0) * self.heads, -1), self.weight)
        out = back.view(u.size(0), -1) @ self.value
        return out if self.skip is None else out.addmm_(u, self.skip)

    def restrict(self, nodes: Tensor) -> _HeldAdjoint:
        """The same on ``nodes``, the ascending indices of whole graphs."""
        rows, kept = self.rows.cut(_entries(nodes, self.heads))
        return replace(self, rows=rows, weight=self.weight[kept], slope=self.slope[nodes])


def _entries(nodes: Tensor, heads: int) -> Tensor:
    """The rows of nodes, one for each head."""
    return (nodes.unsqueeze(1) * heads + torch.arange(heads, device=nodes.device)).flatten()


class _Scatter:
    """The product in operations that a compiler knows."""

    def __init__(self, row: Tensor, col: Tensor) -> None:
        self.row, self.col = row, col

    def matmul(self, z: Tensor, weight: Tensor) -> Tensor:
        return torch.zeros_like(z).index_add(0, self.row, weight.unsqueeze(1) * z[self.col])


def _target(conv: Any) -> int:
    return 1 if conv.flow == "source_to_target" else 0
