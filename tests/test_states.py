"""Several states: the laws on their rows, and what a user gives and gets."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import (
    HeteroConv,
    ResGatedGraphConv,
)
from toys import SOLVERS
from typed import (
    CELLS,
    CITES,
    HAS,
    IN,
    OF,
    WIDTH,
    arguments,
    flat,
    flat_batch,
    graphs,
    make_cell,
    typed_graph,
)

from gncadeq import (
    GraphDEQ,
    NodeEdgeCell,
    RelationCell,
    Status,
)
from gncadeq.graph.layout import StateLayout
from gncadeq.testing import (
    assert_batch_independent,
    assert_deterministic,
    assert_gradients_close,
    assert_gradients_exact,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
)

# The laws, on rows


@pytest.mark.parametrize("name", CELLS)
def test_permutation_and_locality_laws(name):
    cell = make_cell(name)
    data = flat(cell, graphs(cell)[0])
    # The place of a row in its tensor is its order: any permutation of rows is one of entries.
    assert_permutation_equivariant(cell, data)
    if name not in ("sage", "gat"):  # whose scale is that of a component
        assert_local(cell, data)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_batch_law(name, solver):
    cell = make_cell(name)
    deq = GraphDEQ(cell, solver, tol=1e-9, max_steps=300)
    assert_batch_independent(deq, flat_batch(cell), step_slack=1)


@pytest.mark.parametrize("name", CELLS)
def test_one_rule_honest_residual_and_determinism_laws(name):
    cell = make_cell(name)
    deq = GraphDEQ(cell, tol=1e-10, max_steps=300)
    batch = flat_batch(cell)
    assert_one_rule(deq, batch, steps=150)
    assert_honest_residual(deq, batch)
    assert_honest_residual(
        GraphDEQ(cell, "picard", tol=1e-12, max_steps=3, on_failure="ignore"), batch
    )
    assert_deterministic(GraphDEQ(cell, start="normal", tol=1e-6), batch)


@pytest.mark.parametrize(
    ("name", "solver"),
    [*((name, "anderson") for name in CELLS), ("relation", "picard"), ("gated", "broyden")],
)
def test_gradient_law(name, solver):
    cell = make_cell(name)
    deq = GraphDEQ(cell, solver, tol=1e-11, max_steps=400)
    batch = flat_batch(cell)
    assert_gradients_exact(deq, batch, steps=100)
    assert_gradients_exact(deq, batch, nodes=torch.tensor([1, 8]), scale=1e-6, steps=100)


# What a user gives and gets


def gradients(dynamics, data, batched=False, order: int = 1):
    """Through the dictionaries, to injections and all parameters, those of the projection too."""
    x, edge_index, edge_attr, batch = arguments(dynamics.cell, data, batched)
    x = {name: value.clone().requires_grad_() for name, value in x.items()}
    inputs = [*x.values(), *dynamics.parameters()]
    z = dynamics(x, edge_index, edge_attr, batch)
    value = sum((k + 1) * v.pow(2).sum() for k, v in enumerate(z.values()))
    for k in range(order):
        found = torch.autograd.grad(value, inputs, create_graph=k + 1 < order, allow_unused=True)
        if k + 1 < order:
            value = sum(g.pow(2).sum() for g in found if g is not None)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_dictionaries_are_those_of_the_automaton(name, order):
    cell = make_cell(name)
    batch = Batch.from_data_list(graphs(cell)[:2])
    deq = GraphDEQ(cell, tol=1e-11, max_steps=400)
    mine = gradients(deq, batch, True, order)
    assert all(float(g.norm()) > 0 for g in mine[:2])
    rtol = 1e-6 if order == 1 else 1e-5
    unrolled = gradients(deq.as_nca(steps=120), batch, True, order)
    assert_gradients_close(mine, unrolled, rtol, atol=1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_a_graph_in_a_batch_gets_the_states_it_gets_alone(name):
    cell = make_cell(name)
    deq = GraphDEQ(cell, tol=1e-11, max_steps=300)
    each = graphs(cell)
    batch = Batch.from_data_list(each)
    with torch.no_grad():
        z, solution = deq(*arguments(cell, batch, True), return_solution=True)
        alone = [deq(*arguments(cell, data)) for data in each]
    assert solution.num_graphs == 3
    assert {n: list(v.shape)[1] for n, v in z.items()} == cell.state_channels
    for kind, value in z.items():
        joined = torch.cat([one[kind] for one in alone])
        torch.testing.assert_close(value, joined, atol=1e-8, rtol=0)


def test_relation_cell_has_the_known_equilibrium():
    """With the identity for activation, z* = (I - M)^-1 d, all states together."""
    torch.manual_seed(0)
    data = typed_graph()
    edges = [CITES, HAS, OF]
    cell = RelationCell(IN, WIDTH, edges, kappa=0.9, activation="identity").double()
    z = GraphDEQ(cell, tol=1e-13, max_steps=500)(data.x_dict, data.edge_index_dict)
    scale = min(1.0, 0.9 / float(torch.linalg.matrix_norm(cell._norms().detach(), 2)))
    size = {"a": 7 * 5, "b": 4 * 3}
    matrix = {(t, s): torch.zeros(size[t], size[s], dtype=torch.double) for t in size for s in size}
    for k, (name, channels) in enumerate(WIDTH.items()):
        eye = torch.eye(size[name] // channels, dtype=torch.double)
        matrix[name, name] += torch.kron(eye, cell.weight_own[k].detach())
    for relation, weight in zip(edges, cell.weight, strict=True):
        s, _, t = relation
        adjacency = torch.zeros(data[t].num_nodes, data[s].num_nodes, dtype=torch.double)
        source, target = data[relation].edge_index
        adjacency.index_put_((target, source), torch.ones(1, dtype=torch.double), accumulate=True)
        norm = adjacency.sum(1, keepdim=True) * adjacency.sum(0)
        adjacency /= torch.where(norm > 0, norm, 1).sqrt()
        matrix[t, s] += torch.kron(adjacency, weight.detach())
    full = scale * torch.cat([torch.cat([matrix[t, s] for s in size], 1) for t in size])
    assert float(torch.linalg.matrix_norm(full, 2)) <= float(cell.lipschitz_bound()) + 1e-12
    drive = torch.cat([cell._drive(data.x_dict)[n].flatten() for n in size])
    exact = torch.linalg.solve(torch.eye(47, dtype=torch.double) - full, drive)
    torch.testing.assert_close(
        torch.cat([z["a"].flatten(), z["b"].flatten()]), exact, atol=1e-10, rtol=0
    )


@pytest.mark.parametrize(("name", "norm"), [("relation", 2), ("gated", float("inf"))])
def test_certificates_hold(name, norm):
    """No two states are stretched by more than the bound, however large the parameters."""
    cell = make_cell(name)
    with torch.no_grad():
        for p in cell.parameters():
            p.mul_(30)
    data = flat(cell, graphs(cell)[0])
    bound = float(cell.lipschitz_bound())
    assert bound <= cell.kappa + 1e-12
    step = cell.prepare(data.x * 0.01, data.edge_index, data.edge_attr, **{
        n: data[n] for n in cell.context
    })  # fmt: skip
    layout, worst = StateLayout(data.node_type, cell.state_channels), 0.0
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(60):
            z = torch.rand(data.num_nodes, cell.channels, dtype=torch.double) * 2 - 1
            z = layout.pack(layout.unpack(z))
            w = (z + size * torch.randn_like(z)).clamp(-1, 1)
            w = layout.pack(layout.unpack(w))
            change = torch.linalg.vector_norm(step(z) - step(w), norm).detach()
            worst = max(worst, float(change / torch.linalg.vector_norm(z - w, norm)))
    assert 0.02 < worst <= bound + 1e-9


def test_gates_open_and_close():
    """The gate's known answer: fully open it passes the mean of neighbours, closed nothing."""
    cell = NodeEdgeCell({"node": 1, "edge": 1}, 1, kappa=0.5).double()
    edge_index = torch.tensor([[0, 1], [2, 2]])
    with torch.no_grad():
        for p in cell.parameters():
            p.zero_()
        cell.weight["message"].fill_(0.2)
        cell.weight["gate"].fill_(4.0)
    z = {"node": torch.tensor([[0.2], [0.6], [0.0]]).double()}
    x = {"node": torch.zeros(3, 1).double(), "edge": torch.zeros(2, 1).double()}
    for state, passed in ((1.0, 0.98201379), (0.0, 0.5), (-1.0, 0.01798621)):
        z["edge"] = torch.full((2, 1), state).double()
        out = cell(z, x, edge_index)["node"][2, 0]
        expected = torch.tensor(passed * 0.2 * 0.4, dtype=torch.double).tanh()
        torch.testing.assert_close(out, expected, atol=1e-8, rtol=0)


def test_a_rule_of_a_homogeneous_graph_is_that_of_one_type():
    """HeteroConv with one type does what the conv does, where both are measured."""
    torch.manual_seed(0)
    conv = ResGatedGraphConv(4, 4)
    hetero = HeteroConv({CITES: conv})
    a = GraphDEQ.from_conv(conv, 3, contraction=0.8, tol=1e-6)
    b = GraphDEQ.from_conv(hetero, {"a": 3}, contraction=0.8, tol=1e-6)
    b.cell.inject[0].load_state_dict(a.cell.inject.state_dict())
    x, edge_index = torch.randn(5, 3), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    torch.testing.assert_close(b({"a": x}, {CITES: edge_index})["a"], a(x, edge_index))


def test_batches_with_a_failing_graph():
    """A NaN stays in its graph, with its gradient: the projection's, too."""
    cell = make_cell("relation")
    each = graphs(cell)
    each[1]["a"].x[0, 0] = float("nan")
    batch = Batch.from_data_list(each)
    deq = GraphDEQ(cell, tol=1e-9, max_steps=200, on_failure="ignore")
    z, solution = deq(*arguments(cell, batch, True), return_solution=True)
    names = [Status(int(s)).name for s in solution.status]
    assert names == ["CONVERGED", "NON_FINITE", "CONVERGED"]
    mine = batch["a"].batch == 2
    z["a"][mine].pow(2).sum().backward()
    found = [p.grad.clone() for p in cell.parameters()]
    cell.zero_grad()
    deq(*arguments(cell, each[2]))["a"].pow(2).sum().backward()
    assert_gradients_close(found, [p.grad for p in cell.parameters()], rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_weights_does_not_matter(scale):
    """Normalised by degrees, also where the product of two is no number of 32 bits."""
    data, cell = typed_graph(), make_cell("relation").float()
    x = {name: value.float() for name, value in data.x_dict.items()}
    weight = data[CITES].edge_attr.float()
    z, scaled = (GraphDEQ(cell, tol=1e-6)(x, data.edge_index_dict, {CITES: w})
                 for w in (weight, weight * scale))  # fmt: skip
    torch.testing.assert_close(scaled["a"], z["a"], rtol=1e-4, atol=1e-4)


def test_layout_is_its_own_inverse():
    kind = torch.tensor([1, 0, 2, 0, 1, 1])
    layout = StateLayout(kind, {"a": 2, "b": 3, "c": 1})
    z = {"a": torch.rand(2, 2), "b": torch.rand(3, 3), "c": torch.rand(1, 1)}
    rows = layout.pack(z)
    for name, value in layout.unpack(rows).items():
        assert torch.equal(value, z[name])
    for name, row in layout.rows().items():
        assert torch.equal(rows[row, : layout.channels[name]], z[name])
    assert layout.positions().tolist() == [0, 0, 0, 1, 1, 2]
    kept = layout.restrict(torch.tensor([1, 4, 5])).unpack(rows[[1, 4, 5]])
    assert torch.equal(kept["b"], z["b"][1:])
