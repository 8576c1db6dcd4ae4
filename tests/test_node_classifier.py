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
        IGNNCell(4, 8, 0.9, normalization="row"), 2, 2, 16, {"tol": 1e-6, "max_steps": 200, **deq}
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


def copying() -> NodeClassifier:
    """By hand: each of two channels spreads its mark, and the stronger one is the label."""
    model = NodeClassifier(IGNNCell(2, 2, 0.9, normalization="row"), 2, 2, 2, {"tol": 1e-5})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        model.readout.lins[0].weight[:, 2:] = torch.eye(2)
        for weight in (
            model.dynamics.cell.weight_z, model.dynamics.cell.weight_x,
            model.encoder.lins[0].weight, model.encoder.lins[1].weight,
            model.readout.lins[1].weight,
        ):  # fmt: skip
            weight.copy_(torch.eye(2))
    return model


@pytest.mark.parametrize("y", [0, 1])
def test_a_mark_reaches_all_and_the_automaton_agrees_from_noise(y):
    """Nodes that are all alike take the label of the end of their path, by a known rule."""
    model, data = copying(), path(9, y)
    with torch.no_grad():
        assert torch.equal(model(data.x, data.edge_index).argmax(1), data.y)
        model.dynamics = model.dynamics.as_nca(steps=300, fire_rate=0.5, start="normal")
        run, solution = model(data.x, data.edge_index, return_solution=True)
    assert bool(solution.converged.all())
    assert torch.equal(run.argmax(1), data.y)


def test_training_reaches_encoder_cell_and_readout():
    model, data = classifier(), path(5, 1)
    F.cross_entropy(model(data.x, data.edge_index), data.y).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert float(model.dynamics.cell.weight_z.grad.abs().sum()) > 0
    before = F.cross_entropy(model(data.x, data.edge_index), data.y).detach()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.01 * p.grad
    after = F.cross_entropy(model(data.x, data.edge_index), data.y).detach()
    assert float(after) < float(before)


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
    with pytest.raises(ValueError, match="'num_classes' to be a whole number of at least 1"):
        NodeClassifier(IGNNCell(4, 8), 2, 0)
