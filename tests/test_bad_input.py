"""What doesn't fit is refused at the call, with what was expected, what came, and a way out."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import ToUndirected

from gncadeq import ConvCell, ConvergenceWarning, GraphDEQ, GraphNCA, GrowingCell, IGNNCell
from gncadeq.cells import CascadeCell, Part, prepare_neighborhood
from gncadeq.dynamics import Partition

X = torch.rand(4, 3)
EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
KIND = torch.tensor([5, 3, 5, 3, 5, 3])


def changed(value: int) -> torch.Tensor:
    edges = EDGES.clone()
    edges[0, 0] = value
    return edges


def gcn(dynamics, **options):
    return dynamics.from_conv(pyg.GCNConv(8, 8), 3, **options)


def stencil(dynamics):
    return dynamics(ConvCell(3, 8, contraction=0.9))


def ignn(dynamics):
    return dynamics(IGNNCell(3, 8))


def cascade(dynamics):
    return dynamics(CascadeCell([Part(IGNNCell(3, 8))], in_channels=3))


BAD = {
    "double of a graph": (ignn, (X.double(), EDGES), {}, TypeError, r"x\.float\(\)"),
    "double of a cascade": (cascade, (X.double(), EDGES), {}, TypeError, r"x\.float\(\)"),
    "index": (gcn, (X, changed(9)), {}, ValueError, r"\[0, 4\).*got 0 to 9"),
    "negative index": (gcn, (X, changed(-1)), {}, ValueError, r"got -1 to 3"),
    "index of a stencil": (stencil, (X, changed(9), KIND), {}, ValueError, r"got 0 to 9"),
    "float edges": (gcn, (X, EDGES.float()), {}, TypeError, "integer 'edge_index'"),
    "edges turned": (gcn, (X, EDGES.T), {}, ValueError, r"\[2, num_edges\] \(got \[6, 2\]"),
    "a Data for the edges": (gcn, (X, Data()), {}, TypeError, "tensor 'edge_index'"),
    "an array": (gcn, (X.numpy(), EDGES), {}, TypeError, r"got ndarray.*as_tensor"),
    "a Data": (gcn, (Data(x=X), EDGES), {}, TypeError, r"got a Data.*data\.edge_index"),
    "double": (gcn, (X.double(), EDGES), {}, TypeError, r"x\.float\(\)"),
    "integers": (gcn, (X.long(), EDGES), {}, TypeError, r"x\.float\(\)"),
    "edges elsewhere": (gcn, (X, EDGES.to("meta")), {}, ValueError, "'edge_index' on the device"),
    "relations elsewhere": (
        stencil, (X, EDGES, KIND.to("meta")), {}, ValueError, "'edge_attr' on the device of 'x'",
    ),
    "start elsewhere": (
        gcn, (X, EDGES), {"z0": torch.zeros(4, 8, device="meta")}, ValueError, "'z0' on the device",
    ),
    "start of integers": (
        gcn, (X, EDGES), {"z0": torch.zeros(4, 8).long()}, TypeError, r"\.to\(x\.dtype\)",
    ),
    "double start": (
        stencil, (X, EDGES, KIND), {"z0": torch.zeros(4, 8).double()}, TypeError,
        r"'x', torch\.float32 \(got torch\.float64\)",
    ),
    "batch elsewhere": (
        gcn, (X, EDGES), {"batch": KIND[:4].to("meta")}, ValueError, "'batch' on the device of 'x'",
    ),
    "batch of others": (
        gcn, (X, EDGES), {"batch": torch.tensor([0, 0, 1, 1])}, ValueError,
        "2 edges between graphs, such as 1 → 2 from graph 0 to 1",
    ),
    "batch of others, prepared": (
        stencil, (X, prepare_neighborhood(EDGES, KIND, 4, 9)),
        {"batch": torch.tensor([0, 0, 1, 1])}, ValueError, "2 edges between graphs",
    ),
    "batch too short": (
        gcn, (X, EDGES), {"batch": torch.tensor([0, 0, 0])}, ValueError, r"\[4\] \(got \[3\]",
    ),
    "batch unsorted": (
        gcn, (X, EDGES), {"batch": torch.tensor([1, 0, 1, 0])}, ValueError, "ascending",
    ),
    "batch of negative numbers": (
        gcn, (X, EDGES), {"batch": torch.tensor([0, 0, 0, -3])}, ValueError, "ascending",
    ),
    "no graph": (gcn, (X, EDGES), {"batch_size": 0}, ValueError, r"\[0, 0\) \(got 0 to 0"),
    "partition of others": (
        gcn, (X, EDGES), {"batch": Partition(None, 3)}, ValueError, "partition of 4 nodes",
    ),
    "partition of another number": (
        gcn, (X, EDGES), {"batch": Partition(None, 4), "batch_size": 2}, ValueError,
        r"batch_size=1.*got 2",
    ),
    "partition elsewhere": (
        gcn, (X, EDGES), {"batch": Partition(None, 4, like=X.to("meta"))}, ValueError,
        "partition on the device of 'x', cpu",
    ),
    "batch as a list": (gcn, (X, EDGES), {"batch": [0, 0, 0, 0]}, TypeError, "tensor 'batch'"),
    "no relations": (stencil, (X, EDGES), {}, ValueError, "ImageToGraph writes it"),
    "relations": (stencil, (X, EDGES, KIND + 9), {}, ValueError, "'edge_attr' in \\[0, 9\\)"),
}  # fmt: skip


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
@pytest.mark.parametrize("name", list(BAD))
def test_bad_graphs_are_refused(name, dynamics):
    make, graph, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make(dynamics)(*graph, **options)


CONVS = {
    "without edge_type": (pyg.RGCNConv(8, 8, 4), {}, r"Pass edge_type=\.\.\."),
    "edge_type": (
        pyg.RGCNConv(8, 8, 4), {"edge_type": KIND}, r"'edge_type' in \[0, 4\).*num_relations=4",
    ),
    "without pos": (pyg.PointTransformerConv(8, 8), {}, r"Pass pos=\.\.\."),
    "without edge_attr": (pyg.GINEConv(nn.Linear(8, 8), edge_dim=2), {}, "Pass edge_attr="),
    "no edges": (pyg.MLP([8, 8, 8]), {}, "whose forward takes 'edge_index'"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONVS))
def test_convs_that_do_not_fit_are_refused(name):
    conv, arguments, message = CONVS[name]
    with pytest.raises(ValueError, match=message):
        GraphDEQ.from_conv(conv, 3, channels=8)(X, EDGES, **arguments)


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
def test_a_graph_in_the_place_of_its_tensors_is_told_the_call_to_make(dynamics):
    data = Data(x=X, edge_index=EDGES)
    weighted = Data(x=X, edge_index=EDGES, edge_weight=torch.rand(6))
    batch = Batch.from_data_list([Data(x=X, edge_index=EDGES, edge_attr=KIND)] * 2)
    for graph, told in (
        (data, "(got a Data). Pass those in it: (data.x, data.edge_index)"),
        (weighted, "(data.x, data.edge_index, data.edge_weight)"),
        (batch, "(got a Batch). Pass those in it: (data.x, data.edge_index, data.edge_attr, "
                "batch=data.batch)"),
    ):  # fmt: skip
        for call in (gcn(dynamics), lambda g: gcn(dynamics).cell(torch.zeros(4, 8), g)):
            with pytest.raises(TypeError) as caught:
                call(graph)
            assert told in str(caught.value)
        with pytest.raises(TypeError, match="Expected a tensor 'edge_index'"):
            gcn(dynamics)(X)


def test_a_conv_that_says_it_isnt_square_is_refused_when_it_is_given():
    for conv, told in (
        (pyg.GCNConv(8, 16), "got 8 → 16 from GCNConv"),
        (pyg.GATConv(8, 8, heads=2), "got 8 → 16 from GATConv.*heads that are concatenated"),
        (pyg.GATConv(8, 4, heads=2, concat=False), "got 8 → 4"),
    ):
        with pytest.raises(ValueError, match=told):
            GraphDEQ.from_conv(conv, 3)
    GraphDEQ.from_conv(pyg.GATConv(8, 8, heads=2, concat=False), 3)


def test_a_conv_of_ones_own_that_isnt_square_is_refused_in_the_call():
    class Own(pyg.GCNConv):
        pass

    with pytest.raises(ValueError, match="got 8 → 16 from Own"):
        GraphDEQ.from_conv(Own(8, 16), 3)(X, EDGES)


@pytest.mark.parametrize(
    "conv", [pyg.GCNConv(-1, 8), pyg.SAGEConv((-1, -1), 8), pyg.GATConv(-1, 4, heads=2)]
)
def test_a_lazy_conv_gets_its_weights_in_the_first_call(conv):
    deq = GraphDEQ.from_conv(conv, 3)
    assert deq.cell.channels == 8
    with torch.no_grad():
        deq(X, EDGES)
    optimizer = torch.optim.SGD(deq.parameters(), lr=0.1)
    deq(X, EDGES).sum().backward()
    optimizer.step()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in deq.parameters())
    with pytest.raises(ValueError, match="got a lazy GCNConv"):
        GraphDEQ.from_conv(pyg.GCNConv(-1, 8), 3, init="identity")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
@pytest.mark.filterwarnings("error")
def test_a_batch_of_any_integers_and_strides_is_the_same(dynamics, dtype):
    batch, edges = torch.tensor([0, 0, 1, 1]), EDGES[:, [0, 1, 4, 5]]
    columns = torch.stack([batch.to(dtype), batch.to(dtype)], 1)
    for cell in (gcn(dynamics), stencil(dynamics)):
        given = (edges, KIND[:4]) if isinstance(cell.cell, ConvCell) else (edges,)
        expected = cell(X, *given, batch=batch)
        assert torch.equal(cell(X, *given, batch=columns[:, 0]), expected)


def test_a_batch_of_graphs_and_hyperedges_between_nodes_are_no_mistake():
    batch = Batch.from_data_list([Data(x=X, edge_index=EDGES)] * 2)
    assert gcn(GraphDEQ)(batch.x, batch.edge_index, batch=batch.batch).shape == (8, 8)
    hyperedges = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 1, 1, 5]])  # 0: {0, 1}, 1: {2, 3}, 5: {0}
    deq = GraphDEQ.from_conv(pyg.HypergraphConv(8, 8), 3)
    assert deq(X, hyperedges, batch=torch.tensor([0, 0, 1, 1])).shape == (4, 8)


@pytest.mark.parametrize(
    ("conv", "options", "edges", "remark"),
    [
        (pyg.GATConv(8, 8), {}, EDGES[:, ::2], None),
        (
            pyg.GATConv(8, 8),
            {"attention": "state"},
            EDGES,
            "growth of GATConv is measured.*below 0.9.*damping",
        ),
        (pyg.GCNConv(8, 8), {"norm": "LayerNorm"}, EDGES, "growth of GCNConv is measured"),
        (pyg.GCNConv(8, 8), {}, EDGES[:, ::2], "undirected graphs.*ToUndirected"),
        (pyg.GCNConv(8, 8), {"contraction": None}, EDGES, "isn't scaled"),
        (pyg.GCNConv(8, 8), {}, EDGES, None),
    ],
)
def test_a_failed_solve_says_what_is_not_proven(conv, options, edges, remark):
    deq = GraphDEQ.from_conv(conv, 3, max_steps=1, tol=1e-7, **options)
    with pytest.warns(ConvergenceWarning, match=r"MAX_STEPS") as caught:
        deq(X, edges)
    text = str(caught[0].message)
    if remark is None:
        assert "bound the cell" not in text  # it is
        assert "raise 'max_steps' or 'tol'" in text
    else:
        import re

        assert re.search(remark, text)
    if remark and "ToUndirected" in remark:
        proper = ToUndirected()(Data(edge_index=edges, num_nodes=4)).edge_index
        assert deq.cell.caveat(proper) is None


@pytest.mark.parametrize("name", ["edge_weight", "edge_attr"])
def test_a_failed_solve_knows_weights_by_either_name(name):
    weight = torch.ones(6)
    weight[:2] = -1.0
    deq = GraphDEQ.from_conv(pyg.GCNConv(8, 8), 3, max_steps=1, tol=1e-7)
    with pytest.warns(ConvergenceWarning, match="weights below zero"):
        deq(X, EDGES, **{name: weight})


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
@pytest.mark.parametrize("dtype", [torch.double, torch.long])
def test_a_start_of_another_type_is_refused(dynamics, dtype):
    with pytest.raises(TypeError, match=r"'z0' in the type of 'x', torch.float32"):
        gcn(dynamics)(X, EDGES, z0=torch.zeros(4, 8, dtype=dtype))


def test_warnings_stand_where_the_call_is():
    for make in (
        lambda: GraphDEQ.from_conv(pyg.GCNConv(8, 8), 3, max_steps=0)(X, EDGES),
        lambda: gcn(GraphNCA)(X * float("nan"), EDGES),
    ):
        with pytest.warns(ConvergenceWarning) as caught:
            make()
        assert [w.filename for w in caught] == [__file__]


def test_a_certificate_knows_weights_by_either_name():
    """What a conv calls 'edge_weight' can be given by that name: then it counts as well."""
    cell = gcn(GraphDEQ).cell
    for name in ("edge_weight", "edge_attr"):
        for sign, expected in ((1.0, 0.9), (-1.0, float("inf"))):
            graph = Data(edge_index=EDGES, **{name: torch.full((EDGES.size(1),), sign)})
            assert float(cell.lipschitz_bound(graph)) <= expected + 1e-6
            assert (expected == float("inf")) == (float(cell.lipschitz_bound(graph)) > 1)


def test_growing_refuses_weights_of_other_edges():
    nca = GraphNCA(GrowingCell(8, 2, in_channels=3), steps=2)
    with pytest.raises(ValueError, match=r"\[num_edges, num_kernels\] = \[6, \*\]"):
        nca(X, EDGES, torch.rand(5, 2))


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("GCNConv", 3), "or a class of convs.*got 'GCNConv'"),
        ((3, 3), r"from_conv\(GCNConv, .*got 3"),
        ((pyg.HeteroConv, {"a": 3}), "or a class of convs.*got <class"),
        ((Data, 3), "or a class of convs.*got <class"),
        ((3, pyg.GCNConv(8, 8)), "whole number 'in_channels'.*got GCNConv"),
        ((pyg.GINConv, 3, {"channels": 8}), r"\['nn'\] for a new GINConv .*GINConv\(\.\.\.\)"),
        ((pyg.GCNConv, 3, {"channels": 8, "head": 2}), "got 'head'"),
        ((pyg.GCNConv(8, 8), "3"), "whole number 'in_channels'.*got '3'"),
    ],
)
def test_what_is_no_conv_is_told_what_one_is(dynamics, arguments, said):
    with pytest.raises(TypeError, match=said):
        dynamics.from_conv(*arguments[:2], **dict(*arguments[2:]))


def test_half_a_step_is_refused():
    with pytest.raises(TypeError, match=r"'steps' to be a whole number.*2\.5"):
        gcn(GraphNCA)(X, EDGES, steps=2.5)
