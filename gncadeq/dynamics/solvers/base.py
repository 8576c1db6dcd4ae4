r"""What a solver is, and the plain one.

A solver proposes the state at which the loop in :func:`gncadeq.dynamics.solve` evaluates the map
next; the loop owns everything else. Inner products run over the nodes of one graph, so the
result of a graph does not depend on the other graphs of its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gncadeq.check import check_number
from gncadeq.graph.partition import Partition
from gncadeq.typing import Step

Numbers: TypeAlias = NDArray[Any]
"""A number, or several, of every graph in the batch, on the host."""


def read(value: Tensor) -> Numbers:
    """The numbers of a tensor, for which the host waits for the device."""
    return value.detach().cpu().numpy()


def on_device(graphs: Numbers, like: Tensor) -> Tensor:
    """Numbers of graphs as a tensor where another one is."""
    return torch.from_numpy(graphs).to(like.device)


class Solver(ABC):
    """Proposes states; one object serves one solve. Subclass it to add a solver.

    Attributes:
        partition: The nodes of each graph that is still in the batch.
        step: The map ``f`` on the states of these graphs, for solvers that look at more points than
            those they propose. Such calls are counted among the evaluations of all these graphs.
        growth: How many times larger than before the residual may be at a proposal. A graph where
            it is larger, or not finite, goes on with a plain step from the last good state.
            ``None`` hands such states to the solver, which then has a step control of its own.

    Example:
        >>> class Half(Solver):
        ...     def propose(self, z, fz):
        ...         return 0.5 * (z + fz)
        >>> from gncadeq.dynamics import register_solver
        >>> register_solver("half", Half)
    """

    partition: Partition
    step: Step
    growth: float | None = 10.0

    def begin(self, z: Tensor, partition: Partition) -> None:  # noqa: B027
        """Called once, before the first proposal; ``self.partition`` is set already."""

    def watch(self, z: Tensor, fz: Tensor, size: Numbers) -> None:  # noqa: B027
        """Called before every proposal from ``z``, with ``‖f(z) − z‖`` of every graph on the host.

        The loop has read these numbers together with others: a step need not wait for the device
        again.
        """

    @abstractmethod
    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the next state from the state ``z`` and its image ``fz = f(z)``."""

    def restart(self, graphs: Numbers) -> None:  # noqa: B027
        """Forget what was learnt of ``graphs`` (a mask): they go on from another state."""

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:  # noqa: B027
        """Forget all but ``nodes`` (indices) of ``graphs`` (a mask), as the batch shrinks."""


class Picard(Solver):
    r"""Damped fixed-point iteration, :math:`\mathbf{z} \leftarrow (1-\tau)\mathbf{z} + \tau f`.

    Args:
        damping: The step :math:`\tau` in (0, 1].
    """

    growth = float("inf")

    def __init__(self, damping: float = 1.0) -> None:
        self.damping = check_number("damping", damping, above=0, most=1)

    def propose(self, z: Tensor, fz: Tensor) -> Tensor:
        """Return the damped step."""
        return fz if self.damping == 1.0 else torch.lerp(z, fz, self.damping)


def columns(graphs: Tensor | Numbers, partition: Partition) -> Tensor:
    """A mask or number of each graph for its nodes: ``[num_nodes, 1]``, or ``[1, 1]`` for all."""
    if isinstance(graphs, np.ndarray):
        graphs = on_device(graphs, partition.batch)
    if partition.num_graphs == 1:
        return graphs.view(1, 1)
    return graphs[partition.batch].unsqueeze(1)
