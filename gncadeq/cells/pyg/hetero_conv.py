"""Any heterogeneous conv of PyTorch Geometric as the rule of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import HANConv, HeteroConv
from torch_geometric.nn.inits import reset

from gncadeq.cells.pyg.conv_growth import settled_growth
from gncadeq.cells.pyg.conv_signature import check_width, is_lazy, output_width, read_signature
from gncadeq.cells.pyg.measured import MeasuredCell, measuring, recorded
from gncadeq.cells.pyg.modules import Activation, activation_of
from gncadeq.cells.typed import Typed, TypedCell
from gncadeq.check import check_count, check_value
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.layout import FlatGraph, check_names
from gncadeq.typing import Adj, EdgeType, OptTensor

States = dict[str, Tensor]


class HeteroConvStep:
    """One step of a :class:`HeteroConvCell` with graph and injection bound."""

    def __init__(
        self,
        cell: HeteroConvCell,
        typed: Typed,
        drive: Tensor,
        edge_attr: OptTensor,
        scale: OptTensor = None,
    ) -> None:
        self.cell, self.typed, self.drive, self.edge_attr = cell, typed, drive, edge_attr
        self.scale = scale
        self._arguments = cell.edge_arguments(typed, edge_attr)

    def image(self, z: Tensor) -> Tensor:
        """The conv of a state, zero where no relation ends."""
        layout = self.typed.layout
        states = layout.unpack(z)
        out = self.cell.conv(states, self.typed.edge_index, **self._arguments)
        self.cell.check_output(states, out)
        # Convs without an edge leave out their target.
        full = {n: out[n] if out.get(n) is not None else torch.zeros_like(v)
                for n, v in states.items()}  # fmt: skip
        return layout.pack(full)

    def activate(self, y: Tensor) -> Tensor:
        """``σ`` of every state; the padding of narrow ones stays zero."""
        layout = self.typed.layout
        return layout.pack({n: self.cell.activation(v) for n, v in layout.unpack(y).items()})

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # σ(s · conv(z) + d)
        y = self.image(z)
        return self.activate((y if self.scale is None else y * self.scale) + self.drive)

    def restrict(self, nodes: Tensor) -> HeteroConvStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        old = self.typed
        layout, place = old.layout.restrict(nodes), old.layout.positions()[nodes]
        new, kept = {}, {}
        for name, rows in layout.rows().items():
            size = old.layout.sizes[list(layout.channels).index(name)]
            kept[name] = torch.zeros(size, dtype=torch.bool, device=nodes.device)
            kept[name][place[rows]] = True
            new[name] = kept[name].cumsum(0) - 1
        edge_index, edges = {}, {}
        for relation, index in old.edge_index.items():
            source, _, target = relation
            mine = kept[target][index[1]]
            index = index[:, mine]
            edge_index[relation] = torch.stack([new[source][index[0]], new[target][index[1]]])
            edges[relation] = old.edges[relation][mine]
        return HeteroConvStep(
            self.cell, Typed(layout, edge_index, edges), self.drive[nodes], self.edge_attr,
            self.scale,
        )  # fmt: skip


class HeteroConvCell(TypedCell, MeasuredCell):
    r"""Any heterogeneous conv of PyTorch Geometric that keeps the widths of all states, as a cell.

    .. math::
        \mathbf{z}_t' = \sigma \big( s \; \mathrm{conv}(\{\mathbf{z}\}; \mathcal{G})_t +
        \mathbf{U}_t \mathbf{x}_t + \mathbf{b}_t \big) , \qquad
        s = \min \big( 1, \, \kappa / L \big)

    where :math:`L` is measured, across all types, and part of the model, as for
    :class:`gncadeq.WrappedConvCell`: it makes most solves converge and promises nothing; the
    solution's status tells. :class:`gncadeq.RelationCell` has a proof.

    Args:
        conv: A module ``(x_dict, edge_index_dict) -> dict``:
            :class:`~torch_geometric.nn.HeteroConv` of square convs (those between types within
            ``(C_source, C_target)``), :class:`~torch_geometric.nn.HGTConv`,
            :class:`~torch_geometric.nn.HANConv`, or a layer made by
            :func:`~torch_geometric.nn.to_hetero`. ``HANConv``, which weighs relations by averages
            over all nodes, takes one graph at a time.
        in_channels: Channels of the injection of every node type.
        channels: Channels of every node type's state, or one number for all; by default those that
            the convs within say. Lazy ones (``SAGEConv((-1, -1), 64)``) say those of their target,
            and get their weights in the first call: make it before the optimiser.
        edge_types: The relations; by default those of the ``HeteroConv``. A graph has them all:
            ``HeteroConv`` itself leaves out those it isn't given; here a relation without edges is
            ``torch.empty(2, 0, dtype=torch.long)``, so that a forgotten one is seen.
        edge_channels: Channels of the edge attributes of those relations that have any; their convs
            take them as ``edge_attr``, ``edge_weight`` or by the first such name they know.
        activation: :math:`\sigma`, by name, as a module or as a function such as
            ``torch.tanh``; ``None`` for the identity.
        contraction: The :math:`\kappa > 0`; ``None`` leaves the conv as it is (:math:`s = 1`).
        bias: Whether to add :math:`\mathbf{b}_t`.
        power_steps: Vector-Jacobian products in a measurement of :math:`L`.

    Shapes:
        - **input:** states :math:`(|\mathcal{V}_t|, C_t)`, injections :math:`(|\mathcal{V}_t|,
          F_t)`, edge indices :math:`(2, |\mathcal{E}_r|)`, edge attributes
          :math:`(|\mathcal{E}_r|, D_r)`
        - **output:** states :math:`(|\mathcal{V}_t|, C_t)`

    Raises:
        ValueError: If widths can't be read off the convs, names don't fit, or an option is out of
            range.

    Example:
        >>> from torch_geometric.nn import HeteroConv, SAGEConv
        >>> from gncadeq import GraphDEQ
        >>> has, of = ("paper", "has", "word"), ("word", "of", "paper")
        >>> conv = HeteroConv({has: SAGEConv((8, 8), 8), of: SAGEConv((8, 8), 8)})
        >>> deq = GraphDEQ.from_conv(conv, in_channels={"paper": 4, "word": 1}, tol=1e-4)
        >>> edge_index = {has: torch.tensor([[0, 1, 2], [0, 0, 1]])}
        >>> edge_index[of] = edge_index[has].flip(0)
        >>> z = deq({"paper": torch.rand(3, 4), "word": torch.ones(2, 1)}, edge_index)
        >>> {name: list(value.shape) for name, value in z.items()}
        {'paper': [3, 8], 'word': [2, 8]}
    """

    def __init__(
        self,
        conv: nn.Module,
        in_channels: Mapping[str, int],
        channels: int | Mapping[str, int] | None = None,
        edge_types: Sequence[EdgeType] | None = None,
        edge_channels: Mapping[EdgeType, int] | None = None,
        activation: Activation = "tanh",
        contraction: float | None = 0.9,
        bias: bool = True,
        power_steps: int = 8,
    ) -> None:
        if edge_types is None:
            if not isinstance(conv, HeteroConv):
                raise ValueError(
                    f"Expected 'edge_types', which {type(conv).__name__} doesn't say (got None). "
                    "Pass edge_types=data.edge_types"
                )
            edge_types = list(conv.convs.keys())
        inner = dict(conv.convs.items()) if isinstance(conv, HeteroConv) else {}
        if channels is None:
            channels = _widths(conv, list(in_channels))
        super().__init__(in_channels, channels, edge_types, edge_channels, bias)
        for relation, module in inner.items():
            if relation[2] in self.state_channels:
                check_width(module, self.state_channels[relation[2]], f" of {relation}")
        contraction = check_value("contraction", contraction, float | None, above=0.0)
        power_steps = check_count("power_steps", power_steps, 2)
        self.contraction, self.power_steps = contraction, power_steps
        self.conv = conv
        self.activation = activation_of(activation)
        super().reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters, the conv's included."""
        reset(self.conv)
        self.growth.reset()
        super().reset_parameters()

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph's rows and edges; see :class:`gncadeq.TypedCell`.

        Raises:
            ValueError: If the conv mixes the graphs of a batch, or something doesn't fit.
            TypeError: On a wrong type.
        """
        flat = super().flatten(x, edge_index, edge_attr, batch, context)
        if any(isinstance(module, HANConv) for module in self.conv.modules()) and (
            flat.batch is not None and bool((flat.batch != flat.batch[:1]).any())
        ):
            raise ValueError(
                "Expected a single graph for HANConv, which weighs relations by averages over all "
                "nodes (got a batch of graphs, which would depend on each other). Solve one graph "
                "at a time, or use HGTConv"
            )
        return flat

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> HeteroConvStep:
        """Bind graph and injection, as rows; see :class:`gncadeq.TypedCell`."""
        typed = self.typed(x, edge_index, **context)
        step = HeteroConvStep(self, typed, x, edge_attr)
        if is_lazy(self.conv):
            with torch.inference_mode(False), torch.no_grad():  # whose weights can't be trained
                self._recorded(x, edge_index, edge_attr, context).image(recorded(x))
        if self.contraction is not None:
            if self.growth.is_due(self):
                self.growth.update(self._measure(x, edge_index, edge_attr, context))
            bound = self.growth.value.clamp(min=self.contraction)
            step.scale = (self.contraction / bound).to(x.dtype)
        return step

    def _recorded(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor, context: dict[str, Tensor]
    ) -> HeteroConvStep:
        edge_attr = None if edge_attr is None else recorded(edge_attr)
        context = {name: recorded(value) for name, value in context.items()}
        edges = recorded(edge_index) if isinstance(edge_index, Tensor) else edge_index
        typed = self.typed(recorded(x), edges, **context)
        return HeteroConvStep(self, typed, recorded(x), edge_attr)

    def _measure(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor, context: dict[str, Tensor]
    ) -> Tensor:
        with measuring(self):
            step = self._recorded(x, edge_index, edge_attr, context)
            adjacency = WeightedAdjacency(edge_index, None, x.size(0), like=x)
            return settled_growth(
                step.image, step.activate, step.drive, adjacency.in_degree(),
                *adjacency.components(), self.power_steps,
            )  # fmt: skip

    def edge_arguments(self, typed: Typed, edge_attr: OptTensor) -> dict[str, Any]:
        """The keyword arguments of the conv: ``edge_attr_dict``, ``edge_weight_dict``."""
        arguments: dict[str, dict[EdgeType, Tensor]] = {}
        for relation, channels in self.edge_channels.items():
            if edge_attr is None:
                raise ValueError(f"Expected 'edge_attr' for {relation} (got None)")
            name = "edge_attr"
            if isinstance(self.conv, HeteroConv):
                found = read_signature(self.conv.convs[relation]).edge
                if found is None or found == "edge_type":
                    raise ValueError(
                        f"Expected no 'edge_channels' of {relation}, whose conv takes no "
                        f"attributes of edges (got {channels})"
                    )
                name = found
            value = edge_attr[typed.edges[relation], :channels]
            value = value.squeeze(1) if name == "edge_weight" and channels == 1 else value
            arguments.setdefault(f"{name}_dict", {})[relation] = value
        return dict(arguments)

    def check_output(self, states: States, out: Any) -> None:
        """Raise a ValueError if the conv returned something else than states."""
        if not isinstance(out, dict):
            raise ValueError(
                f"Expected a conv that returns a dictionary of states (got {type(out).__name__} "
                f"from {type(self.conv).__name__})"
            )
        for name, value in out.items():
            if value is not None and (name not in states or value.shape != states[name].shape):
                expected = list(states[name].shape) if name in states else "no such state"
                raise ValueError(
                    f"Expected a conv that maps states to the same shape (got {name!r}: "
                    f"{list(value.shape)} for {expected}). Give every conv as many output as input "
                    "channels of its target (heads that are concatenated count), and project with "
                    "'in_channels'"
                )

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{super().extra_repr()}, contraction={self.contraction}"


def _widths(conv: nn.Module, names: list[str]) -> dict[str, int]:
    """The width of every state, as the convs within a ``HeteroConv`` say."""
    found: dict[str, int] = {}
    inner = list(conv.convs.items()) if isinstance(conv, HeteroConv) else []
    types = dict.fromkeys(name for (source, _, target), _ in inner for name in (source, target))
    if inner:
        check_names("in_channels", names, list(types))
    for (source, _, target), module in inner:
        width: Any = getattr(module, "in_channels", None)
        pair = width if isinstance(width, tuple | list) else (width, width)
        # What a lazy conv doesn't know of its input, it says of its output.
        known = [(source, pair[0]), (target, pair[1]), (target, output_width(module))]
        for name, channels in known:
            if isinstance(channels, int) and channels > 0:
                found.setdefault(name, channels)
    check_names(
        "channels", list(found), names,
        f"The convs within {type(conv).__name__} don't say the widths of all states: pass "
        "channels=...",
    )  # fmt: skip
    return found
