"""Sparse matrices on states: the places of the entries once, the weights with their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OptTensor = Tensor | None


class SparseRows:
    """Where the entries of a sparse matrix stand, row by row; the weights are kept apart.

    Args:
        row: ``[num_entries]``, ascending.
        col: ``[num_entries]``.
        num_rows: Number of rows.
        num_cols: Number of columns.
    """

    def __init__(self, row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> None:
        self.num_rows, self.num_cols = num_rows, num_cols
        small = max(num_rows, num_cols, row.numel()) < 2**31
        dtype = torch.int if small else torch.long
        self.row, self.col = row.to(dtype), col.to(dtype)
        counts = torch.bincount(row, minlength=num_rows) if num_rows else row.new_zeros(0)
        self.ptr = F.pad(counts.cumsum(0), (1, 0)).to(dtype)
        self._transposed: tuple[SparseRows, Tensor] | None = None

    @classmethod
    def sort(
        cls, row: Tensor, col: Tensor, num_rows: int, num_cols: int
    ) -> tuple[SparseRows, Tensor]:
        """From entries in any order; also the order that takes the weights along."""
        order = row.argsort(stable=True)
        return cls(row[order], col[order], num_rows, num_cols), order

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
        return _Product.apply(z, weight, self)  # type: ignore[no-any-return]

    def block(self, z: Tensor, weight: OptTensor, first: int, last: int) -> Tensor:
        """The rows from ``first`` to before ``last`` of the product, outside autograd.

        Without a weight every entry counts one.
        """
        if last - first == self.num_rows:
            return bag_sum(z, self.col, self.ptr, weight)
        entries, ptr = self.entries(first, last)
        part = None if weight is None else weight[entries]
        return bag_sum(z, self.col[entries], ptr, part)

    def entries(self, first: int, last: int) -> tuple[slice, Tensor]:
        """The entries of the rows from ``first`` to before ``last``, and where each row begins."""
        ptr = self.ptr[first : last + 1]
        begin, end = int(ptr[0]), int(ptr[-1])
        return slice(begin, end), ptr - begin

    def restrict(self, rows: Tensor, cols: Tensor) -> tuple[SparseRows, Tensor]:
        """The matrix cut down to ascending ``rows`` and ``cols``; also which entries are kept.

        Entries of the kept rows stand in kept columns: those are whole graphs.
        """
        keep = torch.zeros(self.num_rows, dtype=torch.bool, device=rows.device)
        keep[rows] = True
        place = torch.zeros(self.num_cols, dtype=torch.long, device=cols.device)
        place[cols] = torch.arange(cols.numel(), device=cols.device)
        kept = keep[self.row].nonzero().flatten()
        row = (keep.cumsum(0) - 1)[self.row[kept]]
        return SparseRows(row, place[self.col[kept]], rows.numel(), cols.numel()), kept


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
            to_z = _Product.apply(grad, weight[order], back)
        if ctx.needs_input_grad[1]:
            to_weight = (grad[ctx.edges.row] * z[ctx.edges.col]).sum(1)
        return to_z, to_weight, None


def segment_sum(value: Tensor, row: Tensor, ptr: Tensor) -> Tensor:
    """Sums of values over the entries of each row.

    Args:
        value: ``[num_entries, channels]``, row by row.
        row: ``[num_entries]``, ascending.
        ptr: ``[num_rows + 1]``, where the rows begin; both of 64 bits.

    Returns:
        ``[num_rows, channels]``, zeros for rows without entries.

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


__all__ = ["Bilinear", "SparseRows", "bag_sum", "segment_sum"]
