"""Long edges: every node joined to random nodes of its graph."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_count, check_seed, check_type
from gncadeq.graph.adjacency import WeightedAdjacency

Within = Literal["graph", "component"]
SHORTCUT = 18  # pixel graphs have relations 0 to 8, and from level to level 9 to 17


class AddShortcuts(BaseTransform):  # type: ignore[misc]
    r"""Join every node to random nodes, both ways, as in `"Renormalization group analysis of the
    small-world network model" <https://doi.org/10.1016/S0375-9601(99)00757-4>`_ (Newman & Watts
    1999).

    .. math::
        \mathcal{E}' = \mathcal{E} \cup \bigcup_i \{ i \to k_i, \, k_i \to i \} , \qquad
        k_i \sim \mathcal{U} (\mathcal{V}_i \setminus \{i\})

    Information crosses the graph in about :math:`\log |\mathcal{V}|` steps then. A pair that is
    joined already stays as it is. The draw depends on the seed and on what is transformed at once:
    the graphs of a batch get other edges than each gets alone.

    Args:
        per_node: How many random nodes each node is joined to.
        within: The nodes :math:`\mathcal{V}_i` that are drawn from: those of the same ``"graph"``
            of a batch, or of the same connected ``"component"``, so that components stay separate.
        relation: What the new edges have in ``edge_attr`` where that holds relations; 18 by
            default, which no edge of a pixel graph has.
        seed: Of the draw.

    Returns (when called with ``Data`` or ``Batch``):
        The same with more edges, after those that it had. Their weights are one where the graph's
        edges have weights, in ``edge_attr`` ``[E]`` or ``edge_weight``.

    Raises:
        ValueError: If an argument is out of range, there is no ``edge_index``, or edges have
            attributes of which the new ones' are not known.

    Example:
        >>> ring = torch.stack([torch.arange(6), torch.arange(1, 7) % 6])
        >>> data = Data(edge_index=torch.cat([ring, ring.flip(0)], 1), num_nodes=6)
        >>> AddShortcuts(seed=1)(data).edge_index[:, 12:]
        tensor([[1, 1, 2, 3, 4, 4],
                [3, 4, 4, 1, 1, 2]])
    """

    def __init__(
        self, per_node: int = 1, within: Within = "graph", relation: int = SHORTCUT, seed: int = 0
    ) -> None:
        self.per_node = check_count("per_node", per_node, 1)
        self.within: Within = check_choice("within", within, get_args(Within))
        self.relation, self.seed = check_count("relation", relation), check_seed(seed)

    def forward(self, data: Data) -> Data:
        """Add edges to ``edge_index``, and their relations or weights."""
        check_type("data", data, Data)
        if data.edge_index is None:
            raise ValueError(f"Expected a graph with 'edge_index' (got {data})")
        known = {name: self._attribute(data, name) for name in data.edge_attrs()}
        n, edges = int(data.num_nodes), data.edge_index
        group = data.get("batch")
        group = torch.zeros(n, dtype=torch.long) if group is None else group.cpu()
        if self.within == "component":
            group, _ = WeightedAdjacency(edges.cpu(), None, n).components()
        pairs = self._draw(group)
        one: Tensor = torch.unique(pairs.amin(0) * n + pairs.amax(0))  # type: ignore[no-untyped-call]
        there = torch.stack([one // n, one % n]).to(edges.device)
        new = torch.cat([there, there.flip(0)], 1)
        new = new[:, ~torch.isin(new[1] * n + new[0], edges[1] * n + edges[0])]
        data.edge_index = torch.cat([edges, new.to(edges.dtype)], 1)
        for name, value in known.items():
            if value is not None:
                old = data[name]
                data[name] = torch.cat([old, old.new_full((new.size(1), *old.shape[1:]), value)])
        return data

    def _draw(self, group: Tensor) -> Tensor:
        """Pairs ``[2, M]`` of nodes of the same group."""
        order = group.argsort(stable=True)
        size = torch.bincount(group)
        first, count = (size.cumsum(0) - size)[group[order]], size[group[order]]
        place = torch.arange(group.numel()) - first
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.rand(self.per_node, group.numel(), generator=generator, dtype=torch.double)
        ahead = 1 + (draw * (count - 1)).long()  # a node alone in its group meets itself
        partner = order[first + (place + ahead) % count]
        pairs = torch.stack([order.expand_as(partner), partner]).flatten(1)
        return pairs[:, pairs[0] != pairs[1]]

    def _attribute(self, data: Data, name: str) -> float | None:
        """What a new edge has in an attribute; ``None`` for the indices themselves."""
        if name == "edge_index":
            return None
        value = data[name]
        if name in ("edge_attr", "edge_weight") and isinstance(value, Tensor):
            flat = value.dim() == 1 or (value.dim() == 2 and value.size(1) == 1)
            if flat and value.is_floating_point():
                return 1.0
            if flat and name == "edge_attr" and value.dtype != torch.bool:
                return self.relation
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"Expected edges with relations or weights, [num_edges], at most (got '{name}' of "
            f"{shape}, which new edges would lack). Add the shortcuts first"
        )

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(per_node={self.per_node}, within={self.within!r})"
