"""The memory of a training step: what implicit differentiation saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    r"""Bytes that autograd keeps for the backward pass of a forward pass.

    Every storage counts once, however many operations keep it. Through an equilibrium the number
    doesn't depend on the steps of the solver; through a rollout it grows with the steps.

    Args:
        forward: Runs the forward pass, in training mode if the model has one.
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
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # alive until all is counted: a freed storage's address is given again
    total = sum(sizes.values())
    del kept
    return total


__all__ = ["saved_bytes"]
