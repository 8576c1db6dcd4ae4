"""Graphs of several types of nodes, and cells whose state is a dictionary."""

from __future__ import annotations

import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import (
    GATConv,
    GraphConv,
    HeteroConv,
    SAGEConv,
)

from gncadeq import (
    HeteroConvCell,
    NodeEdgeCell,
    RelationCell,
)

CITES, HAS, OF = ("a", "cites", "a"), ("a", "has", "b"), ("b", "of", "a")


IN, WIDTH = {"a": 3, "b": 1}, {"a": 5, "b": 3}


def typed_graph(papers: int = 7, words: int = 4, seed: int = 0) -> HeteroData:
    g = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["a"].x = torch.randn(papers, 3, dtype=torch.double, generator=g)
    data["b"].x = torch.randn(words, 1, dtype=torch.double, generator=g)
    for (s, r, t), count in ((CITES, 2 * papers), (HAS, 2 * papers)):
        ends = [torch.randint(0, data[k].num_nodes, (count,), generator=g) for k in (s, t)]
        data[s, r, t].edge_index = torch.stack(ends)
    data[OF].edge_index = data[HAS].edge_index.flip(0)
    weight = torch.randn(2 * papers, generator=g, dtype=torch.double)
    data[CITES].edge_attr = weight
    return data


def plain_graph(nodes: int = 6, edges: int = 13, seed: int = 0) -> Data:
    """A directed multigraph with loops, whose last node is lonely."""
    g = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 3, dtype=torch.double, generator=g),
        edge_attr=torch.randn(edges, 2, dtype=torch.double, generator=g),
        edge_index=torch.randint(0, max(nodes - 1, 1), (2, edges), generator=g),
    )


def hetero_conv(kind=SAGEConv, a: int = 5, b: int = 3, **options) -> HeteroConv:
    return HeteroConv(
        {
            CITES: GraphConv(a, a),
            HAS: kind((a, b), b, **options),
            OF: kind((b, a), a, **options),
        }
    )


def make_cell(name: str):
    torch.manual_seed(1)
    edges = [CITES, HAS, OF]
    cells = {
        "relation": lambda: RelationCell(IN, WIDTH, edges, kappa=0.8, weighted=[CITES]),
        "relation-tanh": lambda: RelationCell(
            IN, 4, edges, kappa=0.8, activation="tanh", weighted=[CITES]
        ),
        "sage": lambda: HeteroConvCell(
            hetero_conv(), IN, edge_channels={CITES: 1}, activation="tanh", contraction=0.7
        ),
        "gat": lambda: HeteroConvCell(
            hetero_conv(GATConv, add_self_loops=False), IN, edge_channels={CITES: 1},
            activation="tanh", contraction=0.5,
        ),
        "gated": lambda: NodeEdgeCell({"node": 3, "edge": 2}, {"node": 5, "edge": 4}, kappa=0.8),
    }  # fmt: skip
    cell = cells[name]().double()
    with torch.no_grad():  # biases start at zero
        for p in cell.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return cell


CELLS = ("relation", "relation-tanh", "sage", "gat", "gated")


def arguments(cell, data, batched: bool = False) -> tuple:
    if isinstance(cell, NodeEdgeCell):
        x = {"node": data.x, "edge": data.edge_attr}
        return x, data.edge_index, None, data.batch if batched else None
    attr = {CITES: data[CITES].edge_attr} if cell.edge_channels else None
    return data.x_dict, data.edge_index_dict, attr, data.batch_dict if batched else None


def graphs(cell) -> list:
    make = plain_graph if isinstance(cell, NodeEdgeCell) else typed_graph
    return [make(6, 13), make(9, 5, seed=1), make(4, 11, seed=2)]


def flat(cell, data, batched: bool = False) -> Data:
    """The rows as plain data, about which the laws are."""
    graph = cell.flatten(*arguments(cell, data, batched), {})
    out = Data(graph.x.detach(), graph.edge_index, graph.edge_attr, **graph.context)
    if not batched:
        return out
    out.batch, out.num_nodes = graph.batch, graph.x.size(0)
    out.num_graphs = int(graph.batch.max()) + 1
    return out


def flat_batch(cell) -> Data:
    return flat(cell, Batch.from_data_list(graphs(cell)), batched=True)
