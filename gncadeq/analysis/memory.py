"""The memory of a training step: what implicit differentiation saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakSet

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    r"""Bytes that autograd keeps for the backward pass.

    Every storage that it holds when the backward pass begins counts once. Through an equilibrium
    the number doesn't depend on the steps of the solver; through a rollout it grows with them.

    Args:
        forward: Runs the forward pass, in training mode if the model has one; it may go on to a
            backward pass.
        given: Tensors that would be there anyway, and don't count: parameters and data.

    Example:
        >>> from gncadeq import ConvCell, GraphDEQ, GraphNCA
        >>> from gncadeq.transforms import ImageToGraph
        >>> data, cell = ImageToGraph()(torch.rand(1, 9, 9)), ConvCell(1, 8, contraction=0.9)
        >>> graph = (data.x, data.edge_index, data.edge_attr)
        >>> own = [*cell.parameters(), *graph]
        >>> bptt, longer = GraphNCA(cell, steps=8), GraphNCA(cell, steps=16)
        >>> loose, tight = GraphDEQ(cell, tol=1e-1), GraphDEQ(cell, tol=1e-5)
        >>> saved = [saved_bytes(lambda m=m: m(*graph), own) for m in (loose, tight, bptt, longer)]
        >>> saved[0] == saved[1] < saved[2] < saved[3]
        True
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: WeakSet[_Kept] = WeakSet()
    most, more = 0, False

    def count() -> None:
        nonlocal most, more
        storages = [holder.tensor.untyped_storage() for holder in kept]
        sizes = {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}
        most, more = max(most, sum(sizes.values())), False

    def pack(tensor: Tensor) -> _Kept:
        nonlocal more
        more = True
        holder = _Kept(tensor.detach())  # an output that held itself would never be freed
        kept.add(holder)
        return holder

    def unpack(holder: _Kept) -> Tensor:
        if more:
            count()
        return holder.tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        result = forward()  # keeps what it was made of until all is counted
        count()
    del result
    return most


class _Kept:
    """A tensor, for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
