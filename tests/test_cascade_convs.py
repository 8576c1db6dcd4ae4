"""Cascades of convs of PyTorch Geometric: certified where each of them is, by the same laws."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_undirected

from gncadeq import CascadeCell, GraphDEQ, Part, PropagationCell, WrappedConvCell
from gncadeq.certificate import StructuralCertificate
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_exact,
    assert_honest_residual,
    assert_one_rule,
    assert_permutation_equivariant,
)


def graph(num_nodes: int) -> Data:
    generator = torch.Generator().manual_seed(num_nodes)
    edges = torch.randint(num_nodes, (2, 2 * num_nodes), generator=generator)
    x = torch.randn(num_nodes, 3, generator=generator, dtype=torch.double)
    return Data(x=x, edge_index=to_undirected(edges), num_nodes=num_nodes)


CONVS = {
    "GCN": lambda width: pyg.GCNConv(width, width),
    "SAGE": lambda width: pyg.SAGEConv(width, width),
    "GAT": lambda width: pyg.GATConv(width, width),
    "GIN": lambda width: pyg.GINConv(nn.Linear(width, width)),
}


def cascade(name: str) -> CascadeCell:
    """Two convs, of which the first drives the second, and averages of what that says."""
    torch.manual_seed(0)
    parts = [
        Part(WrappedConvCell(CONVS[name](4), 3), reads=["x"]),
        Part(WrappedConvCell(CONVS[name](5), 4), reads=[0]),
        Part(PropagationCell(5, 0.2), reads=[1]),
    ]
    return CascadeCell(parts, in_channels=3).double().eval()


@pytest.mark.parametrize("name", CONVS)
def test_laws(name):
    cell, data = cascade(name), Batch.from_data_list([graph(n) for n in (6, 11, 9)])
    found = cell.certificate(data.edge_index, num_nodes=data.num_nodes, batch=data.batch)
    assert isinstance(found, StructuralCertificate)
    assert float(torch.as_tensor(found.rate).max()) <= 0.9 + 1e-9
    deq = GraphDEQ(cell, "picard", tol=1e-10, max_steps=500)
    assert_batch_independent(deq, data)
    assert_one_rule(deq, data)
    assert_honest_residual(deq, data)
    assert_permutation_equivariant(cell, graph(8))
    assert_gradients_exact(GraphDEQ(cell, tol=1e-11, max_steps=500), graph(8), steps=400)


def test_a_conv_of_which_nothing_is_proven_leaves_the_cascade_without_a_certificate():
    torch.manual_seed(0)
    parts = [
        Part(WrappedConvCell(pyg.AGNNConv(), 3, channels=4), reads=["x"]),
        Part(WrappedConvCell(pyg.GCNConv(5, 5), 4), reads=[0]),
    ]
    cell, data = CascadeCell(parts, in_channels=3).double(), graph(8)
    _, solution = GraphDEQ(cell, tol=1e-8)(data.x, data.edge_index, return_solution=True)
    assert bool(solution.converged.all())
    assert cell.certificate(data.edge_index, num_nodes=8) is None


@pytest.mark.parametrize(
    ("conv", "name"),
    [
        (lambda: pyg.PointTransformerConv(4, 4), "pos"),
        (lambda: pyg.GPSConv(4, pyg.GCNConv(4, 4)), "batch"),
    ],
)
def test_a_conv_that_needs_more_than_the_graph_is_refused(conv, name):
    cell = WrappedConvCell(conv(), 3, channels=4)
    with pytest.raises(TypeError, match=rf"take the graph alone .*'{name}'"):
        CascadeCell([Part(cell, reads=["x"])], in_channels=3)
