"""Gradients where a norm, a size or a degree is zero are finite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from elastic import ElasticCell, distance_loss
from torch import nn
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, GINConv, ResGatedGraphConv, SAGEConv

from gncadeq import (
    ConvCell,
    GraphDEQ,
    GrowingCell,
    IGNNCell,
    MonotoneCell,
    PropagationCell,
)
from gncadeq.cells import StencilConv, WeightedAdjacency, WrappedConvCell
from gncadeq.cells.stencil import stencil_bound
from gncadeq.training.losses import (
    check_gradients,
    jacobian_penalty,
    rest_loss,
    start_loss,
)
from gncadeq.training.synced_norm import SyncedBatchNorm1d
from gncadeq.training.texture_loss import PatchLoss

EXAMPLES = Path(__file__).parent.parent / "examples"
EDGES = torch.tensor([[0, 1, 2, 1], [1, 2, 1, 0]])
RELATION = torch.tensor([3, 5, 4, 1])


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, requires_grad=True)


def of_adjacency(how):
    def run():
        weight = zeros(4)
        adjacency = WeightedAdjacency(EDGES, weight, 3)
        if how == "perron":
            v, bound = adjacency.perron()
            return (v + bound).sum(), weight
        return adjacency.normalized(how)[0](torch.ones(3, 1)).sum(), weight

    return run


def of_penalty():
    scale = zeros(3, 2)
    return jacobian_penalty(lambda z: scale * z, torch.zeros(3, 2)), scale


FUNCTIONS = {
    "adjacency by rows": of_adjacency("row"),
    "adjacency, symmetric": of_adjacency("sym"),
    "perron": of_adjacency("perron"),
    "start_loss": lambda: (start_loss(z := zeros(3, 2).add(1), torch.zeros(3, 2)), z),
    "distance_loss": lambda: (distance_loss(z := zeros(3, 2), torch.zeros(3, 2)), z),
    "rest_loss": lambda: (rest_loss(lambda z: z, z := zeros(3, 2)), z),
    "jacobian_penalty": of_penalty,
    "stencil_bound": lambda: (stencil_bound(w := zeros(9, 2, 2)), w),
    "texture": lambda: (PatchLoss(torch.zeros(3, 32, 32))(z := zeros(1, 3, 32, 32)).sum(), z),
    "batch norm": lambda: (SyncedBatchNorm1d(2)(z := zeros(3, 2)).sum(), z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_at_zero(name):
    loss, leaf = FUNCTIONS[name]()
    (grad,) = torch.autograd.grad(loss, leaf)
    assert bool(grad.isfinite().all())


def test_a_start_is_measured_against_an_equilibrium_of_zero():
    """The squared distance itself, with its gradient 2 z0."""
    z0 = torch.tensor([[3.0, 4.0]], requires_grad=True)
    loss = start_loss(z0, torch.zeros(1, 2))
    loss.backward()
    assert loss.tolist() == 25.0
    assert z0.grad.tolist() == [[6.0, 8.0]]


def wrapped(conv: nn.Module, **options) -> WrappedConvCell:
    return WrappedConvCell(conv, 2, contraction=0.9, **options)


CELLS = {
    "conv": lambda: ConvCell(2, 4, contraction=0.9),
    "conv, residual": lambda: ConvCell(2, 4, update="residual", contraction=0.9),
    "monotone": lambda: MonotoneCell(2, 4, contraction=0.9),
    "growing": lambda: GrowingCell(4, num_kernels=1, in_channels=2),
    "ignn": lambda: IGNNCell(2, 4),
    "ignn, any weights": lambda: IGNNCell(2, 4, normalization=None),
    "propagation": lambda: PropagationCell(2),
    "gcn": lambda: wrapped(GCNConv(4, 4)),
    "sage": lambda: wrapped(SAGEConv(4, 4)),
    "gin": lambda: wrapped(
        GINConv(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), channels=4
    ),
    "gat": lambda: wrapped(GATConv(4, 4)),
    "gat, by the state": lambda: wrapped(GATConv(4, 4), attention="state"),
    "gatv2, measured": lambda: wrapped(GATv2Conv(4, 4)),
    "gated, measured": lambda: wrapped(ResGatedGraphConv(4, 4)),
}


@pytest.mark.parametrize("what", ["input", "weights"])
@pytest.mark.parametrize("name", CELLS)
def test_equilibria_at_zero(name, what):
    """The state, or every weight of the rule, is exactly zero."""
    torch.manual_seed(0)
    cell = CELLS[name]()
    x = torch.zeros(3, 2) if what == "input" else torch.rand(3, 2)
    with torch.no_grad():
        for parameter_name, p in cell.named_parameters():
            if what == "weights" or "bias" in parameter_name:
                p.zero_()
    x.requires_grad_()
    weights = {"conv": RELATION, "monotone": RELATION, "growing": torch.zeros(4, 1)}
    deq = GraphDEQ(cell, solver="picard", max_steps=200, on_failure="ignore")
    z = deq(x, EDGES, weights.get(name.partition(",")[0]))
    (z.sum() + z.square().sum()).backward()
    for leaf in (x, *cell.parameters()):
        assert leaf.grad is None or bool(leaf.grad.isfinite().all())


def test_the_elastic_rule_with_all_nodes_in_one_place():
    cell = ElasticCell(2)
    z = zeros(3, cell.channels)
    step = cell.prepare(torch.zeros(3, cell.in_channels), EDGES, torch.ones(4, 1))
    step(z).square().sum().backward()
    assert bool(z.grad.isfinite().all())


def test_a_stencil_of_zeros():
    conv = StencilConv(2, 2)
    nn.init.zeros_(conv.weight)
    conv(torch.zeros(3, 2), EDGES, RELATION).sum().backward()
    assert bool(conv.weight.grad.isfinite().all())


# The example whose weights were NaN after the first steps.


@pytest.fixture
def chains(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import chains

    yield chains
    sys.modules.pop("chains")


def test_directions_of_large_small_and_no_states(chains):
    z = torch.tensor([[3.0, 4.0], [3e-30, 4e-30], [0.0, 0.0], [1e-42, 0.0]], requires_grad=True)
    out = chains.direction(z)
    expected = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert bool(z.grad.isfinite().all())
    # d/dz of 5 z / |z|, and of 5 z where there is no direction
    torch.testing.assert_close(z.grad[0], 5 * torch.tensor([16.0 - 12.0, 9.0 - 12.0]) / 125)
    torch.testing.assert_close(z.grad[2], torch.tensor([5.0, 5.0]))


def test_chains_that_are_the_same_are_computed_once(chains):
    """States of the distinct chains, spread to all nodes, are those of all chains."""
    data = chains.Chains(2, 5, 0.0, True, seed=0)
    assert data.x.shape == (10, 100)
    assert data.row.shape == data.y.shape == (200,)
    x = data.x[data.row].view(2, 20, 5, 100)
    assert x[0, :, 0, 0].eq(1).all()
    assert x[1, :, 0, 1].eq(1).all()
    assert float(x.sum()) == 40.0
    noisy = chains.Chains(2, 5, 0.1, True, seed=0)
    assert noisy.x.shape == (200, 100)
    assert noisy.row.tolist() == list(range(200))
    assert data.test.tolist() == noisy.test.tolist()


def test_reach(chains):
    """Four steps back on 50 nodes: five know, half of the others guess right."""
    data = chains.Chains(2, 50, 0.0, True, seed=0)
    assert data.reach(4) == pytest.approx((5 + 45 / 2) / 50)
    assert data.reach(100) == 1.0


def test_training_stops_before_weights_are_nan(chains, monkeypatch):
    data = chains.Chains(2, 5, 0.0, True, seed=0)
    monkeypatch.setattr(chains, "direction", lambda z: z / z.norm(dim=1, keepdim=True) / 0.0)
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity for .* in step 0"):
        chains.run("gcn", data, 0, 0.0, False, 3)


def test_gradients_are_checked():
    model = nn.Linear(2, 1)
    check_gradients(model, 0)  # none yet
    model(torch.ones(1, 2)).sum().backward()
    check_gradients(model, 0)
    model.bias.grad.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"for 'bias' in step 7\)\. Lower the learning"):
        check_gradients(model, 7)
