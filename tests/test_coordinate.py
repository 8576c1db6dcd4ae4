"""Coordinate networks at equilibrium."""

from __future__ import annotations

import math

import pytest
import torch
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ
from gncadeq.cells import CoordinateCell
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_exact,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
)

FILTERS = ("fourier", "gabor", "siren")


def places(num_nodes: int = 9, seed: int = 0) -> Data:
    """A random undirected graph with weights, and places in a square."""
    g = torch.Generator().manual_seed(seed)
    pair = torch.triu_indices(num_nodes, num_nodes, 1)
    pair = pair[:, torch.rand(pair.size(1), generator=g) < 0.4]
    weight = torch.rand(pair.size(1), dtype=torch.double, generator=g)
    x = 2 * torch.rand(num_nodes, 2, dtype=torch.double, generator=g) - 1
    return Data(x=x, edge_index=torch.cat([pair, pair.flip(0)], 1), edge_attr=weight.repeat(2))


def made(name: str, **options) -> CoordinateCell:
    torch.manual_seed(1)
    return CoordinateCell(2, 4, name, frequency=2.0, kappa=0.8, **options).double()


@pytest.mark.parametrize("name", FILTERS)
def test_the_step_is_its_equation(name):
    cell, data = made(name), places()
    z = torch.randn(9, 4, dtype=torch.double)
    found = cell.prepare(data.x, data.edge_index, data.edge_attr)(z)
    matrix = torch.zeros(9, 9, dtype=torch.double)
    matrix[data.edge_index[1], data.edge_index[0]] = data.edge_attr
    root = matrix.sum(1).sqrt()
    w, b = cell.state_weights()
    heard = (matrix / root[:, None] / root) @ z @ b.t()
    inside = z @ w.t() + heard + cell.bias
    angle = data.x @ cell.wave.t() + cell.phase
    expected = (inside + angle).sin() if name == "siren" else angle.sin() * inside
    if name == "gabor":
        away = (data.x[:, None] - cell.center).square().sum(2)
        expected = expected * torch.exp(-0.5 * cell.width.square() * away)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", FILTERS)
def test_laws(name):
    cell, data = made(name), places()
    assert_permutation_equivariant(cell, data)
    assert_local(cell, data)
    deq = GraphDEQ(cell, tol=1e-11, max_steps=500)
    batch = Batch.from_data_list([places(6, 1), places(9, 2)])
    assert_batch_independent(deq, batch)
    assert_honest_residual(deq, batch)
    assert_one_rule(deq, data)
    assert_gradients_exact(deq, data)


@pytest.mark.parametrize("neighbors", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_the_certificate_bounds_every_step(name, neighbors):
    cell = made(name, neighbors=neighbors)
    for seed in range(5):
        with torch.no_grad():
            for p in cell.parameters():
                p.normal_(0, 2)
        data = places(12, seed)
        certificate = cell.certificate(data.edge_index, data.edge_attr, num_nodes=12)
        assert certificate.rate <= 0.8 + 1e-12
        step = cell.prepare(data.x, data.edge_index, data.edge_attr)
        z = torch.randn(12, 4, dtype=torch.double)
        jacobian = torch.autograd.functional.jacobian(step, z).view(48, 48)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= certificate.rate + 1e-9


def test_directed_edges_have_no_certificate():
    one_way = torch.tensor([[0, 1], [1, 2]])
    assert made("fourier").certificate(one_way, num_nodes=3) is None
    alone = made("fourier", neighbors=False)
    assert alone.certificate(one_way, num_nodes=3).promises


def test_without_neighbours_edges_are_not_looked_at():
    cell, data = made("siren", neighbors=False), places()
    z = GraphDEQ(cell, tol=1e-12, max_steps=300)(data.x, data.edge_index)
    alone = GraphDEQ(cell, tol=1e-12, max_steps=300)(data.x[3:4], data.edge_index[:, :0])
    torch.testing.assert_close(z[3:4], alone)


def test_frequencies_are_in_half_periods():
    torch.manual_seed(0)
    cell = CoordinateCell(2, 4000, frequency=16.0)
    assert math.isclose(float(cell.wave.detach().std()), 16 * math.pi / 2, rel_tol=0.05)


@pytest.mark.parametrize(
    "options", [{"filter": "sine"}, {"kappa": 1.0}, {"frequency": 0.0}, {"channels": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"'{next(iter(options))}'"):
        CoordinateCell(**{"in_channels": 2, "channels": 3, **options})
    with pytest.raises(TypeError, match="'neighbors' to be True or False"):
        CoordinateCell(2, 3, neighbors="no")
