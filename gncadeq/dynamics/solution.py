"""What a solve returns: the state, and how far each graph of the batch can be trusted."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

OnFailure = Literal["warn", "raise", "ignore"]
# Modules call each other by way of torch, through a number of frames that depends on its version.
_INSIDE = tuple(
    os.path.join(os.path.dirname(path), "")
    for path in (os.path.dirname(os.path.abspath(__file__)), torch.__file__)
)


class Status(IntEnum):
    """How the solve of one graph ended."""

    CONVERGED = 0
    """The relative residual of the returned state is at most ``tol``, or the state is at rest at
    zero: ``f(z) - z`` is at most ``atol``, by default ``tol`` times the start's rounding error. A
    state that has grown while its steps became no smaller has not converged, however small its
    relative residual."""
    MAX_STEPS = 1
    """The step limit came first; the returned state is the best one seen. Its residual may be below
    ``tol`` where the state has grown and its steps have not become small enough."""
    DIVERGED = 2
    """The state overflowed, became so large that its steps are lost in rounding, or has grown a
    million times without any progress for at least thirty steps, and as many as the graph has
    nodes; the returned state is the best one seen."""
    NON_FINITE = 3
    """The cell returned NaN or infinity, at the start or whatever the solver tried. There is no
    equilibrium to return: the state is NaN, and the residual infinite."""
    STALLED = 4
    """The solver ended before the step limit without reaching the tolerance, as TorchDEQ's may; the
    returned state is the best one seen."""


class ConvergenceWarning(UserWarning):
    """Some graphs of a batch did not reach the tolerance."""


class ConvergenceError(RuntimeError):
    """Some graphs of a batch did not reach the tolerance, and ``on_failure="raise"``."""


@dataclass(frozen=True)
class Solution:
    r"""An equilibrium for every graph of a batch, with its evidence.

    Attributes:
        state: ``[num_nodes, channels]``, the returned state :math:`\mathbf{z}`.
        residual: ``[num_graphs]``, relative,
            :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert f(\mathbf{z}) \rVert` over the
            nodes and channels of a graph, of the returned state; with ``criterion="node"`` or
            ``"channel"`` the largest of its nodes or channels, with ``"error"`` the bound on the
            error. The denominator is at least
            ``atol / tol``, which lets a state come to rest at zero.
        residual_abs: ``[num_graphs]``, :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert`.
        image_norm: ``[num_graphs]``, :math:`\lVert f(\mathbf{z}) \rVert`.
        num_steps: ``[num_graphs]``, solver steps from the start to the end of a graph's solve.
        num_evaluations: ``[num_graphs]``, evaluations of the cell that the graph's solve took: one
            more than steps, with every solver that doesn't evaluate the cell itself.
        status: ``[num_graphs]``, the :class:`Status` codes.
        tol: The relative tolerance that was asked for.
        trace: ``[num_checks, num_graphs]``, the relative residual at every check (NaN after a
            graph's end), or ``None`` if it wasn't recorded.

    Example:
        >>> from gncadeq import GraphDEQ, PropagationCell
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> deq = GraphDEQ(PropagationCell(1, alpha=0.1), tol=1e-4)
        >>> z, solution = deq(torch.rand(3, 1), edge_index, return_solution=True)
        >>> bool(solution.converged.all()), bool(solution.error_bound.max() < 1e-2)
        (True, True)
    """

    state: Tensor
    residual: Tensor
    residual_abs: Tensor
    image_norm: Tensor
    num_steps: Tensor
    num_evaluations: Tensor
    status: Tensor
    tol: float
    trace: Tensor | None = None
    evidence: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def error_bound(self) -> Tensor:
        r"""``[num_graphs]``, how far each graph's state is from its equilibrium at most.

        .. math::
            \frac{\lVert \mathbf{z} - \mathbf{z}^\star \rVert}{\lVert f(\mathbf{z}) \rVert} \le
            \frac{\lVert f(\mathbf{z}) - \mathbf{z} \rVert}
            {(1 - \kappa) \lVert f(\mathbf{z}) \rVert} + \frac{\epsilon}{1 - \kappa}

        with the rounding error :math:`\epsilon` of the state's numbers (1.2e-7 in float32),
        in the norm of the cell's :class:`~gncadeq.certificate.Certificate`; infinite for graphs
        that have none (a directed graph, where the proof is about undirected ones). A graph has the
        bound that it has alone. A small residual is a small error only where :math:`\kappa` is well
        below one.

        Raises:
            RuntimeError: If the parameters or the graph were changed since the solve.
        """
        if self.evidence is None:
            return torch.full_like(self.residual, float("inf"))
        bound: Tensor = self.evidence.error_bound(self.state)
        return bound

    def __getstate__(self) -> dict[str, Any]:
        """Pickles and copies keep the numbers, not the graph that was solved on."""
        with suppress(RuntimeError):
            self.error_bound  # noqa: B018
        return {**self.__dict__, "evidence": None}

    @property
    def num_graphs(self) -> int:
        """Number of graphs in the batch."""
        return self.residual.numel()

    @property
    def converged(self) -> Tensor:
        """``[num_graphs]`` booleans: which graphs reached the tolerance."""
        return self.status == Status.CONVERGED

    def report(
        self,
        on_failure: OnFailure,
        *,
        gradient: bool = False,
        excuse: Tensor | None = None,
        advice: Callable[[], tuple[dict[Status, str], str | None]] | None = None,
    ) -> None:
        """Warn, raise or say nothing about the graphs that did not converge.

        Args:
            on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
            gradient: Whether this is the solution of a gradient's linear system.
            excuse: ``[num_graphs]`` booleans: graphs of which nothing is said.
            advice: Asked what to do, by status, and for a sentence about the rule, when there is
                something to report.

        Raises:
            ConvergenceError: If a graph failed and ``on_failure="raise"``.
        """
        if on_failure == "ignore":
            return
        failed = ~self.converged if excuse is None else ~self.converged & ~excuse
        if not bool(failed.any()):
            return
        remedies, remark = ({}, None) if advice is None else advice()
        message = self._failure_message(failed.nonzero().flatten(), gradient, remedies)
        message += "" if remark is None else f". {remark}"
        if on_failure == "raise":
            raise ConvergenceError(message)
        warn(message)

    def _failure_message(self, failed: Tensor, gradient: bool, remedies: dict[Status, str]) -> str:
        ranked = self.residual[failed].nan_to_num(nan=float("inf"))
        worst = int(failed[ranked.argmax()])
        kinds = [Status(s) for s in sorted(set(self.status[failed].tolist()))]
        shown = ", ".join(str(int(i)) for i in failed[:5]) + (", …" if len(failed) > 5 else "")
        prefix = "backward_" if gradient else ""
        usual = {
            Status.MAX_STEPS: f"raise '{prefix}max_steps' or '{prefix}tol' (a signal takes a "
            "step a hop at least)",
            Status.DIVERGED: "damp the solver",
            Status.STALLED: "try another solver",
            Status.NON_FINITE: "check the weights and the input for NaN",
        }
        if float(self.residual[worst]) <= self.tol:
            usual[Status.MAX_STEPS] = (
                "its state has grown, and its steps have not become small enough: raise "
                f"'{prefix}max_steps', if there is a fixed point"
            )
        # What mends several kinds of failure is said once.
        names = ", ".join(kind.name for kind in kinds)
        advice = "; ".join(dict.fromkeys({**usual, **remedies}[kind] for kind in kinds))
        return (
            f"{len(failed)} of {self.num_graphs} graphs did not reach the relative residual"
            f"{' of their gradient' if gradient else ''} "
            f"{self.tol:g} (graphs {shown}; status {names}). Worst: graph "
            f"{worst} with residual {float(self.residual[worst]):.2e} after "
            f"{int(self.num_steps[worst])} steps. To mend it: {advice}"
        )

    def __repr__(self) -> str:
        if self.num_graphs == 0:
            return f"{self.__class__.__name__}(graphs=0)"
        counts = ", ".join(
            f"{s.name.lower()}={int((self.status == s).sum())}"
            for s in Status
            if bool((self.status == s).any())
        )
        return (
            f"{self.__class__.__name__}(graphs={self.num_graphs}, {counts}, "
            f"residual≤{float(self.residual.max()):.1e}, {self._error()}"
            f"steps={int(self.num_steps.min())}–{int(self.num_steps.max())})"
        )

    def _error(self) -> str:
        try:
            worst = float(self.error_bound.max())
        except RuntimeError:  # the parameters are others by now
            return ""
        if not math.isfinite(worst):
            return ""
        return f"error≤{worst:.1e}, "


def warn(message: str) -> None:
    """Give a :class:`ConvergenceWarning` at the line that called, outside of this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ConvergenceWarning, stacklevel=level)
