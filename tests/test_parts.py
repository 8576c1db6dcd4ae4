"""Graphs in parts: what a halo keeps, and what it doesn't."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub
from torch_geometric.nn import GATConv, GCNConv
from torch_geometric.utils import grid, subgraph

from gncadeq import ConvCell, GraphDEQ, GraphNCA
from gncadeq.transforms import ImageToGraph, halo, partition


def field(side: int = 12) -> Data:
    edge_index = grid(side, side)[0]
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    x = torch.randn(side * side, 3, dtype=torch.double)
    return Data(x=x, edge_index=edge_index, num_nodes=side * side)


@pytest.mark.parametrize("count", [1, 3, 5, 34])
def test_parts_are_equal_disjoint_and_cut_fewer_edges_than_chance(count):
    data = KarateClub()[0]
    parts = partition(data.edge_index, 34, count)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(34))
    sizes = [len(p) for p in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(bool((p.diff() > 0).all()) for p in parts)
    kept = sum(subgraph(p, field().edge_index)[0].size(1) for p in partition(
        field().edge_index, 144, 4))  # fmt: skip
    shuffled = torch.randperm(144).tensor_split(4)
    assert kept > 2 * sum(subgraph(p, field().edge_index)[0].size(1) for p in shuffled)


def test_a_halo_is_what_reaches_the_nodes():
    """Against powers of the adjacency, on a directed graph, with what belongs to edges."""
    torch.manual_seed(3)
    edge_index = torch.randint(0, 20, (2, 30))
    data = Data(x=torch.rand(20, 2), edge_index=edge_index, edge_attr=torch.rand(30, 1))
    reach = torch.zeros(20, 20)
    reach[edge_index[1], edge_index[0]] = 1
    nodes = torch.tensor([4, 17])
    seen = torch.zeros(20)
    seen[nodes] = 1
    for hops in range(4):
        part = halo(data, nodes, hops)
        assert torch.equal(part.node, seen.nonzero().flatten())
        assert torch.equal(part.node[part.inner], nodes)
        assert torch.equal(part.x, data.x[part.node])
        within = (seen[edge_index] > 0).all(0)
        assert torch.equal(part.node[part.edge_index], edge_index[:, within])
        assert torch.equal(part.edge_attr, data.edge_attr[within])
        seen = ((reach.T @ seen + seen) > 0).float()


@pytest.mark.parametrize(("conv", "lost"), [(GCNConv, 1), (GATConv, 0)])
def test_as_many_steps_as_hops_are_exact(conv, lost):
    """The locality law, for parts: a conv with degrees has one step less."""
    data, nca = field(), GraphNCA.from_conv(conv(8, 8), 3, contraction=None).double()
    z0 = torch.rand(144, 8, dtype=torch.double)
    for hops in (1, 2, 4):
        whole = nca(data.x, data.edge_index, z0=z0, steps=hops - lost)
        further = nca(data.x, data.edge_index, z0=z0, steps=hops - lost + 1)
        wrong = 0.0
        for nodes in partition(data.edge_index, 144, 4):
            part = halo(data, nodes, hops)
            graph = (part.x, part.edge_index)
            z = nca(*graph, z0=z0[part.node], steps=hops - lost)
            torch.testing.assert_close(z[part.inner], whole[nodes], rtol=1e-12, atol=1e-12)
            z = nca(*graph, z0=z0[part.node], steps=hops - lost + 1)
            wrong += float((z[part.inner] - further[nodes]).detach().abs().max())
        assert wrong > 1e-6  # and no more than that


@pytest.mark.parametrize("contraction", [0.5, 0.9])
def test_the_error_fades_with_the_halo(contraction):
    data = field()
    deq = GraphDEQ.from_conv(
        GCNConv(8, 8), 3, contraction=contraction, init="identity", activation=None,
        tol=1e-12, max_steps=1000,
    ).double()  # fmt: skip
    exact = deq(data.x, data.edge_index)
    errors = []
    for hops in range(0, 7):
        z = torch.zeros_like(exact)
        for nodes in partition(data.edge_index, 144, 4):
            part = halo(data, nodes, hops)
            z[nodes] = deq(part.x, part.edge_index)[part.inner]
        errors.append(float((z - exact).detach().norm() / exact.norm().detach()))
        assert errors[-1] <= 2 * contraction**hops
    assert errors == sorted(errors, reverse=True)
    # A symmetric linear rule fades by q a hop (Demko, Moss & Smith 1984), faster than κ.
    q = (1 - (1 - contraction**2) ** 0.5) / contraction
    assert (errors[-1] / errors[0]) ** (1 / 6) < q


def test_parts_of_an_image_keep_their_relations():
    data = ImageToGraph(living_threshold=0.2)(torch.rand(1, 14, 14, dtype=torch.double))
    deq = GraphDEQ(ConvCell(1, 4, contraction=0.5), tol=1e-12, max_steps=300).double()
    with torch.no_grad():
        exact = deq(data.x, data.edge_index, data.edge_attr)
        nodes = partition(data.edge_index, data.num_nodes, 4)[1]
        errors = []
        for hops in (0, 2, 5):
            part = halo(data, nodes, hops)
            z = deq(part.x, part.edge_index, part.edge_attr)[part.inner]
            errors.append(float((z - exact[nodes]).norm() / exact[nodes].norm()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_a_mask_is_its_nodes():
    data, mask = field(), torch.zeros(144, dtype=torch.bool)
    mask[[5, 77]] = True
    part = halo(data, mask, 1)
    assert torch.equal(part.node, halo(data, torch.tensor([5, 77]), 1).node)
    assert part.node[part.inner].tolist() == [5, 77]


def test_bad_parts_are_refused():
    data = field()
    with pytest.raises(ValueError, match="'hops' to be a whole number of at least 0"):
        halo(data, torch.tensor([0]), -1)
    with pytest.raises(ValueError, match=r"'nodes' in \[0, 144\)"):
        halo(data, torch.tensor([144]), 1)
    with pytest.raises(ValueError, match="a boolean for each of 144 nodes"):
        halo(data, torch.ones(3, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="'num_parts' to be"):
        partition(data.edge_index, 144, 0)


@pytest.mark.parametrize("nodes", [[0, 1], 0, torch.tensor([0.0])])
def test_nodes_of_another_kind_are_refused(nodes):
    data = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
    with pytest.raises(TypeError, match="tensor of indices or booleans"):
        halo(data, nodes, hops=1)
