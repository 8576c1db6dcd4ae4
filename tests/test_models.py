from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from gncadeq import ConvCell, GraphDEQ, GraphNCA, PixelGraphClassifier, StencilConv
from gncadeq.cells import stencil_norm
from gncadeq.dynamics import Partition
from gncadeq.models import MeanReadout, PyramidClassifier
from gncadeq.transforms import ImageToGraph


def test_the_default_sizes_have_the_essays_number_of_parameters():
    for options in ({}, {"contraction": 0.95}, {"update": "residual"}):
        model = PixelGraphClassifier(**options)
        assert sum(p.numel() for p in model.parameters()) == 15_122


def test_the_dynamics_are_interchangeable_and_share_the_cell():
    model = PixelGraphClassifier(contraction=0.9).eval()
    data = model.to_graph(torch.rand(1, 9, 9))
    arguments = (data.x, data.edge_index, data.edge_attr)
    with torch.no_grad():
        logits, solution = model(*arguments, return_solution=True)
        assert bool(solution.converged.all())
        cell = model.dynamics.cell
        model.dynamics = model.dynamics.as_nca(fire_rate=0.5, steps=300)
        assert model.dynamics.cell is cell
        other, solution = model(*arguments, return_solution=True)
        assert bool(solution.converged.all())
        assert solution.num_steps.tolist() == [300]
        model.dynamics = model.dynamics.as_deq()
        assert isinstance(model.dynamics, GraphDEQ)
    torch.testing.assert_close(logits, other, atol=5e-3, rtol=0)


def test_a_batch_is_classified_as_its_graphs_are():
    model = PixelGraphClassifier(contraction=0.9).double().eval()
    model.dynamics.tol = 1e-8
    to_graph = ImageToGraph(living_threshold=0.3)
    batch = to_graph.batch(torch.rand(4, 1, 7, 7, dtype=torch.double))
    with torch.no_grad():
        together = model(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        alone = [model(d.x, d.edge_index, d.edge_attr) for d in batch.to_data_list()]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-7, rtol=0)


def test_translation_and_canvas_do_not_matter_to_living_pixels():
    """A digit anywhere on any black canvas is the same graph."""
    model = PixelGraphClassifier(contraction=0.9, transform={"living_threshold": 0.1}).eval()
    digit = torch.rand(1, 8, 8)
    outputs = []
    for height, width, top, left in ((8, 8, 0, 0), (28, 28, 5, 11), (56, 112, 40, 90)):
        canvas = torch.zeros(1, height, width)
        canvas[:, top : top + 8, left : left + 8] = digit
        data = model.to_graph(canvas)
        with torch.no_grad():
            outputs.append(model(data.x, data.edge_index, data.edge_attr))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-5, rtol=0)


def test_folding_the_standardisation_changes_nothing():
    readout = MeanReadout(5, 8, 3)
    partition = Partition(torch.arange(12) // 3, 12)
    for _ in range(20):
        readout(torch.randn(12, 5) * 3 + 1, partition)
    readout.eval()
    z = torch.randn(12, 5)
    before = readout(z, partition)
    readout.fold()
    assert not list(readout.buffers())
    torch.testing.assert_close(readout(z, partition), before)


def test_one_graph_cannot_be_standardised():
    model = PixelGraphClassifier()
    data = model.to_graph(torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match="at least 2 graphs"):
        model(data.x, data.edge_index, data.edge_attr)


def test_local_labels_of_a_wide_window_are_the_graphs():
    model = PixelGraphClassifier(contraction=0.9).eval()
    data = model.to_graph(torch.rand(1, 6, 7))
    z, _, _ = model.settle(data.x, data.edge_index, data.edge_attr)
    whole = int(model(data.x, data.edge_index, data.edge_attr).argmax())
    assert set(model.local_labels(z, data, radius=7).tolist()) == {whole}
    own = model.readout.decode(z).argmax(1)
    assert torch.equal(model.local_labels(z, data, radius=0), own)


def test_pixels_of_a_pyramid_are_decoded_from_the_nodes_above_the_window():
    model = PyramidClassifier(channels=(2, 3, 4)).eval()
    image = torch.rand(1, 9, 14)
    image[:, :, 6:9] = 0.0
    data = model.to_graph(image)
    z, partition, _ = model.settle(data.x, data.edge_index, data.edge_attr)
    whole = model.pool(z, partition, data.edge_index, data.edge_attr)
    around = model.pool_around(z, data, radius=16)
    assert torch.allclose(around, whole.expand_as(around), atol=1e-5)
    top = data.level == 2
    own = model.pool_around(z, data, radius=0)
    for pixel in (0, 40, len(own) - 1):  # mean and maximum of one node are its state
        above = top & (data.pos == data.pos[pixel] // 4 * 4).all(1)
        assert torch.allclose(own[pixel], z[above].expand(2, -1).flatten(), atol=1e-6)
    near = model.pool_around(z, data, radius=2)[0]  # pixels 0 to 2 are below the first node alone
    assert torch.allclose(near, own[0], atol=1e-6)
    far = model.pool_around(z, data, radius=4)[0]  # 4 of its 5 columns, and 1 of the second node
    first, right, below, diagonal = (
        z[top & (data.pos == torch.tensor(place)).all(1)][0]
        for place in ((0.0, 0.0), (4.0, 0.0), (0.0, 4.0), (4.0, 4.0))
    )
    mean = (16 * first + 4 * right + 4 * below + diagonal) / 25
    assert torch.allclose(far[:4], mean, atol=1e-6)
    assert torch.allclose(far[4:], torch.stack([first, right, below, diagonal]).amax(0))


def test_stencil_norm_bounds_every_graph():
    """The certificate against the measured norm, on full, periodic and living graphs."""
    cell = ConvCell(1, 4, contraction=0.9, scale_spread=1.0).double()
    bound = float(cell.lipschitz_bound())
    assert bound < 1.0
    scale = cell.scale
    for living, periodic in ((None, False), (None, True), (0.4, False)):
        graph = ImageToGraph(living_threshold=living, periodic=periodic)(
            torch.rand(1, 9, 9, dtype=torch.double)
        )
        step = cell.prepare(graph.x, graph.edge_index, graph.edge_attr)
        v = torch.randn(graph.num_nodes, 4, dtype=torch.double)
        linear = lambda v, step=step: step.stencil(v * scale) / scale  # noqa: E731
        for _ in range(200):  # power iteration on LᵀL
            v = v / v.norm()
            out, pull = torch.func.vjp(linear, v)
            (v,) = pull(out)
        assert float(v.norm().sqrt()) <= bound
    full = stencil_norm(cell.state_weight() * (scale[:, None] / scale), 64)
    assert float(full) > 0.85  # and the bound is not idle


def test_contraction_holds_after_any_training_step():
    cell = ConvCell(1, 5, contraction=0.8)
    with torch.no_grad():
        cell.weight_z.mul_(100).add_(torch.randn_like(cell.weight_z))
    assert float(cell.lipschitz_bound()) < 0.8 + 1e-4
    x, y = torch.randn(2, 30, 5)
    graph = ImageToGraph()(torch.rand(1, 5, 6))
    step = cell.prepare(graph.x, graph.edge_index, graph.edge_attr)
    distance = lambda a: (a / cell.scale).norm()  # noqa: E731
    assert float(distance(step(x) - step(y))) <= float(cell.lipschitz_bound()) * distance(x - y)


def test_to_conv2d_of_the_encoder():
    conv = StencilConv(2, 3).double()
    image = torch.rand(2, 5, 6, dtype=torch.double)
    data = ImageToGraph()(image)
    expected = conv.to_conv2d()(image.unsqueeze(0))[0].flatten(1).t()
    torch.testing.assert_close(conv(data.x, data.edge_index, data.edge_attr), expected)


def test_checkpointed_rollouts_have_the_same_gradient():
    data = ImageToGraph()(torch.rand(1, 5, 5, dtype=torch.double))
    cell = ConvCell(1, 3).double()
    grads = []
    for every in (None, 4):
        nca = GraphNCA(cell, steps=10, fire_rate=0.5, checkpoint_every=every)
        cell.zero_grad()
        generator = torch.Generator().manual_seed(0)
        z = nca(data.x, data.edge_index, data.edge_attr, generator=generator)
        z.pow(2).sum().backward()
        grads.append(cell.weight_z.grad.clone())
    torch.testing.assert_close(*grads)


def test_a_rollout_that_ends_in_nan_says_so():
    from gncadeq import ConvergenceWarning, Status

    data = ImageToGraph().batch(torch.rand(3, 1, 4, 4))
    data.x[20] = float("nan")
    nca = GraphNCA(ConvCell(1, 2, contraction=0.9), steps=2)
    with pytest.warns(ConvergenceWarning, match=r"1 of 3 graphs, such as \[1\]"):
        _, solution = nca(data.x, data.edge_index, data.edge_attr, data.batch, return_solution=True)
    assert solution.status.tolist()[1] == Status.NON_FINITE
    assert float(solution.residual[1]) == float("inf")


def test_small_steps_reach_the_same_equilibrium():
    data = ImageToGraph()(torch.rand(1, 5, 5))
    deq = GraphDEQ(ConvCell(1, 3, contraction=0.9), tol=1e-6, max_steps=200)
    small = deq.as_nca(steps=400, step_size=0.2)
    arguments = (data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(small(*arguments), deq(*arguments), atol=1e-5, rtol=0)


def test_round_trip_through_a_file(tmp_path):
    model = PixelGraphClassifier(channels=6, hidden_channels=9, contraction=0.9).eval()
    path = tmp_path / "m.safetensors"
    model.save_pretrained(str(path), {"accuracy": 0.5})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    again = PixelGraphClassifier.from_pretrained(str(path))
    assert again.config == model.config
    data = model.to_graph(torch.rand(1, 6, 6))
    with torch.no_grad():
        outputs = [m(data.x, data.edge_index, data.edge_attr) for m in (model, again)]
    assert torch.equal(*outputs)


def test_bad_weight_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="shipped weights"):
        PixelGraphClassifier.from_pretrained("imagenet")
    path = tmp_path / "m.safetensors"
    PixelGraphClassifier(channels=4).save_pretrained(str(path))
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(ValueError, match="corrupt"):
        PixelGraphClassifier.from_pretrained(str(path))
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="saved by gncadeq"):
        PixelGraphClassifier.from_pretrained(str(path))
    header = {"architecture": "Other", "config": "{}", "card": "{}"}
    save_file({"a": torch.zeros(1)}, path, header)
    with pytest.raises(ValueError, match="got Other"):
        PixelGraphClassifier.from_pretrained(str(path))
    config = PixelGraphClassifier(channels=5).config
    header |= {"architecture": "PixelGraphClassifier", "config": json.dumps(config)}
    save_file(PixelGraphClassifier(channels=4).state_dict(), path, header)
    with pytest.raises(ValueError, match="fit their configuration"):
        PixelGraphClassifier.from_pretrained(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "euler"}, "'direct' or 'residual'"),
        ({"injection": "added"}, "superposed"),
        ({"injection": "additive"}, "equal to 'channels'"),
        ({"contraction": -1.0}, "'contraction' to be"),
        ({"kernel_size": 4}, "odd"),
    ],
)
def test_bad_cells(options, message):
    with pytest.raises(ValueError, match=message):
        ConvCell(1, 4, **options)


def test_short_reprs():
    deq = GraphDEQ(ConvCell(1, 4, contraction=0.9))
    assert "ConvCell(1, 4, update='direct', contraction=0.9)" in repr(deq)
    assert "solver='auto', tol=0.001" in repr(deq)
    assert "steps=64, fire_rate=0.5" in repr(deq.as_nca(fire_rate=0.5))
