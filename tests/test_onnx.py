"""ONNX files compute what PyTorch does, and say what they are."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from conv_table import CONVS, C, Works
from conv_table import graph as conv_graph
from graphs import graph_of_kind, growing, measured
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, GCNConv, GINConv
from typer.testing import CliRunner

from gncadeq import (
    Cell,
    ConvCell,
    EquivariantCell,
    GraphDEQ,
    GraphNCA,
    IGNNCell,
    MonotoneCell,
    PixelGraphClassifier,
    PropagationCell,
    WrappedConvCell,
)
from gncadeq.cli import app
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import Partition
from gncadeq.export import (
    check_onnx,
    graph_inputs,
    to_onnx,
)
from gncadeq.models import ImageClassifier, PyramidClassifier
from gncadeq.testing.graphs import solve_on
from gncadeq.transforms import ImageToGraph

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def pyramid(*channels: int) -> PyramidClassifier:
    model = PyramidClassifier(channels=channels).train()
    batch = model.to_graph.batch(torch.rand(8, 1, 12, 9))
    model(batch.x, batch.edge_index, batch.edge_attr, batch.batch)  # statistics to be folded
    return model


def nca(cell: Cell, **options) -> GraphNCA:
    return GraphNCA(cell, **{"steps": 5, **options})


def mnist() -> PixelGraphClassifier:
    return PixelGraphClassifier.from_pretrained("mnist")


# What is written, the kind of its graphs, and how.
PLAN = {
    "classifier": (mnist, "pixels", {}),
    "classifier-gather": (mnist, "pixels", {"form": "gather", "steps": 60, "tol": 1e-6}),
    "pyramid": (lambda: pyramid(2, 3), "pixels", {}),
    "pyramid-gather": (lambda: pyramid(2, 3, 4), "pixels", {"form": "gather", "program": "step"}),
    "growing": (
        lambda: nca(growing(in_channels=2), steps=6, fire_rate=0.5, step_size=0.75),
        "kernels",
        {"form": "gather"},
    ),
    "growing-step": (lambda: nca(growing(), fire_rate=0.5), "kernels", {"program": "step"}),
    "ignn": (lambda: nca(IGNNCell(2, 4)), "weight", {"steps": 5}),
    "monotone": (lambda: nca(MonotoneCell(2, 4)), "relation", {"program": "step"}),
    "gcn": (lambda: GraphNCA.from_conv(GCNConv(4, 4), 2, steps=5), "none", {}),
    "propagation": (lambda: nca(PropagationCell(2)), "weight", {"form": "gather"}),
    "gat": (lambda: GraphNCA.from_conv(GATConv(4, 2, heads=2), 2, steps=5), "none", {}),
    "gat-state": (
        lambda: nca(measured(WrappedConvCell(GATConv(4, 4), 2, attention="state"))), "none", {},
    ),
    "gin": (
        lambda: GraphDEQ.from_conv(GINConv(torch.nn.Linear(4, 4)), 2, channels=4),
        "none",
        {"program": "step"},
    ),
}  # fmt: skip
# test_which_convs_of_pyg_are_exported has more of the kind.
SLOW = ("gat-state", "gin")
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in PLAN]


class Files(dict):
    """Name → (file, what it was written from, kind of its graphs), written when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, name: str) -> tuple:
        make, kind, options = PLAN[name]
        model = make()
        path = to_onnx(model, self.folder / f"{name}.onnx", **options)
        self[name] = path, model.eval(), kind
        return self[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Writing a file takes a second or two, so each is looked at from several sides."""
    return Files(tmp_path_factory.mktemp("onnx"))


def pixels(model: ImageClassifier, *sizes: tuple[int, int]) -> Batch:
    return Batch.from_data_list([model.to_graph(torch.rand(1, *size)) for size in sizes])


@pytest.mark.parametrize("name", NAMES)
def test_files_compute_what_pytorch_does(files, name):
    """One file, on graphs of other sizes than it was traced with, without edges, of one node."""
    path, model, kind = files[name]
    sizes = ((9, 40), (23, 31), (4, 0), (1, 2))
    graphs = [graph_of_kind(kind, *size, torch.float) for size in sizes] if kind != "pixels" else [
        pixels(model, (5, 7)), pixels(model, (9, 4), (8, 8), (3, 11)), pixels(model, (1, 1)),
    ]  # fmt: skip
    for data in graphs:
        torch.manual_seed(3)
        z0 = torch.rand(data.num_nodes, model.cell.channels) if kind == "kernels" else None
        steps = 60 if kind == "pixels" else None
        assert check_onnx(path, model, data, z0, steps=steps) <= 1e-5


def test_check_notices_other_weights(files):
    path, model, _ = files["gcn"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.cell.inject.bias += 0.01
    with pytest.raises(ValueError, match="within 1e-05 of PyTorch"):
        check_onnx(path, other, graph_of_kind("none", 5, 9, torch.float))


def test_check_takes_models_as_they_come(tmp_path):
    """In training mode, with its batch norm; with more steps than six digits tell."""
    torch.manual_seed(0)
    model = PixelGraphClassifier(channels=4, hidden_channels=8).train()
    model.readout.norm.running_mean.normal_()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = to_onnx(model, tmp_path / "classifier.onnx", steps=1_000_001, tol=1e-5)
    data = Batch.from_data_list([model.to_graph(torch.rand(1, 9, 7)) for _ in range(3)])
    assert check_onnx(path, model, data) <= 1e-5
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def operators(graph) -> set[str]:
    """The operators of an ONNX graph, those in loops included."""
    found = {node.op_type for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            found |= operators(attribute.g) if attribute.HasField("g") else set()
    return found


def test_gather_form_never_scatters(files):
    scattering = {name: {op for op in operators(onnx.load(files[name][0]).graph) if "Scatter" in op}
                  for name in ("classifier", "classifier-gather", "growing")}  # fmt: skip
    assert scattering["classifier"] == {"ScatterND"}
    assert scattering["classifier-gather"] == scattering["growing"] == set()


def test_what_does_not_change_is_computed_once(files):
    """The injection's stencils and the encoder stand before the loop, the readout after it."""
    outer = onnx.load(files["classifier"][0]).graph
    loop = next(node for node in outer.node if node.op_type == "Loop")
    inner = [node.op_type for node in loop.attribute[0].g.node]
    # K_z z, its centre
    assert inner.count("MatMul") == 2
    assert inner.count("ScatterND") == 1
    assert "Gemm" not in inner
    assert [node.op_type for node in outer.node].count("MatMul") == 4


def run(path, **feed):
    session = ort.InferenceSession(str(path))
    known = {i.name for i in session.get_inputs()}
    feed = {k: np.asarray(v) for k, v in feed.items() if k in known}
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def test_rollouts_end_by_steps_or_by_rest(files):
    path, model, _ = files["classifier"]
    data = pixels(model, (8, 8))
    z = np.zeros((data.num_nodes, model.dynamics.cell.channels), np.float32)
    given = graph_inputs(data)
    none, tol = np.float32(0), np.float32(1e-4)
    start = run(path, z=z, steps=0, tol=none, **given)
    assert np.array_equal(start["z_last"], z)
    assert np.isinf(start["change"])
    half = run(path, z=z, steps=20, tol=none, **given)
    whole = run(path, z=half["z_last"], steps=20, tol=none, **given)
    np.testing.assert_array_equal(
        run(path, z=z, steps=40, tol=none, **given)["z_last"], whole["z_last"]
    )
    rest = run(path, z=z, steps=10**6, tol=tol, **given)
    assert rest["change"] <= tol
    once = run(path, z=rest["z_last"], steps=1, tol=none, **given)
    assert 0 < once["change"] <= 1e-4  # the residual of what came back is as small
    late = run(path, z=rest["z_last"], steps=10**6, tol=tol, **given)
    np.testing.assert_array_equal(late["z_last"], once["z_last"])


@pytest.mark.parametrize("node", [0, 40, 63])
def test_a_broken_state_ends_a_rollout_and_shows(files, node):
    path, model, _ = files["classifier"]
    data = pixels(model, (8, 8))
    z = np.zeros((64, 24), np.float32)
    z[node, node % 24] = np.nan
    found = run(path, z=z, steps=100, tol=np.float32(0), **graph_inputs(data))
    assert np.isnan(found["change"])
    assert np.isfinite(found["z_last"]).any()  # the first step ended it: NaN got one hop


def test_masks_belong_to_the_caller(files):
    path = files["growing-step"][0]
    data = graph_of_kind("kernels", 12, 30, torch.float)
    z = torch.rand(12, 8).numpy()
    mask = np.arange(12) % 3 == 0
    z_next = run(path, z=z, update_mask=mask, **graph_inputs(data))["z_next"]
    left = z_next[~mask]  # not updated: as they were, but for those that die
    assert ((left == z[~mask]) | (left == 0).all(1, keepdims=True)).all()
    assert (left == z[~mask]).all(1).any()
    assert (z_next[mask] != z[mask]).any(1).all()
    names = {i.name: i.shape for i in ort.InferenceSession(str(files["growing"][0])).get_inputs()}
    assert names["update_mask"] == ["steps", "num_nodes"]
    assert not {"steps", "tol"} & set(names)


def test_files_say_what_they_are(files):
    import gncadeq

    path, model, _ = files["classifier-gather"]
    proto = onnx.load(path)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert found["gncadeq"] == gncadeq.__version__
    assert found["cell"] == repr(model.dynamics.cell)
    assert (found["program"], found["form"]) == ("rollout", "gather")
    assert (found["steps"], found["tol"], found["channels"]) == ("60", "1e-06", "24")
    assert "living_threshold" in found["transform"]
    assert found["opset"] == str(proto.opset_import[0].version)
    shapes = {i.name: i.shape for i in ort.InferenceSession(str(path)).get_inputs()}
    assert shapes == {
        "x": ["num_nodes", 1], "z": ["num_nodes", 24], "neighbors": ["num_nodes", "most"],
        "edge_attr": ["num_nodes", "most"], "batch": ["num_nodes"],
    }  # fmt: skip
    content = path.read_bytes()
    assert str(REPOSITORY).encode() not in content
    assert b"site-packages" not in content
    parameters = sum(p.numel() for p in model.parameters())
    assert len(content) < 4 * parameters + 15_000


def test_command(tmp_path):
    path = tmp_path / "m.onnx"
    result = CliRunner().invoke(
        app, ["export", "mnist", str(path), "--form", "gather", "--steps", "30", "--check",
              "--json", "-"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert numbers["bytes"] == path.stat().st_size
    assert numbers["steps"] == 30
    assert 0 <= numbers["difference"] < 1e-3
    assert numbers["out"]["logits"]["shape"][1] == 10
    for part in ("neighbors", "num_nodes", "logits", "differ by", "after 30 steps"):
        assert part in result.output
    assert path.stat().st_size > 20_000
    result = CliRunner().invoke(app, ["export", "nothing", str(path)])
    assert isinstance(result.exception, FileNotFoundError)
    assert "Expected one of the shipped weights" in str(result.exception)
    result = CliRunner().invoke(app, ["export", "--help"])
    assert "gncadeq export mnist" in result.output


def snippet() -> dict:
    """The names that the first Python block of the page defines."""
    text = (REPOSITORY / "docs" / "export.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert "torch" not in code
    names: dict = {}
    exec(code, names)
    return names


def test_numpy_alone_classifies(files, tmp_path, monkeypatch):
    """The page's snippet builds the graph of ImageToGraph, and gets the labels of the model."""
    path, model, _ = files["classifier"]
    shutil.copy(path, tmp_path / "mnist.onnx")
    monkeypatch.chdir(tmp_path)
    image = torch.rand(1, 9, 14) * (torch.rand(1, 9, 14) > 0.4)
    names = snippet()
    data = ImageToGraph(living_threshold=0.02)(image)
    x, edge_index, edge_attr = names["pixel_graph"](image[0].numpy())
    assert np.array_equal(x, data.x.numpy())
    edges = zip(*edge_index.tolist(), edge_attr.tolist(), strict=True)
    assert set(edges) == set(zip(*data.edge_index.tolist(), data.edge_attr.tolist(), strict=True))
    assert edge_index.shape == data.edge_index.shape
    logits = names["classify"](image[0].numpy())
    z = model.dynamics.as_nca(steps=300)(
        model.encode(data.x, data.edge_index, data.edge_attr), data.edge_index, data.edge_attr
    )
    expected = model.readout(z, Partition(None, len(z)))
    torch.testing.assert_close(torch.from_numpy(logits), expected[0], rtol=1e-4, atol=2e-2)
    assert int(logits.argmax()) == int(expected.argmax())


def test_real_digits_get_the_same_labels(files, mnist_root):
    path, model, _ = files["classifier"]
    data = PixelGraphs(mnist_root, "mnist", False, model.to_graph).batch(torch.arange(50))
    z = np.zeros((data.num_nodes, 24), np.float32)
    logits = run(path, z=z, steps=300, tol=np.float32(1e-5), **graph_inputs(data))["logits"]
    with torch.no_grad():
        expected = model(data.x, data.edge_index, data.edge_attr, data.batch)
    assert np.array_equal(logits.argmax(1), expected.argmax(1).numpy())
    assert (logits.argmax(1) == data.y.numpy()).mean() > 0.9


@pytest.mark.parametrize(
    "cell", [WrappedConvCell(GCNConv(4, 4), 3), ConvCell(3, 4)], ids=lambda c: type(c).__name__
)
def test_torch_onnx_export_is_refused_by_a_sentence_that_names_to_onnx(cell):
    nca = GraphNCA(cell, steps=3).eval()
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    relations = (torch.tensor([0, 1, 2, 3]),) if isinstance(cell, ConvCell) else ()
    args = (torch.rand(4, 3), edge_index, *relations)
    with pytest.raises(torch.onnx.OnnxExporterError) as refused:
        torch.onnx.export(nca, args, dynamo=True, verbose=False)
    assert str(refused.value.__cause__).startswith("Expected gncadeq.export.to_onnx(model, 'model.")


@pytest.mark.slow
def test_which_convs_of_pyg_are_exported(tmp_path):
    """All that work as rules, on a graph of another size, but those that the page names."""
    page = (REPOSITORY / "docs" / "export.md").read_text()
    refused = page.split("Not exported:")[1].split("\n\n")[0]
    wrong = []
    for name, entry in CONVS.items():
        if not isinstance(entry, Works):
            continue
        torch.manual_seed(1)
        nca = GraphNCA.from_conv(entry.build(), 3, channels=C, contraction=0.5, steps=5).eval()
        data = conv_graph(entry, 9, seed=3).apply(
            lambda v: v.float() if v.is_floating_point() else v
        )
        solve_on(nca, data)  # which measures the growth of those that have no bound
        try:
            path = to_onnx(nca, tmp_path / "conv.onnx", edge_attr=data.edge_attr)
        except ValueError as error:
            if f"`{name}`" not in refused:
                wrong.append((name, str(error)))
            continue
        if f"`{name}`" in refused:
            wrong.append((name, "exported"))
        check_onnx(path, nca, data)
    assert not wrong


def test_what_cannot_be_exported_is_named(tmp_path):
    class OwnCell(Cell):
        in_channels, channels = 1, 1

        def prepare(self, x, edge_index, edge_attr=None):
            return lambda z: z

    class Halved(ConvCell):
        def prepare(self, x, edge_index, edge_attr=None):
            step = super().prepare(x, edge_index, edge_attr)
            return lambda z: 0.5 * step(z)

    refused = [
        (EquivariantCell(2, 4), {}, "segments"),
        (IGNNCell(2, 4, normalization=None), {}, "connected component"),
        (MonotoneCell(2, 4), {"form": "gather"}, "edges out of a node"),
        (WrappedConvCell(GCNConv(4, 4), 2), {"form": "gather"}, "scatter their messages"),
        (WrappedConvCell(GCNConv(4, 4), 2, norm="graph_norm"), {}, r"needs \['batch'\]"),
        (OwnCell(), {}, "rule.register"),
        (Halved(1, 4), {}, r"rule.register\(Halved\)"),
        (ConvCell(1, 4), {"form": "table"}, "'scatter' or 'gather'"),
        (ConvCell(1, 4), {"program": "loop"}, "'rollout' or 'step'"),
        (ConvCell(1, 4), {"program": "step", "steps": 3}, "steps=None for a step"),
        (ConvCell(1, 4), {"steps": -1}, "'steps' to be a whole number"),
        (GraphNCA(ConvCell(1, 4), fire_rate=0.5), {"tol": 0.1}, "tol=None for a rollout"),
        (torch.nn.Linear(1, 1), {}, "Expected a Cell, GraphNCA"),
    ]
    for model, options, message in refused:
        with pytest.raises((ValueError, TypeError), match=message):
            to_onnx(model, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())
