"""What a wrapped conv is scaled by: a bound that is proven, or a growth that is measured."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gncadeq.cells.pyg.conv_attention import HeldAttentionStep, can_hold_attention, held_bound
from gncadeq.cells.pyg.conv_bounds import (
    NON_EXPANSIVE,
    is_exact,
    is_hooked,
    proofs_hold,
    takes_weights_as_they_are,
    weight_bound,
)
from gncadeq.cells.pyg.conv_growth import settled_growth
from gncadeq.cells.pyg.conv_hops import conv_hops
from gncadeq.cells.pyg.conv_rule import ConvRule
from gncadeq.cells.pyg.conv_signature import is_lazy
from gncadeq.cells.pyg.conv_step import WrappedConvStep
from gncadeq.cells.pyg.conv_sums import node_bound, sums_neighbors
from gncadeq.cells.pyg.linear_step import LinearConvStep
from gncadeq.cells.pyg.measured import measuring, recorded
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.stateful import drops
from gncadeq.typing import Adj, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data


class ScaledConvCell(ConvRule):
    """A cell around a conv of PyTorch Geometric that knows by how much to scale it."""

    contraction: float | None
    attention: Literal["injection", "state"]
    power_steps: int

    @property
    def hops(self) -> int | None:  # type: ignore[override]
        """How far the conv reads, if its scale doesn't depend on the whole graph."""
        of_graph = self.bounded_by_graph and not self.sums_neighbors
        scaled_alike = self.contraction is None or (self.proven and not of_graph)
        local = self.norm is None and not self.hypergraph and scaled_alike
        return conv_hops(self.conv) if local and not is_hooked(self.conv) else None

    @property
    def holds_attention(self) -> bool:
        """Whether the weights of attention are held for a solve."""
        return self.attention == "injection" and can_hold_attention(self.conv)

    @property
    def sums_neighbors(self) -> bool:
        """Whether the conv is scaled node by node, by a proven bound."""
        return self.norm is None and sums_neighbors(self.conv)

    def caveat(self, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor) -> str | None:
        """Why solves on this graph may fail, although the conv is scaled."""
        name = type(self.conv).__name__
        if self.contraction is None:
            return f"{name} isn't scaled (contraction=None). Give it a 'contraction', such as 0.9"
        lower = (
            f"a 'contraction' below {self.contraction:g} or solver_options={{'damping': 0.5}} may "
            "help"
        )
        if not is_exact(self.activation, NON_EXPANSIVE):
            return f"The activation of {name} isn't known to shrink distances; {lower}"
        if not self.proven or self._is_altered(context):
            return (
                f"The growth of {name} is measured, on the graphs it has seen, and not proven: "
                f"deq.cell.measure(x, edge_index, ...) measures it on this one; or {lower}"
            )
        if self.holds_attention or self.sums_neighbors or takes_weights_as_they_are(self.conv):
            return None
        weight = context.get("edge_weight") if edge_attr is None else edge_attr
        if weight is not None and bool((weight < 0).any()):
            return (
                f"{name} takes roots of degrees, which edge weights below zero may make negative: "
                "use their absolute values, or a conv with normalize=False"
            )
        if isinstance(edge_index, Tensor) and not proofs_hold(edge_index, weight):
            return (
                f"The bound of {name} is one for undirected graphs, which this isn't: use "
                f"torch_geometric.transforms.ToUndirected; or {lower}"
            )
        return None

    @property
    def proven(self) -> bool:
        """Whether the scale of the conv follows from a proof, and isn't measured."""
        known = self.sums_neighbors or self._weight_bound(torch.ones(())) is not None
        return known and not is_hooked(self.conv)

    def proven_bound(self) -> OptTensor:
        """The conv's Lipschitz constant before scaling, ``None`` where none is proven for it on all
        graphs, or its weights aren't there yet."""
        return None if is_hooked(self.conv) else self._weight_bound()

    def _weight_bound(self, growth: OptTensor = None) -> OptTensor:
        """The same, hooks left out, given the growth of the matrix of edge weights."""
        if self.norm is not None or is_lazy(self.conv):
            return None
        return held_bound(self.conv) if self.holds_attention else weight_bound(self.conv, growth)

    @property
    def bounded_by_graph(self) -> bool:
        """Whether the bound of the conv is one of a graph's edges, and differs between nodes."""
        if self.sums_neighbors:
            return True
        unit = torch.ones(())
        return takes_weights_as_they_are(self.conv) and self._weight_bound(unit) is not None

    def fixed_bound(self) -> OptTensor:
        """What the conv is scaled by on every graph; ``None`` where a graph decides.

        Raises:
            ValueError: If it was to be measured, and hasn't been.
        """
        if self.bounded_by_graph:
            return None
        bound = self._weight_bound()
        if bound is not None and not is_hooked(self.conv):
            return bound
        if not bool(self.growth.weight > 0):
            raise ValueError(
                f"Expected the growth of {type(self.conv).__name__} to be measured (got none). "
                "Call the model on a graph once, or cell.measure(x, edge_index, ...)"
            )
        return self.growth.beyond(bound)

    def _is_altered(self, arguments: Container[str]) -> bool:
        """Whether the proof isn't about this call: hooks, or another Laplacian of ``ChebConv``."""
        return is_hooked(self.conv) or "lambda_max" in arguments

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound on the Lipschitz constant of one step: :math:`s L`.

        It holds in the Euclidean norm (for ``SAGEConv`` in that with every node weighted by its
        degree) on undirected graphs whose edge weights, if any, are not negative: the graphs the
        proof is about. With held attention, for sums, and with ``normalize=False``, it holds on
        every graph, in the norm of :func:`~gncadeq.cells.held_bound`, of the largest node, or of
        :func:`~gncadeq.cells.proven_bound`.

        Args:
            graph: Data with ``edge_index``, and ``edge_weight`` or ``edge_attr`` if edges are
                weighted.

        Returns:
            A scalar; infinity for any other conv, activation or graph, with a norm, with forward
            hooks, in training with dropout, for a ``lambda_max`` of
            :class:`~torch_geometric.nn.ChebConv`, and for a lazy conv before its first call.
        """
        bounds = self.lipschitz_bounds(graph)
        return bounds.max() if bounds.numel() else bounds.new_zeros(())

    @torch.no_grad()
    def lipschitz_bounds(self, graph: Data | None = None) -> Tensor:
        """The :meth:`lipschitz_bound` of each graph of a batch, ``[num_graphs]``, or a scalar where
        it is the same for all."""
        nothing = super().lipschitz_bound(graph)
        # Held attention stays an average when some of it is dropped.
        drops_more = not self.holds_attention and any(map(drops, self.conv.modules()))
        if not is_exact(self.activation, NON_EXPANSIVE) or is_lazy(self.conv):
            return nothing
        altered = is_hooked(self.activation) or self._is_altered(() if graph is None else graph)
        if altered or drops_more or getattr(self.conv, "explain", None):
            return nothing
        if self.bounded_by_graph:
            if self.contraction is not None:
                return torch.tensor(self.contraction)
            if graph is None:
                return nothing
            weight = graph.get("edge_weight", graph.edge_attr)
            weight = weight if self.signature.edge == "edge_weight" else None
            nodes = self._graph_bound(graph.edge_index, weight, int(graph.num_nodes))
            return nodes.max() if nodes.numel() else nodes.new_zeros(())
        bound = self._weight_bound()
        if bound is None:
            return nothing
        bound = bound if self.contraction is None else bound.clamp(max=self.contraction)
        if graph is None or self.holds_attention:
            return bound
        weights = graph.get("edge_weight"), graph.edge_attr
        there, back = (proofs_hold(graph.edge_index, w, graph.get("batch")) for w in weights)
        return torch.where(there & back, bound, nothing.to(bound))

    def _held(self, step: WrappedConvStep) -> WrappedConvStep:
        """With attention held, if it is to be; or as a product with a matrix, if it is one."""
        if not self.holds_attention:
            return LinearConvStep.of_step(step)
        return HeldAttentionStep.at(step, self.activation(step.drive))

    def _bound(self, step: WrappedConvStep) -> Tensor:
        """Of the conv, or of every node ``[num_nodes, 1]``."""
        if self.bounded_by_graph:
            weight = step.arguments.get("edge_weight")
            bound: OptTensor = self._graph_bound(step.edge_index, weight, step.drive.size(0))
        else:
            bound = self._weight_bound()
        if bound is not None and not self._is_altered(step.arguments):
            return bound
        if self.growth.is_due(self):
            self.growth.update(self._measure(step, bound))
        return self.growth.beyond(bound)

    def _graph_bound(self, edge_index: Tensor, edge_weight: OptTensor, num_nodes: int) -> Tensor:
        """``[num_nodes, 1]``."""
        if self.sums_neighbors:
            return node_bound(self.conv, edge_index, edge_weight, num_nodes)
        flow: Any = self.conv.flow
        ends = edge_index if flow == "source_to_target" else edge_index.flip(0)
        like = self.inject.weight.detach()
        adjacency = WeightedAdjacency(ends, edge_weight, num_nodes, like)
        bound = weight_bound(self.conv, adjacency.perron()[1].unsqueeze(1))
        assert bound is not None
        return bound

    def _measure(self, step: WrappedConvStep, bound: OptTensor) -> Tensor:
        with measuring(self):
            step = self._held(step.recorded())
            unit = step.drive.new_ones(()) if bound is None else recorded(bound)
            degree = step.degree() if bound is None else None
            return settled_growth(
                lambda z: step.image(z) / unit, self.activation, step.drive, degree,
                *step.components(), self.power_steps, not self.signature.initial,
            )  # fmt: skip
