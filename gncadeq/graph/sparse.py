"""Sparse matrices on states: the places of the entries once, the weights with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.graph.recording import recorded

OptTensor = Tensor | None


class SparseRows:
    """Where the entries of a sparse matrix stand, row by row; the weights are kept apart.

    Args:
        row: ``[num_entries]``, ascending.
        col: ``[num_entries]``.
        num_rows: Number of rows.
        num_cols: Number of columns.
        kinds: Rows of a node, which follow one another: one for each kernel or relation.
    """

    def __init__(self, row: Tensor, col: Tensor, num_rows: int, num_cols: int, kinds: int) -> None:
        self.num_rows, self.num_cols, self.kinds = num_rows, num_cols, kinds
        small = max(num_rows, num_cols, row.numel()) < 2**31
        dtype = torch.int if small else torch.long
        self.row, self.col = row.to(dtype), col.to(dtype)
        counts = torch.bincount(row, minlength=num_rows) if num_rows else row.new_zeros(0)
        self.ptr = F.pad(counts.cumsum(0), (1, 0)).to(dtype)
        self.node_ptr = self.ptr if kinds == 1 else self.ptr[::kinds].contiguous()
        self._transposed: tuple[SparseRows, Tensor] | None = None

    @classmethod
    def sort(
        cls, row: Tensor, col: Tensor, num_rows: int, num_cols: int, kinds: int = 1
    ) -> tuple[SparseRows, Tensor]:
        """From entries in any order; also the order that takes the weights along."""
        order = row.argsort(stable=True)
        return SparseRows(row[order], col[order], num_rows, num_cols, kinds), order

    @property
    def num_nodes(self) -> int:
        """Number of nodes that receive."""
        return self.num_rows // self.kinds

    @property
    def receiver(self) -> Tensor:
        """``[num_entries]``, the node of every entry's row."""
        return self.row if self.kinds == 1 else self.row // self.kinds

    @property
    def transposed(self) -> tuple[SparseRows, Tensor]:
        """The transposed matrix, and the order that takes the weights along."""
        if self._transposed is None:
            self._transposed = self.sort(self.col, self.row, self.num_cols, self.num_rows)
        return self._transposed

    def matmul(self, z: Tensor, weight: Tensor) -> Tensor:
        """``y_i = Σ_e w_e z_col(e)``, differentiable any number of times to ``z`` and ``w``."""
        if torch.compiler.is_compiling():  # in operations that the compiler knows
            out = z.new_zeros(self.num_rows, z.size(1))
            return out.index_add(0, self.row, weight.unsqueeze(1) * z[self.col])
        if not recorded():  # the function's own bookkeeping takes as long as a small product
            return bag_sum(z, self.col, self.ptr, weight)
        return _Product.apply(z, weight, self)  # type: ignore[no-any-return]

    def blocks(self, most: int, whole: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """At most so many nodes at a time, so that what is computed of them stays in a CPU's cache;
        elsewhere, and with ``whole``, all at once.

        Yields:
            The nodes, their entries, and where each of their rows begins among these.
        """
        n, k = self.num_nodes, self.kinds
        if whole or n <= most or self.col.device.type != "cpu":
            yield slice(0, n), slice(0, self.col.numel()), self.ptr
            return
        for first in range(0, n, most):
            last = min(first + most, n)
            ptr = self.ptr[first * k : last * k + 1]
            begin, end = int(ptr[0]), int(ptr[-1])
            yield slice(first, last), slice(begin, end), ptr - begin

    def product_blocks(
        self, z: Tensor, weight: OptTensor, most: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """The product of some nodes at a time, ``[nodes, kinds, channels]``, outside autograd.

        Without a weight every entry counts one.
        """
        z = z.contiguous()
        for nodes, entries, ptr in self.blocks(most):
            part = None if weight is None else weight[entries]
            y = bag_sum(z, self.col[entries], ptr, part)
            yield nodes, y.view(nodes.stop - nodes.start, self.kinds, z.size(1))

    def cut(self, nodes: Tensor, sources: OptTensor = None) -> tuple[Self, Tensor]:
        """The rows of ascending ``nodes``, the columns of ``sources``; also which entries are kept.

        Entries of the kept rows stand in kept columns: those are whole graphs. By default the
        sources are the nodes.
        """
        sources = nodes if sources is None else sources
        keep = torch.zeros(self.num_nodes, self.kinds, dtype=torch.bool, device=nodes.device)
        keep[nodes] = True
        keep = keep.flatten()
        place = torch.zeros(self.num_cols, dtype=torch.long, device=nodes.device)
        place[sources] = torch.arange(sources.numel(), device=nodes.device)
        kept = keep[self.row].nonzero().flatten()
        row = (keep.cumsum(0) - 1)[self.row[kept]]
        new = object.__new__(type(self))
        col, size = place[self.col[kept]], nodes.numel() * self.kinds
        SparseRows.__init__(new, row, col, size, sources.numel(), self.kinds)
        return new, kept

    def restrict(self, nodes: Tensor) -> Self:
        """The rows and columns of ``nodes``, the ascending indices of whole graphs."""
        return self.cut(nodes)[0]


class SparseMatrix:
    """A sparse matrix on states, ``z ↦ A z``: the places of its entries, and their weights."""

    def __init__(self, rows: SparseRows, weight: Tensor) -> None:
        self.rows, self.weight = rows, weight

    @property
    def num_nodes(self) -> int:
        """Number of nodes that receive."""
        return self.rows.num_nodes

    def __call__(self, z: Tensor) -> Tensor:
        """Multiply ``z`` ``[num_nodes, channels]``."""
        return self.rows.matmul(z, self.weight.to(z.dtype))

    def _with(self, rows: SparseRows, weight: Tensor) -> Self:
        new = copy(self)
        new.rows, new.weight = rows, weight
        return new

    def with_weight(self, weight: Tensor) -> Self:
        """Other weights on the same entries, in the order of ``self.weight``."""
        return self._with(self.rows, weight)

    def transposed(self) -> Self:
        """The transposed matrix: every edge turned round, with its weight."""
        rows, order = self.rows.transposed
        return self._with(rows, self.weight[order])

    def restrict(self, nodes: Tensor, sources: OptTensor = None) -> Self:
        """The matrix on ``nodes``, the ascending indices of whole graphs."""
        rows, kept = self.rows.cut(nodes, sources)
        return self._with(rows, self.weight[kept])


def bag_sum(z: Tensor, index: Tensor, ptr: Tensor, weight: OptTensor = None) -> Tensor:
    """The (weighted) sums of the rows ``z[index]`` from each entry of ``ptr`` to the next."""
    if index.numel() == 0 or z.size(1) == 0:
        return z.new_zeros(ptr.numel() - 1, z.size(1))
    return F.embedding_bag(
        index, z.contiguous(), ptr, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


class Bilinear(torch.autograd.Function):
    """What is linear in its two tensors, and knows edges; differentiable any number of times."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep both tensors."""
        a, b, ctx.edges = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @classmethod
    def jvp(cls, ctx: Any, da: OptTensor, db: OptTensor, _: None) -> OptTensor:  # type: ignore[override]
        """The product rule."""
        a, b = ctx.saved_tensors
        out: OptTensor = None if da is None else cls.apply(da, b, ctx.edges)
        if db is not None:
            more = cls.apply(a, db, ctx.edges)
            out = more if out is None else out + more
        return out


class _Product(Bilinear):
    @staticmethod
    def forward(z: Tensor, weight: Tensor, rows: SparseRows) -> Tensor:
        return bag_sum(z, rows.col, rows.ptr, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[OptTensor, OptTensor, None]:  # type: ignore[override]
        z, weight = ctx.saved_tensors
        to_z = to_weight = None
        if ctx.needs_input_grad[0]:
            back, order = ctx.edges.transposed
            to_z = back.matmul(grad, weight[order])
        if ctx.needs_input_grad[1]:
            to_weight = (grad[ctx.edges.row] * z[ctx.edges.col]).sum(1)
        return to_z, to_weight, None


def segment_sum(value: Tensor, row: Tensor, ptr: Tensor) -> Tensor:
    """Sums ``[num_rows, channels]`` of values over the entries of each row.

    Args:
        value: ``[num_entries, channels]``, row by row.
        row: ``[num_entries]``, ascending.
        ptr: ``[num_rows + 1]``, where the rows begin; both of 64 bits.

    Example:
        >>> segment_sum(torch.ones(3, 1), torch.tensor([0, 0, 2]), torch.tensor([0, 2, 2, 3]))
        tensor([[2.],
                [0.],
                [1.]])
    """
    return _SegmentSum.apply(value, row, ptr)  # type: ignore[no-any-return]


class _SegmentSum(torch.autograd.Function):
    # The gradient is a gather: many times faster than that of torch.segment_reduce

    @staticmethod
    def forward(value: Tensor, target: Tensor, ptr: Tensor) -> Tensor:
        if value.size(0) == 0:
            return value.new_zeros(ptr.numel() - 1, value.size(1))
        return torch.segment_reduce(value, "sum", offsets=ptr, axis=0, unsafe=True, initial=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, target, ptr = inputs
        ctx.save_for_backward(target)
        ctx.save_for_forward(target, ptr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (target,) = ctx.saved_tensors
        return grad.index_select(0, target), None, None

    @staticmethod
    def jvp(ctx: Any, dvalue: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return _SegmentSum.apply(dvalue, *ctx.saved_tensors)  # type: ignore[no-any-return]
