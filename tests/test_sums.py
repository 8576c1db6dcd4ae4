"""Sums and averages of neighbours, scaled node by node. The laws over all convs: test_convs.py."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import dense, weighted_graph
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, WrappedConvCell
from gncadeq.cells import node_bound, sums_neighbors
from gncadeq.testing import assert_batch_independent


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))


CONVS = {
    "gin": lambda: pyg.GINConv(mlp(), eps=0.5, train_eps=True),
    "gin-mean": lambda: pyg.GINConv(mlp(), aggr="mean"),
    "gin-linear": lambda: pyg.GINConv(nn.Linear(4, 4), eps=-1.5),
    "gin-backwards": lambda: pyg.GINConv(mlp(), flow="target_to_source"),
    "gine": lambda: pyg.GINEConv(mlp(), edge_dim=1),
    "graph": lambda: pyg.GraphConv(4, 4),
    "graph-mean": lambda: pyg.GraphConv(4, 4, aggr="mean"),
}


def data_of(name: str, num_nodes: int = 12) -> Data:
    """Directed, with weights of both signs where the conv takes weights."""
    data = weighted_graph(num_nodes)
    if name == "gine":
        data.edge_attr = data.edge_attr.unsqueeze(1)
    elif not name.startswith("graph"):
        data.edge_attr = None
    return data


def cell_of(name: str, **options) -> WrappedConvCell:
    torch.manual_seed(3)
    return WrappedConvCell(CONVS[name](), 2, 4, **options).double().eval()


def size(z: Tensor) -> Tensor:
    return z.norm(dim=1)


@pytest.mark.parametrize("name", CONVS)
@torch.no_grad()
def test_the_bound_of_every_node_holds(name):
    data = data_of(name)
    cell = cell_of(name, contraction=None)
    weight = data.edge_attr if name.startswith("graph") else None
    bound = node_bound(cell.conv, data.edge_index, weight, 12).squeeze(1)
    assert float(cell.lipschitz_bound(data)) == pytest.approx(float(bound.max()))
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    most = 0.0
    for scale in (0.01, 1.0, 100.0):
        for _ in range(100):
            y, dz = torch.randn(2, 12, 4, dtype=torch.double)
            z = y + scale * dz
            change = size(step.image(z) - step.image(y)) / size(z - y).max()
            assert bool((change <= bound + 1e-12).all())
            most = max(most, float((change / bound).max()))
    assert most > 0.1  # a bound that says something


def test_the_bound_of_a_linear_conv_is_nearly_the_norm():
    data, cell = data_of("graph"), cell_of("graph", contraction=None)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    zero = step.image(torch.zeros(12, 4, dtype=torch.double)).detach()
    matrix = dense(lambda z: step.image(z).detach() - zero, 12, 4).view(12, 4, 12, 4)
    norm = torch.linalg.matrix_norm(matrix.transpose(1, 2), 2).sum(1)
    bound = node_bound(cell.conv, data.edge_index, data.edge_attr, 12).detach().squeeze(1)
    assert bool((norm <= bound + 1e-12).all())
    assert float((norm / bound).max()) > 0.9


@pytest.mark.parametrize("name", CONVS)
def test_scaled_steps_shrink_on_directed_graphs(name):
    data, cell = data_of(name), cell_of(name, contraction=0.6)
    assert cell.proven
    assert cell.caveat(data.edge_index, data.edge_attr) is None
    assert float(cell.lipschitz_bound(data)) == pytest.approx(0.6)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    y, z = 10 * torch.randn(2, 12, 4, dtype=torch.double)
    assert float(size(step(z) - step(y)).detach().max()) <= 0.6 * float(size(z - y).max())
    deq = GraphDEQ(cell, tol=1e-9, max_steps=200, on_failure="raise")
    deq(data.x, data.edge_index, data.edge_attr)


def test_a_hub_does_not_silence_the_others():
    cell = cell_of("gin", contraction=0.9)

    def star(leaves: int) -> Tensor:
        leaf = torch.arange(1, leaves + 1)
        edge_index = torch.stack([leaf, torch.zeros_like(leaf)])
        edge_index = torch.cat([edge_index, edge_index.flip(0)], 1)
        x = torch.ones(leaves + 1, 2, dtype=torch.double)
        return cell.prepare(x, edge_index).scale.detach().flatten()

    small, large = star(5), star(200)
    torch.testing.assert_close(large[1:6], small[1:])
    assert float(large[0]) == pytest.approx(float(small[0]) * 6.5 / 201.5)


@pytest.mark.parametrize("name", ["gin", "graph-mean"])
def test_batch_law(name):
    graphs = [data_of(name, n) for n in (6, 20, 11)]
    deq = GraphDEQ(cell_of(name, contraction=0.6), tol=1e-11, max_steps=300)
    assert_batch_independent(deq, Batch.from_data_list(graphs))


def test_other_networks_are_measured():
    class Mine(pyg.GraphConv):
        """A subclass may do anything."""

    for conv in (
        pyg.GINConv(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))), pyg.GINConv(nn.GELU()),
        pyg.GINConv(mlp(), aggr="max"), pyg.GraphConv(4, 4, aggr="max"), Mine(4, 4), pyg.AGNNConv(),
    ):  # fmt: skip
        assert not sums_neighbors(conv)
        assert not WrappedConvCell(conv, 2, channels=4).proven
    normed = WrappedConvCell(CONVS["graph"](), 2, norm="LayerNorm")
    assert not normed.proven
    inf = float("inf")
    assert float(cell_of("graph", contraction=None).lipschitz_bound()) == inf
    assert float(cell_of("graph", activation="gelu").lipschitz_bound()) == inf


@pytest.mark.parametrize(
    "conv",
    [
        lambda: pyg.GraphConv(-1, 4),
        lambda: pyg.GINConv(pyg.Linear(-1, 4)),
        lambda: pyg.GINEConv(nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 4))),
    ],
)
def test_lazy_sums_get_their_bound_with_their_weights(conv):
    cell = WrappedConvCell(conv(), 2, channels=4, contraction=0.7)
    assert cell.sums_neighbors
    assert float(cell.lipschitz_bound()) == float("inf")
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 0]])
    edge_attr = torch.rand(4, 4) if type(cell.conv) is pyg.GINEConv else None
    GraphDEQ(cell, on_failure="raise")(torch.rand(3, 2), edge_index, edge_attr).sum().backward()
    assert float(cell.lipschitz_bound()) == pytest.approx(0.7)


def test_the_bound_of_weights_in_a_column():
    data, cell = data_of("graph"), cell_of("graph", contraction=None)
    expected = cell.lipschitz_bound(data)
    data.edge_attr = data.edge_attr.unsqueeze(1)
    torch.testing.assert_close(cell.lipschitz_bound(data), expected)


def test_half_precision_counts_every_neighbor():
    conv = pyg.GraphConv(1, 1).bfloat16()
    nn.init.ones_(conv.lin_rel.weight)
    nn.init.zeros_(conv.lin_root.weight)
    edge_index = torch.stack([torch.arange(1, 1001), torch.zeros(1000, dtype=torch.long)])
    bound = node_bound(conv, edge_index, None, 1001)
    assert float(bound[0].detach()) == 1000
    assert float(bound[1].detach()) == 0
