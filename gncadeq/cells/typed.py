"""Cells with several states: one for every type of node, as the rows of one tensor."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph, refuse_graph
from gncadeq.check import check_count, check_flag, check_type
from gncadeq.graph.layout import FlatGraph, StateLayout, check_names
from gncadeq.graph.neighborhood import check_range
from gncadeq.graph.rows import Rows
from gncadeq.typing import Adj, EdgeType, OptTensor


@dataclass(frozen=True)
class Typed:
    """A graph of rows, taken apart again by types.

    Attributes:
        layout: Whose rows they are.
        edge_index: The edges of every relation, between places in the tensors of their types.
        edges: Which of all edges these are.
    """

    layout: StateLayout
    edge_index: dict[EdgeType, Tensor]
    edges: dict[EdgeType, Tensor]


class TypedCell(Cell, ABC):
    r"""A local rule with one state :math:`\mathbf{z}_t` ``[num_nodes_t, channels_t]`` for every
    node type :math:`t`.

    Dynamics are given dictionaries, as PyG's heterogeneous layers are, and return one:
    ``deq(data.x_dict, data.edge_index_dict)``. Within, the states are the rows of a single tensor,
    sorted by graph (:class:`~gncadeq.graph.layout.StateLayout`), and the edges of all relations are
    edges between rows: solvers, residuals and gradients are those of any other cell. A graph's
    residual is over all of its states together.

    The injection is projected by a linear map of its own for every type, before the solve:
    :math:`\mathbf{d}_t = \mathbf{U}_t \mathbf{x}_t + \mathbf{b}_t`.

    Args:
        in_channels: Channels of the injection of every node type.
        channels: Channels of every node type's state, or one number for all.
        edge_types: The relations, ``(source type, name, target type)``. A graph has them all; one
            without edges is ``torch.empty(2, 0, dtype=torch.long)``.
        edge_channels: Channels of the edge attributes of those relations that have any.
        bias: Whether to add :math:`\mathbf{b}_t`.

    Raises:
        ValueError: If a number isn't positive or a name doesn't fit.
    """

    context = ("node_type", "edge_type")

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int | Mapping[str, int],
        edge_types: Sequence[EdgeType],
        edge_channels: Mapping[EdgeType, int] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        hint = "It names every node type, as {'paper': 16} does"
        check_type("in_channels", in_channels, Mapping, hint)
        names = list(in_channels)
        if not isinstance(channels, Mapping):
            channels = dict.fromkeys(names, channels)
        check_names("channels", list(channels), names)
        hint = "Nodes without features can be given ones, [num_nodes, 1]"
        in_channels, channels = (
            {name: check_count(f"{what}[{name!r}]", n, 1, hint=hint) for name, n in numbers.items()}
            for what, numbers in (("in_channels", in_channels), ("channels", channels))
        )
        check_flag("bias", bias)
        check_type("edge_types", edge_types, (list, tuple))
        self.edge_types: list[EdgeType] = list(edge_types)
        for t in self.edge_types:
            if not isinstance(t, tuple) or len(t) != 3 or t[0] not in names or t[2] not in names:
                raise ValueError(
                    f"Expected relations (source type, name, target type) between {names} (got {t})"
                )
        self.state_channels = {name: channels[name] for name in names}
        self.edge_channels = {
            relation: check_count(f"edge_channels[{relation!r}]", number, 1)
            for relation, number in (edge_channels or {}).items()
        }
        unknown = [t for t in self.edge_channels if t not in self.edge_types]
        if unknown:
            raise ValueError(f"Expected 'edge_channels' of {self.edge_types} (got {unknown})")
        self.channels = self.in_channels = max(self.state_channels.values())
        self.inject = nn.ModuleList(
            nn.Linear(in_channels[name], channels[name], bias=bias) for name in names
        )

    def _projections(self) -> dict[str, nn.Linear]:
        return dict(zip(self.state_channels, self.inject, strict=True))  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        for linear in self._projections().values():
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph's rows and edges; a graph that is flat already stays as it is.

        Args:
            x: The injections ``[num_nodes_t, in_channels_t]`` by node type.
            edge_index: Edge indices ``[2, num_edges_r]`` of every relation.
            edge_attr: Edge attributes by relation, of those that have any.
            batch: Graph indices of the nodes by node type; ``None`` for a single graph.
            context: Nothing else.

        Raises:
            ValueError: On unknown or missing types, wrong shapes or indices.
            TypeError: On a wrong dtype.
        """
        if isinstance(x, Tensor):
            return super().flatten(x, edge_index, edge_attr, batch, context)
        refuse_graph(x)
        for name, value in (("x", x), ("edge_index", edge_index)):
            if not isinstance(value, Mapping):
                raise TypeError(
                    f"Expected a dictionary '{name}' for {type(self).__name__}, such as "
                    f"data.{name}_dict (got {type(value).__name__})"
                )
        if context:
            raise TypeError(
                f"Expected nothing beyond (x, edge_index, edge_attr, batch) for "
                f"{type(self).__name__} (got {list(context)})"
            )
        names = list(self.state_channels)
        check_names("x", list(x), names)
        drive = self._drive(x)
        if batch is None:
            batch = {n: torch.zeros_like(d[:, 0], dtype=torch.long) for n, d in drive.items()}
        else:
            batch = _check_batch(batch, drive)
        layout, graph = StateLayout.of(batch, self.state_channels)
        rows = layout.rows()
        check_names(
            "edge_index", list(edge_index), self.edge_types,
            "Pass torch.empty(2, 0, dtype=torch.long) for a relation without edges",
        )  # fmt: skip
        parts, types = [graph.new_zeros(2, 0)], [graph.new_zeros(0)]
        for k, relation in enumerate(self.edge_types):
            source, target = rows[relation[0]], rows[relation[2]]
            index = _check_edges(relation, edge_index[relation], source, target)
            parts.append(torch.stack([source[index[0]], target[index[1]]]))
            types.append(graph.new_full((index.size(1),), k))
        flat = layout.pack(drive)
        attributes = self._flat_attributes(edge_index, edge_attr, flat)
        kinds = {"node_type": layout.kind, "edge_type": torch.cat(types)}
        belongs: dict[str, Rows] = {"node_type": "node", "edge_type": "edge"}
        return FlatGraph(flat, torch.cat(parts, 1), attributes, graph, kinds, belongs, layout)

    def _drive(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``U_t x_t + b_t``, in the type of the parameters."""
        drive = {}
        for name, linear in self._projections().items():
            value, weight = x[name], linear.weight
            if value.dim() != 2 or value.size(1) != weight.size(1):
                raise ValueError(
                    f"Expected 'x' of {name!r} of shape [num_nodes, in_channels] = "
                    f"[*, {weight.size(1)}] (got {list(value.shape)})"
                )
            if value.device != weight.device:
                raise ValueError(
                    f"Expected 'x' of {name!r} on the device of the parameters, {weight.device} "
                    f"(got {value.device}). Use .to(device) for model and data"
                )
            if value.dtype in (torch.float16, torch.bfloat16):
                value = value.to(weight.dtype)
            if value.dtype != weight.dtype:
                raise TypeError(
                    f"Expected 'x' of {name!r} in the type of the parameters, {weight.dtype} "
                    f"(got {value.dtype})"
                )
            # Zero times NaN is NaN: a failed graph would reach the gradient of its batch-mates.
            broken = ~value.isfinite().all(1, keepdim=True)
            value = F.linear(value.masked_fill(broken, 0.0), weight, linear.bias).to(weight.dtype)
            drive[name] = value.masked_fill(broken, float("nan"))
        return drive

    def _flat_attributes(
        self, edge_index: Mapping[EdgeType, Tensor], edge_attr: Any, like: Tensor
    ) -> OptTensor:
        """``[num_edges, width]`` attributes of all edges, zeros where a relation has none."""
        if edge_attr is not None and not isinstance(edge_attr, Mapping):
            raise TypeError(
                f"Expected a dictionary 'edge_attr' for {type(self).__name__}, such as "
                f"data.edge_attr_dict (got {type(edge_attr).__name__})"
            )
        given = dict(edge_attr or {})
        check_names("edge_attr", list(given), list(self.edge_channels))
        if not self.edge_channels:
            return None
        width = max(self.edge_channels.values())
        parts = [like.new_zeros(0, width)]
        for relation in self.edge_types:
            count, channels = edge_index[relation].size(1), self.edge_channels.get(relation, 0)
            value = given.get(relation, like.new_zeros(count, 0))
            value = value.unsqueeze(1) if value.dim() == 1 else value
            if list(value.shape) != [count, channels]:
                raise ValueError(
                    f"Expected 'edge_attr' of {relation} of shape [{count}, {channels}] "
                    f"(got {list(value.shape)})"
                )
            if not value.is_floating_point():
                raise TypeError(
                    f"Expected floating-point 'edge_attr' of {relation} (got {value.dtype})"
                )
            parts.append(F.pad(value.to(like.dtype), (0, width - channels)))
        return torch.cat(parts)

    def typed(self, x: Tensor, edge_index: Adj, node_type: Tensor, edge_type: Tensor) -> Typed:
        """Take rows and edges apart, which a step then does no more.

        Raises:
            ValueError: If they aren't those of a graph for the cell.
        """
        check_graph(x, edge_index, self.in_channels, next(self.parameters()).dtype)
        if not isinstance(edge_index, Tensor):
            raise TypeError("Expected edge indices [2, num_edges] (got a neighborhood)")
        for name, index, count in (
            ("node_type", node_type, x.size(0)),
            ("edge_type", edge_type, edge_index.size(1)),
        ):
            if index.shape != (count,):
                raise ValueError(f"Expected '{name}' of shape [{count}] (got {list(index.shape)})")
        check_range("node_type", node_type, len(self.state_channels), "node types")
        check_range("edge_type", edge_type, len(self.edge_types), "relations")
        check_range("edge_index", edge_index, x.size(0), "rows")
        layout = StateLayout(node_type, self.state_channels)
        local = layout.positions()[edge_index]
        order = edge_type.argsort(stable=True)
        counts = torch.bincount(edge_type, minlength=len(self.edge_types)).tolist()
        edges = dict(zip(self.edge_types, torch.split(order, counts), strict=True))
        return Typed(layout, {t: local[:, e] for t, e in edges.items()}, edges)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.state_channels}, relations={len(self.edge_types)}"


def _check_batch(batch: Any, drive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping):
        raise TypeError(
            "Expected a dictionary 'batch' of graph indices by node type, such as data.batch_dict "
            f"(got {type(batch).__name__})"
        )
    check_names("batch", list(batch), list(drive))
    for name, index in batch.items():
        count = drive[name].size(0)
        check_type(f"batch[{name}]", index, Tensor)
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f"Expected integer 'batch' of {name!r} (got {index.dtype})")
        if index.shape != (count,):
            raise ValueError(
                f"Expected 'batch' of {name!r} of shape [{count}] (got {list(index.shape)})"
            )
    return {name: index.long() for name, index in batch.items()}


def _check_edges(relation: EdgeType, index: Any, source: Tensor, target: Tensor) -> Tensor:
    if not isinstance(index, Tensor) or index.layout != torch.strided:
        raise TypeError(f"Expected edge indices [2, num_edges] of {relation} (got {index})")
    if index.dim() != 2 or index.size(0) != 2 or index.is_floating_point():
        raise ValueError(
            f"Expected integer 'edge_index' of {relation} of shape [2, num_edges] (got "
            f"{index.dtype} {list(index.shape)})"
        )
    check_range(f"edge_index of {relation}, row 0", index[0], source.numel(), "num_nodes")
    check_range(f"edge_index of {relation}, row 1", index[1], target.numel(), "num_nodes")
    return index.long()
