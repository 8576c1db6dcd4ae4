"""What a user gives to cells of several types: any order of rows, loaders, and refusals."""

from __future__ import annotations

import pytest
import torch
from conftest import run_page
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import (
    HANConv,
    HeteroConv,
    HGTConv,
    SAGEConv,
)
from typed import (
    CELLS,
    CITES,
    HAS,
    IN,
    OF,
    WIDTH,
    arguments,
    graphs,
    hetero_conv,
    make_cell,
    plain_graph,
    typed_graph,
)

from gncadeq import (
    ConvCell,
    GraphDEQ,
    GraphNCA,
    NodeEdgeCell,
    RelationCell,
)


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
def test_nodes_and_edges_of_a_batch_may_stand_in_any_order(dynamics):
    g = torch.Generator().manual_seed(0)
    for name in ("gated", "relation"):
        cell = make_cell(name)
        batch = Batch.from_data_list(graphs(cell))
        x, edge_index, edge_attr, graph = arguments(cell, batch, True)
        model = dynamics(cell)
        z = model(x, edge_index, edge_attr, graph)
        if name == "relation":
            small = {k: v.to(torch.uint8) for k, v in graph.items()}
            torch.testing.assert_close(model(x, edge_index, edge_attr, small), z, rtol=0, atol=0)
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
    with pytest.raises(TypeError, match=r"'batch\[a\]' to be a Tensor"):
        GraphDEQ(make_cell("sage"))(data.x_dict, {}, {}, {"a": [0] * 7, "b": [0] * 4})
    x = {"node": graph.x, "edge": graph.edge_attr}
    with pytest.raises(TypeError, match="integer 'edge_index'"):
        GraphDEQ(cell)(x, graph.edge_index + 0.5)
    with pytest.raises(ValueError, match=r"'batch' of shape \[num_nodes\] = \[6\]"):
        GraphDEQ(cell)(x, graph.edge_index, batch=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"in_channels={node type: channels}"):
        GraphDEQ.from_conv(hetero_conv(), 3)


def test_the_examples_of_the_page_run(capsys):
    names = run_page("states")
    assert "converged=1" in capsys.readouterr().out
    assert {n: list(v.shape) for n, v in names["z"].items()} == {
        "level0": [256, 8], "level1": [64, 8], "level2": [16, 8],
    }  # fmt: skip
    assert max(float(r) for r in names["solution"].residual) <= 1e-5
