"""TorchDEQ's seams: per-graph solvers in its registry, and the core ``"graph"``.

``torchdeq.get_deq(core="graph", ...)`` makes a :class:`GraphCore` once ``gncadeq.dynamics`` is
imported; :class:`gncadeq.GraphDEQ` solves and differentiates with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchdeq.core import DEQBase, register_deq
from torchdeq.solver.stat import SolverStat
from torchdeq.utils.config import DEQConfig
from torchdeq.utils.layer_utils import deq_decorator

from gncadeq.certificate import Certificate
from gncadeq.check import check_count, check_flag, check_number
from gncadeq.dynamics.broken import attach_finite
from gncadeq.dynamics.core_options import check_options, solver_name, to_solve_options
from gncadeq.dynamics.implicit import LinearSolver, full_precision, implicit
from gncadeq.dynamics.implicit_checks import Gates, first_order
from gncadeq.dynamics.options import HasOptions, option_of
from gncadeq.dynamics.ordered import substituted
from gncadeq.dynamics.solution import Solution
from gncadeq.dynamics.solvers import make_solver
from gncadeq.dynamics.torchdeq_bridge import (
    GraphSolver,
    register,
    solver_stat,
)
from gncadeq.graph.partition import Partition
from gncadeq.typing import OptTensor, OrderedStep, RestrictableStep, Step


class GraphCore(DEQBase, HasOptions):  # type: ignore[misc]
    r"""The core ``"graph"`` of TorchDEQ: every graph solved by itself, with the exact gradient.

    ``deq = torchdeq.get_deq(core="graph", ...)`` and ``[z], info = deq(func, z_init, batch=batch)``
    work as with TorchDEQ's cores, but norms, mixing weights and ends are those of a graph
    instead of a row, and the gradient of :class:`gncadeq.GraphDEQ` is there in eval mode, too.

    TorchDEQ's options mean here:

    - ``f_solver``, ``b_solver``: ``"auto"`` unless given, or a solver of this library
      (``"fixed_point_iter"`` is ``"picard"``), or ``"torchdeq:NAME"``. The backward one is the
      forward one unless given.
    - ``f_tol``, ``b_tol``: relative; ``f_tol`` is 1e-3, and ``b_tol`` is ``f_tol``.
    - ``f_max_iter``, ``b_max_iter``: solver steps; 40, and ``f_max_iter``.
    - ``eval_factor``, ``eval_f_max_iter``: as in TorchDEQ.
    - ``ift``: true unless ``grad`` is given.
    - ``grad``, ``tau``: the phantom gradient, and that of states on the way.
    - ``n_states``, ``indexing``: states on the way, in training mode. The solver rests there and
      goes on from its best state.
    - ``f_stop_mode``, ``b_stop_mode``: ``"rel"`` alone.
    - ``hook_ift``, ``no_stat``, ``sup_gap``, ``sup_loc``: refused.

    Further options are those of :class:`gncadeq.GraphDEQ`: ``criterion``, ``atol``,
    ``check_every``, ``compact``, ``on_failure`` and ``solver_options``. Unknown options are
    refused, unless all those of TorchDEQ's parser (``torchdeq.add_deq_args``) are there, too: then
    the rest belongs to the program whose command line it is.

    Args:
        args: A dictionary, an ``argparse.Namespace`` or a configuration of TorchDEQ's.
        kwargs: More options.

    Raises:
        ValueError: If an option has a value that this core doesn't honour.
        TypeError: If an option is unknown.

    Example:
        >>> import torchdeq
        >>> deq = torchdeq.get_deq(core="graph", ift=True, f_solver="anderson", f_tol=1e-6)
        >>> w = torch.tensor(0.5, requires_grad=True)
        >>> batch = torch.tensor([0, 0, 1])
        >>> [z], info = deq(lambda z: w * z.cos(), torch.zeros(3, 1), batch=batch)
        >>> info["rel_lowest"].shape
        torch.Size([2])
        >>> exact = z[0].cos() / (1 + w * z[0].sin())  # of dz/dw, from z = w cos z
        >>> bool((torch.autograd.grad(z[0], w)[0] - exact).abs() < 1e-4)
        True
    """

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        given = {**DEQConfig(args).config, **kwargs}  # TorchDEQ would write into the caller's
        check_options(given)
        get, b_solver = given.get, given.get("b_solver")
        self.options = to_solve_options(given)
        GraphSolver(self.solver).check(self.options)
        key = register(self.solver)
        DEQBase.__init__(
            self, f_solver=key, b_solver=key, f_stop_mode="rel", b_stop_mode="rel",
            f_max_iter=self.f_max_iter, b_max_iter=self.options.backward_max_steps,
            f_tol=self.f_tol, b_tol=self.options.backward_tol,
        )  # fmt: skip
        self.eval_factor = check_number("eval_factor", get("eval_factor", 1.0), above=0)
        self.eval_f_max_iter = check_count("eval_f_max_iter", get("eval_f_max_iter", 0))
        self.b_solver: GraphSolver | None = None
        if b_solver is not None:
            self.b_solver = GraphSolver(solver_name(b_solver))
            make_solver(self.b_solver.name)  # refuses TorchDEQ's own as well
        self.grad = [check_count("grad", k, least=1) for k in _as_list(get("grad", 1))]
        self.phantom_steps = self.grad[-1]
        exact = check_flag("ift", get("ift", "grad" not in given))
        self.gradient = "ift" if exact else "phantom"
        self.n_states = check_count("n_states", get("n_states", 1), least=1)
        self.indexing = [check_count("indexing", k, least=1) for k in get("indexing") or []]
        if len(self.grad) not in (1, len(self._slices(self.f_max_iter))):
            raise ValueError(
                f"Expected one entry of 'grad', or one for each of the "
                f"{len(self._slices(self.f_max_iter))} states (got {self.grad})"
            )

    # TorchDEQ's names of the options
    f_tol = option_of("tol")
    f_max_iter = option_of("max_steps")
    b_tol = option_of("backward_tol")
    b_max_iter = option_of("backward_max_steps")

    @property
    def f_solver(self) -> GraphSolver:
        """The forward solver."""
        return GraphSolver(self.solver)

    @f_solver.setter
    def f_solver(self, solver: GraphSolver) -> None:
        self.solver = solver.name

    @property
    def max_steps(self) -> int:  # type: ignore[override]
        """Most steps of a solve, in training or eval mode."""
        if self.training:
            return int(self.f_max_iter)
        return self.eval_f_max_iter or int(self.f_max_iter * self.eval_factor)

    def solve(
        self,
        step: Step,
        z0: Tensor,
        partition: Partition,
        trace: bool = False,
        certificate: Certificate | None = None,
        **changes: Any,
    ) -> Solution:
        """Solve ``z = step(z)`` for every graph.

        Args:
            step: The map on states ``[num_nodes, channels]``.
            z0: The start.
            partition: The nodes of each graph.
            trace: Record the residuals.
            certificate: What is proven of the step, for ``criterion="error"``.
            changes: Options that differ from the core's.
        """
        if isinstance(step, OrderedStep) and self.solver == "auto":
            return substituted(step, partition, self.tol)
        options = self.options.but(**{"max_steps": self.max_steps, **changes})
        return self.f_solver.solve(options, step, z0, partition, trace, certificate)

    def attach(
        self,
        step: Step,
        z: Tensor,
        partition: Partition,
        inputs: Sequence[Tensor] = (),
        gates: Gates | None = None,
        writer: Callable[[SolverStat], None] | None = None,
    ) -> Tensor:
        """Give a solution of ``z = step(z)`` its gradient; see :func:`implicit`."""
        if self.gradient == "ift":
            linear = self._linear_solver(writer)
            return implicit(step, z, partition, inputs, linear, gates or Gates())
        steps, damping = (1, 1.0) if self.gradient == "one_step" else (
            self.phantom_steps, self.phantom_damping)  # fmt: skip
        return unrolled(step, z, steps, damping, inputs, self.gradient)

    def _linear_solver(self, writer: Callable[[SolverStat], None] | None) -> LinearSolver:
        forward = self.f_solver
        solver = self.b_solver or (GraphSolver("auto") if forward.stock else forward)
        return LinearSolver(
            self.options.backward(solver.name),
            None if writer is None else lambda solution: writer(solver_stat(solution)),
        )

    def forward(
        self,
        func: Callable[..., Any],
        z_init: Tensor | Sequence[Tensor],
        solver_kwargs: Mapping[str, Any] | None = None,
        sradius_mode: bool = False,
        backward_writer: Callable[[SolverStat], None] | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[list[Any], SolverStat]:
        r"""Solve ``z = func(z)`` for each graph of ``batch``.

        Args:
            func: The map on states ``[num_nodes, channels]``, such as ``cell.prepare(x,
                edge_index)``; or on several of them, ``func(z_1, z_2)``, that have the same nodes.
                If it holds a mask of all nodes, as TorchDEQ's dropout does, ``compact=False`` is
                needed.
            z_init: The start, or a list of them.
            solver_kwargs: ``f_max_iter`` for this call, and options of the solver, such as
                ``{"history": 10}``.
            sradius_mode: Whether ``info["sradius"]`` is computed, by
                :func:`gncadeq.analysis.spectral_radius`.
            backward_writer: Called with the ``info`` of the backward solve.
            batch: Ascending graph index of every node; ``None`` for a single graph.
            batch_size: The number of graphs.

        Returns:
            The states, of which the last is the solution, and ``info``, with a row for every
            graph. Residuals are those of the solution that is returned.
        """
        deq_func, start = deq_decorator(func, z_init, no_stat=False)
        if not (isinstance(start, Tensor) and start.dim() == 2):
            raise ValueError(
                "Expected 'z_init' of shape [num_nodes, channels], or a list of those "
                f"(got {list(start.shape)})"
            )
        step: Step = func if isinstance(z_init, Tensor) else deq_func
        partition = Partition(batch, start.size(0), batch_size, like=start)
        options = {**(self.solver_options or {}), **(solver_kwargs or {})}
        limit = check_count("f_max_iter", options.pop("f_max_iter", self.max_steps))
        slices = self._slices(limit) if self.training else [limit]
        steps = self.grad if len(self.grad) == len(slices) else self.grad[:1] * len(slices)
        z, out = start.detach(), []
        with full_precision(start.device):
            for number, (count, more) in enumerate(zip(slices, steps, strict=True)):
                solution = self.solve(
                    step, z, partition, max_steps=count, solver_options=options,
                    trace=not self.f_solver.stock,
                )  # fmt: skip
                z = solution.state
                if number == len(slices) - 1:
                    solution.report(self.on_failure)
                    out.append(self._attach(step, solution, partition, backward_writer))
                elif torch.is_grad_enabled():
                    out.append(unrolled(step, z, more, self.phantom_damping))
                else:
                    out.append(z)
            radius = self._radius(step, z, partition) if sradius_mode else z.new_zeros(1)
        return [deq_func.vec2list(each) for each in out], solver_stat(solution, sradius=radius)

    def _slices(self, limit: int) -> list[int]:
        """How many steps lead to each of the states that are returned."""
        if self.n_states > 1:
            last = limit - limit // self.n_states * (self.n_states - 1)
            return [limit // self.n_states] * (self.n_states - 1) + [last]
        ends = [0, *self.indexing, limit]
        if any(a >= b for a, b in pairwise(ends)) and self.indexing:
            raise ValueError(
                f"Expected 'indexing' to ascend below the step limit {limit} (got {self.indexing})"
            )
        return [b - a for a, b in pairwise(ends)]

    def _attach(
        self,
        step: Step,
        solution: Solution,
        partition: Partition,
        writer: Callable[[SolverStat], None] | None,
    ) -> Tensor:
        """The solution with its gradient."""
        if not torch.is_grad_enabled():
            return solution.state

        def attach(z: Tensor, rest: Partition, kept: OptTensor, _: OptTensor) -> Tensor:
            part = step
            if kept is not None and isinstance(step, RestrictableStep):
                part = step.restrict(kept)
            return self.attach(part, z, rest, writer=writer)

        return attach_finite(attach, solution, partition, isinstance(step, RestrictableStep))

    def _radius(self, step: Step, z: Tensor, partition: Partition) -> Tensor:
        from gncadeq.analysis.spectrum import spectral_radius  # which knows dynamics

        radius = spectral_radius(step, z.detach(), partition.batch)
        return F.pad(radius, (0, partition.num_graphs - radius.numel()))

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"solver={self.solver!r}, tol={self.f_tol:g}, max_steps={self.f_max_iter}, "
            f"gradient={self.gradient!r}"
        )


def unrolled(
    step: Step,
    z: Tensor,
    steps: int,
    damping: float,
    inputs: Sequence[Tensor] = (),
    name: str = "phantom",
) -> Tensor:
    """The value of ``z``, with the gradient of ``steps`` damped steps from there."""
    y = z
    for _ in range(steps):
        y = torch.lerp(y, step(y).to(z.dtype), damping) if damping != 1.0 else step(y)
    y = first_order(y, inputs, name)
    return z + (y - y.detach()).to(z.dtype)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


register_deq("graph", GraphCore)
