"""What the rows of a tensor belong to, and how a tensor is cut down to some graphs of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import ClassVar, Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor

from gncadeq.check import check_choice
from gncadeq.graph.neighborhood import Neighborhood

Rows: TypeAlias = Literal["node", "edge", "hyperedge", "graph", "batch", "index", "all"]
"""What a tensor has one row for: every ``"node"``, ``"edge"``, ``"hyperedge"`` or ``"graph"``.
``"batch"`` is the graph index of every node, ``"index"`` are further edge indices ``[2, *]``, and
``"all"`` belongs to all graphs together, such as a table or a radius."""

Declared: TypeAlias = Mapping[str, Rows | None] | Sequence[str]
"""Names with what their rows belong to (``None``: decided by size in the call), or names alone."""

# The names that PyTorch Geometric uses in one sense throughout.
_KNOWN: dict[str, Rows] = {
    "batch": "batch",
    "edge_attr": "edge", "edge_type": "edge", "edge_weight": "edge",
    "hyperedge_attr": "hyperedge", "hyperedge_weight": "hyperedge",
    "neg_edge_index": "index",
    "node_type": "node", "normal": "node", "pos": "node",
}  # fmt: skip


def declared_rows(
    names: Declared, more: Mapping[str, Rows] | None = None
) -> dict[str, Rows | None]:
    """What the rows of every name belong to; names without a declaration, here or in ``more``, have
    PyG's meaning.

    Raises:
        ValueError: If a declaration is none of :data:`Rows`, or about another name.

    Example:
        >>> declared_rows(["pos", "dist"]), declared_rows(["pos", "dist"], {"dist": "edge"})
        ({'pos': 'node', 'dist': None}, {'pos': 'node', 'dist': 'edge'})
    """
    given = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
    unknown = [name for name in more or {} if name not in given]
    if unknown:
        raise ValueError(
            f"Expected 'rows' of tensors that are taken by name, {list(given)} (got {unknown})"
        )
    found: dict[str, Rows | None] = {}
    for name, rows in {**given, **(more or {})}.items():
        if rows is not None:
            check_choice(f"rows[{name!r}]", rows, get_args(Rows))
        found[name] = _KNOWN.get(name) if rows is None else rows
    return found


def is_known(name: str) -> bool:
    """Whether the name has a meaning of its own in PyTorch Geometric."""
    return name in _KNOWN


def check_rows(name: str, value: Tensor, rows: Rows, count: int) -> None:
    """Raise a ValueError unless a tensor has one row for each of ``count`` nodes or edges.

    Example:
        >>> check_rows("pos", torch.rand(3, 2), "node", 4)
        Traceback (most recent call last):
        ValueError: Expected 'pos' with a row for each of 4 nodes (got [3, 2])
    """
    if value.dim() == 0 or value.size(0) != count:
        raise ValueError(
            f"Expected '{name}' with a row for each of {count} {rows}s (got {list(value.shape)})"
        )


def rows_of(
    context: Mapping[str, Tensor],
    declared: Mapping[str, Rows | None],
    num_nodes: int,
    edge_index: Tensor | Neighborhood,
    batch: Tensor | None,
) -> dict[str, Rows]:
    """What the rows of every tensor of a call belong to, checked against their number.

    A tensor without a declaration must, in a batch of several graphs, have as many rows as there
    are nodes, or edges, or graphs, and no two of these; a single number belongs to all graphs.

    Raises:
        ValueError: If a size contradicts the declaration, or decides nothing.
    """
    counts = {"node": num_nodes}
    if isinstance(edge_index, Tensor) and edge_index.dim() == 2:
        counts["edge"] = edge_index.size(1)
    found: dict[str, Rows] = {}
    for name, value in context.items():
        rows = declared.get(name)
        if rows is None:
            rows = _by_size(name, value, counts, batch)
        elif rows == "edge" and isinstance(edge_index, Neighborhood):
            raise ValueError(
                f"Expected edge indices [2, num_edges] together with '{name}', which has a row for "
                "every edge (got a neighborhood, whose edges have another order). Pass the edge "
                "indices"
            )
        elif rows in counts:
            check_rows(name, value, rows, counts[rows])
        elif rows == "graph" and not torch.compiler.is_compiling():
            count = _num_graphs(batch)
            if value.dim() == 0 or value.size(0) < count:  # the last graphs may have no nodes
                check_rows(name, value, rows, count)
        elif rows == "index" and (value.dim() != 2 or value.is_floating_point()):
            raise ValueError(
                f"Expected integer '{name}' of shape [2, *], numbers of nodes (got {value.dtype} "
                f"{list(value.shape)})"
            )
        found[name] = rows
    return found


def _by_size(name: str, value: Tensor, counts: dict[str, int], batch: Tensor | None) -> Rows:
    if value.dim() == 0 or value.numel() == 1 or torch.compiler.is_compiling():
        return "all"
    graphs = _num_graphs(batch)
    kinds: dict[Rows, int] = {**counts, "graph": graphs}  # type: ignore[dict-item]
    fits: list[Rows] = [kind for kind, count in kinds.items() if value.size(0) == count]
    if graphs <= 1:  # nothing else is in the batch: all rows stay, or none
        return fits[0] if fits else "all"
    if len(fits) == 1:
        return fits[0]
    sizes = ", ".join(f"{count} {kind}s" for kind, count in kinds.items())
    declaration = f"{{'{name}': 'edge'}}"
    raise ValueError(
        f"Expected as many rows of '{name}' as there are nodes, edges or graphs, which {sizes} "
        f"{'do not tell apart' if fits else 'are not'} (got {list(value.shape)}). Declare what a "
        f"row belongs to ('node', 'edge', 'graph' or 'all'): rows={declaration} in from_conv, or "
        f"context = {declaration} in a cell"
    )


def _num_graphs(batch: Tensor | None) -> int:
    if not isinstance(batch, Tensor):
        return 1
    return int(batch.max()) + 1 if batch.numel() else 0


class Restrictable:
    """What is bound to the graphs of a batch, and can be cut down to some of them.

    Of its attributes, those named in ``per_node`` have a row for every node, or are ``None``; those
    with a method ``restrict`` restrict themselves; all others belong to every graph.

    Example:
        >>> class Scaled(Restrictable):
        ...     per_node = ("scale",)
        ...     def __init__(self, scale):
        ...         self.scale = scale
        >>> Scaled(torch.tensor([1.0, 2.0, 3.0])).restrict(torch.tensor([0, 2])).scale
        tensor([1., 3.])
    """

    per_node: ClassVar[tuple[str, ...]] = ("drive",)

    def restrict(self, nodes: Tensor) -> Self:
        """The same on ``nodes``, the ascending indices of whole graphs."""
        new = copy(self)
        for name, value in vars(self).items():
            if name in self.per_node:
                setattr(new, name, None if value is None else value[nodes])
            elif isinstance(value, list):
                setattr(new, name, [part.restrict(nodes) for part in value])
            elif hasattr(value, "restrict"):
                setattr(new, name, value.restrict(nodes))
        return new


class Part:
    """Some whole graphs of a batch: which rows of a tensor are theirs.

    Args:
        keep: Mask of their nodes ``[num_nodes]``.
        edge_index: The edges of the batch.
        batch: The graph of every node of the batch; ``None`` for a single graph.
        hypergraph: Whether the second row of the edge indices numbers hyperedges.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 0, 3]])
        >>> part = Part(torch.tensor([False, False, True, True]), edge_index)
        >>> part.take(torch.tensor([5.0, 6.0, 7.0]), "edge"), part.edges().tolist()
        (tensor([7.]), [[0], [1]])
        >>> part.blank(torch.tensor([5.0, 6.0, 7.0]), "edge")
        tensor([0., 0., 7.])
    """

    def __init__(
        self,
        keep: Tensor,
        edge_index: Tensor | Neighborhood,
        batch: Tensor | None = None,
        hypergraph: bool = False,
    ) -> None:
        self.keep, self.edge_index, self.batch, self.hypergraph = (
            keep, edge_index, batch, hypergraph
        )  # fmt: skip
        self._edge = None if isinstance(edge_index, Neighborhood) else keep[edge_index[0]]

    def edges(self) -> Tensor | Neighborhood:
        """The edges of the part, between its nodes; hyperedges keep their numbers."""
        if isinstance(self.edge_index, Neighborhood):
            return self.edge_index.restrict(self.keep.nonzero().flatten())
        position, mine = self.keep.cumsum(0) - 1, self.edge_index[:, self._edge]
        if self.hypergraph:
            return torch.stack([position[mine[0]], mine[1]])
        return position[mine]

    def take(self, value: Tensor, rows: Rows) -> Tensor:
        """What a tensor has for the part: its rows, and the numbers in them, counted anew."""
        if rows == "hyperedge":
            return self.blank(value, rows)
        if rows == "batch":
            kept = value[self.keep]
            return (_marked(kept, _num_graphs(value)).cumsum(0) - 1)[kept]
        if rows == "index":
            return (self.keep.cumsum(0) - 1)[value[:, self.keep[value].all(0)]]
        mask = self._mask(value, rows)
        return value if mask is None else value[mask]

    def blank(self, value: Tensor, rows: Rows) -> Tensor:
        """A tensor with zeros in the place of numbers that belong to other graphs."""
        mask = self._mask(value, rows)
        if mask is None or not value.is_floating_point():
            return value
        return value.masked_fill(~mask.view(-1, *[1] * (value.dim() - 1)), 0.0)

    def _mask(self, value: Tensor, rows: Rows) -> Tensor | None:
        """Which rows are the part's; ``None`` where they belong to all graphs."""
        if rows == "node":
            return self.keep
        if rows == "edge":
            return self._edge
        if rows == "graph" and self.batch is not None:
            return _marked(self.batch[self.keep], value.size(0))
        if rows == "hyperedge" and isinstance(self.edge_index, Tensor):
            return _marked(self.edge_index[1, self._edge], value.size(0))
        return None


def _marked(index: Tensor, size: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool, device=index.device)
    mask[index] = True
    return mask
