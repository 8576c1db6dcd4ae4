"""Attention that is held for a solve: PyG's conv at the start, linear from there, and bounded.

The laws over all convs are in test_convs.py."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from conv_table import Works, graph
from graphs import dense
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, GraphNCA, WrappedConvCell
from gncadeq.cells import can_hold_attention, held_bound
from gncadeq.testing import assert_batch_independent, assert_deterministic, assert_gradients_exact
from gncadeq.typing import AdjointStep

CONVS = {
    "gat": lambda **o: pyg.GATConv(4, 2, heads=2, **o),
    "gat-one": lambda **o: pyg.GATConv(4, 4, **o),
    "gat-mean": lambda **o: pyg.GATConv(4, 4, heads=3, concat=False, **o),
    "gat-residual": lambda **o: pyg.GATConv(4, 2, heads=2, residual=True, **o),
    "gat-backwards": lambda **o: pyg.GATConv(4, 2, heads=2, flow="target_to_source", **o),
    "gat-no-loops": lambda **o: pyg.GATConv(4, 2, heads=2, add_self_loops=False, **o),
    "gatv2": lambda **o: pyg.GATv2Conv(4, 2, heads=2, **o),
    "gatv2-mean": lambda **o: pyg.GATv2Conv(4, 4, heads=2, concat=False, residual=True, **o),
    "transformer": lambda **o: pyg.TransformerConv(4, 2, heads=2, **o),
    "transformer-mean": lambda **o: pyg.TransformerConv(4, 4, 2, concat=False, **o),
    "transformer-no-root": lambda **o: pyg.TransformerConv(4, 4, root_weight=False, **o),
}


def directed(num_nodes: int = 9, seed: int = 0) -> Data:
    """With loops, and a node that hears nobody."""
    g = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, num_nodes - 1, (2, 3 * num_nodes), generator=g).unique(dim=1)
    x = torch.randn(num_nodes, 3, generator=g, dtype=torch.double)
    return Data(x=x, edge_index=edge_index, num_nodes=num_nodes)


def cell_of(name: str, dropout: float = 0.0, **options) -> WrappedConvCell:
    torch.manual_seed(4)
    conv = CONVS[name](dropout=dropout)
    for parameter in conv.parameters():  # biases that say something
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return WrappedConvCell(conv, 3, channels=4, **options).double()


def matrix(step, num_nodes: int) -> Tensor:
    zero = step(torch.zeros(num_nodes, 4, dtype=torch.double)).detach()
    return dense(lambda z: step(z).detach() - zero, num_nodes, 4)


@pytest.mark.parametrize("name", CONVS)
def test_at_the_start_it_is_the_conv_and_linear_from_there(name):
    data, n = directed(), 9
    cell = cell_of(name, contraction=None, activation="tanh")
    step = cell.prepare(data.x, data.edge_index)
    start = cell.inject(data.x).tanh()
    torch.testing.assert_close(step.image(start), cell.conv(start, data.edge_index))
    y, z = torch.randn(2, n, 4, dtype=torch.double)
    middle = step.image(0.5 * (y + z))
    torch.testing.assert_close(middle, 0.5 * (step.image(y) + step.image(z)))
    free = cell_of(name, contraction=None, activation="tanh", attention="state")
    assert not torch.allclose(free.prepare(data.x, data.edge_index).image(z), step.image(z))


@pytest.mark.parametrize("name", CONVS)
def test_the_adjoint_is_the_transposed_jacobian(name):
    """Of a batch, and of one of its graphs; with the activations whose slope is known."""
    batch = Batch.from_data_list([directed(), directed(6, 1)])
    last = torch.arange(9, 15)
    for activation in ("tanh", "relu", None):
        cell = cell_of(name, activation=activation)
        step = cell.prepare(batch.x, batch.edge_index)
        assert isinstance(step, AdjointStep)
        z = torch.randn(15, 4, dtype=torch.double, requires_grad=True)
        u, fz = torch.randn(15, 4, dtype=torch.double), step(z)
        (expected,) = torch.autograd.grad(fz, z, u, retain_graph=True)
        with torch.no_grad():
            product = step.adjoint(z.detach(), fz.detach())
            torch.testing.assert_close(product(u), expected)
            torch.testing.assert_close(product.restrict(last)(u[last]), expected[last])
    assert not isinstance(
        cell_of(name, activation="elu").prepare(batch.x, batch.edge_index), AdjointStep
    )


@pytest.mark.parametrize("name", CONVS)
def test_the_bound_holds_on_directed_graphs(name):
    data, n = directed(), 9
    cell = cell_of(name, contraction=None, activation=None)
    bound = float(cell.lipschitz_bound(data))
    assert bound == pytest.approx(float(held_bound(cell.conv).detach()))
    a = matrix(cell.prepare(data.x, data.edge_index), n)
    radius = float(torch.linalg.eigvals(a).abs().max())
    assert 0.1 * bound < radius <= bound + 1e-9
    small = cell_of(name, contraction=0.5, activation=None)
    assert float(small.lipschitz_bound(data)) <= 0.5 + 1e-9
    assert small.caveat(data.edge_index) is None
    scaled = matrix(small.prepare(data.x, data.edge_index), n)
    torch.testing.assert_close(scaled, a * min(1.0, 0.5 / bound))


def test_the_bound_of_heads_that_do_not_mix_is_one():
    conv = pyg.GATConv(8, 2, heads=4)
    torch.nn.init.eye_(conv.lin.weight)
    assert float(held_bound(conv).detach()) == pytest.approx(1.0)
    torch.nn.init.orthogonal_(conv.lin.weight)  # every node's norm: four heads of norm one
    assert 1.0 < float(held_bound(conv).detach()) <= 2.0 + 1e-6


@pytest.mark.parametrize("name", ["gat", "gatv2-mean", "transformer"])
def test_dropped_attention_stays_an_average(name):
    data = directed(30)
    cell = cell_of(name, dropout=0.6, contraction=None, activation=None, init="identity")
    step = cell.prepare(data.x, data.edge_index)
    undropped = cell.eval().prepare(data.x, data.edge_index)
    assert int((step.weight == 0).sum()) > 0.3 * step.weight.numel()
    sums = torch.zeros(30 * step.heads, dtype=torch.double)
    sums.index_add_(0, step.rows.row, step.weight.detach())
    assert float(sums.max()) <= 1 + 1e-12
    kept = torch.where(step.weight == 0, 0.0, undropped.weight / 0.4).detach()
    total = torch.zeros_like(sums).index_add_(0, step.rows.row, kept)
    assert float(total.min()) < 1 < float(total.max())  # what is below one stays as it is
    torch.testing.assert_close(step.weight.detach(), kept / total.clamp(min=1)[step.rows.row])
    assert_deterministic(GraphDEQ(cell.train(), tol=1e-8, on_failure="ignore"), data)


@pytest.mark.parametrize("name", ["gat", "transformer-mean"])
def test_laws_with_what_the_table_of_convs_leaves_out(name):
    cell = cell_of(name, contraction=0.6)
    batch = Batch.from_data_list([directed(n, n) for n in (6, 14, 9)])
    assert_batch_independent(GraphDEQ(cell, tol=1e-11, max_steps=200), batch)
    smooth = cell_of(name, contraction=0.3, activation="tanh")
    assert_gradients_exact(GraphDEQ(smooth, tol=1e-12), directed(), order=2, steps=40)


@pytest.mark.parametrize("conv", [pyg.GATConv, pyg.GATv2Conv, pyg.TransformerConv])
def test_edge_attributes_count(conv):
    data = graph(Works(lambda: None, "attr"), 12)
    cell = WrappedConvCell(conv(4, 2, heads=2, edge_dim=3), 3, contraction=None).double()
    start = cell.inject(data.x).tanh()
    for edge_attr in (data.edge_attr, 2 * data.edge_attr):
        step = cell.prepare(data.x, data.edge_index, edge_attr)
        expected = cell.conv(start, data.edge_index, edge_attr)
        torch.testing.assert_close(step.image(start), expected)


@pytest.mark.parametrize("name", ["gat", "gatv2-mean", "transformer"])
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_graphs_without_edges(name, num_nodes):
    edge_index = torch.empty(2, 0, dtype=torch.long)
    x = torch.ones(num_nodes, 3, dtype=torch.double)
    assert GraphDEQ(cell_of(name))(x, edge_index).shape == (num_nodes, 4)
    conv = pyg.TransformerConv(4, 2, heads=2, edge_dim=3)
    cell = WrappedConvCell(conv, 3, contraction=None).double()
    step = cell.prepare(x, edge_index, torch.empty(0, 3, dtype=torch.double))
    torch.testing.assert_close(step.image(step.drive), conv.lin_skip(step.drive))


@pytest.mark.parametrize("name", CONVS)
def test_autocast(name):
    data, cell = directed(), cell_of(name, contraction=0.5).float()
    nca, x = GraphNCA(cell, steps=4), data.x.float()
    expected = nca(x, data.edge_index)
    with torch.autocast("cpu", torch.bfloat16):
        z = nca(x, data.edge_index)
    torch.testing.assert_close(z, expected, atol=0.05, rtol=0.05)
    cell.bfloat16()
    z = nca(x.bfloat16(), data.edge_index)
    torch.testing.assert_close(z.float(), expected, atol=0.1, rtol=0.1)


def test_an_explainer_masks_the_held_weights():
    data = directed()
    cell = cell_of("gat", contraction=None, activation="tanh")
    cell.conv.explain = True
    cell.conv._edge_mask = torch.rand(data.num_edges, dtype=torch.double)
    cell.conv._loop_mask = data.edge_index[0] != data.edge_index[1]
    cell.conv._apply_sigmoid = False
    start = cell.inject(data.x).tanh()
    step = cell.prepare(data.x, data.edge_index)
    torch.testing.assert_close(step.image(start), cell.conv(start, data.edge_index))


def test_what_is_held_and_what_is_not():
    class Mine(pyg.GATConv):
        """A subclass may do anything."""

    for conv in (
        Mine(4, 4), pyg.AGNNConv(), pyg.GCNConv(4, 4), pyg.GATConv((4, 4), 4),
        pyg.GATConv(4, 4, aggr="max"), pyg.TransformerConv(4, 4, beta=True),
    ):  # fmt: skip
        assert not can_hold_attention(conv)
        assert not WrappedConvCell(conv, 3, channels=4).holds_attention
    cell = WrappedConvCell(pyg.GATConv(4, 4), 3, norm="LayerNorm")
    assert cell.holds_attention
    assert cell.proven_bound() is None
    with pytest.raises(ValueError, match="'attention' to be 'injection' or 'state'"):
        WrappedConvCell(pyg.GATConv(4, 4), 3, attention="none")
    with pytest.raises(ValueError, match="heads that are concatenated count"):
        GraphDEQ.from_conv(pyg.GATConv(4, 4, heads=2), 3)(torch.rand(3, 3), directed(3).edge_index)
