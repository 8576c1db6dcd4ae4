"""Small worlds: some edges of a graph led to random nodes."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_number, check_seed


class RewireEdges(BaseTransform):  # type: ignore[misc]
    r"""Lead every edge to a random node with probability :math:`p`, as in `"Collective dynamics of
    'small-world' networks" <https://doi.org/10.1038/30918>`_ (Watts & Strogatz 1998).

    .. math::
        \{i, j\} \mapsto \{i, k\} \text{ with probability } p , \qquad
        k \sim \mathcal{U} \big( \mathcal{V} \setminus (\{i\} \cup \mathcal{N}(i)) \big)

    Both directions of an edge move together, neither loops nor parallel edges arise, and the number
    of edges stays. The graph may come apart.

    Args:
        p: Probability :math:`p` in [0, 1].
        seed: Of the choice.

    Returns (when called with ``Data`` of one undirected graph without attributes on its edges):
        The same with another ``edge_index``, sorted by target.

    Raises:
        ValueError: If ``p`` is out of range, or the graph is directed, or a batch, or has
            loops, parallel edges or attributes of edges.

    Example:
        >>> edge_index = torch.tensor([[1, 0, 2, 1, 3, 2, 0, 3], [0, 1, 1, 2, 2, 3, 3, 0]])
        >>> RewireEdges(0.5)(Data(edge_index=edge_index, num_nodes=4)).edge_index.shape
        torch.Size([2, 8])
    """

    def __init__(self, p: float, seed: int = 0) -> None:
        check_number("p", p, least=0.0, most=1.0)
        check_seed(seed)
        self.p, self.seed = p, seed

    def forward(self, data: Data) -> Data:
        """Replace ``edge_index``."""
        if data.edge_index is None or set(data.edge_attrs()) > {"edge_index"}:
            raise ValueError(
                "Expected a graph with 'edge_index' and no attributes of edges, which would not "
                f"follow them (got {data}). Rewire first"
            )
        if data.get("batch") is not None and int(data.num_graphs) > 1:
            raise ValueError(
                f"Expected a single graph (got a batch of {data.num_graphs}). Transform, then batch"
            )
        parallel = data.edge_index.unique(dim=1).size(1) < data.num_edges
        if data.has_self_loops() or not data.is_undirected() or parallel:
            raise ValueError(
                "Expected an undirected graph without loops or parallel edges (got another). Use "
                "torch_geometric.transforms.ToUndirected and RemoveSelfLoops"
            )
        n, generator = int(data.num_nodes), torch.Generator().manual_seed(self.seed)
        one_way = data.edge_index[:, data.edge_index[0] < data.edge_index[1]].cpu()
        moved = (torch.rand(one_way.size(1), generator=generator) < self.p).tolist()
        near: list[set[int]] = [set() for _ in range(n)]
        pairs: list[list[int]] = one_way.t().tolist()
        for i, j in pairs:
            near[i].add(j)
            near[j].add(i)
        for pair, go in zip(pairs, moved, strict=True):
            i, j = pair
            if not go or len(near[i]) >= n - 1:  # joined to all others: there is nowhere to go
                continue
            k = i
            while k == i or k in near[i]:
                k = int(torch.randint(n, (), generator=generator))
            near[i].remove(j)
            near[j].remove(i)
            near[i].add(k)
            near[k].add(i)
            pair[1] = k
        there = torch.tensor(pairs, dtype=torch.long).view(-1, 2).t()
        edges = torch.cat([there, there.flip(0)], dim=1)
        order = (edges[1] * n + edges[0]).argsort()
        data.edge_index = edges[:, order].to(data.edge_index.device)
        data.num_nodes = n
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(p={self.p}, seed={self.seed})"
