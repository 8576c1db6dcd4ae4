"""The implicit dynamics: a cell solved to its equilibrium, differentiated at the solution."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gncadeq.cells.base import Cell
from gncadeq.dynamics import torchdeq_bridge
from gncadeq.dynamics.partition import Partition
from gncadeq.dynamics.rollout import GraphNCA
from gncadeq.dynamics.solution import OnFailure, Solution, Status, check_on_failure
from gncadeq.dynamics.solvers import make_solver, solve
from gncadeq.dynamics.start import Start, check_start, start_state
from gncadeq.neighborhood import Neighborhood
from gncadeq.typing import Adj, OptTensor, Step

Gradient = Literal["ift", "phantom", "one_step"]


class GraphDEQ(nn.Module):
    r"""A cell solved to equilibrium on every graph of a batch.

    .. math::
        \mathbf{z}^\star = f(\mathbf{z}^\star, \mathbf{x}; \mathcal{G}), \qquad
        \frac{\partial \mathcal{L}}{\partial \theta} = \mathbf{u}^\top
        \frac{\partial f}{\partial \theta}, \qquad
        \mathbf{u} = \frac{\partial \mathcal{L}}{\partial \mathbf{z}^\star} +
        \Big( \frac{\partial f}{\partial \mathbf{z}^\star} \Big)^{\!\top} \mathbf{u}

    The gradient is the implicit function theorem's (Bai et al. 2019, eq. 3): memory doesn't grow
    with the number of solver steps. Both systems are solved graph by graph to relative
    tolerances, in train and eval mode alike, so neither the scale of the state nor that of the
    loss matters; no gradient is computed where autograd is off.

    Args:
        cell: The rule; shared with every automaton made by :meth:`as_nca`.
        solver: ``"anderson"``, ``"picard"``, ``"broyden"``, a name given to
            :func:`gncadeq.dynamics.register_solver`, or ``"torchdeq:NAME"`` for TorchDEQ's own
            (``anderson``, ``broyden``, ``fixed_point_iter``), each graph packed into one row.
        tol: Bound on each graph's relative residual
            :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert f(\mathbf{z}) \rVert`.
        max_steps: Most solver steps.
        gradient: ``"ift"``; ``"phantom"``, which unrolls a few damped steps at the equilibrium
            (Geng et al. 2021, eq. 11); or ``"one_step"``, Jacobian-free. The value returned is the
            same.
        backward_tol: Relative tolerance of the gradient's system; by default ``tol``.
        backward_max_steps: Its step limit; by default ``max_steps``.
        phantom_steps: Steps of the phantom gradient.
        phantom_damping: Its damping in (0, 1].
        start: ``"zeros"`` or ``"normal"`` (standard Gaussian noise), where no ``z0`` is given.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` when graphs don't converge.
        solver_options: Options of the solver, such as ``{"history": 3}``.
        check_every: Look at residuals every so many steps.
        compact: Let converged graphs leave the batch.

    Shapes:
        - **input:** injection :math:`(|\mathcal{V}|, F)`, edge indices :math:`(2, |\mathcal{E}|)`,
          edge attributes, batch vector :math:`(|\mathcal{V}|)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> deq = GraphDEQ(ConvCell(1, 4, contraction=0.9), tol=1e-4)
        >>> z, solution = deq(data.x, data.edge_index, data.edge_attr, return_solution=True)
        >>> z.shape, bool(solution.converged.all()), bool(solution.residual.max() <= 1e-4)
        (torch.Size([25, 4]), True, True)
    """

    def __init__(
        self,
        cell: Cell,
        solver: str = "anderson",
        tol: float = 1e-3,
        max_steps: int = 60,
        gradient: Gradient = "ift",
        backward_tol: float | None = None,
        backward_max_steps: int | None = None,
        phantom_steps: int = 5,
        phantom_damping: float = 1.0,
        start: Start = "zeros",
        on_failure: OnFailure = "warn",
        solver_options: dict[str, Any] | None = None,
        check_every: int = 1,
        compact: bool = True,
    ) -> None:
        super().__init__()
        gradient_name: str = gradient
        if gradient_name not in ("ift", "phantom", "one_step"):
            hint = ". Train GraphNCA (deq.as_nca()) for 'bptt'" if gradient_name == "bptt" else ""
            raise ValueError(
                f"Expected 'gradient' to be 'ift', 'phantom' or 'one_step' (got {gradient!r}){hint}"
            )
        for name, value in (
            ("tol", tol),
            ("backward_tol", tol if backward_tol is None else backward_tol),
        ):
            if not value > 0:
                raise ValueError(f"Expected a positive {name!r} (got {value})")
        for name, count, least in (
            ("max_steps", max_steps, 0),
            (
                "backward_max_steps",
                max_steps if backward_max_steps is None else backward_max_steps,
                0,
            ),
            ("phantom_steps", phantom_steps, 1),
            ("check_every", check_every, 1),
        ):
            if count < least:
                raise ValueError(f"Expected {name!r} of at least {least} (got {count})")
        if not 0.0 < phantom_damping <= 1.0:
            raise ValueError(f"Expected 'phantom_damping' in (0, 1] (got {phantom_damping})")
        if solver.startswith("torchdeq:"):
            torchdeq_bridge.check_stock_solver(solver, solver_options)
        else:
            make_solver(solver, solver_options)  # refuses unknown names and options now
        self.cell = cell
        self.solver, self.tol, self.max_steps = solver, tol, max_steps
        self.gradient: Gradient = gradient
        self.backward_tol = tol if backward_tol is None else backward_tol
        self.backward_max_steps = max_steps if backward_max_steps is None else backward_max_steps
        self.phantom_steps, self.phantom_damping = phantom_steps, phantom_damping
        self.start = check_start(start)
        self.on_failure = check_on_failure(on_failure)
        self.solver_options = dict(solver_options or {})
        self.check_every, self.compact = check_every, compact

    def reset_parameters(self) -> None:
        """Draw fresh parameters of the cell."""
        self.cell.reset_parameters()

    @overload
    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = ...,
        batch: OptTensor = ...,
        *,
        z0: OptTensor = ...,
        batch_size: int | None = ...,
        generator: torch.Generator | None = ...,
        trace: bool = ...,
        return_solution: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = ...,
        batch: OptTensor = ...,
        *,
        z0: OptTensor = ...,
        batch_size: int | None = ...,
        generator: torch.Generator | None = ...,
        trace: bool = ...,
        return_solution: Literal[True],
    ) -> tuple[Tensor, Solution]: ...

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        *,
        z0: OptTensor = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        return_solution: bool = False,
    ) -> Tensor | tuple[Tensor, Solution]:
        """Solve for the equilibrium.

        Args:
            x: The injection.
            edge_index: Edge indices.
            edge_attr: What the cell wants to know of every edge.
            batch: Ascending graph index of every node; ``None`` for a single graph.
            z0: The start ``[num_nodes, channels]``; by default drawn as ``start`` says.
            batch_size: Number of graphs, which spares a device synchronisation.
            generator: The source of randomness for the start; the solve itself draws none.
            trace: Record the residuals of every step in the solution.
            return_solution: Also return the :class:`Solution`.

        Returns:
            The state, and the solution if it was asked for.

        Raises:
            ConvergenceError: If graphs don't converge and ``on_failure="raise"``.
        """
        partition = Partition(batch, x.size(0), batch_size, like=x)
        z0 = start_state(z0, x, self.cell.channels, self.start, generator)
        step = self.cell.prepare(x, edge_index, edge_attr)
        solution = self._solve(step, z0.detach(), partition, trace)
        solution.report(self.on_failure)
        z = solution.state
        if torch.is_grad_enabled():
            z = self._attach(z, solution, step, partition, (x, edge_index, edge_attr))
        return (z, solution) if return_solution else z

    def _solve(self, step: Step, z0: Tensor, partition: Partition, trace: bool) -> Solution:
        if self.solver.startswith("torchdeq:"):
            return torchdeq_bridge.solve_stock(
                step, z0, partition, solver=self.solver, tol=self.tol,
                max_steps=self.max_steps, options=self.solver_options,
            )  # fmt: skip
        return solve(
            step, z0, partition, solver=self.solver, tol=self.tol, max_steps=self.max_steps,
            check_every=self.check_every, compact=self.compact, trace=trace,
            options=self.solver_options,
        )  # fmt: skip

    def _attach(
        self,
        z: Tensor,
        solution: Solution,
        step: Step,
        partition: Partition,
        graph: tuple[Tensor, Adj, OptTensor],
    ) -> Tensor:
        """Give the solved state its gradient."""
        broken = solution.status == Status.NON_FINITE
        if not bool(broken.any()):
            return self._differentiable(z, step, partition)
        # A graph that returned NaN has no gradient, and must not poison that of its batch-mates.
        nodes, rest = partition.restrict(~broken)
        step = self.cell.prepare(*_subgraph(*graph, nodes))
        kept = self._differentiable(z[nodes], step, rest)
        return z.index_copy(0, nodes, kept)

    def _differentiable(self, z: Tensor, step: Step, partition: Partition) -> Tensor:
        if self.gradient == "ift":
            h = z.detach().requires_grad_()
            fh = step(h)
            if not fh.requires_grad:
                return z
            adjoint = _Adjoint(self, h, fh, step, partition)
            out: Tensor = _Implicit.apply(fh, z, adjoint)
            return out
        steps, damping = (1, 1.0) if self.gradient == "one_step" else (
            self.phantom_steps, self.phantom_damping)  # fmt: skip
        y = z
        for _ in range(steps):
            y = torch.lerp(y, step(y).to(z.dtype), damping) if damping != 1.0 else step(y)
        return z + (y - y.detach()).to(z.dtype)  # the value of z, the gradient of y

    def as_nca(self, **options: Any) -> GraphNCA:
        """The same cell object, step by step; ``options`` go to :class:`GraphNCA`."""
        return GraphNCA(self.cell, **{"start": self.start, "tol": self.tol, **options})

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"solver={self.solver!r}, tol={self.tol:g}, max_steps={self.max_steps}, "
            f"gradient={self.gradient!r}"
        )


class _AdjointStep:
    """``u ↦ v + Jᵀ u`` at the equilibrium, on all graphs or on some of them."""

    def __init__(self, h: Tensor, fh: Tensor, step: Step, cotangent: Tensor) -> None:
        self.h, self.fh, self.step, self.cotangent = h, fh, step, cotangent
        if hasattr(step, "restrict"):
            self.restrict = self._restrict

    def __call__(self, u: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(
            self.fh, self.h, u.to(self.fh.dtype), retain_graph=True, allow_unused=True
        )
        return self.cotangent if product is None else self.cotangent + product

    def _restrict(self, nodes: Tensor) -> _AdjointStep:
        step = self.step.restrict(nodes)  # type: ignore[attr-defined]
        with torch.enable_grad():
            h = self.h.detach()[nodes].requires_grad_()
            fh = step(h)
        return _AdjointStep(h, fh, step, self.cotangent[nodes])


class _Adjoint:
    """Solves the gradient's linear system when the backward pass asks for it."""

    def __init__(
        self, deq: GraphDEQ, h: Tensor, fh: Tensor, step: Step, partition: Partition
    ) -> None:
        self.h, self.fh, self.step, self.partition = h, fh, step, partition
        stock = deq.solver.startswith("torchdeq:")
        self.solver = "anderson" if stock else deq.solver
        self.options = {} if stock else deq.solver_options
        self.tol, self.max_steps = deq.backward_tol, deq.backward_max_steps
        self.check_every, self.compact = deq.check_every, deq.compact
        self.on_failure = deq.on_failure

    def __call__(self, cotangent: Tensor) -> Tensor:
        step = _AdjointStep(self.h, self.fh, self.step, cotangent)
        solution = solve(
            step, cotangent, self.partition, solver=self.solver, tol=self.tol,
            max_steps=self.max_steps, check_every=self.check_every, compact=self.compact,
            options=self.options,
        )  # fmt: skip
        solution.report(self.on_failure)
        return solution.state


class _Implicit(torch.autograd.Function):
    """Passes ``z`` on; its gradient reaches ``f(z)`` through the adjoint system."""

    @staticmethod
    def forward(ctx: Any, fh: Tensor, z: Tensor, adjoint: _Adjoint) -> Tensor:
        ctx.adjoint = adjoint
        ctx.dtype = fh.dtype
        return z.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.adjoint(grad).to(ctx.dtype), None, None


def _subgraph(
    x: Tensor, edge_index: Adj, edge_attr: OptTensor, nodes: Tensor
) -> tuple[Tensor, Adj, OptTensor]:
    if isinstance(edge_index, Neighborhood):
        return x[nodes], edge_index.restrict(nodes), None
    keep = torch.zeros(x.size(0), dtype=torch.bool, device=x.device)
    keep[nodes] = True
    position = keep.cumsum(0) - 1
    edges = keep[edge_index[1]]
    return (
        x[nodes],
        position[edge_index[:, edges]],
        None if edge_attr is None else edge_attr[edges],
    )


__all__ = ["GraphDEQ"]
