"""The implicit dynamics: a cell solved to its equilibrium, differentiated at the solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gncadeq.cell import Cell
from gncadeq.certificate import Certificate
from gncadeq.choices import Criterion, Gradient
from gncadeq.dynamics.broken import attach_finite
from gncadeq.dynamics.deq_core import (
    NO_GRAPH,
    check_transforms,
    choose_core,
    precision,
    widen,
)
from gncadeq.dynamics.evidence import Evidence
from gncadeq.dynamics.frozen import Frozen
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.implicit import full_precision
from gncadeq.dynamics.implicit_checks import Gates
from gncadeq.dynamics.of_cell import Dynamics
from gncadeq.dynamics.options import HasOptions, SolveOptions
from gncadeq.dynamics.rollout import GraphNCA
from gncadeq.dynamics.shared import SharedStep, check_options, with_halo
from gncadeq.dynamics.solution import OnFailure, Solution, Status
from gncadeq.dynamics.start import Start, check_start, start_state
from gncadeq.dynamics.substitution import solve_parts
from gncadeq.graph.halo import Halo, SharedPartition
from gncadeq.graph.layout import FlatGraph, device_of
from gncadeq.graph.partition import Partition, index_of
from gncadeq.typing import Adj, EdgeType, OptTensor, OrderedStep, StagedStep, Step


class GraphDEQ(Dynamics, HasOptions):
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

    Gradients of gradients (``create_graph=True``) are implicit as well, of any order, with
    ``gradient="ift"``; the others refuse them.

    Under autocast all this runs in the precision of the parameters: half precision cannot resolve
    a tolerance of 1e-3. A half-precision injection is converted, a half-precision cell refused.

    Dropout in training mode draws one mask for a solve and its gradient, and batch normalisation
    updates its running statistics once for each, at the equilibrium; no graph leaves the batch
    early then. Other random modules say ``draws_randomness = True``.

    Args:
        cell: The rule; shared with every automaton made by :meth:`as_nca`.
        solver: ``"auto"``, which begins with plain steps where two at least halve the residual,
            goes on with Anderson acceleration, and changes where progress stalls; ``"picard"``,
            ``"anderson"``, ``"broyden"``, ``"newton"``, ``"flow"``; a name given to
            :func:`gncadeq.dynamics.register_solver`; or ``"torchdeq:NAME"`` for TorchDEQ's own
            (``anderson``, ``broyden``, ``fixed_point_iter``), each graph packed into one row.
        tol: Bound on each graph's relative residual
            :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert f(\mathbf{z}) \rVert`; 1e-3
            unless given.
        criterion: ``"graph"``, or ``"node"``: each node's relative residual is bounded, the largest
            counts. It takes more steps, and is for signals that fade by orders of magnitude on
            their way, as along a chain of a hundred nodes. ``"channel"`` does the same for each
            channel, for channels whose values differ by orders of magnitude. ``"error"`` bounds
            the distance from the equilibrium, relative to :math:`\lVert f(\mathbf{z}) \rVert`, by
            the cell's certificate (:attr:`Solution.error_bound`): a residual is
            :math:`1 / (1 - \kappa)` times smaller than the error it may hide.
        max_steps: Most solver steps; 60 unless given.
        gradient: ``"ift"``; ``"phantom"``, which unrolls a few damped steps at the equilibrium
            (Geng et al. 2021, eq. 11); or ``"one_step"``, Jacobian-free. The value returned is the
            same.
        backward_tol: Relative tolerance of the gradient's system; by default ``tol``.
        backward_max_steps: Its step limit; by default ``max_steps``.
        phantom_steps: Steps of the phantom gradient.
        phantom_damping: Its damping in (0, 1].
        start: ``"zeros"``, ``"normal"`` (standard Gaussian noise), or a module that predicts the
            equilibrium, called as ``start(x, edge_index, edge_attr)`` without gradient, where no
            ``z0`` is given. See :func:`gncadeq.training.losses.start_loss`.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` when graphs don't converge.
        solver_options: Options of the solver, such as ``{"history": 3}``.
        check_every: Look at residuals every so many steps.
        compact: Let converged graphs leave the batch.
        atol: A graph has also converged where :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert` is
            at most this; by default ``tol`` times the rounding error of the start, so that a state
            may come to rest at zero.
        core: What solves and differentiates, if you already have it: made by
            ``torchdeq.get_deq(core="graph", ...)``, in the place of the arguments above, ``start``
            aside. By default such a core is made of them.

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
        solver: str = "auto",
        tol: float = 1e-3,
        criterion: Criterion = "graph",
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
        atol: float | None = None,
        core: GraphCore | None = None,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.start = check_start(start)
        options = SolveOptions(
            solver, tol, criterion, max_steps, gradient, backward_tol, backward_max_steps,
            phantom_steps, phantom_damping, on_failure, solver_options, check_every, compact, atol,
        )  # fmt: skip
        self.core = choose_core(core, options)

    @property
    def options(self) -> SolveOptions:
        """The options of the solve and of its gradient; they are attributes here as well."""
        return self.core.options

    @torch.compiler.disable(reason=NO_GRAPH)  # type: ignore[no-untyped-call, untyped-decorator]
    def forward(
        self,
        x: Tensor | Mapping[str, Tensor],
        edge_index: Adj | Mapping[EdgeType, Tensor] | None = None,
        edge_attr: OptTensor | Mapping[EdgeType, Tensor] = None,
        batch: OptTensor | Mapping[str, Tensor] | Partition = None,
        *,
        z0: OptTensor | Mapping[str, Tensor] = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        halo: Halo | None = None,
        trace: bool = False,
        return_solution: bool = False,
        **context: OptTensor,
    ) -> Any:
        """Solve for the equilibrium.

        Args:
            x: The injection; for a :class:`gncadeq.TypedCell` this and the following are
                dictionaries, ``(data.x_dict, data.edge_index_dict, data.edge_attr_dict,
                data.batch_dict)``, and so are ``z0`` and what is returned.
            edge_index: Edge indices.
            edge_attr: What the cell wants to know of every edge.
            batch: Ascending graph index of every node, or the :class:`Partition` made of it;
                ``None`` for a single graph.
            z0: The start ``[num_nodes, channels]``; by default drawn as ``start`` says.
            batch_size: Number of graphs, which spares a device synchronisation.
            generator: The source of randomness for the start and for the seed of a cell with
                dropout; the solve itself draws none.
            halo: For one graph that several processes hold in parts, those nodes around this
                process's own whose states the others hold (:class:`gncadeq.Halo`). ``x``, ``z0``
                and the state that is returned have the rows of own nodes, ``edge_index`` is that of
                the part. All processes call together, and solve one system together.
            trace: Record the residuals of every step in the solution.
            return_solution: Also return the :class:`Solution`.
            context: What else the cell takes by name, see :attr:`gncadeq.Cell.context`.

        Returns:
            The state, and the solution if it was asked for.

        Raises:
            ConvergenceError: If graphs don't converge and ``on_failure="raise"``.
            TypeError: If the parameters of the cell are in half precision.
            RuntimeError: Within a transform of ``torch.func`` or forward-mode differentiation.
        """
        check_transforms()
        with full_precision(device_of(x)):
            if halo is not None:
                check_options(self.options)
                x, context = with_halo(self.cell, halo, self.start, x, batch, batch_size, context)
            graph = self.cell.flatten(x, edge_index, edge_attr, index_of(batch), context)
            if halo is not None:
                partition: Partition = SharedPartition(halo, graph.x)
            else:
                partition = Partition.of(batch, graph.batch, graph.x, batch_size)
            z, solution = self._forward(graph, graph.pack(z0), partition, generator, halo, trace)
            state = graph.unpack(z)
        return (state, solution) if return_solution else state

    def _forward(
        self,
        flat: FlatGraph,
        z0: OptTensor,
        partition: Partition,
        generator: torch.Generator | None,
        halo: Halo | None,
        trace: bool,
    ) -> tuple[Tensor, Solution]:
        dtype = precision(self.cell)
        gates = Gates()
        graph = flat.map(lambda value: gates(widen(value, dtype)))
        x, edge_index, edge_attr = graph.x, graph.edge_index, graph.edge_attr
        if "batch" in self.cell.context:
            graph.context["batch"] = partition.batch
        with torch.no_grad():
            rows = x if halo is None else halo.own(x)
            z0 = start_state(
                z0, rows, edge_index, edge_attr, self.cell.channels, self.start, generator
            )
        frozen = Frozen.of(self.cell, generator)
        step = _prepare(self.cell, graph, frozen)
        step = step if halo is None else SharedStep.of(step, halo)
        if flat.batch is not None and not self.cell.hypergraph:
            partition.check_edges(edge_index, flat.layout)
        evidence = Evidence(self.cell, graph, partition, exact=frozen is None and halo is None)
        if isinstance(step, StagedStep):
            z0 = widen(z0.detach(), dtype)
            z, solution = self._by_parts(step, z0, partition, graph, frozen, gates)
            return z, replace(solution, evidence=evidence)
        solution = self._solve(step, widen(z0.detach(), dtype), partition, trace, evidence)
        solution.report(
            self.on_failure,
            advice=lambda: (
                evidence.advice(solution, step, self.options),
                None if halo else self.cell.caveat(edge_index, edge_attr, **graph.context),
            ),
        )
        z = solution.state
        if frozen is not None:
            frozen.update_statistics = True
        if torch.is_grad_enabled() and halo is not None:
            z = self.core.attach(step, z, partition, self._inputs(graph), gates)
        elif torch.is_grad_enabled():
            z = self._attach(solution, step, partition, graph, frozen, gates)
        elif frozen is not None and frozen.norms:
            step(z)
        return z, solution

    def _inputs(self, graph: FlatGraph) -> list[Tensor]:
        """All that a step depends on."""
        return [t for t in (*graph.tensors(), *self.cell.parameters()) if t.requires_grad]

    def _solve(
        self, step: Step, z0: Tensor, partition: Partition, trace: bool, evidence: Evidence
    ) -> Solution:
        certificate = evidence.certificate() if self.criterion == "error" else None
        if not isinstance(certificate, Certificate):
            certificate = None  # without a norm, or of parts, each with a norm of its own
        solution = self.core.solve(step, z0, partition, trace=trace, certificate=certificate)
        return replace(solution, evidence=evidence)

    def _by_parts(
        self, step: StagedStep, z0: Tensor, partition: Partition, graph: FlatGraph,
        frozen: Frozen | None, gates: Gates,
    ) -> tuple[Tensor, Solution]:  # fmt: skip
        """Solve a cascade by substitution."""
        if self.criterion == "error":
            raise ValueError(
                "Expected another criterion for a cascade, whose parts pass errors on (got 'error')"
                ". Solve with criterion='graph' and a smaller 'tol', and read solution.error_bound"
            )
        inputs = self._inputs(graph)
        z, _, solution = solve_parts(step, z0, partition, self.core, inputs, gates, frozen)
        if z.requires_grad and bool((solution.status == Status.NON_FINITE).any()):

            def attach(_: Tensor, rest: Partition, kept: OptTensor, gone: OptTensor) -> Tensor:
                again: Any = _prepare(self.cell, _part(graph, kept, gone), frozen)
                start = z0 if gone is None else z0.masked_fill(gone.unsqueeze(1), 0)
                start = start if kept is None else start[kept]
                return solve_parts(again, start, rest, self.core, inputs, gates, frozen)[0]

            z = attach_finite(attach, solution, partition, frozen is None)
        solution.report(self.on_failure)
        return z, solution

    def _attach(
        self, solution: Solution, step: Step, partition: Partition, graph: FlatGraph,
        frozen: Frozen | None, gates: Gates,
    ) -> Tensor:  # fmt: skip
        """Give the solved state its gradient."""
        inputs = self._inputs(graph)

        def attach(z: Tensor, rest: Partition, kept: OptTensor, gone: OptTensor) -> Tensor:
            part = step
            if kept is not None or gone is not None:
                part = _prepare(self.cell, _part(graph, kept, gone), frozen)
                if frozen is not None:
                    frozen.update_statistics = True
            return self.core.attach(part, z, rest, inputs, gates)

        # With frozen masks the broken graphs stay: fewer nodes would draw other masks.
        return attach_finite(attach, solution, partition, frozen is None)

    def as_nca(self, **options: Any) -> GraphNCA:
        """The same cell object, step by step, to be judged by the same ``tol`` and ``criterion``.

        Args:
            options: Of :class:`GraphNCA`, such as ``steps``, which are 64 by default.
        """
        criterion = "graph" if self.criterion == "error" else self.criterion
        mine = {"start": self.start, "tol": self.tol, "criterion": criterion}
        return GraphNCA(self.cell, **{**mine, **options})


def _part(graph: FlatGraph, kept: OptTensor, gone: OptTensor) -> FlatGraph:
    if kept is not None:
        return graph.restrict(kept)
    return graph if gone is None else graph.emptied(gone)


def _prepare(cell: Cell, graph: FlatGraph, frozen: Frozen | None) -> Step:
    if frozen is None:
        return cell.bind(graph.x, graph.edge_index, graph.edge_attr, **graph.context)
    with frozen.evaluation(graph.x.device, stream=1):
        step = cell.bind(graph.x, graph.edge_index, graph.edge_attr, **graph.context)
    # These draw when they are bound, and are bound once for a solve.
    return step if isinstance(step, StagedStep | OrderedStep) else frozen.step(step)
