"""Predicted starts: where a solve begins, never where it ends; what trains the predictor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, Sequential

from gncadeq import ConvCell, GraphDEQ, GraphNCA, PixelGraphClassifier, StencilConv
from gncadeq.testing import graph_of
from gncadeq.training.losses import start_loss


class Known(nn.Module):
    """Predicts what it was told."""

    def __init__(self, z):
        super().__init__()
        self.z = z

    def forward(self, x, edge_index, edge_attr=None):
        return self.z


def test_a_start_at_the_equilibrium_is_all_it_takes(ragged):
    cell = ConvCell(2, 4, contraction=0.9).double()
    graph = (*graph_of(ragged), ragged.batch)
    z = GraphDEQ(cell, tol=1e-10)(*graph)
    near, solution = GraphDEQ(cell, tol=1e-6, start=Known(z))(*graph, return_solution=True)
    assert solution.num_evaluations.max() == 1
    assert torch.equal(near, z)


def test_a_start_moves_neither_equilibrium_nor_gradient(ragged):
    torch.manual_seed(3)
    cell, predictor = ConvCell(2, 4, contraction=0.9).double(), StencilConv(2, 4).double()
    graph = (*graph_of(ragged), ragged.batch)
    states, gradients = [], []
    for start in ("zeros", predictor):
        deq = GraphDEQ(cell, tol=1e-11, max_steps=300, start=start)
        states.append(deq(*graph))
        gradients.append(torch.autograd.grad(states[-1].square().sum(), cell.parameters()))
    assert torch.allclose(*states, atol=1e-9)
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in zip(*gradients, strict=True))
    assert all(p.grad is None for p in predictor.parameters())


def test_start_loss_trains_a_predictor_that_saves_evaluations(ragged):
    torch.manual_seed(1)
    graph = (*graph_of(ragged), ragged.batch)
    predictor = Sequential(
        "x, edge_index, edge_attr",
        [(StencilConv(2, 16), "x, edge_index, edge_attr -> x"), nn.Tanh(), nn.Linear(16, 4)],
    ).double()
    deq = GraphDEQ(ConvCell(2, 4, contraction=0.5).double(), "picard", tol=1e-3, start=predictor)
    z, cold = deq(*graph, z0=torch.zeros(ragged.num_nodes, 4).double(), return_solution=True)
    assert float(start_loss(torch.zeros_like(z), z)) == pytest.approx(1.0)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = start_loss(predictor(*graph[:3]), z)
        loss.backward()
        optimizer.step()
    assert all(p.grad is None for p in deq.cell.parameters())  # the target is fixed
    assert loss < 0.2  # that of zeros is one
    _, warm = deq(*graph, return_solution=True)
    assert float(warm.num_evaluations.double().mean()) < float(cold.num_evaluations.double().mean())


def test_an_automaton_learns_its_start_through_its_steps(ragged):
    predictor = StencilConv(2, 4).double()
    nca = GraphNCA(ConvCell(2, 4).double(), steps=3, start=predictor)
    z = nca(*graph_of(ragged), ragged.batch)
    given = nca(*graph_of(ragged), ragged.batch, z0=predictor(*graph_of(ragged)))
    assert torch.equal(z, given)
    z.square().sum().backward()
    assert predictor.weight.grad.abs().sum() > 0
    assert nca.as_deq(tol=1e-2).start is predictor  # shared, as the cell is


def test_a_start_is_part_of_the_module():
    deq = GraphDEQ.from_conv(GCNConv(8, 8), 3, start=GCNConv(3, 8))
    assert "start.lin.weight" in deq.state_dict()
    before = deq.start.lin.weight.clone()
    deq.reset_parameters()
    assert not torch.equal(before, deq.start.lin.weight)
    x, edge_index = torch.rand(4, 3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    assert deq(x, edge_index).shape == (4, 8)


def test_a_classifier_takes_a_predictor_and_refuses_to_save_it(tmp_path):
    model = PixelGraphClassifier(channels=4, deq={"tol": 1e-6, "max_steps": 200}).eval()
    data = model.to_graph(torch.rand(1, 6, 6))
    before = model(data.x, data.edge_index, data.edge_attr)
    model.dynamics.start = StencilConv(4, 4)
    assert torch.allclose(model(data.x, data.edge_index, data.edge_attr), before, atol=1e-4)
    with pytest.raises(ValueError, match=r"start from 'zeros' .* \(got StencilConv\)"):
        model.save_pretrained(str(tmp_path / "model.safetensors"))
    model.dynamics = GraphDEQ(model.dynamics.cell)
    model.save_pretrained(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("kind", [GraphDEQ, GraphNCA])
def test_bad_starts_are_refused(kind):
    with pytest.raises(ValueError, match=r"'zeros', 'normal' or a module .* \(got 'ones'\)"):
        kind(ConvCell(2, 4), start="ones")
    model = kind(ConvCell(2, 4), start=StencilConv(2, 5))
    message = (
        r"'start' \(StencilConv\) of shape \[num_nodes, channels\] = \[3, 4\] \(got \[3, 5\]\)"
    )
    with pytest.raises(ValueError, match=message):
        model(torch.rand(3, 2), torch.tensor([[0], [1]]), torch.tensor([3]))


def test_start_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"shape of 'z', \[3, 2\] \(got \[3, 4\]\)"):
        start_loss(torch.zeros(3, 4), torch.zeros(3, 2))
