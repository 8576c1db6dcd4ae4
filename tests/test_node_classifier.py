"""The classifier of nodes: the laws, and a task that no local classifier solves."""

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv

from gncadeq import GraphDEQ, IGNNCell, WrappedConvCell
from gncadeq.models import NodeClassifier


def path(n: int, y: int) -> Data:
    """A path whose first node alone says what all of its nodes are."""
    a, b = torch.arange(n - 1), torch.arange(1, n)
    x = torch.zeros(n, 2)
    x[0, y] = 1.0
    edges = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
    return Data(x=x, edge_index=edges, y=torch.full((n,), y), num_nodes=n)


def classifier(**deq) -> NodeClassifier:
    return NodeClassifier(
        IGNNCell(4, 8, 0.95, normalization="row"), 2, 2, 16, {"tol": 1e-6, "max_steps": 200, **deq}
    )


def test_a_batch_is_classified_as_its_graphs_are():
    model = classifier(tol=1e-10).double()
    graphs = [path(n, n % 2) for n in (5, 9, 30)]
    batch = Batch.from_data_list(graphs)
    with torch.no_grad():
        together = model(batch.x.double(), batch.edge_index, None, batch.batch)
        alone = [model(g.x.double(), g.edge_index) for g in graphs]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-8, rtol=0)


def test_renumbering_nodes_renumbers_labels():
    model, data = classifier(tol=1e-10).double(), path(12, 1)
    order = torch.randperm(12)
    place = order.argsort()
    with torch.no_grad():
        one = model(data.x.double(), data.edge_index)
        two = model(data.x.double()[order], place[data.edge_index])
    torch.testing.assert_close(two, one[order], atol=1e-8, rtol=0)


def test_it_learns_what_is_far_away_and_runs_as_an_automaton_from_noise():
    """Nodes that are all alike take the label of an end up to 8 edges away, on unseen paths too."""
    model = classifier(tol=1e-4)
    torch.nn.init.eye_(model.dynamics.cell.weight_z)
    batch = Batch.from_data_list([path(n, y) for n in (5, 7, 9) for y in (0, 1)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        out = model(batch.x, batch.edge_index, None, batch.batch, batch_size=6)
        F.cross_entropy(out, batch.y).backward()
        optimizer.step()
    model.eval()
    model.dynamics.tol = 1e-5
    with torch.no_grad():
        for n, y in ((6, 0), (6, 1), (8, 0), (8, 1)):
            data = path(n, y)
            labels = model(data.x, data.edge_index).argmax(1)
            assert torch.equal(labels, data.y)
            deq = model.dynamics
            model.dynamics = deq.as_nca(steps=400, fire_rate=0.5, start="normal", tol=1e-3)
            run, solution = model(data.x, data.edge_index, return_solution=True)
            assert bool(solution.converged.all())
            assert torch.equal(run.argmax(1), labels)
            model.dynamics = deq


def test_any_cell_and_its_context():
    cell = WrappedConvCell(GCNConv(6, 6), in_channels=3)
    model = NodeClassifier(cell, in_channels=2, num_classes=4)
    data = path(7, 0)
    weight = torch.rand(data.num_edges)
    direct = model(data.x, data.edge_index, weight)
    named = model(data.x, data.edge_index, edge_weight=weight)
    torch.testing.assert_close(direct, named)
    assert isinstance(model.dynamics, GraphDEQ)
    before = direct.detach()
    model.reset_parameters()
    assert not torch.equal(model(data.x, data.edge_index, weight), before)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"in_channels\] = \[\*, 2\]"):
        classifier()(torch.rand(3, 5), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="positive 'num_classes'"):
        NodeClassifier(IGNNCell(4, 8), 2, 0)
