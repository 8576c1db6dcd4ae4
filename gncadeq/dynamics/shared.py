"""Dynamics of one graph that several processes hold: each steps its own nodes and asks for others.

Every process calls the dynamics with the rows of its own nodes, and gets the states of these. In
every step the states of the halo come from the processes that hold them
(:class:`gncadeq.graph.halo.Halo`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gncadeq.cell import Cell, check_tensor
from gncadeq.check import check_type
from gncadeq.dynamics.frozen import Frozen
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.start import Start
from gncadeq.graph.halo import Halo
from gncadeq.graph.rows import check_rows, declared_rows
from gncadeq.typing import AdjointStep, OptTensor, PartialStep, Step


def with_halo(
    cell: Cell, halo: Halo, start: Start, x: Any, batch: Any, batch_size: int | None,
    context: dict[str, OptTensor],
) -> tuple[Tensor, dict[str, OptTensor]]:  # fmt: skip
    """The injection and the tensors by name, of own nodes and of the halo.

    Raises:
        TypeError: If ``halo`` isn't one, or the injection no dense tensor.
        ValueError: If the cell can't run in parts, or rows are missing.
    """
    check_type("halo", halo, Halo)
    check_tensor(x)
    name = type(cell).__name__
    if cell.hops is None:
        raise ValueError(
            "Expected a cell whose step reads nothing but nodes within a known number of hops, to "
            f"run one graph in parts (got {name}, which doesn't say so, or needs a view of the "
            "whole graph: a cascade, a sweep, a norm, a measured scale). Set its 'hops' if it does"
        )
    if cell.hops > halo.hops:
        raise ValueError(
            f"Expected parts with a halo of {cell.hops} hops for this {name} (got {halo.hops}). "
            f"Use split_graph(data, num_parts, hops={cell.hops})"
        )
    if Frozen.concerns(cell):
        raise ValueError(
            f"Expected a cell without dropout or batch statistics, to run one graph in parts (got "
            f"{name} in training mode). Use cell.eval(), or leave them out"
        )
    if isinstance(start, nn.Module):
        raise ValueError(
            "Expected start='zeros', 'normal' or a 'z0', to run one graph in parts (got a module). "
            "Pass what it predicts as 'z0'"
        )
    if batch is not None or batch_size not in (None, 1):
        given = "batch" if batch is not None else f"batch_size={batch_size}"
        raise ValueError(f"Expected one graph in parts (got {given!r}). Leave it out")
    check_rows("x", x, "node", halo.num_nodes)
    rows, filled = declared_rows(cell.context), dict(context)
    for key, value in context.items():
        if not isinstance(value, Tensor) or rows.get(key) == "edge":
            continue
        if rows.get(key) != "node":
            raise ValueError(
                f"Expected tensors with rows of nodes or edges, to run one graph in parts (got "
                f"{key!r}). Declare 'rows', or leave it out"
            )
        check_rows(key, value, "node", halo.num_nodes)
        filled[key] = halo.fill(value)
    return halo.fill(x), filled


def check_options(options: SolveOptions) -> None:
    """Raise a ValueError for what knows nothing of other processes."""
    if options.solver.startswith("torchdeq:"):
        raise ValueError(
            "Expected a solver of this library, to run one graph in parts (got one of TorchDEQ's, "
            f"{options.solver!r}, which sees the nodes of one process). Use solver='auto'"
        )
    if options.criterion == "error":
        raise ValueError(
            "Expected another criterion, to run one graph in parts, whose parts have no "
            "certificate of the whole (got 'error'). Use criterion='graph'"
        )


class SharedStep:
    """A step of own nodes, from their states and those of the halo."""

    def __init__(self, step: Step, halo: Halo) -> None:
        self.step, self.halo = step, halo

    @staticmethod
    def of(step: Step, halo: Halo) -> SharedStep:
        """With the methods ``adjoint`` or ``partial`` if the step has one."""
        if isinstance(step, AdjointStep):
            return _SharedAdjointStep(step, halo)
        if isinstance(step, PartialStep):
            return _SharedPartialStep(step, halo)
        return SharedStep(step, halo)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        return self.halo.own(self.step(self.halo.fill(z)))


class _SharedAdjointStep(SharedStep):
    step: AdjointStep

    def adjoint(self, z: Tensor, fz: Tensor) -> Step:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        halo = self.halo
        product = self.step.adjoint(halo.fill(z), halo.padded(fz))
        return lambda u: halo.collect(product(halo.padded(u)))


class _SharedPartialStep(SharedStep):
    step: PartialStep

    def partial(self, z: Tensor, rate: OptTensor) -> Tensor:
        """The next state where the update is multiplied by ``rate``."""
        if rate is not None and rate.dim():
            rate = self.halo.fill(rate)
        return self.halo.own(self.step.partial(self.halo.fill(z), rate))
