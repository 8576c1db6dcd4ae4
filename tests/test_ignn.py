"""Weighted adjacencies and the IGNN cell: certificates against measured norms, known answers."""

from __future__ import annotations

import pytest
import torch
from graphs import dense, weighted_graph
from torch_geometric.data import Batch

from gncadeq import GraphDEQ, IGNNCell
from gncadeq.cells import WeightedAdjacency
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.testing import graph_of

# WeightedAdjacency


def test_adjacency_is_the_dense_matrix_and_its_derivatives():
    data = weighted_graph(6)
    z = torch.randn(6, 2, dtype=torch.double, requires_grad=True)
    weight = data.edge_attr.requires_grad_()

    def run(z, weight):
        return WeightedAdjacency(data.edge_index, weight, 6)(z)

    matrix = torch.zeros(6, 6, dtype=torch.double)
    matrix.index_put_((data.edge_index[1], data.edge_index[0]), weight.detach(), accumulate=True)
    torch.testing.assert_close(run(z, weight), matrix @ z)
    assert torch.autograd.gradcheck(run, (z, weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (z, weight))
    assert WeightedAdjacency(data.edge_index[:, :0], None, 6)(z.detach()).eq(0).all()


@pytest.mark.parametrize("how", ["sym", "row"])
def test_normalised_directed_graphs_have_spectral_radius_one(how):
    data = weighted_graph(25)
    adjacency, v = WeightedAdjacency(data.edge_index, data.edge_attr, 25).with_self_loops(
    ).normalized(how)  # fmt: skip
    size = adjacency.with_weight(adjacency.weight.abs())
    matrix = dense(size, 25, 1)
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(matrix @ v, v)


def test_perron_bound_is_certified_at_every_step_and_tight():
    edges = torch.tensor([[0] * 9 + list(range(1, 10)), list(range(1, 10)) + [0] * 9])
    star = weighted_graph(10)
    star.edge_index, star.edge_attr = edges, torch.ones(18, dtype=torch.double)
    batch = Batch.from_data_list([weighted_graph(30), star])
    adjacency = WeightedAdjacency(batch.edge_index, batch.edge_attr, batch.num_nodes)
    matrix = dense(adjacency.with_weight(adjacency.weight.abs()), batch.num_nodes, 1)
    label, count = adjacency.components()
    assert count == 3  # the random graph, its lonely node, the star
    before = None
    for steps in (0, 1, 3, 10, 30):
        v, bound = adjacency.perron(steps)
        assert bool((v > 0).all())
        assert bool((matrix @ v <= bound * v + 1e-12).all())
        for k in range(count):
            mine = label == k
            radius = float(torch.linalg.eigvals(matrix[mine][:, mine]).abs().max())
            assert bound[mine].min() == bound[mine].max()
            assert float(bound[mine][0]) >= radius - 1e-12
            if steps == 30:
                assert float(bound[mine][0]) <= 1.02 * radius
        assert before is None or bool((bound <= before + 1e-12).all())
        before = bound
    assert float(bound[-1]) == pytest.approx(3.0, rel=1e-6)  # √9: the largest row sum says 9


# IGNNCell


@pytest.mark.parametrize("normalization", ["sym", "row", None])
def test_ignn_certificate_against_the_measured_norm(normalization):
    """In the norm of the Perron vector, after training steps of any size."""
    data = weighted_graph(15)
    cell = IGNNCell(2, 3, kappa=0.9, activation="identity", normalization=normalization).double()
    for gain in (0.5, 100.0):
        with torch.no_grad():
            cell.weight_z.mul_(gain).add_(gain * torch.randn(3, 3))
        step = cell.prepare(*graph_of(data))
        matrix = dense(lambda z: step(z) - step.drive, 15, 3).detach()  # noqa: B023
        v = cell.perron_vector(data).repeat_interleave(3)
        measured = float(((matrix.abs() @ v) / v).max())
        bound = float(cell.lipschitz_bound(data))
        assert measured <= bound + 1e-12
        assert measured >= 0.98 * bound
        assert bound <= float(cell.lipschitz_bound()) <= 0.9 + 1e-12


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_a_fresh_ignn_hears_the_far_end_of_a_chain(activation):
    """W = κ I: the row-normalised chain passes κ/2 of a state on and keeps κ/2 of its own."""
    length, kappa = 200, 0.9
    edge_index = torch.stack([torch.arange(length - 1), torch.arange(1, length)])
    cell = IGNNCell(1, 3, kappa, activation, normalization="row", bias=False).double()
    torch.testing.assert_close(cell.state_weight(), kappa * torch.eye(3, dtype=torch.double))
    with torch.no_grad():
        cell.weight_x.fill_(1e-3)
    x = torch.zeros(length, 1, dtype=torch.double)
    x[0] = 1.0
    z = GraphDEQ(cell, criterion="node", solver="picard", tol=1e-6, max_steps=4000)(x, edge_index)
    fade = 0.5 * kappa / (1 - 0.5 * kappa)  # from node to node, in the linear range
    first = 1e-3 / (1 - kappa) if activation != "tanh" else z[0, 0].detach()
    expected = first * fade ** torch.arange(length, dtype=torch.double)
    rtol = 1e-4 if activation != "tanh" else 1e-2
    torch.testing.assert_close(z, expected[:, None].expand(-1, 3), rtol=rtol, atol=0)


@pytest.mark.parametrize("start", ["identity", "signs", "positive"])
def test_why_a_fresh_ignn_starts_at_the_identity(start):
    """Five one-hot heads of chains of 100: what is left of each, and of what tells them apart."""
    torch.manual_seed(0)
    classes, length = 5, 100
    cell = IGNNCell(classes, 16, kappa=0.9, bias=False).double()
    with torch.no_grad():
        if start != "identity":
            cell.weight_z.uniform_(-1.0 if start == "signs" else 0.0, 1.0)
    node = torch.arange(classes * length).view(classes, length)
    edge_index = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
    x = torch.zeros(classes * length, classes, dtype=torch.double)
    x[node[:, 0], torch.arange(classes)] = 1.0
    options = {"criterion": "node", "solver": "picard", "tol": 1e-4, "max_steps": 2000}
    with torch.no_grad():
        z = GraphDEQ(cell, **options)(x, edge_index).view(classes, length, 16)
    fade = (z[:, -1].norm(dim=1) / z[:, 0].norm(dim=1)) ** (1 / (length - 1))
    unit = z / z.norm(dim=2, keepdim=True)
    apart = [float(torch.pdist(unit[:, i]).min()) for i in (0, 10, length - 1)]
    if start == "identity":
        assert float(fade.min()) > 0.8
        assert apart[-1] == pytest.approx(apart[0], rel=1e-3)
    elif start == "signs":
        assert float(fade.max()) < 0.2
    else:
        assert apart[1] < 1e-9 * apart[0]


def test_ignn_is_sharper_on_a_graph_of_small_weights():
    data = weighted_graph(15)
    data.edge_attr = 0.05 * data.edge_attr
    cell = IGNNCell(2, 3, kappa=0.9, normalization=None).double()
    assert float(cell.lipschitz_bound(data)) < 0.5 * float(cell.lipschitz_bound())


@pytest.mark.parametrize("injection", ["node", "neighbors"])
def test_ignn_linear_equilibrium_is_known(injection):
    """Without activation, vec(z) = (I - Â ⊗ W)⁻¹ vec(d), d = x Uᵀ + b or Â x Uᵀ + b."""
    data = weighted_graph(12)
    cell = IGNNCell(2, 3, activation="identity", injection=injection).double()
    with torch.no_grad():
        cell.weight_z.uniform_(-0.6, 0.6)
        cell.bias.uniform_(-1, 1)
    adjacency, _ = WeightedAdjacency(data.edge_index, data.edge_attr, 12).with_self_loops(
    ).normalized("sym")  # fmt: skip
    operator = torch.kron(dense(adjacency, 12, 1), cell.state_weight().detach())
    drive = (data.x @ cell.weight_x.T).detach()
    if injection == "neighbors":
        drive = dense(adjacency, 12, 1) @ drive
    drive = drive + cell.bias.detach()
    identity = torch.eye(36, dtype=torch.double)
    expected = torch.linalg.solve(identity - operator, drive.flatten()).view(12, 3)
    z = GraphDEQ(cell, tol=1e-12, max_steps=300)(*graph_of(data))
    torch.testing.assert_close(z, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("normalization", ["sym", "row", None])
def test_ignn_is_differentiable_to_edge_weights(normalization):
    data = weighted_graph(6)
    cell = IGNNCell(2, 2, kappa=0.7, activation="tanh", normalization=normalization).double()
    deq = GraphDEQ(cell, tol=1e-13, max_steps=300)
    run = lambda weight: deq(data.x, data.edge_index, weight)  # noqa: E731
    assert torch.autograd.gradcheck(run, data.edge_attr.requires_grad_(), atol=1e-6)


def test_ignn_without_weights_and_from_a_neighborhood():
    data = weighted_graph(8)
    cell = IGNNCell(2, 3).double()
    z = torch.randn(8, 3, dtype=torch.double)
    plain = cell(z, data.x, data.edge_index)
    ones = torch.ones(data.num_edges, 1, dtype=torch.double)
    torch.testing.assert_close(cell(z, data.x, data.edge_index, ones), plain)
    hood = Neighborhood(data.edge_index, torch.zeros(data.num_edges).long(), 8, 1)
    torch.testing.assert_close(cell(z, data.x, hood), plain)
    with pytest.raises(ValueError, match="Pass the edge indices"):
        cell(z, data.x, hood, ones)
