"""``torch.compile``: one break around a solve, none in a fixed number of steps."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from gncadeq import ConvCell, GraphDEQ, GraphNCA, GrowingCell, IGNNCell, MonotoneCell
from gncadeq.cells import prepare_neighborhood
from gncadeq.transforms import ImageToGraph, PixelKernels

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 4


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def pixels(living: float | None = 0.3):
    return ImageToGraph(living_threshold=living)(torch.rand(1, 6, 6))


def assert_same_gradients(eager, compiled, parameters) -> None:
    torch.testing.assert_close(compiled, eager)
    pairs = [
        torch.autograd.grad(v.square().sum(), parameters, allow_unused=True)
        for v in (eager, compiled)
    ]
    assert any(g is not None and bool(g.any()) for g in pairs[0])
    for a, b in zip(*pairs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a)


class Net(nn.Module):
    """A model that holds an equilibrium."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 3)
        self.deq = GraphDEQ(ConvCell(3, 4, contraction=0.9), tol=1e-6)
        self.head = nn.Linear(4, 2)

    def forward(self, x, edge_index, edge_attr):
        h = self.encoder(x).relu()
        return self.head(self.deq(h, edge_index, edge_attr).relu())


def test_a_model_breaks_once_around_the_solve():
    data, net = pixels(), Net()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter)
    graph = data.x, data.edge_index, data.edge_attr
    assert_same_gradients(net(*graph), compiled(*graph), list(net.parameters()))
    assert counter.frame_count == 2  # before and after
    found = torch._dynamo.explain(net)(*graph)
    assert (found.graph_count, found.graph_break_count) == (2, 1)
    assert "disable" in found.break_reasons[0].reason


def automata() -> dict:
    data, whole = pixels(), PixelKernels()(pixels(None))
    hood = prepare_neighborhood(data.edge_index, data.edge_attr, data.num_nodes, 9)
    grid = prepare_neighborhood(*(pixels(None)[k] for k in ("edge_index", "edge_attr")), 36, 9)
    kernels = whole.edge_attr.size(1)
    growing = GrowingCell(5, kernels, hidden_channels=8, in_channels=1)
    nn.init.normal_(growing.weight_out, std=0.3)

    def conv(layer, **options):
        nca = GraphNCA.from_conv(layer, 1, activation="tanh", steps=STEPS, **options)
        return nca, (data.x, data.edge_index)

    return {
        "stencil": (GraphNCA(ConvCell(1, 4), STEPS), (data.x, hood)),
        "grid": (GraphNCA(ConvCell(1, 4), STEPS), (whole.x, grid)),
        "IGNN": (GraphNCA(IGNNCell(1, 4), STEPS), (data.x, data.edge_index)),
        "growing": (GraphNCA(growing, STEPS), (whole.x, whole.edge_index, whole.edge_attr)),
        "GCNConv": conv(pyg.GCNConv(4, 4)),
        "GATConv": conv(pyg.GATConv(4, 4), contraction=None),
        "AGNNConv": conv(pyg.AGNNConv(), channels=4),
    }


@pytest.mark.parametrize("name", list(automata()))
def test_a_fixed_number_of_steps_is_one_graph(name):
    torch.manual_seed(0)
    nca, graph = automata()[name]
    z0 = torch.rand(graph[0].size(0), nca.cell.channels)
    compiled = torch.compile(nca, backend="aot_eager", fullgraph=True)
    assert_same_gradients(nca(*graph, z0=z0), compiled(*graph, z0=z0), list(nca.parameters()))


@pytest.mark.parametrize("cell", [ConvCell(1, 4, contraction=0.9), MonotoneCell(1, 4)])
def test_steps_bound_beforehand_are_one_graph_for_any_cell(cell):
    """For cells that look at their weights to bound them."""
    data = pixels()
    step = cell.bind(data.x, data.edge_index, data.edge_attr)

    def run(z):
        for _ in range(STEPS):
            z = step(z)
        return z

    z = torch.rand(data.num_nodes, 4)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    parameters = list(cell.parameters())
    nca = GraphNCA(cell, STEPS)
    eager = nca(data.x, data.edge_index, data.edge_attr, z0=z)
    assert_same_gradients(eager, compiled(z), parameters)


def test_batches_of_several_sizes_need_one_more_compilation_at_most():
    nca = GraphNCA.from_conv(pyg.SAGEConv(4, 4), 1, steps=STEPS)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(nca, backend=counter, fullgraph=True)
    for size in (5, 6, 8, 11):
        data = ImageToGraph()(torch.rand(1, size, size))
        torch.testing.assert_close(compiled(data.x, data.edge_index), nca(data.x, data.edge_index))
    assert counter.frame_count == 2  # the second one is for all sizes


@pytest.mark.slow
def test_inductor():
    nca, graph = automata()["GCNConv"]
    compiled = torch.compile(nca, fullgraph=True)
    assert_same_gradients(nca(*graph), compiled(*graph), list(nca.parameters()))
    data, net = pixels(), Net()
    graph = data.x, data.edge_index, data.edge_attr
    assert_same_gradients(net(*graph), torch.compile(net)(*graph), list(net.parameters()))
