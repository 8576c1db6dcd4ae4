"""Stencil cells that converge by construction: certificates against measured norms."""

from __future__ import annotations

import pytest
import torch
from graphs import dense, make_cell, pixel_graphs, weighted_graph
from torch_geometric.data import Data

from gncadeq import ConvCell, GraphDEQ, MonotoneCell
from gncadeq.cells import stencil_bound
from gncadeq.cells.stencil import prepare_neighborhood
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.testing import graph_of
from gncadeq.transforms import ImageToGraph

# MonotoneCell


def relational_graph() -> Data:
    """Directed, with parallel edges and hubs: no pixel graph at all."""
    data = weighted_graph(20)
    data.edge_attr = torch.randint(0, 9, (data.num_edges,))
    return data


@pytest.mark.parametrize("kind", ["full", "periodic", "living", "relational"])
def test_monotone_operator_is_monotone_on_every_graph(kind):
    data = relational_graph() if kind == "relational" else pixel_graphs()[kind]
    cell = make_cell("monotone")
    step = cell.prepare(*graph_of(data))
    operator = dense(step.operator, data.num_nodes, 4).detach()
    least = torch.linalg.eigvalsh((operator + operator.T) / 2)[0]
    assert float(least) >= cell.monotonicity - 1e-10
    hood = prepare_neighborhood(data.edge_index, data.edge_attr, data.num_nodes, 9)
    a, b = (
        dense(hood.stencil(weight), data.num_nodes, 4).detach()
        for weight in cell.operator_weights()
    )
    expected = torch.eye(len(a), dtype=torch.double) + a.T @ a - b + b.T
    torch.testing.assert_close(operator, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("gain", [0.3, 1.0, 30.0])
def test_monotone_certificate_against_the_measured_norm(gain):
    cell = make_cell("monotone")
    with torch.no_grad():
        cell.weight_a.mul_(gain)
        cell.weight_b.mul_(gain)
    bound = float(cell.lipschitz_bound())
    assert bound < 1
    for data in pixel_graphs().values():
        step = cell.prepare(*graph_of(data))
        forward = dense(lambda z: z - step.step_size * step.operator(z), data.num_nodes, 4)  # noqa: B023
        measured = float(torch.linalg.matrix_norm(forward.detach(), 2))
        assert measured <= bound
        assert 1 - bound >= 0.3 * (1 - measured)  # and the bound is not idle
        assert float(cell.lipschitz_bound(data)) == pytest.approx(bound)


@pytest.mark.parametrize("contraction", [0.3, 0.9, 0.99])
def test_monotone_contraction_cannot_be_left(contraction):
    cell = MonotoneCell(2, 3, monotonicity=0.5, contraction=contraction).double()
    with torch.no_grad():
        for gain in (0.01, 1e3):
            cell.weight_a.mul_(gain)
            cell.weight_b.mul_(gain)
            assert float(cell.lipschitz_bound()) <= contraction + 1e-9
    assert float(cell.lipschitz_bound()) >= 0.9 * contraction
    step = cell.prepare(*graph_of(pixel_graphs()["living"]))
    x, y = torch.randn(2, step.drive.size(0), 3, dtype=torch.double)
    assert float((step(x) - step(y)).detach().norm()) <= contraction * float((x - y).norm())


def test_monotone_step_minimises_its_bound():
    m = 0.7
    cell = MonotoneCell(1, 3, monotonicity=m).double()
    a, b = cell.operator_weights()
    square, k = stencil_bound(a).square(), stencil_bound(b - b.flip(0).transpose(1, 2))
    alpha = cell.step_size()

    def rate(alpha):
        return ((1 - alpha * (m + square / 2)) ** 2 + (alpha * k) ** 2).sqrt() + alpha * square / 2

    assert all(rate(alpha) < rate(alpha * s) for s in (0.9, 0.99, 1.01, 1.1))
    textbook = (1 - (m / (m + square + k)) ** 2).sqrt()
    assert rate(alpha) < textbook


def test_monotone_equilibrium_does_not_depend_on_the_step():
    data = pixel_graphs()["living"]
    cell = make_cell("monotone")
    with torch.no_grad():
        z = GraphDEQ(cell, tol=1e-12, max_steps=300)(*graph_of(data))
        step = cell.prepare(*graph_of(data))
        expected = torch.relu(z - step.operator(z) + step.drive)  # ReLU(W z + d)
    torch.testing.assert_close(z, expected, atol=1e-9, rtol=0)
    assert 0.1 < float((z > 0).double().mean()) < 0.9


def test_monotone_equilibrium_is_known_where_nothing_is_cut_off():
    data = pixel_graphs()["full"]
    cell = make_cell("monotone")
    with torch.no_grad():
        cell.weight_b.mul_(0.1)
        cell.weight_x.mul_(0.01)
        cell.weight_a.mul_(0.1)
        cell.bias.fill_(1.0)
        step = cell.prepare(*graph_of(data))
        operator = dense(step.operator, data.num_nodes, 4)
        expected = torch.linalg.solve(operator, step.drive.flatten()).view(-1, 4)
        assert bool((expected > 0).all())
        z = GraphDEQ(cell, tol=1e-12, max_steps=300)(*graph_of(data))
    torch.testing.assert_close(z, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("weights", ["weight_a", "weight_b"])
def test_monotone_step_is_differentiable_to_its_weights(weights):
    """The step size included, which follows the norms."""
    data = ImageToGraph()(torch.rand(2, 3, 3, dtype=torch.double))
    cell = MonotoneCell(2, 2).double()
    z = torch.rand(9, 2, dtype=torch.double)

    def run(weight):
        parameters = {weights: weight}
        return torch.func.functional_call(cell, parameters, (z, *graph_of(data)))

    assert torch.autograd.gradcheck(run, getattr(cell, weights).detach().requires_grad_())


def test_monotone_forms_agree():
    data = ImageToGraph().batch(torch.rand(2, 2, 5, 6, dtype=torch.double))
    cell = make_cell("monotone")
    fast = prepare_neighborhood(data.edge_index, data.edge_attr, data.num_nodes, 9)
    e = fast.incoming
    plain = Neighborhood(
        torch.stack([e.sender, e.receiver]), e.relation, data.num_nodes, 9, kind="csr"
    )
    z = torch.randn(data.num_nodes, 4, dtype=torch.double)
    assert cell.prepare(data.x, fast).kind == "grid"
    torch.testing.assert_close(cell(z, data.x, fast), cell(z, data.x, plain))


# Certificates of graphs that leave out edges


def measured_norm(linear, num_nodes: int, channels: int) -> float:
    return float(torch.linalg.matrix_norm(dense(linear, num_nodes, channels).detach(), 2))


def test_von_neumann_graphs_have_certificates_of_their_own():
    """A stencil that has lost taps may have a larger norm: only the graph's bound tells."""
    data = ImageToGraph(neighborhood="von_neumann")(torch.rand(1, 12, 12, dtype=torch.double))
    corners = torch.tensor([0, 2, 6, 8])
    conv = ConvCell(1, 1, contraction=0.9, scale_spread=0.0).double()
    with torch.no_grad():
        conv.weight_z.fill_(1.0)
        conv.weight_z[4] = 3.0
        conv.weight_z[corners] = -0.5  # symbol at zero: 5 with the corners, 7 without
    step = conv.prepare(*graph_of(data))
    measured = measured_norm(step.stencil, 144, 1)
    assert float(conv.lipschitz_bound()) < 0.91 < measured
    assert measured <= float(conv.lipschitz_bound(data)) <= 1.1 * measured

    cell = MonotoneCell(1, 1).double()
    with torch.no_grad():
        cell.weight_a.copy_(torch.tensor([1.0, 1.0, 1.0, -3.0])[:, None, None])
    step = cell.prepare(*graph_of(data))
    forward = lambda z: z - step.step_size * step.operator(z)  # noqa: E731
    assert measured_norm(forward, 144, 1) <= float(cell.lipschitz_bound(data))
