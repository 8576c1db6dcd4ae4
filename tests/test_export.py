"""The plain form of a step, which other runtimes take, equals the fast one."""

from __future__ import annotations

import pytest
import torch
from graphs import graph_of_kind, growing, measured
from torch_geometric.nn import GATConv, GCNConv, GINConv

from gncadeq import (
    CascadeCell,
    Cell,
    ConvCell,
    IGNNCell,
    MonotoneCell,
    Part,
    PixelGraphClassifier,
    PropagationCell,
    WrappedConvCell,
)
from gncadeq.cells import FeedForwardCell, StencilDrive
from gncadeq.export import (
    Rule,
    StepProgram,
    graph_inputs,
    neighbor_table,
    rule,
    to_exported_program,
)
from gncadeq.transforms import ImageToGraph


def ignn(**options) -> IGNNCell:
    torch.manual_seed(3)
    cell = IGNNCell(2, 4, **options)
    for p in cell.parameters():
        torch.nn.init.normal_(p)
    return cell


CELLS = {
    "conv": (lambda: ConvCell(2, 4, contraction=0.9), "relation"),
    "conv-residual": (lambda: ConvCell(2, 4, update="residual", kernel_size=5), "wide"),
    "conv-additive": (lambda: ConvCell(2, 2, injection="additive"), "relation"),
    "monotone": (lambda: MonotoneCell(2, 4), "relation"),
    "growing": (lambda: growing(in_channels=2), "kernels"),
    "growing-no-input": (lambda: growing(alive_channel=None), "kernels"),
    "ignn-sym": (lambda: ignn(), "weight"),
    "ignn-row": (lambda: ignn(normalization="row", bias=False), "weight"),
    "ignn-neighbors": (lambda: ignn(injection="neighbors"), "weight"),
    "propagation": (lambda: PropagationCell(2, 0.2), "weight"),
    "metropolis": (lambda: PropagationCell(2, 0.2, "metropolis"), "weight"),
    "gcn": (lambda: WrappedConvCell(GCNConv(4, 4), 2), "none"),
    "gcn-weighted": (lambda: WrappedConvCell(GCNConv(4, 4), 2), "positive"),
    "gat": (lambda: WrappedConvCell(GATConv(4, 2, heads=2), 2), "none"),
    "gat-state": (lambda: measured(WrappedConvCell(GATConv(4, 4), 2, attention="state")), "none"),
    "gin": (lambda: WrappedConvCell(GINConv(torch.nn.Linear(4, 4)), 2, 4), "none"),
}


ONLY_SCATTER = ("monotone", "gcn", "gcn-weighted", "gat", "gat-state", "gin")


FORMS = [(name, form) for name in CELLS for form in ("scatter", "gather")
         if form == "scatter" or name not in ONLY_SCATTER]  # fmt: skip


def test_a_growth_that_was_never_measured_cannot_be_exported():
    with pytest.raises(ValueError, match="Call the model on a graph once"):
        StepProgram(WrappedConvCell(GATConv(4, 4), 2, attention="state"))


@pytest.mark.parametrize("size", [(7, 30), (5, 0), (1, 3)], ids=str)
@pytest.mark.parametrize(("name", "form"), FORMS)
@torch.no_grad()
def test_plain_step_is_the_fast_step(name, form, size):
    make, kind = CELLS[name]
    cell, data = make().double().eval(), graph_of_kind(kind, *size)
    x = data.x if cell.in_channels else data.x[:, :0]
    z = torch.randn(size[0], cell.channels, dtype=torch.double)
    prepared = cell.prepare(x, data.edge_index, data.edge_attr)
    program = StepProgram(cell, form, data.edge_attr if name == "gcn-weighted" else None)
    edges, edge_attr = data.edge_index, data.edge_attr
    if form == "gather":
        edges, edge_attr = neighbor_table(edges, edge_attr, size[0])
    scale = prepared.scale if program.rule.takes_scale else None
    found = program(z, edges, edge_attr, x if cell.in_channels else None, scale=scale)[0]
    torch.testing.assert_close(found, prepared(z), rtol=0, atol=1e-10)


def test_padding_never_leaks():
    """A neighbour that isn't there has no say, be node 0 as broken as it may."""
    program = StepProgram(ConvCell(2, 4), "gather")
    data = graph_of_kind("relation", 6, 4, torch.float)
    neighbors, relation = neighbor_table(data.edge_index, data.edge_attr, 6, most=7)
    z = torch.zeros(6, 4)
    z[0] = float("nan")
    hit = {0, *data.edge_index[1][data.edge_index[0] == 0].tolist()}
    bad = program(z, neighbors, relation, data.x)[0].isnan().any(1).nonzero().flatten()
    assert set(bad.tolist()) == hit
    assert len(hit) < 6


def test_neighbor_table_refuses_what_does_not_fit():
    edges = torch.tensor([[0, 1, 2], [1, 1, 1]])
    with pytest.raises(ValueError, match="at most 2 edges into a node"):
        neighbor_table(edges, None, 3, most=2)
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        neighbor_table(edges, None, 2)


def test_a_cell_of_ones_own_can_be_taught():
    class Mean(Cell):
        in_channels, channels = 2, 2

        def prepare(self, x, edge_index, edge_attr=None):
            raise NotImplementedError

    class MeanRule(Rule):
        def forward(self, graph, x, edge_attr, scale):
            count = graph.total(torch.ones_like(graph.source, dtype=x.dtype).unsqueeze(-1))
            return lambda z: graph.total(z[graph.source]) / count.clamp(min=1) + x

        def example(self, edges):
            return None

    rule.register(Mean, lambda cell, edge_attr=None: MeanRule(cell))
    program = StepProgram(Mean())
    assert program.names == ("x", "z", "edge_index")
    edges, x = torch.tensor([[0, 2], [1, 1]]), torch.zeros(3, 2)
    z = torch.tensor([[2.0, 4.0], [9.0, 9.0], [4.0, 0.0]])
    assert program(z, edges, x=x)[0].tolist() == [[0, 0], [3, 2], [0, 0]]


def test_exported_programs_take_any_graph():
    cell = ConvCell(2, 4, contraction=0.9)
    step = to_exported_program(cell).module()
    for n, e in ((5, 9), (30, 120), (3, 0)):
        data, z = graph_of_kind("relation", n, e, torch.float), torch.rand(n, 4)
        expected = cell(z, data.x, data.edge_index, data.edge_attr)
        found = step(x=data.x, z=z, edges=data.edge_index, edge_attr=data.edge_attr)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_model_is_left_alone():
    model = PixelGraphClassifier(channels=4, hidden_channels=8).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    program = StepProgram(model)
    assert model.training
    assert not any(p is q for p in model.parameters() for q in program.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_cascades_are_exported_with_their_drives():
    """On one graph and up a pyramid, in both forms: one step is the cell's own."""
    torch.manual_seed(0)
    relu = {"injection": "additive", "contraction": 0.8, "activation": "relu"}
    flat = CascadeCell(
        [
            ConvCell(1, 3, contraction=0.6),
            Part(ConvCell(2, 2, **relu), StencilDrive(4, 2), ["x", 0]),
            Part(FeedForwardCell(2, "tanh"), torch.nn.Linear(5, 2), reads=[0, 1]),
        ],
        in_channels=1,
    )
    high = CascadeCell(
        [
            Part(FeedForwardCell(3), StencilDrive(1, 3), ["x"]),
            Part(ConvCell(2, 2, **relu), torch.nn.Linear(3, 2), [0]),
            Part(ConvCell(4, 4, **relu), StencilDrive(2, 4), [1], level=1),
            Part(ConvCell(2, 2, **relu), StencilDrive(4, 2), [2], level=2),
        ],
        in_channels=1,
    )
    for cell, levels in ((flat, 1), (high, 3)):
        cell = cell.double().eval()
        data = ImageToGraph(living_threshold=0.3, levels=levels)(torch.rand(1, 9, 7).double())
        z = torch.rand(data.num_nodes, cell.channels, dtype=torch.double)
        for form in ("scatter", "gather"):
            given = {k: torch.from_numpy(v) for k, v in graph_inputs(data, form).items()}
            edges = given.pop("edge_index" if form == "scatter" else "neighbors")
            del given["batch"]
            (new,) = StepProgram(cell, form)(z, edges, **given)
            expected = cell(z, data.x, data.edge_index, data.edge_attr)
            assert torch.allclose(new, expected, atol=1e-10)
    driven = CascadeCell([ConvCell(1, 2), Part(ConvCell(2, 2), GCNConv(3, 2))], 1)
    with pytest.raises(ValueError, match="got GCNConv"):
        StepProgram(driven)
