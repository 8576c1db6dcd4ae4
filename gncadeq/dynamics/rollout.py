"""The explicit dynamics: a cell applied step by step, as a cellular automaton."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gncadeq.cell import Cell
from gncadeq.check import check_choice, check_count, check_number
from gncadeq.choices import Criterion
from gncadeq.dynamics.implicit_checks import Gates
from gncadeq.dynamics.of_cell import Dynamics
from gncadeq.dynamics.residual import Residual
from gncadeq.dynamics.reversible import Reversible, check_can_be_undone
from gncadeq.dynamics.shared import SharedStep, with_halo
from gncadeq.dynamics.solution import Solution, Status, warn
from gncadeq.dynamics.solvers.base import on_device
from gncadeq.dynamics.start import Start, check_start, start_state
from gncadeq.graph.halo import Halo, SharedPartition
from gncadeq.graph.partition import Partition, index_of
from gncadeq.typing import Adj, EdgeType, OptTensor, Step

if TYPE_CHECKING:
    from gncadeq.dynamics.equilibrium import GraphDEQ


class GraphNCA(Dynamics):
    r"""A cell run as a graph neural cellular automaton.

    .. math::
        \mathbf{z}^{t+1} = \mathbf{z}^t + \tau \, \mathbf{m}^t \odot
        \big( f(\mathbf{z}^t, \mathbf{x}; \mathcal{G}) - \mathbf{z}^t \big), \qquad
        m_i^t \sim \mathrm{Bernoulli}(p)

    The state keeps the type of its start: under autocast the cell runs in half precision, and its
    image is converted back.

    A :class:`gncadeq.GrowingCell` takes :math:`\tau \mathbf{m}` into its own step, as it was
    published: nodes live or die after the mask. Neither the step size :math:`\tau` nor the fire
    rate :math:`p` moves the fixed points of :math:`f`. Gradients flow through all steps
    (back-propagation through time).

    Args:
        cell: The rule; shared, never copied.
        steps: Number of steps :math:`T`; 64 unless given, here or in a call.
        fire_rate: Probability :math:`p` in (0, 1] that a node updates in a step.
        step_size: Step :math:`\tau` in (0, 1].
        start: ``"zeros"``, ``"normal"`` (standard Gaussian noise), or a module that predicts a
            start, called as ``start(x, edge_index, edge_attr)``, where no ``z0`` is given.
        checkpoint_every: Recompute activations in segments of so many steps in the backward pass,
            which then holds ``steps / checkpoint_every + checkpoint_every`` states instead of all;
            ``"sqrt"`` takes segments of :math:`\lceil \sqrt T \rceil` steps, for the least,
            :math:`2 \sqrt T` (Chen et al. 2016).
        tol: The relative residual below which a graph counts as converged in a returned solution.
        criterion: Whose residual that is, as of :class:`gncadeq.GraphDEQ`.
        gradient: ``"bptt"``; or ``"reversible"``, for which two states take turns, of which the
            second is returned (McCallum et al. 2025):
            :math:`\mathbf{y}' = \mathbf{y} + \tau \mathbf{m} \odot (f(\mathbf{z}) - \mathbf{y})`,
            :math:`\mathbf{z}' = \mathbf{z} + \tau \mathbf{m} \odot (f(\mathbf{y}') -
            \mathbf{z})`. The backward pass undoes these steps, so that activations of one
            evaluation are held at a time, and two states once in so many steps: 5 for
            :math:`\tau = 0.5`, 37 for 0.1, in single precision. It is the exact gradient of
            this iteration, of first order. It takes ``step_size`` below 1 and a rule without dying
            cells, dropout and batch statistics.

    Shapes:
        - **input:** injection :math:`(|\mathcal{V}|, F)`, edge indices :math:`(2, |\mathcal{E}|)`,
          edge attributes, batch vector :math:`(|\mathcal{V}|)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> nca = GraphNCA(ConvCell(1, 4), steps=8, fire_rate=0.5)
        >>> z, trajectory = nca(data.x, data.edge_index, data.edge_attr, return_trajectory=True)
        >>> trajectory.shape
        torch.Size([9, 25, 4])
    """

    def __init__(
        self,
        cell: Cell,
        steps: int = 64,
        fire_rate: float = 1.0,
        step_size: float = 1.0,
        start: Start = "zeros",
        checkpoint_every: int | Literal["sqrt"] | None = None,
        tol: float = 1e-3,
        criterion: Criterion = "graph",
        gradient: Literal["bptt", "reversible"] = "bptt",
    ) -> None:
        super().__init__()
        self.cell = cell
        self.steps = check_count("steps", steps)
        fire_rate = check_number("fire_rate", fire_rate, above=0.0, most=1.0)
        step_size = check_number("step_size", step_size, above=0.0, most=1.0)
        tol = check_number("tol", tol, least=0.0)
        if checkpoint_every not in ("sqrt", None):
            checkpoint_every = check_count(
                "checkpoint_every", checkpoint_every, 1, hint="Or use 'sqrt' or None"
            )
        self.fire_rate, self.step_size = fire_rate, step_size
        self.start = check_start(start)
        self.checkpoint_every, self.tol = checkpoint_every, tol
        check_choice(
            "criterion", criterion, ["graph", "node", "channel"],
            "GraphDEQ bounds the error" if criterion == "error" else "",
        )  # fmt: skip
        self.criterion: Criterion = criterion
        self.gradient = check_choice("gradient", gradient, ["bptt", "reversible"])
        if gradient == "reversible" and (step_size == 1.0 or checkpoint_every is not None):
            raise ValueError(
                "Expected 'step_size' below 1 and no 'checkpoint_every' with gradient='reversible' "
                f"(got {step_size:g} and {checkpoint_every}): a whole step cannot be undone. Use "
                "step_size=0.5"
            )

    def forward(
        self,
        x: Tensor | Mapping[str, Tensor],
        edge_index: Adj | Mapping[EdgeType, Tensor] | None = None,
        edge_attr: OptTensor | Mapping[EdgeType, Tensor] = None,
        batch: OptTensor | Mapping[str, Tensor] | Partition = None,
        *,
        z0: OptTensor | Mapping[str, Tensor] = None,
        steps: int | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        halo: Halo | None = None,
        return_trajectory: bool = False,
        return_solution: bool = False,
        **context: OptTensor,
    ) -> Any:
        """Run the automaton.

        Args:
            x: The injection; for a :class:`gncadeq.TypedCell` this and the following are
                dictionaries, ``(data.x_dict, data.edge_index_dict, data.edge_attr_dict,
                data.batch_dict)``, and so are ``z0`` and what is returned.
            edge_index: Edge indices.
            edge_attr: What the cell wants to know of every edge.
            batch: Ascending graph index of every node, or the :class:`Partition` made of it;
                ``None`` for a single graph.
            z0: The start ``[num_nodes, channels]``; by default drawn as ``start`` says.
            steps: Number of steps, if not the constructor's.
            batch_size: Number of graphs, which spares a device synchronisation.
            generator: The source of randomness for start and update masks.
            halo: For one graph that several processes hold in parts, as of :class:`GraphDEQ`.
            return_trajectory: Also return ``[steps + 1, num_nodes, channels]``, start included.
            return_solution: Also return a :class:`Solution` with the last state's residual, for
                one more evaluation of the cell.
            context: What else the cell takes by name, see :attr:`gncadeq.Cell.context`.

        Returns:
            The last state, followed by what was asked for.
        """
        steps = self.steps if steps is None else check_count("steps", steps)
        if halo is not None:
            x, context = with_halo(self.cell, halo, self.start, x, batch, batch_size, context)
        graph = self.cell.flatten(x, edge_index, edge_attr, index_of(batch), context)
        gates = Gates()
        if self.gradient == "reversible":
            check_can_be_undone(self.cell, graph.x.device, halo is None and not return_trajectory)
            graph = graph.map(gates)
        rows = graph.x if halo is None else halo.own(graph.x)
        if halo is None:
            partition = Partition.of(batch, graph.batch, rows, batch_size)
        else:
            partition = SharedPartition(halo, rows)
        z = start_state(
            graph.pack(z0), rows, graph.edge_index, graph.edge_attr, self.cell.channels,
            self.start, generator,
        )  # fmt: skip
        if "batch" in self.cell.context:
            graph.context["batch"] = partition.batch
        step = self.cell.bind(graph.x, graph.edge_index, graph.edge_attr, **graph.context)
        step = step if halo is None else SharedStep.of(step, halo)
        if graph.batch is not None and not self.cell.hypergraph:
            partition.check_edges(graph.edge_index, graph.layout)
        start = middle = z
        trajectory = [z] if return_trajectory else None
        remat = self._segment(steps) if torch.is_grad_enabled() and not trajectory else None
        done = 0
        if self.gradient == "reversible":
            mask = self._replayed(z, generator)
            known = [*graph.tensors(), *self.cell.parameters()]
            known = [t for t in known if t.requires_grad]
            z, middle = Reversible(step, steps, self.step_size, mask, known, gates)(z)
            done = steps
        while done < steps:
            count = min(remat or 1, steps - done)
            masks = [self._mask(z, generator) for _ in range(count)]
            if remat:
                z = checkpoint(self._advance, step, z, masks, use_reentrant=False)
            else:
                z = self._advance(step, z, masks)
            done += count
            if return_solution and done - count < steps // 2 <= done:
                middle = z.detach()
            if trajectory is not None:
                trajectory.append(z)
        if not torch.compiler.is_compiling():  # a compiled graph sees no values
            self._check_finite(z, partition, steps)
        out: list[Any] = [graph.unpack(z)]
        if trajectory is not None:
            out.append(graph.unpack(torch.stack(trajectory)))
        if return_solution:
            out.append(self._solution(step, z, start, middle, partition, steps))
        return out[0] if len(out) == 1 else tuple(out)

    def _check_finite(self, z: Tensor, partition: Partition, steps: int) -> None:
        bad = partition.sum(z.isfinite().all(1).logical_not().long()) > 0
        if not bool(bad.any()):
            return
        shown = bad.nonzero().flatten()[:5].tolist()
        warn(
            f"Expected finite states after {steps} steps (got NaN or infinity in "
            f"{int(bad.sum())} of {bad.numel()} graphs, such as {shown}). Check the weights and "
            "the input for NaN, bound the cell (contraction=0.99), or lower 'step_size'"
        )

    def _segment(self, steps: int) -> int | None:
        if isinstance(self.checkpoint_every, str):
            return isqrt(max(steps - 1, 0)) + 1  # the square root, rounded up
        return self.checkpoint_every

    def _mask(self, z: Tensor, generator: torch.Generator | None) -> OptTensor:
        if self.fire_rate == 1.0:
            return None
        device = z.device if generator is None else generator.device
        draw = torch.rand(z.size(0), 1, device=device, generator=generator).to(z.device)
        return draw < self.fire_rate

    def _replayed(self, z: Tensor, generator: torch.Generator | None) -> Callable[[int], OptTensor]:
        """The mask of every step, drawn anew whenever it is asked for."""
        if self.fire_rate == 1.0:
            return lambda t: None
        device = z.device if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        return lambda t: self._mask(z, torch.Generator(device).manual_seed(seed + t))

    def _advance(self, step: Step, z: Tensor, masks: list[OptTensor]) -> Tensor:
        for mask in masks:
            z = advance(step, z, self.step_size, mask)
        return z

    @torch.no_grad()
    def _solution(
        self, step: Step, z: Tensor, start: Tensor, middle: Tensor, partition: Partition, steps: int
    ) -> Solution:
        numbers = Residual(self.criterion, 0.0)(z, step(z).to(z.dtype), partition)
        residual, diff, size = numbers
        first, moved, lately = partition.norms(start, start - z, middle - z)
        # A state that has grown, has moved by a quarter of its size in the second half of the run,
        # and goes on at half its average speed or faster, is not at rest, however small its step is
        # beside it: z + 1 never is.
        onwards = diff * (self.step_size * self.fire_rate * steps)
        away = (size > 2 * first) & (onwards > 0.5 * moved) & (lately > 0.25 * size)
        code = np.where(
            (residual <= self.tol) & ~away, int(Status.CONVERGED), int(Status.MAX_STEPS)
        )
        code = np.where(np.isfinite(diff) & np.isfinite(size), code, int(Status.NON_FINITE))
        status = on_device(code, z)
        count = torch.full_like(status, steps)
        rel, change, norm = on_device(numbers, z)
        return Solution(z.detach(), rel, change, norm, count, count + 1, status, self.tol)

    def as_deq(self, **options: Any) -> GraphDEQ:
        """The same cell object, solved to equilibrium, by the same ``tol`` and ``criterion``.

        Args:
            options: Of :class:`GraphDEQ`, such as ``max_steps``, which are 60 by default.
        """
        from gncadeq.dynamics.equilibrium import GraphDEQ

        mine = {"start": self.start, "tol": self.tol, "criterion": self.criterion}
        return GraphDEQ(self.cell, **{**mine, **options})

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"steps={self.steps}, fire_rate={self.fire_rate:g}, step_size={self.step_size:g}"


def advance(step: Step, z: Tensor, step_size: float = 1.0, mask: OptTensor = None) -> Tensor:
    """One step of the automaton, of the nodes that ``mask`` ``[num_nodes, 1]`` updates.

    A step with a method ``partial`` (:class:`gncadeq.typing.PartialStep`) applies rate and mask to
    its update itself.
    """
    partial = getattr(step, "partial", None)
    if partial is not None and (mask is not None or step_size != 1.0):
        rate = z.new_tensor(step_size) if mask is None else mask.to(z.dtype) * step_size
        masked: Tensor = partial(z, rate).to(z.dtype)
        return masked
    # z' = z + τ m (f(z) - z)
    new = step(z).to(z.dtype)
    if step_size != 1.0:
        new = torch.lerp(z, new, step_size)
    return new if mask is None else torch.where(mask, new, z)
