"""Averages and maxima that neighbours pass on, and classifiers whose pixels decide alone."""

from __future__ import annotations

import json

import pytest
import torch
from graphs import weighted_graph
from torch import nn
from torch_geometric.data import Batch, Data
from typer.testing import CliRunner

from gncadeq import (
    CascadeCell,
    ConvCell,
    GraphDEQ,
    GraphNCA,
    MaxPropagationCell,
    Part,
    PixelGraphClassifier,
    PropagationCell,
    PyramidClassifier,
    SelfClassifier,
)
from gncadeq.cell_labels import CellLabels, cell_labels
from gncadeq.cells import DistanceCell
from gncadeq.cli import app
from gncadeq.dynamics import Partition
from gncadeq.graph.levels import Pyramid
from gncadeq.transforms import AddShortcuts, ImageToGraph

KINDS = {
    "pixels": lambda: PixelGraphClassifier(
        channels=4, hidden_channels=8, contraction=0.5, transform={"living_threshold": 0.3}
    ),
    "pyramid": lambda: PyramidClassifier(channels=(2, 3), contraction=0.5),
}


def drawn(kind: str) -> tuple[PixelGraphClassifier | PyramidClassifier, list[Data]]:
    torch.manual_seed(0)
    model = KINDS[kind]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = torch.zeros(3, 1, 12, 12)
    images[0, 0, 2:10, 5:7] = torch.rand(8, 2) * 0.6 + 0.4
    images[1, 0, 3, 2:10] = images[1, 0, 3:9, 9] = 0.9
    images[2, 0, 2:9, 3:9] = torch.rand(7, 6) * 0.6 + 0.4
    graphs = [model.to_graph(image) for image in images]
    for graph in graphs:
        graph.x = graph.x.double()
    return model, graphs


# Maxima that fade


@pytest.mark.parametrize("alpha", [0.3, 0.01])
def test_the_equilibrium_is_the_largest_value_by_distance(alpha):
    data = weighted_graph(20)
    x = data.x.abs()
    deq = GraphDEQ(MaxPropagationCell(2, alpha), tol=1e-14)
    z = deq(x, data.edge_index)
    far = GraphDEQ(DistanceCell(20))(torch.eye(20).double(), data.edge_index)  # [i, j]: j to i
    expected = ((1 - alpha) ** far.unsqueeze(2) * x.unsqueeze(0)).amax(1)
    torch.testing.assert_close(z, expected)


def test_maxima_contract_the_largest_entry_in_every_order_of_updates():
    for seed in range(5):
        torch.manual_seed(seed)
        data, cell = weighted_graph(15, seed), MaxPropagationCell(2, 0.2)
        step = cell.prepare(data.x, data.edge_index)
        certificate = cell.certificate(data.edge_index, num_nodes=15)
        partition = Partition(None, 15)
        a, b = (10.0**k * torch.randn(15, 2).double() for k in (4, -3))
        gap = certificate.norm(a - b, partition)
        assert float(certificate.norm(step(a) - step(b), partition)) <= 0.8 * float(gap) + 1e-12
        for _ in range(400):
            mask = (torch.rand(15, 1) < 0.3).double()
            a, b = (z + mask * (step(z) - z) for z in (a, b))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        torch.testing.assert_close(step(a), a, atol=1e-6, rtol=0)


def test_the_gradient_of_a_maximum_goes_to_where_it_comes_from():
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    x = torch.tensor([[1.0], [0.2], [0.5]], dtype=torch.double, requires_grad=True)
    z = GraphDEQ(MaxPropagationCell(1, 0.1), tol=1e-12)(x, path)
    z.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1 + 0.9 + 0.81], [0], [0]]).double())


# Which edges a part reads


def test_parts_read_the_edges_of_their_relations():
    data = ImageToGraph()(torch.rand(1, 5, 5, dtype=torch.double))
    longer = AddShortcuts()(data.clone())
    conv, average = ConvCell(1, 3, contraction=0.5), PropagationCell(3, 0.1, "metropolis")
    cell = CascadeCell(
        [Part(conv, reads=["x"], relations=range(9)), Part(average, reads=[0], relations="all")], 1
    ).double()
    z = GraphDEQ(cell, tol=1e-12)(longer.x, longer.edge_index, longer.edge_attr)
    h = GraphDEQ(conv, tol=1e-12)(data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(z[:, :3], h)
    torch.testing.assert_close(
        z[:, 3:], GraphDEQ(average, tol=1e-12, max_steps=200)(h, longer.edge_index)
    )
    certificate = cell.certificate(longer.edge_index, longer.edge_attr, num_nodes=25)
    assert certificate.rate == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(ValueError, match=r"relations \[num_edges\] in 'edge_attr'"):
        cell.prepare(data.x, data.edge_index)
    with pytest.raises(ValueError, match="'relations' to be"):
        Part(conv, relations="none")


def test_the_node_above_a_pixel_holds_it():
    data = ImageToGraph(living_threshold=0.6, halo=1, levels=3)(torch.rand(1, 13, 10))
    pyramid = Pyramid.of(data.edge_index, data.edge_attr, data.num_nodes)
    above = pyramid.levels[-1].rows[pyramid.top()]
    assert bool((data.level[above] == 2).all())
    assert torch.equal(data.pos[above], (data.pos // 4) * 4)


# Classifiers


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_knows_what_the_whole_graph_knows(kind):
    """As alpha goes to zero: the classifier's own logits at every node, in batches, too."""
    model, graphs = drawn(kind)
    batch = Batch.from_data_list(graphs)
    own = GraphDEQ(model.dynamics.cell, tol=1e-13, max_steps=500)
    model.dynamics = own
    with torch.no_grad():
        whole = model(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    each = SelfClassifier(model, 1e-5, {"tol": 1e-9, "max_steps": 3000}).eval()
    logits, solution = each(
        batch.x, batch.edge_index, batch.edge_attr, batch.batch, return_solution=True
    )
    assert bool(solution.converged.all())
    torch.testing.assert_close(logits, whole[batch.batch], atol=3e-3, rtol=0)
    alone = torch.cat([each(g.x, g.edge_index, g.edge_attr) for g in graphs])
    torch.testing.assert_close(logits, alone, atol=3e-3, rtol=0)
    assert {id(p) for p in each.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_end_with_the_same_labels_from_everywhere(kind):
    """From noise, after a swap of the image, at fire rate ½: one equilibrium."""
    model, graphs = drawn(kind)
    each = SelfClassifier(model, 0.2, {"tol": 1e-12}).eval()
    graph = graphs[1]
    u, edges, relation = each.inject(graph.x, graph.edge_index, graph.edge_attr)
    z = each.dynamics(u, edges, relation)
    size = {"edge_index": edges, "edge_attr": relation, "num_nodes": graph.num_nodes}
    assert each.cell.certificate(**size).promises
    nca = GraphNCA(each.cell, steps=500, fire_rate=0.5)
    for scale in (0.0, 10.0):
        start = scale * torch.randn(z.shape, dtype=torch.double)
        end = nca(u, edges, relation, z0=start, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(end, z, atol=1e-7, rtol=0)


def test_long_edges_join_what_is_apart_and_the_rule_does_not_see_them():
    model, _ = drawn("pixels")
    image = torch.zeros(1, 12, 12)
    image[0, 1:5, 1:4], image[0, 7:11, 6:11] = 0.5, 0.9
    graph = model.to_graph(image)
    graph.x = graph.x.double()
    model.dynamics = GraphDEQ(model.dynamics.cell, tol=1e-13)
    whole = model(graph.x, graph.edge_index, graph.edge_attr)
    each = SelfClassifier(model, 1e-6, {"tol": 1e-12}).eval()
    apart = each(graph.x, graph.edge_index, graph.edge_attr)
    assert float((apart - whole).detach().abs().amax(1).min()) > 1e-4
    longer = AddShortcuts()(graph.clone())
    joined = each(longer.x, longer.edge_index, longer.edge_attr)
    torch.testing.assert_close(joined, whole.expand_as(joined), atol=1e-4, rtol=0)
    kept = AddShortcuts(within="component")(graph.clone())
    still = each(kept.x, kept.edge_index, kept.edge_attr)
    torch.testing.assert_close(still, apart, atol=1e-3, rtol=0)


def test_the_gradient_reaches_the_classifier():
    model, graphs = drawn("pixels")
    each = SelfClassifier(model, 0.05, {"tol": 1e-10, "max_steps": 500}).train()
    each.model.readout.eval()
    loss = each(graphs[0].x, graphs[0].edge_index, graphs[0].edge_attr).logsumexp(1).sum()
    loss.backward()
    for name, parameter in each.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


# Measures


def test_measures_of_decisions():
    # right and agreed; wrong and agreed; right by majority; one that doesn't decide; none counts
    prediction = torch.tensor([1, 1, 2, 2, 3, 3, 4, 5, -1, 0])
    graph = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3, 4])
    y = torch.tensor([1, 3, 3, 5, 7])
    counted = torch.tensor([True] * 9 + [False])
    labels = cell_labels(prediction, graph, y, counted)
    assert labels.accuracy == pytest.approx(5 / 9)
    assert labels.agreement == 0.5
    assert labels.majority == 0.75
    assert labels.right_and_agreed == 0.25
    assert labels.summary()["majority"] == 0.75
    assert labels.same(labels) == pytest.approx(8 / 9)
    logits = torch.nn.functional.one_hot(prediction.clamp(min=0), 8).double()
    logits[8] = float("nan")
    again = cell_labels(logits, graph, y, counted)
    assert torch.equal(again.prediction, labels.prediction)
    assert isinstance(again, CellLabels)
    twice = CellLabels.join([labels, again])
    assert twice.summary() == labels.summary()
    assert len(twice.label) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(2).long(), torch.zeros(1)), r"'batch' and 'mask' of shape"),
        ((torch.zeros(3, 2, 2), None, torch.zeros(1)), "logits"),
        ((torch.zeros(2).long(), torch.tensor([0, 1]), torch.zeros(1)), "for each graph"),
    ],
)
def test_measures_refuse_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        cell_labels(*arguments)


def test_arguments_are_checked():
    model, _ = drawn("pixels")
    with pytest.raises(ValueError, match="'alpha' to be"):
        SelfClassifier(model, 1.0)
    with pytest.raises(TypeError, match="'model' to be"):
        SelfClassifier(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_command(tmp_path, kind):
    """Untrained weights do: what is tested is that the command measures, draws and refuses."""
    model, _ = drawn(kind)
    run = str(tmp_path / "model.safetensors")
    model.float().save_pretrained(run, {"config": {"dataset": "digits"}})
    runner = CliRunner()
    places = {"--json": tmp_path / "numbers.json", "--picture": tmp_path / "cells.png"}
    measure = ["--quiet", "evaluate", run, "--labels", "cells", "--limit", "5", "--alpha", "0.2",
               "--as", "nca", "--steps", "150", "--fire-rate", "0.5",
               "--data-root", str(tmp_path)]  # fmt: skip
    extra = [str(word) for pair in places.items() for word in pair]
    extra += ["--shortcuts", "1"] if kind == "pixels" else []
    result = runner.invoke(app, [*measure, *extra])
    assert result.exit_code == 0, result.output
    numbers = json.loads(places["--json"].read_text())
    assert numbers["equilibrium"]["converged"] == 1.0
    assert numbers["automaton"]["same_label"] > 0.99
    assert places["--picture"].stat().st_size > 1000
    if kind == "pyramid":
        refused = runner.invoke(app, [*measure, "--shortcuts", "1"])
        assert "Expected long edges between pixels of one level" in str(refused.exception)
    refused = runner.invoke(app, ["evaluate", run, "--shortcuts", "1"])
    assert "Use --labels cells" in str(refused.exception)
