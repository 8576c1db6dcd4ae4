"""Several states: the laws on their rows, and what a user gives and gets."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import REPOSITORY
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import (
    GATConv,
    GraphConv,
    HANConv,
    HeteroConv,
    HGTConv,
    ResGatedGraphConv,
    SAGEConv,
)

from gncadeq import (
    ConvCell,
    GraphDEQ,
    GraphNCA,
    HeteroConvCell,
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

CITES, HAS, OF = ("a", "cites", "a"), ("a", "has", "b"), ("b", "of", "a")
IN, WIDTH = {"a": 3, "b": 1}, {"a": 5, "b": 3}
SOLVERS = ("picard", "anderson", "broyden")


def typed_graph(papers: int = 7, words: int = 4, seed: int = 0) -> HeteroData:
    g = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["a"].x = torch.randn(papers, 3, dtype=torch.double, generator=g)
    data["b"].x = torch.randn(words, 1, dtype=torch.double, generator=g)
    for (s, r, t), count in ((CITES, 2 * papers), (HAS, 2 * papers)):
        ends = [torch.randint(0, data[k].num_nodes, (count,), generator=g) for k in (s, t)]
        data[s, r, t].edge_index = torch.stack(ends)
    data[OF].edge_index = data[HAS].edge_index.flip(0)
    weight = torch.randn(2 * papers, generator=g, dtype=torch.double)
    data[CITES].edge_attr = weight
    return data


def plain_graph(nodes: int = 6, edges: int = 13, seed: int = 0) -> Data:
    """A directed multigraph with loops, whose last node is lonely."""
    g = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 3, dtype=torch.double, generator=g),
        edge_attr=torch.randn(edges, 2, dtype=torch.double, generator=g),
        edge_index=torch.randint(0, max(nodes - 1, 1), (2, edges), generator=g),
    )


def hetero_conv(kind=SAGEConv, a: int = 5, b: int = 3, **options) -> HeteroConv:
    return HeteroConv(
        {
            CITES: GraphConv(a, a),
            HAS: kind((a, b), b, **options),
            OF: kind((b, a), a, **options),
        }
    )


def make_cell(name: str):
    torch.manual_seed(1)
    edges = [CITES, HAS, OF]
    cells = {
        "relation": lambda: RelationCell(IN, WIDTH, edges, kappa=0.8, weighted=[CITES]),
        "relation-tanh": lambda: RelationCell(
            IN, 4, edges, kappa=0.8, activation="tanh", weighted=[CITES]
        ),
        "sage": lambda: HeteroConvCell(
            hetero_conv(), IN, edge_channels={CITES: 1}, activation="tanh", contraction=0.7
        ),
        "gat": lambda: HeteroConvCell(
            hetero_conv(GATConv, add_self_loops=False), IN, edge_channels={CITES: 1},
            activation="tanh", contraction=0.5,
        ),
        "gated": lambda: NodeEdgeCell({"node": 3, "edge": 2}, {"node": 5, "edge": 4}, kappa=0.8),
    }  # fmt: skip
    cell = cells[name]().double()
    with torch.no_grad():  # biases start at zero
        for p in cell.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return cell


CELLS = ("relation", "relation-tanh", "sage", "gat", "gated")


def arguments(cell, data, batched: bool = False) -> tuple:
    if isinstance(cell, NodeEdgeCell):
        x = {"node": data.x, "edge": data.edge_attr}
        return x, data.edge_index, None, data.batch if batched else None
    attr = {CITES: data[CITES].edge_attr} if cell.edge_channels else None
    return data.x_dict, data.edge_index_dict, attr, data.batch_dict if batched else None


def graphs(cell) -> list:
    make = plain_graph if isinstance(cell, NodeEdgeCell) else typed_graph
    return [make(6, 13), make(9, 5, seed=1), make(4, 11, seed=2)]


def flat(cell, data, batched: bool = False) -> Data:
    """The rows as plain data, about which the laws are."""
    graph = cell.flatten(*arguments(cell, data, batched), {})
    out = Data(graph.x.detach(), graph.edge_index, graph.edge_attr, **graph.context)
    if not batched:
        return out
    out.batch, out.num_nodes = graph.batch, graph.x.size(0)
    out.num_graphs = int(graph.batch.max()) + 1
    return out


def flat_batch(cell) -> Data:
    return flat(cell, Batch.from_data_list(graphs(cell)), batched=True)


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
    scale = min(1.0, 0.9 / float(cell._stretch().detach()))
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


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
def test_nodes_and_edges_of_a_batch_may_stand_in_any_order(dynamics):
    g = torch.Generator().manual_seed(0)
    for name in ("gated", "relation"):
        cell = make_cell(name)
        batch = Batch.from_data_list(graphs(cell))
        x, edge_index, edge_attr, graph = arguments(cell, batch, True)
        model = dynamics(cell)
        z = model(x, edge_index, edge_attr, graph)
        kinds = ("edge",) if name == "gated" else ("a", "b")
        order = {k: torch.randperm(x[k].size(0), generator=g) for k in kinds}
        mixed = {k: v[order[k]] if k in order else v for k, v in x.items()}
        if name == "gated":
            edges, graph_of = edge_index[:, order["edge"]], graph
        else:
            graph_of = {k: graph[k][order[k]] for k in kinds}
            edges = {
                (s, r, t): torch.stack([order[s].argsort()[e[0]], order[t].argsort()[e[1]]])
                for (s, r, t), e in edge_index.items()
            }
        found = model(mixed, edges, edge_attr, graph_of)
        again = model(mixed, edges, edge_attr, graph_of, z0=found)
        for a, b in ((z, found), (model(x, edge_index, edge_attr, graph, z0=z), again)):
            for k, value in a.items():
                expected = value[order[k]] if k in order else value
                torch.testing.assert_close(b[k], expected, rtol=1e-9, atol=1e-9)


def test_a_conv_that_averages_over_all_nodes_takes_one_graph():
    """HANConv would make the states of a graph depend on its batch-mates."""
    cell = make_cell("sage")
    data, batch = typed_graph(), Batch.from_data_list(graphs(cell))
    relations = [CITES, HAS, OF]
    conv = HANConv({"a": 8, "b": 8}, 8, (["a", "b"], relations), heads=2)
    deq = GraphDEQ.from_conv(conv, IN, channels=8, edge_types=relations, contraction=0.5).double()
    one = {k: torch.zeros(v.size(0), dtype=torch.long) for k, v in data.x_dict.items()}
    z = deq(data.x_dict, data.edge_index_dict, batch=one)
    assert z["b"].shape == (4, 8)
    with pytest.raises(ValueError, match="single graph for HANConv"):
        deq(batch.x_dict, batch.edge_index_dict, batch=batch.batch_dict)


def test_in_a_model_with_a_loader():
    """As any hetero layer: within a model, in batches of a DataLoader, trained."""
    torch.manual_seed(0)
    conv = HeteroConv({HAS: SAGEConv((-1, -1), 8), OF: SAGEConv((-1, -1), 8)})
    deq = GraphDEQ.from_conv(conv, IN, tol=1e-4)
    first = HeteroConv({HAS: SAGEConv((3, 1), 1), OF: SAGEConv((1, 3), 3)})
    data = [typed_graph(5 + k, 4, seed=k).apply(lambda v: v.float() if v.dtype == torch.double
            else v, "x") for k in range(4)]  # fmt: skip
    for graph in data:
        del graph[CITES]
    for batch in DataLoader(data, batch_size=2):
        x = first(batch.x_dict, batch.edge_index_dict)
        z = deq(x, batch.edge_index_dict, None, batch.batch_dict)
        z["b"].sum().backward()
        assert z["a"].shape == (batch["a"].num_nodes, 8)
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is not None for p in deq.parameters())


def test_hgt():
    data = typed_graph()
    metadata = (["a", "b"], [CITES, HAS, OF])
    conv = HGTConv({"a": 8, "b": 8}, 8, metadata, heads=2)
    deq = GraphDEQ.from_conv(conv, IN, channels=8, edge_types=metadata[1], contraction=0.5).double()
    z, solution = deq(data.x_dict, data.edge_index_dict, return_solution=True)
    assert bool(solution.converged.all())
    assert z["b"].shape == (4, 8)


def test_a_start_and_a_trajectory_are_dictionaries():
    data = typed_graph()
    cell = make_cell("sage")
    nca = GraphNCA(cell, steps=3)
    z0 = {"a": torch.ones(7, 5).double(), "b": torch.ones(4, 3).double()}
    z, path = nca(*arguments(cell, data), z0=z0, return_trajectory=True)
    assert path["a"].shape == (4, 7, 5)
    assert torch.equal(path["b"][0], z0["b"])
    assert torch.equal(path["b"][-1], z["b"])
    once = cell(z0, *arguments(cell, data)[:3])
    torch.testing.assert_close(once["a"], path["a"][1])


def test_autocast_and_half_precision():
    data = typed_graph()
    cell = make_cell("relation").float()
    x = {n: v.to(torch.bfloat16) for n, v in data.x_dict.items()}
    edges = data.edge_index_dict, {CITES: data[CITES].edge_attr.float()}
    with torch.autocast("cpu", torch.bfloat16):
        z, solution = GraphDEQ(cell, tol=1e-5)(x, *edges, return_solution=True)
    assert z["a"].dtype == torch.float32
    assert bool(solution.converged.all())


@pytest.mark.parametrize("name", CELLS)
def test_an_automaton_under_autocast(name):
    cell = make_cell(name).float()
    data = graphs(cell)[0].apply(lambda v: v.float() if v.dtype == torch.double else v)
    nca = GraphNCA(cell, steps=3)
    exact = nca(*arguments(cell, data))
    with torch.autocast("cpu", torch.bfloat16):
        z = nca(*arguments(cell, data))
    sum(value.sum() for value in z.values()).backward()
    for kind, value in z.items():
        torch.testing.assert_close(value, exact[kind], rtol=0.1, atol=0.1)


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


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, e: (x["a"], e), TypeError, "dictionary 'edge_index'|Expected a tensor"),
        (lambda x, e: ({"a": x["a"]}, e), ValueError, "missing \\['b'\\]"),
        (lambda x, e: (x, {**e, ("b", "to", "b"): e[HAS]}), ValueError, "unknown"),
        (lambda x, e: ({**x, "b": x["b"][:, :0]}, e), ValueError, "Expected 'x' of 'b'"),
        (lambda x, e: ({**x, "b": x["b"].float()}, e), TypeError, "type of the parameters"),
        (lambda x, e: ({**x, "b": x["b"][:2]}, e), ValueError, "edge_index of .* row 1"),
        (lambda x, e: (x, {**e, HAS: e[HAS].double()}), ValueError, "integer 'edge_index'"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words):
    data = typed_graph()
    cell = RelationCell(IN, WIDTH, [CITES, HAS, OF]).double()
    with pytest.raises(error, match=words):
        GraphDEQ(cell)(*change(data.x_dict, data.edge_index_dict))


def test_edges_between_graphs_are_named_by_the_types_of_their_ends():
    data = [typed_graph(5, 4, seed=k) for k in range(2)]
    batch = Batch.from_data_list(data)
    edges = dict(batch.edge_index_dict)
    edges[HAS] = torch.tensor([[6, 1], [0, 5]])  # a 6 is in graph 1, and so is b 5
    deq = GraphDEQ(RelationCell(IN, WIDTH, [CITES, HAS, OF]).double())
    with pytest.raises(ValueError, match=r"2 edges .*, such as 'a' 6 → 'b' 0 from graph 1 to 0"):
        deq(batch.x_dict, edges, batch=batch.batch_dict)


def test_names_that_are_misspelled_or_missing_are_told():
    data = typed_graph()
    data = data.apply(lambda v: v.float() if v.dtype == torch.double else v)
    conv = HeteroConv({HAS: SAGEConv((-1, -1), 8), OF: SAGEConv((-1, -1), 8)})
    deq = GraphDEQ.from_conv(conv, IN)
    x, edges = data.x_dict, {HAS: data[HAS].edge_index, OF: data[OF].edge_index}
    with pytest.raises(TypeError, match=r"got a HeteroData\).*\(data.x_dict, data.edge_index_dict"):
        deq(data)
    with pytest.raises(ValueError, match=r"unknown \['ab'\]\). Did you mean 'a'\?"):
        deq({"ab": x["a"], "b": x["b"]}, edges)
    with pytest.raises(ValueError, match=r"'z'.*Did you mean 'b'\?"):
        deq(x, edges, z0={"a": torch.zeros(7, 8), "bb": torch.zeros(4, 8)})
    misspelled = {HAS: edges[HAS], ("b", "off", "a"): edges[OF]}
    with pytest.raises(ValueError, match=r"Did you mean \('b', 'of', 'a'\)\?$"):
        deq(x, misspelled)
    with pytest.raises(ValueError, match=r"missing .*torch.empty\(2, 0, dtype=torch.long\)"):
        deq(x, {HAS: edges[HAS]})
    with pytest.raises(ValueError, match=r"'in_channels' for each of \['a', 'b'\]"):
        GraphDEQ.from_conv(conv, {"a": 3, "B": 1})
    empty = {**edges, OF: torch.empty(2, 0, dtype=torch.long)}
    with torch.no_grad():
        z, solution = deq(x, empty, return_solution=True)
    assert bool(solution.converged.all())
    assert z["a"].shape == (7, 8)


def test_other_refusals():
    data = typed_graph()
    with pytest.raises(TypeError, match="whose state is one tensor"):
        GraphDEQ(ConvCell(1, 2))(data.x_dict, data.edge_index_dict)
    deq = GraphDEQ(RelationCell(IN, WIDTH, [CITES, HAS, OF]).double())
    with pytest.raises(ValueError, match=r"edge_attr.*unknown"):
        deq(data.x_dict, data.edge_index_dict, {CITES: data[CITES].edge_attr})
    with pytest.raises(TypeError, match="dictionary 'edge_attr'"):
        deq(data.x_dict, data.edge_index_dict, data[CITES].edge_attr)
    with pytest.raises(ValueError, match="pass channels"):  # nothing says the width of b
        GraphDEQ.from_conv(HeteroConv({OF: SAGEConv((-1, -1), 4)}), IN)
    with pytest.raises(ValueError, match=r"same width \(got 4 → 5 from SAGEConv of \('a', "):
        GraphDEQ.from_conv(HeteroConv({CITES: SAGEConv(4, 5)}), {"a": 3})
    with pytest.raises(ValueError, match="kappa"):
        RelationCell(IN, WIDTH, [CITES], kappa=1.0)
    with pytest.raises(ValueError, match="between"):
        RelationCell(IN, WIDTH, [("a", "to", "c")])
    cell = NodeEdgeCell({"node": 3, "edge": 2}, 4).double()
    graph = plain_graph()
    with pytest.raises(TypeError, match="injections of nodes and edges"):
        GraphDEQ(cell)(graph.x, graph.edge_index)
    with pytest.raises(ValueError, match="an edge for each row"):
        GraphDEQ(cell)({"node": graph.x, "edge": graph.edge_attr[:3]}, graph.edge_index)
    batch = {"a": torch.zeros(7), "b": torch.zeros(4)}
    with pytest.raises(ValueError, match="integer 'batch' of 'a'"):
        GraphDEQ(make_cell("sage"))(data.x_dict, {}, {}, batch)
    x = {"node": graph.x, "edge": graph.edge_attr}
    with pytest.raises(TypeError, match="integer 'edge_index'"):
        GraphDEQ(cell)(x, graph.edge_index + 0.5)
    with pytest.raises(ValueError, match=r"'batch' of shape \[num_nodes\] = \[6\]"):
        GraphDEQ(cell)(x, graph.edge_index, batch=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"in_channels={node type: channels}"):
        GraphDEQ.from_conv(hetero_conv(), 3)


def test_the_examples_of_the_page_run(capsys):
    page = (REPOSITORY / "docs" / "states.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "states.md", "exec"), names)
    assert "converged=1" in capsys.readouterr().out
    assert {n: list(v.shape) for n, v in names["z"].items()} == {
        "level0": [256, 8], "level1": [64, 8], "level2": [16, 8],
    }  # fmt: skip
    assert max(float(r) for r in names["solution"].residual) <= 1e-5
