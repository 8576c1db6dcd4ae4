"""Long edges: where they lead, and what they carry."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.transforms import AddShortcuts, ImageToGraph, NeighborKernels


def ring(n: int) -> Data:
    node = torch.arange(n)
    there = torch.stack([node, (node + 1) % n])
    return Data(x=torch.rand(n, 1), edge_index=torch.cat([there, there.flip(0)], 1).unique(dim=1))


def test_every_node_has_a_long_edge_both_ways_within_its_graph():
    batch = Batch.from_data_list([ring(n) for n in (30, 50, 1)])
    old = batch.edge_index
    for per_node in (1, 3):
        new = AddShortcuts(per_node)(batch.clone())
        assert torch.equal(new.edge_index[:, : old.size(1)], old)
        added = new.edge_index[:, old.size(1) :]
        assert new.is_undirected()
        assert torch.equal(batch.batch[added[0]], batch.batch[added[1]])
        assert new.edge_index.unique(dim=1).size(1) == new.edge_index.size(1)
        degree = torch.bincount(added[1], minlength=81)
        assert float((degree[:80] > 0).double().mean()) > 0.85  # drawn neighbours count, too
        assert per_node * 80 * 1.5 < added.size(1) <= per_node * 160
    again = AddShortcuts(3)(batch.clone())
    assert torch.equal(again.edge_index, new.edge_index)
    other = AddShortcuts(3, seed=1)(batch.clone())
    assert not torch.equal(other.edge_index, new.edge_index)


def test_components_are_joined_or_kept_apart():
    apart = Batch.from_data_list([ring(20), ring(31)])
    data = Data(edge_index=apart.edge_index, num_nodes=51)
    for within, count in (("graph", 1), ("component", 2)):
        joined = AddShortcuts(within=within)(data.clone())
        assert WeightedAdjacency(joined.edge_index, None, 51).components()[1] == count


def test_relations_and_weights_go_along():
    data = ImageToGraph()(torch.rand(1, 6, 6))
    new = AddShortcuts()(data.clone())
    assert int(new.edge_attr[data.num_edges :].unique()) == 18
    assert new.edge_attr.dtype == data.edge_attr.dtype
    data.edge_attr, data.edge_weight = None, torch.rand(data.num_edges)
    new = AddShortcuts()(data.clone())
    assert float(new.edge_weight[data.num_edges :].unique()) == 1.0


def test_graphs_without_room_stay_as_they_are():
    pair = torch.tensor([[0, 1], [1, 0]])
    assert torch.equal(AddShortcuts()(Data(edge_index=pair, num_nodes=2)).edge_index, pair)
    none = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=0)
    assert AddShortcuts()(none).num_edges == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddShortcuts(0), "'per_node' to be"),
        (lambda: AddShortcuts(within="image"), "'graph' or 'component'"),
        (lambda: AddShortcuts(seed=-1), "'seed' to be"),
        (lambda: AddShortcuts()(Data(x=torch.rand(2, 1))), "with 'edge_index'"),
        (lambda: AddShortcuts()(NeighborKernels()(ring(5))), "Add the shortcuts first"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
