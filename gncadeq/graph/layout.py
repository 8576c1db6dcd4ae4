"""Several named tensors as the rows of one, so that dynamics work on a single state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.graph.rows import Part, Rows
from gncadeq.typing import Adj, OptTensor


class StateLayout:
    r"""Which rows of one tensor ``[num_rows, width]`` belong to which of several named tensors.

    The width is the largest number of channels; narrower tensors are padded by zeros, which no norm
    over a graph's rows sees.

    Args:
        kind: ``[num_rows]``, the index of every row's tensor among the names.
        channels: Channels of every tensor, by name.
        place: ``[num_rows]``, the place of every row in all tensors one after the other; by default
            the rows of one tensor keep their order.

    Example:
        >>> layout = StateLayout(torch.tensor([0, 1, 0]), {"node": 2, "edge": 1})
        >>> z = layout.pack({"node": torch.ones(2, 2), "edge": torch.full((1, 1), 5.0)})
        >>> z
        tensor([[1., 1.],
                [5., 0.],
                [1., 1.]])
        >>> layout.unpack(z)["edge"]
        tensor([[5.]])
    """

    def __init__(self, kind: Tensor, channels: Mapping[str, int], place: OptTensor = None) -> None:
        self.kind, self.channels = kind, dict(channels)
        self.sizes: list[int] = torch.bincount(kind, minlength=len(self.channels)).tolist()
        if place is None and kind.numel() > 1 and not bool((kind[1:] >= kind[:-1]).all()):
            place = _inverse(kind.argsort(stable=True))
        self._place = place
        # The row of every entry, tensor by tensor
        self._order = None if place is None else _inverse(place)

    @classmethod
    def of(
        cls, batch: Mapping[str, Tensor], channels: Mapping[str, int]
    ) -> tuple[StateLayout, Tensor]:
        """The layout graph by graph, and the graph of every row, of the ``batch`` vectors by name.

        Example:
            >>> batch = {"node": torch.tensor([0, 0, 1]), "edge": torch.tensor([0, 1])}
            >>> layout, graph = StateLayout.of(batch, {"node": 2, "edge": 1})
            >>> layout.kind, graph
            (tensor([0, 0, 1, 0, 1]), tensor([0, 0, 0, 1, 1]))
        """
        graph = torch.cat([batch[name] for name in channels])
        kind = torch.cat([torch.full_like(batch[n], k) for k, n in enumerate(channels)])
        if graph.numel() > 1 and not bool((graph[1:] >= graph[:-1]).all()):
            place = graph.argsort(stable=True)
            return cls(kind[place], channels, place), graph[place]
        return cls(kind, channels), graph

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.kind.numel()

    @property
    def width(self) -> int:
        """Channels of the rows."""
        return max(self.channels.values())

    def rows(self) -> dict[str, Tensor]:
        """The row of every entry of every tensor, by name."""
        order = self._order
        if order is None:
            order = torch.arange(self.num_rows, device=self.kind.device)
        return dict(zip(self.channels, torch.split(order, self.sizes), strict=True))

    def positions(self) -> Tensor:
        """``[num_rows]``, the place of every row in its own tensor."""
        place = self._place
        if place is None:
            place = torch.arange(self.num_rows, device=self.kind.device)
        first = F.pad(torch.tensor(self.sizes).cumsum(0), (1, 0)).to(place.device)
        return place - first[self.kind]

    def name(self, row: int) -> str:
        """The name of a row in messages to the user: its tensor, and its index there.

        Example:
            >>> StateLayout(torch.tensor([0, 1, 0]), {"node": 2, "edge": 1}).name(2)
            "'node' 1"
        """
        return f"{list(self.channels)[int(self.kind[row])]!r} {int(self.positions()[row])}"

    def pack(self, states: Mapping[str, Tensor]) -> Tensor:
        """The tensors ``[..., size, channels]`` as one ``[..., num_rows, width]``.

        Raises:
            ValueError: If a tensor is missing, unknown or of another shape.
        """
        check_names("z", list(states), list(self.channels))
        width, parts = self.width, []
        for (name, channels), size in zip(self.channels.items(), self.sizes, strict=True):
            value = states[name]
            if value.dim() < 2 or value.shape[-2:] != (size, channels):
                raise ValueError(
                    f"Expected a state of {name!r} of shape [{size}, {channels}] "
                    f"(got {list(value.shape)})"
                )
            parts.append(value if channels == width else F.pad(value, (0, width - channels)))
        z = torch.cat(parts, dim=-2)
        return z if self._place is None else z.index_select(-2, self._place)

    def unpack(self, z: Tensor) -> dict[str, Tensor]:
        """The tensors in the rows of ``z`` ``[..., num_rows, width]``, by name."""
        z = z if self._order is None else z.index_select(-2, self._order)
        parts = torch.split(z, self.sizes, dim=-2)
        return {
            name: part if channels == z.size(-1) else part[..., :channels]
            for (name, channels), part in zip(self.channels.items(), parts, strict=True)
        }

    def restrict(self, nodes: Tensor) -> StateLayout:
        """The layout of some rows alone, given their indices, in whose order they stand."""
        return StateLayout(self.kind[nodes], self.channels)

    def __repr__(self) -> str:
        sizes = zip(self.channels.items(), self.sizes, strict=True)
        inside = ", ".join(f"{name}=[{size}, {channels}]" for (name, channels), size in sizes)
        return f"{self.__class__.__name__}({inside})"


@dataclass(frozen=True)
class FlatGraph:
    """What dynamics see of a graph: rows, and edges between rows.

    Attributes:
        x: ``[num_rows, in_channels]``, the injection.
        edge_index: ``[2, num_edges]``, or the neighbourhood prepared from it.
        edge_attr: A row for every edge, or none.
        batch: ``[num_rows]``, the graph of every row; ``None`` for a single graph.
        context: What else the cell takes by name.
        rows: What the rows of each tensor in ``context`` belong to.
        layout: Whose rows they are; ``None`` where the state is one tensor.
        hypergraph: Whether the second row of the edge indices numbers hyperedges.
    """

    x: Tensor
    edge_index: Adj
    edge_attr: OptTensor = None
    batch: OptTensor = None
    context: dict[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    layout: StateLayout | None = None
    hypergraph: bool = False

    def pack(self, z: Any) -> Any:
        """A state as the cell's user knows it, as one tensor; ``None`` stays ``None``."""
        return z if self.layout is None or z is None else self.layout.pack(z)

    def unpack(self, z: Tensor) -> Any:
        """A state as the cell's user knows it."""
        return z if self.layout is None else self.layout.unpack(z)

    def tensors(self) -> list[Tensor]:
        """What a gradient may go to: the injection, the edge attributes and the context."""
        edge_attr = [] if self.edge_attr is None else [self.edge_attr]
        return [self.x, *edge_attr, *self.context.values()]

    def map(self, change: Callable[[Tensor], Tensor]) -> FlatGraph:
        """The same edges with every one of :meth:`tensors` changed."""
        return self._changed(self.edge_index, lambda value, rows: change(value))

    def restrict(self, nodes: Tensor) -> FlatGraph:
        """Whole graphs alone, of the rows at ascending indices."""
        keep = torch.zeros(self.x.size(0), dtype=torch.bool, device=self.x.device)
        keep[nodes] = True
        part = self._part(keep)
        batch = None if self.batch is None else part.take(self.batch, "batch")
        layout = None if self.layout is None else self.layout.restrict(nodes)
        return replace(self._changed(part.edges(), part.take), batch=batch, layout=layout)

    def emptied(self, gone: Tensor) -> FlatGraph:
        """Zeros in the place of what belongs to the graphs of the rows in the mask ``gone``."""
        return self._changed(self.edge_index, self._part(~gone).blank)

    def _part(self, keep: Tensor) -> Part:
        return Part(keep, self.edge_index, self.batch, self.hypergraph)

    def _changed(self, edge_index: Adj, change: Callable[[Tensor, Rows], Tensor]) -> FlatGraph:
        edge_attr = None if self.edge_attr is None else change(self.edge_attr, "edge")
        context = {name: change(value, self._rows(name)) for name, value in self.context.items()}
        x = change(self.x, "node")
        return replace(self, x=x, edge_index=edge_index, edge_attr=edge_attr, context=context)

    def _rows(self, name: str) -> Rows:
        # The graph of every node comes from the dynamics, after the call was checked.
        return "batch" if name == "batch" else self.rows[name]


def _inverse(order: Tensor) -> Tensor:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=order.device)
    return inverse


def device_of(x: Any) -> torch.device:
    """The device of a tensor, or of the first in a dictionary."""
    first = next(iter(x.values()), None) if isinstance(x, Mapping) else x
    return first.device if isinstance(first, Tensor) else torch.device("cpu")


def check_names(
    what: str, given: Sequence[Any], expected: Sequence[Any], remedy: str | None = None
) -> None:
    """Raise a ValueError unless ``given`` holds the names ``expected``, in any order.

    Args:
        what: What has these names.
        given: Node types or relations.
        expected: What they should be.
        remedy: What to do about a missing one that isn't misspelled.
    """
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    if not (missing or unknown):
        return
    near = {str(name): name for name in missing}
    meant = [near[m] for u in unknown for m in get_close_matches(str(u), near, n=1)]
    hints = [f"Did you mean {', '.join(map(repr, meant))}?"] if meant else []
    hints += [remedy] if remedy and set(missing) - set(meant) else []
    raise ValueError(
        f"Expected '{what}' for each of {list(expected)} (got {list(given)}"
        + (f"; missing {missing}" if missing else "")
        + (f"; unknown {unknown}" if unknown else "")
        + ")"
        + "".join(f". {hint}" for hint in hints)
    )
