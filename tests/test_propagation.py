"""Personalised PageRank: known answers, PyG's APPNP, certificates.

The laws are in test_cells.py."""

from __future__ import annotations

import pytest
import torch
from graphs import dense, weighted_graph
from torch_geometric.data import Batch, Data
from torch_geometric.nn import APPNP
from torch_geometric.utils import to_undirected

from gncadeq import GraphDEQ, GraphNCA, PropagationCell
from gncadeq.dynamics import Partition
from gncadeq.graph.adjacency import WeightedAdjacency


def undirected(num_nodes: int = 30) -> Data:
    data = weighted_graph(num_nodes)
    loops = data.edge_index[0] == data.edge_index[1]
    edge_index = to_undirected(data.edge_index[:, ~loops], num_nodes=num_nodes)
    return Data(x=data.x, edge_index=edge_index)


def matrix(cell: PropagationCell, data: Data) -> torch.Tensor:
    """The matrix of the step."""
    step = cell.prepare(torch.zeros_like(data.x), data.edge_index, data.edge_attr)
    return dense(step, data.num_nodes, 2)


@pytest.mark.parametrize("normalization", ["sym", "row", "metropolis"])
def test_the_equilibrium_is_the_inverse(normalization):
    data = weighted_graph(20)  # directed, with weights of both signs
    cell = PropagationCell(2, 0.3, normalization)
    deq = GraphDEQ(cell, tol=1e-12, max_steps=200)
    z = deq(data.x, data.edge_index, data.edge_attr)
    a = matrix(cell, data)
    expected = torch.linalg.solve(torch.eye(40).double() - a, 0.3 * data.x.flatten())
    torch.testing.assert_close(z.flatten(), expected, atol=1e-10, rtol=0)


def test_a_rollout_from_the_input_is_appnp():
    data = undirected()
    nca = GraphNCA(PropagationCell(2, 0.1), steps=10)
    z = nca(data.x, data.edge_index, z0=data.x)
    torch.testing.assert_close(z, APPNP(K=10, alpha=0.1)(data.x, data.edge_index))
    ppnp = GraphDEQ(PropagationCell(2, 0.1), tol=1e-10, max_steps=200)
    many = APPNP(K=300, alpha=0.1)(data.x, data.edge_index)
    torch.testing.assert_close(ppnp(data.x, data.edge_index), many, atol=1e-8, rtol=0)


def test_averages_keep_constants():
    data = undirected()
    ppnp = GraphDEQ(PropagationCell(2, normalization="row"), tol=1e-8)
    ones = torch.ones_like(data.x)
    torch.testing.assert_close(ppnp(ones, data.edge_index), ones)


def test_metropolis_weights_keep_the_mean_of_each_component():
    torch.manual_seed(0)
    parts = [undirected(n) for n in (20, 9)]
    batch = Batch.from_data_list(parts)
    weight = torch.rand(batch.num_edges, dtype=torch.double)
    for edge_attr in (None, coalesce_both_ways(batch.edge_index, weight)):
        cell = PropagationCell(2, 0.01, "metropolis")
        adjacency = WeightedAdjacency(batch.edge_index, edge_attr, 29, like=batch.x)
        p, v = adjacency.with_self_loops().normalized("metropolis")
        p = dense(p, 29, 1)
        torch.testing.assert_close(p, p.T)
        assert float(p.min()) >= 0
        torch.testing.assert_close(p.sum(1), torch.ones(29).double())
        assert torch.equal(v, torch.ones(29).double())
        deq = GraphDEQ(cell, tol=1e-10, max_steps=400)
        z, solution = deq(batch.x, batch.edge_index, edge_attr, batch.batch, return_solution=True)
        label, count = adjacency.components()
        for part in range(count):
            torch.testing.assert_close(z[label == part].mean(0), batch.x[label == part].mean(0))
        assert float(solution.error_bound.max()) < 1e-7


def coalesce_both_ways(edge_index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weights that are the same along both directions of every edge."""
    low, high = edge_index.amin(0), edge_index.amax(0)
    pair = low * (int(high.max()) + 1) + high
    _, number = pair.unique(return_inverse=True)
    return weight[number]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 0.01])
def test_metropolis_weights_contract_the_largest_entry(directed, alpha):
    """In every order of updates, on weights of any sign, from distant states."""
    for seed in range(5):
        torch.manual_seed(seed)
        data = weighted_graph(12) if directed else undirected(12)
        cell = PropagationCell(2, alpha, "metropolis")
        certificate = cell.certificate(data.edge_index, data.edge_attr, num_nodes=12)
        assert certificate.rate == pytest.approx(1 - alpha)
        rows = matrix(cell, data).abs().sum(1)
        assert float(rows.max()) <= 1 - alpha + 1e-12
        step = cell.prepare(data.x, data.edge_index, data.edge_attr)
        a, b = (10.0**k * torch.randn(12, 2).double() for k in (3, -2))
        partition = Partition(None, 12)
        for _ in range(20):
            mask = (torch.rand(12, 1) < 0.5).double()
            gap = certificate.norm(a - b, partition)
            a, b = (z + mask * (step(z) - z) for z in (a, b))
            assert float(certificate.norm(a - b, partition)) <= float(gap) * (1 + 1e-12)
        whole = certificate.norm(step(a) - step(b), partition)
        assert float(whole) <= (1 - alpha) * float(certificate.norm(a - b, partition)) + 1e-12


def test_the_bound_holds():
    cell = PropagationCell(2, 0.2)
    assert float(cell.lipschitz_bound()) == pytest.approx(0.8)
    for data in (undirected(), weighted_graph(15)):
        radius = float(torch.linalg.eigvals(matrix(cell, data)).abs().max())
        assert 0.3 < radius <= 0.8 + 1e-9
    stretch = float(torch.linalg.matrix_norm(matrix(cell, undirected()), 2))
    assert stretch == pytest.approx(0.8)  # the Perron vector shrinks by just that


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "'channels' to be"),
        ({"channels": 2, "alpha": 1.0}, r"'alpha' to be .*"),
        ({"channels": 2, "alpha": 0.0}, r"'alpha' to be .*"),
        ({"channels": 2, "normalization": "left"}, "'sym', 'row' or 'metropolis'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        PropagationCell(**options)


def test_the_width_is_checked():
    with pytest.raises(ValueError, match=r"\[num_nodes, in_channels\] = \[\*, 3\]"):
        GraphDEQ(PropagationCell(3))(torch.rand(2, 2), torch.tensor([[0], [1]]))
