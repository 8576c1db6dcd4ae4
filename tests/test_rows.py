"""Tensors given by name: what their rows belong to, in batches, with broken graphs, and absent."""

from __future__ import annotations

import pytest
import torch
from conv_table import Works, graph
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN, GATConv, GCNConv, MessagePassing, SAGEConv
from torch_geometric.nn.models.basic_gnn import BasicGNN

from gncadeq import Cell, GraphDEQ, GraphNCA
from gncadeq.cells import PropagationCell
from gncadeq.graph.rows import Part, rows_of
from gncadeq.testing import assert_batch_independent, assert_permutation_equivariant

SIZES = (5, 9, 7)


class Known(MessagePassing):
    """A conv with a tensor for every node, edge and graph, none named as PyG would, and a table."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")
        self.lin = nn.Linear(4, 4)

    def forward(self, z, edge_index, knowledge, dist, level=None, table=None, batch=None):
        z = self.lin(z) + knowledge
        if level is not None:
            z = z + level[batch]
        if table is not None:
            z = z + table.sum(0)
        return self.propagate(edge_index, z=z, dist=dist)

    def message(self, z_j: Tensor, dist: Tensor) -> Tensor:
        return z_j * dist.unsqueeze(1)


ROWS = {"knowledge": "node", "dist": "edge", "level": "graph", "table": "all"}


def deq_of(rows: dict | None = None, **options) -> GraphDEQ:
    torch.manual_seed(0)
    options = {"contraction": 0.5, "activation": "tanh", "tol": 1e-10, "max_steps": 300, **options}
    return GraphDEQ.from_conv(Known(), 3, channels=4, rows=rows, **options).double()


def graphs() -> list[Data]:
    torch.manual_seed(1)
    made = []
    for seed, n in enumerate(SIZES):
        data = graph(Works(lambda: None), n, seed=seed)
        data.x = data.x * 10.0 ** (seed - 1)  # which end at different steps
        data.knowledge = torch.randn(n, 4, dtype=torch.double)
        data.dist = torch.rand(data.num_edges, dtype=torch.double)
        made.append(data)
    return made


@pytest.mark.parametrize("rows", [None, {"knowledge": "node", "dist": "edge"}])
def test_names_decide_nothing(rows):
    """`knowledge` contains "edge" and has a row for every node, `dist` one for every edge."""
    batch, deq = Batch.from_data_list(graphs()), deq_of(rows, on_failure="ignore")
    step = deq.cell.prepare(batch.x, batch.edge_index, knowledge=batch.knowledge, dist=batch.dist)
    assert hasattr(step, "restrict") == (rows is not None)
    assert_permutation_equivariant(deq.cell, graphs()[0])
    assert_batch_independent(deq, batch, atol=1e-9, step_slack=2)
    batch.x[6] = float("nan")
    assert_batch_independent(deq, batch, atol=1e-9, step_slack=2)


@pytest.mark.parametrize("broken", [False, True])
def test_rows_of_graphs_and_of_all(broken):
    deq, alone = deq_of(ROWS, on_failure="ignore"), graphs()
    level, table = torch.randn(3, 4).double(), torch.randn(len(SIZES), 4).double()
    if broken:
        alone[1].x = alone[1].x * float("nan")
    batch = Batch.from_data_list(alone)

    def solve(data: Data, level: Tensor) -> tuple[Tensor, Tensor]:
        level = level.clone().requires_grad_()
        z = deq(
            data.x, data.edge_index, batch=data.batch, knowledge=data.knowledge, dist=data.dist,
            level=level, table=table,
        )  # fmt: skip
        fine = data.x.isfinite().all(1)
        (grad,) = torch.autograd.grad(z[fine].square().sum(), level)
        return z.detach(), grad

    z, grad = solve(batch, level)
    for k in (0, 2) if broken else (0, 1, 2):
        mine, mine_grad = solve(Batch.from_data_list([alone[k]]), level[k : k + 1])
        torch.testing.assert_close(z[batch.batch == k], mine, atol=1e-8, rtol=0)
        torch.testing.assert_close(grad[k : k + 1], mine_grad, atol=1e-8, rtol=0)


def test_sizes_that_contradict_or_decide_nothing_are_refused():
    batch, deq = Batch.from_data_list(graphs()), deq_of(ROWS)

    def call(deq=deq, **given):
        given = {"knowledge": batch.knowledge, "dist": batch.dist, **given}
        return deq(batch.x, batch.edge_index, batch=batch.batch, **given)

    with pytest.raises(ValueError, match=r"'knowledge' with a row for each of 21 nodes \(got \[5"):
        call(knowledge=batch.knowledge[:5])
    with pytest.raises(ValueError, match=r"'dist' with a row for each of \d+ edges \(got \[21, 4"):
        call(dist=batch.knowledge)
    with pytest.raises(ValueError, match=r"'level' with a row for each of 3 graphs \(got \[2, 4"):
        call(level=torch.ones(2, 4).double())
    undeclared = r"as many rows of 'table' .*\(got \[5, 4\]\)\. Declare .*rows=\{'table': 'edge'\}"
    with pytest.raises(ValueError, match=undeclared):
        call(deq_of({"dist": "edge"}), table=torch.ones(5, 4).double())
    ring = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])  # as many edges as nodes
    with pytest.raises(ValueError, match="4 nodes, 4 edges, 2 graphs do not tell apart"):
        deq_of()(
            torch.rand(4, 3).double(), ring, batch=torch.tensor([0, 0, 1, 1]),
            knowledge=torch.rand(4, 4).double(), dist=torch.rand(4).double(),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"'rows' of tensors .*'knowledge'.*\(got \['distance'\]"):
        deq_of({"distance": "edge"})
    with pytest.raises(ValueError, match=r"rows\['dist'\].*Did you mean 'edge'"):
        deq_of({"dist": "edges"})


def test_one_graph_needs_no_declaration():
    data = graphs()[0]
    given = {"knowledge": data.knowledge, "dist": data.dist, "table": torch.ones(2, 4).double()}
    z, solution = deq_of()(data.x, data.edge_index, return_solution=True, **given)
    assert bool(solution.converged.all())
    torch.testing.assert_close(z, deq_of(ROWS)(data.x, data.edge_index, **given))


class Radius(Cell):
    """A cell that declares a tensor of its own."""

    in_channels, channels = 3, 3
    context = {"radius": "all", "edge_mask": "edge"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.5)

    def prepare(self, x, edge_index, edge_attr=None, radius=None, edge_mask=None):
        source, target = edge_index
        share = 1.0 if radius is None else radius.mean()
        mask = 1.0 if edge_mask is None else edge_mask.unsqueeze(1)

        def step(z: Tensor) -> Tensor:
            heard = torch.zeros_like(z).index_add(0, target, mask * z[source])
            return (self.weight * share * heard + x).tanh()

        return step


def test_a_cell_declares_and_none_is_nothing():
    data, cell = graphs()[1], Radius().double()
    deq = GraphDEQ(cell, tol=1e-9, on_failure="ignore")
    plain = deq(data.x, data.edge_index)
    assert torch.equal(deq(data.x, data.edge_index, radius=None, edge_weight=None), plain)
    table = torch.full((data.num_nodes,), 0.5, dtype=torch.double)  # by chance as many as nodes
    batch = Batch.from_data_list(graphs())
    batch.x[0] = float("nan")
    z = deq(batch.x, batch.edge_index, batch=batch.batch, radius=table)
    torch.testing.assert_close(
        z[batch.batch == 1], deq(data.x, data.edge_index, radius=table), atol=1e-8, rtol=0
    )
    with pytest.raises(ValueError, match=r"'edge_mask' with a row for each of \d+ edges"):
        deq(data.x, data.edge_index, edge_mask=table)
    with pytest.raises(TypeError, match=r"Unexpected argument 'radios'.*Did you mean 'radius'"):
        deq(data.x, data.edge_index, radios=table)
    with pytest.raises(TypeError, match="Expected tensors by name"):
        deq(data.x, data.edge_index, radios=None)


@pytest.mark.parametrize("kind", [GraphDEQ, GraphNCA])
@pytest.mark.parametrize("conv", [GCNConv, SAGEConv, GATConv])
def test_optional_tensors_may_be_none(kind, conv):
    """Every conv of PyG takes edge_weight=None or edge_attr=None, and BasicGNN passes them."""
    data, layer = graphs()[0], kind.from_conv(conv(4, 4), 3).double()
    expected = layer(data.x, data.edge_index)
    for name in ("edge_weight", "edge_attr"):
        assert torch.equal(layer(data.x, data.edge_index, **{name: None}), expected)


class Equilibria(BasicGNN):
    """PyG's stack of layers, each of which is an equilibrium."""

    supports_edge_weight = GCN.supports_edge_weight
    supports_edge_attr = GCN.supports_edge_attr

    def init_conv(self, in_channels, out_channels, **kwargs):
        return GraphDEQ.from_conv(GCNConv(out_channels, out_channels), in_channels)


def test_a_layer_of_basic_gnn():
    data, net = graphs()[0], Equilibria(3, 8, 2).double()
    assert net(data.x, data.edge_index).shape == (5, 8)
    assert net(data.x, data.edge_index, edge_weight=torch.rand_like(data.dist)).shape == (5, 8)


def test_injections_in_other_forms_are_refused():
    data, deq = graphs()[0], deq_of(ROWS)
    given = {"knowledge": data.knowledge, "dist": data.dist}
    sparse = data.x.to_sparse()  # what a linear map takes
    torch.testing.assert_close(
        deq(sparse, data.edge_index, **given), deq(data.x, data.edge_index, **given)
    )
    with pytest.raises(TypeError, match=r"dense 'x' \(got a torch.sparse_coo one\).*to_dense"):
        GraphDEQ(PropagationCell(data.num_features))(sparse, data.edge_index)
    with pytest.raises(ValueError, match=r"\(got \[2, 5, 3\]\)\. For many signals .*Batch\."):
        deq(torch.stack([data.x, data.x]), data.edge_index, **given)
    many = Batch.from_data_list(
        [Data(x=v, edge_index=data.edge_index) for v in (data.x, 2 * data.x)]
    )
    deq = GraphDEQ.from_conv(GCNConv(4, 4), 3, tol=1e-9).double()  # as the error says
    z = deq(many.x, many.edge_index, batch=many.batch).view(2, 5, 4)
    torch.testing.assert_close(z[1], deq(2 * data.x, data.edge_index), atol=1e-7, rtol=0)


def test_a_part_counts_nodes_and_graphs_anew():
    edge_index = torch.tensor([[0, 1, 2, 4], [1, 0, 3, 5]])
    batch = torch.tensor([0, 0, 2, 2, 3, 3])  # graph 1 has no nodes
    part = Part(batch >= 2, edge_index, batch)
    assert part.edges().tolist() == [[0, 2], [1, 3]]
    assert part.take(batch, "batch").tolist() == [0, 0, 1, 1]
    assert part.take(torch.tensor([[0, 2, 5], [1, 3, 4]]), "index").tolist() == [[0, 3], [1, 2]]
    level = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert part.take(level, "graph").tolist() == [3, 4]
    assert part.blank(level, "graph").tolist() == [0, 0, 3, 4]
    assert part.take(level, "all") is level
    hyper = Part(torch.tensor([True, False]), torch.tensor([[0, 1], [1, 0]]), None, True)
    assert hyper.take(torch.tensor([5.0, 6.0]), "hyperedge").tolist() == [0, 6]


def test_further_edges_are_numbers_of_nodes():
    more = {"neg": torch.tensor([0.5, 1.5])}
    with pytest.raises(ValueError, match=r"integer 'neg' of shape \[2, \*\]"):
        rows_of(more, {"neg": "index"}, 2, torch.zeros(2, 0, dtype=torch.long), None)
