"""Sparse sums over edges that carry a relation, with their gradients.

.. math::
    y_i = \\sum_{(j \to i,\\, r) \\in \\mathcal{E}} \\mathbf{W}_r \\, z_j

runs as one matrix product and one sparse sum, in whichever order has the smaller intermediate. An
edge may have a weight that multiplies what it carries.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gncadeq.graph.sparse import Bilinear, SparseRows, bag_sum

OptTensor = Tensor | None
_MOST_MESSAGES = 2**22  # entries; 16 MB in single precision, what a shared cache holds
_BLOCK = 2**18  # entries that are gathered at a time; 1 MB in single precision


class RelationEdges(SparseRows):
    """Edges ``[num_edges]`` of ``n`` receivers sorted by (receiver, relation), a row for each of
    the ``r`` relations of a receiver. Senders may be ``m`` other nodes; edges may have weights.
    """

    weight: OptTensor = None
    _slot: Tensor | None = None
    _reversed: RelationEdges | weakref.ref[RelationEdges] | None = None

    def __init__(
        self,
        receiver: Tensor,
        sender: Tensor,
        relation: Tensor,
        n: int,
        r: int,
        m: int | None = None,
        weight: OptTensor = None,
    ) -> None:
        key = receiver.long() * r + relation
        if key.numel() > 1 and not bool((key[1:] >= key[:-1]).all()):
            order = _order(key, n * r)
            key, sender = key[order], sender[order]
            weight = None if weight is None else weight[order]
        super().__init__(key, sender, n * r, n if m is None else m, r)
        self.weight = weight

    @property
    def sender(self) -> Tensor:
        """``[num_edges]``, the source of every edge."""
        return self.col

    @property
    def num_relations(self) -> int:
        """Number of relations."""
        return self.kinds

    @property
    def relation(self) -> Tensor:
        """``[num_edges]``, the relation of every edge."""
        return self.row % self.kinds

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return self.col.numel()

    @property
    def reversed(self) -> RelationEdges:
        """Every edge turned round, with the relation that it had; sorted when first needed."""
        known = self._reversed
        known = known() if isinstance(known, weakref.ref) else known
        if known is None:
            known = RelationEdges(
                self.sender, self.receiver, self.relation, self.num_cols, self.kinds,
                self.num_nodes, self.weight,
            )  # fmt: skip
            known._reversed = weakref.ref(self)  # two references would be a cycle
            self._reversed = known
        return known

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference can't be pickled; the other direction is sorted anew when needed.
        return {**self.__dict__, "_reversed": None}

    @property
    def slot(self) -> Tensor:
        """``[num_edges]``, which of the messages of all senders an edge carries."""
        if self._slot is None:
            self._slot = self.sender * self.kinds + self.relation
        return self._slot

    def weights(self, like: Tensor) -> OptTensor:
        """The weights in the precision of a state."""
        return None if self.weight is None else self.weight.to(like.dtype)

    def cut(self, nodes: Tensor, sources: OptTensor = None) -> tuple[RelationEdges, Tensor]:
        """The edges to ascending ``nodes`` from ``sources``; also which they are."""
        new, kept = super().cut(nodes, sources)
        new.weight = None if self.weight is None else self.weight[kept]
        return new, kept

    def gather(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """What each receiver's slots sum to, ``[nodes, num_relations * channels]`` a block."""
        most = max(64, _BLOCK // max(1, self.kinds * z.size(1)))
        for nodes, y in self.product_blocks(z, self.weights(z), most):
            yield nodes, y.flatten(1)


def weighted_relations(
    edge_index: Tensor, edge_attr: Tensor, num_relations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """An edge for every relation that an edge has, with its weight.

    Args:
        edge_index: ``[2, num_edges]``.
        edge_attr: ``[num_edges, num_relations]``, what an edge counts in each relation.
        num_relations: Number of relations.

    Returns:
        Edge indices, relations and weights of those that aren't zero.

    Raises:
        ValueError: If the weights have another shape or aren't finite.

    Example:
        >>> between = torch.tensor([[0.25, 0.75, 0.0]])
        >>> weighted_relations(torch.tensor([[0], [1]]), between, 3)
        (tensor([[0, 0],
                [1, 1]]), tensor([0, 1]), tensor([0.2500, 0.7500]))
    """
    if edge_attr.shape != (edge_index.size(1), num_relations):
        raise ValueError(
            "Expected weights 'edge_attr' of shape [num_edges, num_relations] = "
            f"[{edge_index.size(1)}, {num_relations}] (got {list(edge_attr.shape)})"
        )
    if not torch.compiler.is_compiling() and not bool(edge_attr.isfinite().all()):
        raise ValueError("Expected finite weights 'edge_attr' (got NaN or infinity)")
    edge, relation = edge_attr.nonzero(as_tuple=True)
    return edge_index[:, edge], relation, edge_attr[edge, relation]


def _order(key: Tensor, size: int) -> Tensor:
    """Sort ``key``; where all keys differ (pixels), by scattering, which is much faster."""
    place = key.new_full((size,), -1)
    place[key] = torch.arange(key.numel(), device=key.device)
    order = place[place >= 0]
    return order if order.numel() == key.numel() else key.argsort(stable=True)


_kept = threading.local()


def _scratch(size: int, like: Tensor) -> Tensor:
    """Memory for messages, at most :data:`_MOST_MESSAGES`; a CPU keeps one for each thread.

    Fresh pages cost as much as the arithmetic that fills them.
    """
    if like.device.type != "cpu":
        return like.new_empty(size)
    kept: Tensor | None = getattr(_kept, "memory", None)
    if kept is None or kept.numel() < size or kept.dtype != like.dtype:
        with torch.inference_mode(False):
            kept = _kept.memory = torch.empty(size, dtype=like.dtype, device=like.device)
    return kept[:size]


def convolve(z: Tensor, weight: Tensor, edges: RelationEdges) -> Tensor:
    """``y_i = Σ_(j→i, r) W_rᵀ z_j``, outside autograd."""
    r, c_in, c_out = weight.shape
    z = z.contiguous()
    if c_in < c_out or z.size(0) * r * c_out > _MOST_MESSAGES:  # gather, where that is narrower
        packed = weight.reshape(r * c_in, c_out)
        out = z.new_empty(edges.num_nodes, c_out)
        for rows, gathered in edges.gather(z):
            torch.mm(gathered, packed, out=out[rows])
        return out
    packed = weight.transpose(0, 1).reshape(c_in, r * c_out)
    messages = _scratch(z.size(0) * r * c_out, z).view(z.size(0), r * c_out)
    torch.mm(z, packed, out=messages)
    return bag_sum(messages.view(-1, c_out), edges.slot, edges.node_ptr, edges.weights(z))


def _correlate(z: Tensor, g: Tensor, edges: RelationEdges) -> Tensor:
    """``Σ_(j→i, r) z_j g_iᵀ`` for every relation."""
    r, c_in, c_out = edges.kinds, z.size(1), g.size(1)
    if c_in <= c_out:
        out = z.new_zeros(r * c_in, c_out)
        for rows, gathered in edges.gather(z):
            out.addmm_(gathered.t(), g[rows])
        return out.view(r, c_in, c_out)
    return _correlate(g, z, edges.reversed).transpose(1, 2)


class Convolve(Bilinear):
    """:func:`convolve` of a state with a weight."""

    @staticmethod
    def forward(z: Tensor, weight: Tensor, edges: RelationEdges) -> Tensor:
        """Return the sums."""
        return convolve(z, weight, edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[OptTensor, OptTensor, None]:  # type: ignore[override]
        """Along the reversed edges to the state; a correlation to the weight."""
        (z, weight), (to_z, to_weight, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            Convolve.apply(grad, weight.transpose(1, 2), ctx.edges.reversed) if to_z else None,
            _Correlate.apply(z, grad, ctx.edges) if to_weight else None,
            None,
        )


class _Correlate(Bilinear):
    @staticmethod
    def forward(z: Tensor, g: Tensor, edges: RelationEdges) -> Tensor:
        return _correlate(z, g, edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[OptTensor, OptTensor, None]:  # type: ignore[override]
        (z, g), (to_z, to_g, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            Convolve.apply(g, grad.transpose(1, 2), ctx.edges.reversed) if to_z else None,
            Convolve.apply(z, grad, ctx.edges) if to_g else None,
            None,
        )
