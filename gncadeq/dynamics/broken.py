"""The gradient of a batch in which some graphs have no solution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gncadeq.dynamics.solution import Solution, Status
from gncadeq.dynamics.solvers.base import on_device, read
from gncadeq.graph.partition import Partition
from gncadeq.typing import OptTensor

Attach = Callable[[Tensor, Partition, OptTensor, OptTensor], Tensor]


def attach_finite(
    attach: Attach, solution: Solution, partition: Partition, restrict: bool
) -> Tensor:
    """Give the state of a solution its gradient, without the graphs that returned NaN.

    Those have no gradient, and must not poison that of the other graphs.

    Args:
        attach: Called once as ``attach(z, partition, kept, gone)``, returns ``z`` with its
            gradient. ``kept`` are the indices of the nodes that are left, and ``gone`` is a mask of
            the nodes to be emptied; both are ``None`` where all graphs are finite.
        solution: The solution.
        partition: The nodes of each graph.
        restrict: Leave the broken graphs out; otherwise they stay with a state of zeros, for a
            step that needs the whole batch.
    """
    z = solution.state
    broken = read(solution.status) == Status.NON_FINITE
    if not broken.any():
        return attach(z, partition, None, None)
    if restrict:
        nodes, rest = partition.restrict(~broken)
        return z.index_copy(0, nodes, attach(z[nodes], rest, nodes, None))
    gone = on_device(broken, z)[partition.batch]
    rows = gone.unsqueeze(1)
    return torch.where(rows, z, attach(z.masked_fill(rows, 0.0), partition, None, gone))
