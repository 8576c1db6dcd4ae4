"""The cell around a conv: bounds, what is computed once, and gradients of the scale."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from conv_table import Works, cell_of, graph, plain, weighted, with_loops
from graphs import dense
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Batch, Data
from torch_geometric.nn.conv import gcn_conv

from gncadeq import GraphDEQ, WrappedConvCell
from gncadeq.cells import growth_rate, proven_bound
from gncadeq.testing import (
    assert_batch_independent,
    assert_deterministic,
    assert_gradients_exact,
    assert_honest_residual,
    assert_one_rule,
)

PROVEN = {
    "gcn": lambda: pyg.GCNConv(4, 4),
    "gcn-no-loops": lambda: pyg.GCNConv(4, 4, add_self_loops=False),
    "gcn-improved": lambda: pyg.GCNConv(4, 4, improved=True),
    "sage": lambda: pyg.SAGEConv(4, 4),
    "tag": lambda: pyg.TAGConv(4, 4),
    "cheb": lambda: pyg.ChebConv(4, 4, 4),
    "sg": lambda: pyg.SGConv(4, 4, 2),
    "ssg": lambda: pyg.SSGConv(4, 4, 0.1, 2),
    "gcn2": lambda: pyg.GCN2Conv(4, 0.1, 0.5, 1),
    "gcn2-two": lambda: pyg.GCN2Conv(4, 0.1, shared_weights=False),
    "lg": lambda: pyg.LGConv(),
    "appnp": lambda: pyg.APPNP(3, 0.1),
}


WEIGHTED = set(PROVEN) - {"sage"}


@pytest.mark.parametrize("name", PROVEN)
def test_proven_bounds_hold(name):
    """Against the matrix of the step, in the norm that the proof is about."""
    data = weighted()
    edge_attr = data.edge_attr if name in WEIGHTED else None
    n = data.num_nodes
    for contraction in (None, 0.7):
        torch.manual_seed(2)
        cell = cell_of(PROVEN[name](), activation=None, contraction=contraction)
        step = cell.prepare(data.x, data.edge_index, edge_attr)
        zero = step(torch.zeros(n, 4, dtype=torch.double)).detach()
        matrix = dense(lambda z, s=step, o=zero: s(z).detach() - o, n, 4)
        if name == "sage":
            root = torch.bincount(data.edge_index[1], minlength=n).sqrt().repeat_interleave(4)
            matrix = root[:, None] * matrix / root
        stretch = float(torch.linalg.matrix_norm(matrix, 2))
        bound = float(cell.lipschitz_bound(Data(data.x, data.edge_index, edge_attr)))
        assert stretch <= bound + 1e-9
        assert stretch >= 0.3 * bound  # a bound that says something
        assert contraction is None or bound <= contraction + 1e-12


def test_no_bound_where_nothing_is_proven():
    data, inf = plain(), float("inf")
    undirected = Data(data.x, data.edge_index)
    directed = Data(data.x, data.edge_index[:, data.edge_index[0] < data.edge_index[1]])
    negative = Data(data.x, data.edge_index, -torch.ones(data.num_edges, dtype=torch.double))
    gcn = cell_of(pyg.GCNConv(4, 4))
    assert float(gcn.lipschitz_bound(undirected)) < 1
    assert float(gcn.lipschitz_bound()) < 1
    assert float(gcn.lipschitz_bound(directed)) == inf
    assert float(gcn.lipschitz_bound(negative)) == inf
    for cell in (
        cell_of(pyg.GATConv(4, 4), attention="state"),
        cell_of(pyg.AGNNConv()),
        cell_of(pyg.GCNConv(4, 4), norm="LayerNorm"),
        cell_of(pyg.GCNConv(4, 4), activation="gelu"),
        cell_of(pyg.GCNConv(4, 4, aggr="max")),
        cell_of(pyg.SAGEConv(4, 4, aggr="max")),
        cell_of(pyg.ChebConv(4, 4, 2, normalization=None)),
    ):
        assert float(cell.lipschitz_bound(undirected)) == inf

    class Mine(pyg.GCNConv):
        """A subclass may do anything."""

    assert proven_bound(Mine(4, 4)) is None


def test_growth_rate_is_the_spectral_radius():
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5])).double()
    basis = torch.randn(3, 3, dtype=torch.double)
    matrix = basis @ matrix @ basis.inverse()
    z, start = torch.zeros(4, 3).double(), torch.ones(4, 3).double()
    component = torch.tensor([0, 0, 1, 1])
    gain = torch.tensor([1.0, 1.0, 2.0, 2.0]).double().unsqueeze(1)
    rate = growth_rate(lambda z: gain * (z @ matrix), z, start, component, 2, steps=40)
    torch.testing.assert_close(rate, torch.tensor([3.0, 6.0]).double(), atol=1e-6, rtol=0)
    assert growth_rate(lambda z: 0 * z, z, start, component, 2, 4).max() < 1e-100
    constant = growth_rate(lambda z: torch.ones(4, 3), z, start, component, 2, 4)
    assert constant.tolist() == [0, 0]


@pytest.mark.parametrize("attention", ["injection", "state"])
@pytest.mark.parametrize("build", [lambda: pyg.GATConv(2, 2), lambda: pyg.GCNConv(2, 2)])
def test_the_gradient_of_the_scale_is_exact(build, attention):
    """Against finite differences, where the scale is active: a proven one follows the weights, a
    measured one is a constant."""
    data = graph(Works(lambda: None), 3)
    torch.manual_seed(0)
    options = {"power_steps": 4, "activation": "tanh", "attention": attention}
    cell = cell_of(build(), channels=2, contraction=0.3, **options)
    step = cell.prepare(data.x, data.edge_index)
    assert float(step.scale.detach().max()) < 1
    deq = GraphDEQ(cell, tol=1e-13, max_steps=200)
    parameters = dict(deq.named_parameters())
    names = [n for n in parameters if "inject" not in n]
    values = [parameters[n].detach().clone().requires_grad_() for n in names]

    def run(*values):
        return torch.func.functional_call(
            deq, dict(zip(names, values, strict=True)), (data.x, data.edge_index)
        )

    assert torch.autograd.gradcheck(run, values, atol=1e-6)


def test_second_order_equals_unrolling():
    data = graph(Works(lambda: None, "attr"), 6)
    cell = cell_of(pyg.GATv2Conv(4, 4, edge_dim=3), activation="tanh", contraction=0.3)
    assert_gradients_exact(GraphDEQ(cell, tol=1e-12), data, order=2, steps=30)
    cell = cell_of(pyg.GCNConv(4, 4), activation="tanh", contraction=0.3)
    assert_gradients_exact(GraphDEQ(cell, tol=1e-12), weighted(), order=2, steps=30)


@pytest.mark.parametrize("build", [lambda: pyg.GCNConv(4, 4), lambda: pyg.GINConv(nn.Linear(4, 4))])
def test_laws_of_the_dynamics(build):
    torch.manual_seed(3)
    deq = GraphDEQ(cell_of(build(), contraction=0.6), tol=1e-10, max_steps=200)
    batch = Batch.from_data_list([plain(), graph(Works(lambda: None), 20, seed=9)])
    assert_one_rule(deq, batch, steps=100)
    assert_honest_residual(deq, batch)
    broken = [plain() for _ in range(3)]
    broken[1].x = broken[1].x * float("nan")
    deq.on_failure = "ignore"
    assert_batch_independent(deq, Batch.from_data_list(broken), step_slack=2)


@pytest.mark.parametrize("build", [lambda: pyg.GCNConv(4, 4), lambda: pyg.GATConv(4, 4)])
def test_converged_graphs_leave_the_batch(build):
    cell = cell_of(build())
    batch = Batch.from_data_list([graph(Works(lambda: None), n) for n in (12, 8, 20)])
    step = cell.prepare(batch.x, batch.edge_index)
    nodes = (batch.batch != 1).nonzero().flatten()
    z = torch.randn(batch.num_nodes, 4, dtype=torch.double)
    torch.testing.assert_close(step.restrict(nodes)(z[nodes]), step(z)[nodes])
    hyper = cell_of(pyg.HypergraphConv(4, 4)).prepare(batch.x, batch.edge_index)
    assert not hasattr(hyper, "restrict")


def test_a_broken_graph_spares_a_conv_with_attention_over_graphs():
    batch = Batch.from_data_list([graph(Works(lambda: None), n) for n in (8, 6, 12)])
    batch.x[3] = float("nan")
    conv = pyg.GPSConv(4, pyg.SAGEConv(4, 4), heads=2)
    deq = GraphDEQ(cell_of(conv, contraction=0.3), tol=1e-9, on_failure="ignore")
    z = deq(batch.x, batch.edge_index, batch=batch.batch)
    z[batch.batch > 0].sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in deq.parameters())
    assert float(deq.cell.inject.weight.grad.norm()) > 0


def test_a_broken_graph_takes_its_context_along():
    entry = Works(lambda: None, "attr", ("node_type", "edge_type"))
    batch = [graph(entry, n, seed=n) for n in (5, 7, 6)]
    batch[1].x[2] = float("nan")
    conv = pyg.HEATConv(4, 4, 2, 3, 4, 3, 4)
    deq = GraphDEQ(cell_of(conv, contraction=0.3), tol=1e-10, on_failure="ignore")
    assert_batch_independent(deq, Batch.from_data_list(batch), step_slack=2)


def test_dropout_is_frozen_for_a_solve():
    data = plain()
    deq = GraphDEQ.from_conv(pyg.GATConv(4, 4, dropout=0.5), 3).double()
    assert_deterministic(deq, data)
    one, two = (deq(data.x, data.edge_index) for _ in range(2))
    assert not torch.equal(one, two)


def test_norms_that_look_at_a_graph_get_the_batch():
    torch.manual_seed(0)
    graphs = Batch.from_data_list([plain(), graph(Works(lambda: None), 12)])
    deq = GraphDEQ(
        cell_of(pyg.GCNConv(4, 4), norm="GraphNorm", contraction=0.3), "picard", tol=1e-9,
        max_steps=500,
    )  # fmt: skip
    assert deq.cell.context == {"edge_weight": "edge", "batch": "batch"}
    assert_batch_independent(deq, graphs, step_slack=2)


@pytest.mark.parametrize("cached", [False, True])
def test_edges_are_normalised_once_a_solve(cached, monkeypatch):
    calls = []
    gcn_norm = gcn_conv.gcn_norm
    monkeypatch.setattr(gcn_conv, "gcn_norm", lambda *a, **k: calls.append(1) or gcn_norm(*a, **k))
    conv = pyg.GCNConv(4, 4, cached=cached)
    deq = GraphDEQ(cell_of(conv), tol=1e-10, max_steps=200)
    for data in (plain(), weighted()):  # another graph: the conv's own cache would be stale
        calls.clear()
        z, solution = deq(data.x, data.edge_index, return_solution=True)
        assert int(solution.num_steps) > 5
        assert len(calls) == 1
        z.sum().backward()
        assert len(calls) == 1
        step = deq.cell.prepare(data.x, data.edge_index)
        expected = step.scale * pyg.GCNConv.forward(_uncached(conv), z, data.edge_index)
        expected = (expected + deq.cell.inject(data.x)).tanh()
        torch.testing.assert_close(step(z), expected)
    assert conv._cached_edge_index is None


def _uncached(conv):
    new = pyg.GCNConv(4, 4).double()
    new.load_state_dict(conv.state_dict())
    return new


def test_caches_of_states_are_not_used():
    data = plain()
    deq = GraphDEQ(cell_of(pyg.SGConv(4, 4, cached=True)), tol=1e-10, max_steps=200)
    assert_gradients_exact(deq, data, steps=300)


def test_identity_start_smooths_the_injection():
    data = plain()
    cell = cell_of(pyg.GCNConv(4, 4, bias=False), activation=None, init="identity")
    z = GraphDEQ(cell, tol=1e-12, max_steps=300)(data.x, data.edge_index)
    smooth = dense(lambda z: pyg.LGConv()(z, *with_loops(data)), data.num_nodes, 1)
    eye = torch.eye(data.num_nodes, dtype=torch.double)
    expected = torch.linalg.solve(eye - 0.9 * smooth, cell.inject(data.x))
    torch.testing.assert_close(z, expected, atol=1e-9, rtol=0)
    cell.reset_parameters()
    assert torch.equal(cell.conv.lin.weight, torch.eye(4).double())


def test_the_injection_is_drawn_once():
    cell, other = WrappedConvCell(pyg.GCNConv(4, 4), 3), pyg.GCNConv(4, 4)
    torch.manual_seed(0)
    cell.reset_parameters()
    torch.manual_seed(0)
    other.reset_parameters()
    assert torch.equal(cell.conv.lin.weight, other.lin.weight)
    assert torch.equal(cell.inject.weight, nn.init.xavier_uniform_(torch.empty(4, 3)))


@pytest.mark.parametrize("attention", [False, True])
def test_a_broken_hypergraph_spares_the_others(attention):
    """Hyperedges have numbers of their own, which are no nodes'."""
    torch.manual_seed(0)
    dropout = 1e-12 if attention else 0.0  # which keeps the broken graph in the batch, emptied
    conv = pyg.HypergraphConv(4, 4, use_attention=attention, dropout=dropout)
    cell = WrappedConvCell(conv, 3, activation="tanh", contraction=0.5).double()
    deq = GraphDEQ(cell, tol=1e-11, max_steps=300, on_failure="ignore")
    sizes, hyperedges = (5, 7, 4), (9, 12, 3)
    x = [torch.randn(n, 3, dtype=torch.double) for n in sizes]
    ends = [
        torch.stack([torch.randint(0, n, (3 * n,)), torch.randint(0, m, (3 * n,))])
        for n, m in zip(sizes, hyperedges, strict=True)
    ]
    weight = [torch.rand(m, dtype=torch.double) for m in hyperedges]
    attr = [torch.randn(m, 4, dtype=torch.double) for m in hyperedges]
    for value in (x, weight, attr):
        value[1] = torch.full_like(value[1], float("nan"))

    def gradients(graphs: list[int]) -> list[torch.Tensor]:
        nodes, edges, index = 0, 0, []
        for k in graphs:
            index.append(ends[k] + torch.tensor([[nodes], [edges]]))
            nodes, edges = nodes + sizes[k], edges + hyperedges[k]
        context = {"hyperedge_weight": torch.cat([weight[k] for k in graphs])}
        if attention:
            context["hyperedge_attr"] = torch.cat([attr[k] for k in graphs])
        batch = torch.cat([torch.full((sizes[k],), i) for i, k in enumerate(graphs)])
        given = torch.cat([x[k] for k in graphs]).requires_grad_()
        z = deq(given, torch.cat(index, 1), None, batch, **context)
        fine = torch.cat([torch.full((sizes[k],), k != 1) for k in graphs])
        loss = z[fine].square().sum()
        parameters = [p for p in cell.parameters() if p.requires_grad]
        given_grad, *rest = torch.autograd.grad(loss, [given, *parameters])
        return [given_grad[fine], *rest]

    for mine, alone in zip(gradients([0, 1, 2]), gradients([0, 2]), strict=True):
        torch.testing.assert_close(mine, alone, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("build", [lambda: pyg.GCNConv(4, 4), lambda: pyg.GATConv(4, 4)])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_solves_once_more_and_not_for_every_product(build, reentrant):
    data, calls = plain(), []
    deq = GraphDEQ(cell_of(build(), contraction=0.9, attention="state"), tol=1e-10, max_steps=200)
    deq.cell.conv.register_forward_hook(lambda *_: calls.append(1))
    x = data.x.clone().requires_grad_()

    def gradients(call) -> tuple[list, int, int]:
        calls.clear()
        z = call()
        forward = len(calls)
        found = torch.autograd.grad(z.square().sum(), [x, *deq.parameters()])
        return found, forward, len(calls) - forward

    expected, forward, _ = gradients(lambda: deq(x, data.edge_index))
    if reentrant:  # which has no gradients by name
        z = checkpoint(deq, x, data.edge_index, use_reentrant=True)
        z.square().sum().backward()
        torch.testing.assert_close([x.grad, *(p.grad for p in deq.parameters())], list(expected))
        return
    found, _, backward = gradients(lambda: checkpoint(deq, x, data.edge_index, use_reentrant=False))
    torch.testing.assert_close(found, expected)
    if isinstance(deq.cell.conv, pyg.GCNConv):  # whose scale isn't measured by derivatives
        assert backward <= forward + 2
