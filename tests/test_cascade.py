"""Cascades: cells in an order, each driven by earlier ones, on one graph or up a pyramid."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import MLP

from gncadeq import CascadeCell, ConvCell, GraphDEQ, GraphNCA, Part, Status
from gncadeq.cells import (
    FeedForwardCell,
    IGNNCell,
    MaxPropagationCell,
    PropagationCell,
    StencilDrive,
)
from gncadeq.cells.conv import ConvStep
from gncadeq.dynamics import Partition
from gncadeq.graph import adjacency
from gncadeq.graph.levels import Pyramid
from gncadeq.models import ImageClassifier, PixelGraphClassifier, PyramidClassifier
from gncadeq.testing import (
    assert_gradients_exact,
    assert_permutation_equivariant,
)
from gncadeq.transforms import ImageToGraph

_SIZES = [(7, 6), (4, 9), (8, 8)]
PYRAMID = ImageToGraph(living_threshold=0.3, halo=1, levels=3)


def images(dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, *size, generator=generator, dtype=dtype) ** 2 for size in _SIZES]


def pyramid_cascade(norm=False):
    torch.manual_seed(0)
    relu = {"injection": "additive", "contraction": 0.8, "scale_spread": 0.0, "activation": "relu"}
    return CascadeCell(
        [
            Part(FeedForwardCell(3), StencilDrive(1, 3, norm), ["x"]),
            Part(ConvCell(4, 4, bias=False, **relu), StencilDrive(3, 4, norm), [0], level=1),
            Part(ConvCell(5, 5, bias=False, **relu), StencilDrive(4, 5, norm), [1], level=2),
        ],
        in_channels=1,
    ).double()


@pytest.fixture(params=["pyramid", "flat"])
def case(request):
    if request.param == "pyramid":
        return pyramid_cascade(), PYRAMID, images()
    torch.manual_seed(0)
    parts = [
        ConvCell(1, 3, contraction=0.6),
        Part(ConvCell(4, 4, contraction=0.5), reads=["x", 0]),
        Part(ConvCell(2, 2, contraction=0.7), nn.Linear(7, 2), reads=[0, 1]),
    ]
    cell = CascadeCell(parts, in_channels=1).double()
    with torch.no_grad():
        cell.parts[1].cell.weight_x.mul_(5)
    return cell, ImageToGraph(), images()


def arguments(data):
    return data.x, data.edge_index, data.edge_attr


def test_laws(case):
    cell, to_graph, pictures = case
    data = to_graph(pictures[0])
    assert_permutation_equivariant(cell, data)
    assert_gradients_exact(GraphDEQ(cell, tol=1e-12, max_steps=400), data, steps=400)


def test_every_start_and_every_order_of_updates_reach_the_solution(case):
    cell, to_graph, pictures = case
    data = to_graph(pictures[0])
    z, solution = GraphDEQ(cell, tol=1e-10, max_steps=300)(*arguments(data), return_solution=True)
    assert bool(solution.converged.all())
    step = cell.prepare(*arguments(data))
    assert float((step(z) - z).norm().detach() / z.detach().norm()) == pytest.approx(
        float(solution.residual), rel=1e-3, abs=1e-13
    )
    generator = torch.Generator().manual_seed(1)
    for options in ({}, {"start": "normal"}, {"start": "normal", "fire_rate": 0.5}):
        nca = GraphNCA(cell, steps=800, **options)
        with torch.no_grad():
            end = nca(*arguments(data), z0=None, generator=generator)
        assert torch.allclose(end, z, atol=1e-7)


def test_a_graph_in_a_batch_is_solved_as_alone(case):
    cell, to_graph, pictures = case
    batch = Batch.from_data_list([to_graph(p) for p in pictures])
    deq = GraphDEQ(cell, solver="picard", tol=1e-9, max_steps=300)
    z, solution = deq(*arguments(batch), batch.batch, return_solution=True)
    for k, picture in enumerate(pictures):
        alone, one = deq(*arguments(to_graph(picture)), return_solution=True)
        assert torch.allclose(z[batch.batch == k], alone, atol=1e-12)
        assert int(one.num_steps) == int(solution.num_steps[k])


def test_a_graph_of_nan_leaves_the_others_and_their_gradient_alone(case):
    cell, to_graph, pictures = case
    graphs = [to_graph(p) for p in pictures]
    deq = GraphDEQ(cell, tol=1e-10, max_steps=300, on_failure="ignore")

    def gradient(batch, kept):
        z, solution = deq(*arguments(batch), batch.batch, return_solution=True)
        loss = z[torch.isin(batch.batch, kept)].square().sum()
        return solution, torch.autograd.grad(loss, list(cell.parameters()))

    _, expected = gradient(Batch.from_data_list([graphs[0], graphs[2]]), torch.tensor([0, 1]))
    graphs[1].x[0] = float("nan")
    solution, found = gradient(Batch.from_data_list(graphs), torch.tensor([0, 2]))
    assert solution.status.tolist() == [
        Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED
    ]  # fmt: skip
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_no_part_is_evaluated_but_by_its_solver(monkeypatch):
    calls, take = [], ConvStep.__call__
    monkeypatch.setattr(ConvStep, "__call__", lambda self, z: (calls.append(1), take(self, z))[1])
    torch.manual_seed(0)
    parts = [ConvCell(1, 3, contraction=0.6), ConvCell(4, 4, contraction=0.5)]
    deq, data = GraphDEQ(CascadeCell(parts, in_channels=1)), ImageToGraph()(images(torch.float)[0])
    with torch.no_grad():
        solution = deq(*arguments(data), return_solution=True)[1]
    assert len(calls) == int(solution.num_evaluations)


def test_second_order_gradient():
    cell, data = pyramid_cascade(), PYRAMID(images()[0])
    deq = GraphDEQ(cell, tol=1e-12, max_steps=300)
    nca = GraphNCA(cell, steps=200)
    weight = cell.parts[1].cell.weight_z

    def curvature(dynamics):
        z = dynamics(*arguments(data))
        (first,) = torch.autograd.grad(z.square().sum(), weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weight)[0]

    assert torch.allclose(curvature(deq), curvature(nca), rtol=1e-5, atol=1e-8)


def test_prepared_pyramids_are_the_written_ones():
    pictures = torch.rand(4, 1, 9, 7, dtype=torch.double)
    written, prepared = PYRAMID.batch(pictures), PYRAMID.prepared(pictures)
    cell = pyramid_cascade()
    assert isinstance(prepared.edge_index, Pyramid)
    assert [level.within.kind for level in prepared.edge_index.levels] == ["canvas"] * 3
    deq = GraphDEQ(cell, tol=1e-10, max_steps=300)
    z = deq(written.x, written.edge_index, written.edge_attr, written.batch)
    other = deq(prepared.x, prepared.edge_index, None, prepared.batch)
    assert torch.allclose(z, other, atol=1e-12)
    edges, relation = prepared.edge_index.edges()
    assert torch.equal(edges, written.edge_index)
    assert torch.equal(relation, written.edge_attr)
    whole = PYRAMID(pictures[2])
    assert torch.equal(written[2].edge_index, whole.edge_index)
    kept = (prepared.batch == 2).nonzero().flatten()
    part = prepared.edge_index.restrict(kept)
    alone = deq(prepared.x[kept], part, None)
    assert torch.allclose(alone, z[kept], atol=1e-12)


def test_a_full_pyramid_is_strided_convolution():
    picture = torch.rand(1, 8, 8, dtype=torch.double)
    to_graph = ImageToGraph(levels=2)
    drive = StencilDrive(1, 3, norm=False).double()
    cell = CascadeCell(
        [Part(FeedForwardCell(1), reads=["x"]), Part(FeedForwardCell(3), drive, [0], level=1)],
        in_channels=1,
    ).double()
    data = to_graph(picture)
    z = GraphDEQ(cell)(*arguments(data))[data.level == 1]
    conv = drive.conv.to_conv2d()
    conv.stride = (2, 2)
    expected = conv(picture[None]).relu()[0].flatten(1).T
    assert torch.allclose(z, expected, atol=1e-12)


def test_translation_by_a_coarse_pixel_changes_nothing():
    picture = torch.zeros(1, 24, 24, dtype=torch.double)
    picture[:, 2:9, 3:11] = torch.rand(7, 8, dtype=torch.double)
    moved = picture.roll((4, 8), (1, 2))
    deq = GraphDEQ(pyramid_cascade(), tol=1e-10, max_steps=300)
    z, other = (deq(*arguments(PYRAMID(p))) for p in (picture, moved))
    assert torch.allclose(z, other, atol=1e-12)


def test_statistics_are_counted_once_and_fold_away(tmp_path):
    model = PyramidClassifier(channels=(3, 4, 5)).double()
    pictures = torch.rand(16, 1, 12, 12, dtype=torch.double)
    data = model.to_graph.prepared(pictures)
    for _ in range(3):
        model(data.x, data.edge_index, None, data.batch).sum().backward()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [int(m.num_batches_tracked) for m in norms] == [3, 3, 3]
    nothing = torch.full_like(data.x, float("nan"))
    model.eval().dynamics.on_failure = "ignore"
    assert bool(model(nothing, data.edge_index, None, data.batch).isnan().all())
    before = model(data.x, data.edge_index, None, data.batch)
    model.fold()
    assert torch.allclose(model(data.x, data.edge_index, None, data.batch), before, atol=1e-5)
    model.float().save_pretrained(str(tmp_path / "m.safetensors"))
    loaded = ImageClassifier.from_pretrained(str(tmp_path / "m.safetensors"))
    assert isinstance(loaded, PyramidClassifier)
    x, batch = data.x.float(), data.batch
    assert torch.allclose(
        loaded(x, data.edge_index, None, batch), model(x, data.edge_index, None, batch)
    )
    with pytest.raises(ValueError, match="got PyramidClassifier"):
        PixelGraphClassifier.from_pretrained(str(tmp_path / "m.safetensors"))


def test_parts_that_do_not_fit_are_refused():
    conv = ConvCell(1, 2)
    for parts, message in (
        ([], "at least one part"),
        ([Part(conv, reads=[0])], "read 'x' or parts before it"),
        ([conv, Part(ConvCell(5, 2))], "take the 3 channels"),
        ([conv, Part(ConvCell(2, 2), reads=[0], level=1)], "through a drive"),
        ([conv, Part(ConvCell(2, 2), StencilDrive(2, 2), [0], level=2)], "level below"),
    ):
        with pytest.raises(ValueError, match=message):
            CascadeCell(parts, in_channels=1)
    cell, data = pyramid_cascade(), ImageToGraph(levels=2)(torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="3 levels"):
        GraphDEQ(cell.float())(*arguments(data))
    edge_index = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="error_bound"):
        GraphDEQ(cell, criterion="error")(*arguments(PYRAMID(images(torch.float)[0])))
    with pytest.raises(ValueError, match="circle"):
        Pyramid(edge_index, torch.tensor([9, 9]), 2)
    with pytest.raises(ValueError, match="levels"):
        ImageToGraph(levels=2, periodic=True)
    with pytest.raises(ValueError, match="channels"):
        PyramidClassifier(channels=(4,))


@pytest.mark.parametrize("kind", ["stencil", "injection", "twice"])
def test_the_error_bound_counts_what_is_read(kind):
    weight = torch.ones(9, 1, 1, dtype=torch.double)
    weight[[0, 2, 6, 8]] = -0.25  # without its corners, the stencil stretches more
    first = Part(FeedForwardCell(1, "identity"), reads=["x"])
    second = Part(FeedForwardCell(1, "identity"), StencilDrive(1, 1, norm=False), [0])
    if kind == "injection":
        second = Part(ConvCell(1, 1, contraction=0.5), reads=[0])
        second.cell.weight_z.data.zero_()
        second.cell.weight_x.data.copy_(weight)
    elif kind == "twice":
        second = Part(FeedForwardCell(1, "identity"), nn.Linear(2, 1), [0, 0])
        second.drive.weight.data.fill_(3.0)
    else:
        second.drive.conv.weight.data.copy_(weight)
    cell = CascadeCell([first, second], in_channels=1).double()
    data = ImageToGraph("von_neumann")(torch.zeros(1, 9, 9, dtype=torch.double))
    step, wave = cell.prepare(*arguments(data)), (torch.arange(1.0, 10.0) * torch.pi / 10).sin()
    with torch.no_grad():
        exact = step(step(torch.zeros(81, 2, dtype=torch.double)))
        z = exact.clone()
        z[:, 0] += 1e-4 * torch.outer(wave, wave).flatten()
        z[:, 1] = step(z)[:, 1]
        fz, partition = step(z), Partition(None, 81)
        error = float((z - exact).norm() / fz.norm())
        found = cell.certificate(data.edge_index, data.edge_attr, num_nodes=81)
        bound = float(found.error_bound(z, fz, partition))
    assert error * (1 - 1e-9) <= bound <= 3 * error


def test_a_certificate_needs_no_parameters_and_changes_no_statistics():
    data = ImageToGraph()(torch.rand(1, 3, 3))
    bare = CascadeCell([Part(FeedForwardCell(1), reads=["x"])], in_channels=1)
    assert float(GraphDEQ(bare)(*arguments(data), return_solution=True)[1].error_bound) < 1e-6
    drive = StencilDrive(1, 2)
    cell = CascadeCell([Part(FeedForwardCell(2), drive, ["x"])], in_channels=1)
    cell.certificate(data.edge_index, data.edge_attr, num_nodes=9)
    assert int(drive.norm.num_batches_tracked) == 0
    assert drive.norm.running_var.tolist() == [1.0, 1.0]


def test_a_part_reads_the_injection_of_its_own_level():
    def cascade(reads):
        torch.manual_seed(0)
        up, side = StencilDrive(1, 2, norm=False), StencilDrive(len(reads) + 1, 2, norm=False)
        side.conv.weight.data.fill_(1.0)  # the injection is zero above the pixels
        parts = [
            Part(FeedForwardCell(1), reads=["x"]),
            Part(FeedForwardCell(2), up, [0], level=1),
            Part(FeedForwardCell(2), side, reads, level=1),
        ]
        return CascadeCell(parts, in_channels=1)

    data = ImageToGraph(levels=2)(torch.rand(1, 6, 5))
    z, other = (GraphDEQ(cascade(reads))(*arguments(data)) for reads in (["x", 1], [1]))
    assert torch.allclose(z[data.level == 1], other[data.level == 1], atol=1e-6)


def test_drives_that_do_not_fit_and_edges_out_of_range_are_refused():
    data = ImageToGraph(levels=2)(torch.rand(1, 4, 4))
    first = Part(FeedForwardCell(2), StencilDrive(1, 2), ["x"])
    for part in (
        Part(FeedForwardCell(2), nn.Linear(2, 2), [0], level=1),
        Part(FeedForwardCell(2), StencilDrive(2, 3), [0], level=1),
    ):
        with pytest.raises(ValueError, match=r"Expected a drive .* = \[4, 2\] \(got \[\d+, \d\]\)"):
            GraphDEQ(CascadeCell([first, part], 1))(*arguments(data))
    with pytest.raises(ValueError, match="'edge_index' in"):
        Pyramid(torch.tensor([[0, 5], [1, 0]]), torch.tensor([5, 3]), 2)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        PYRAMID.prepared(torch.full((1, 1, 4, 4), 2.0))


def test_all_layers_of_a_drive_are_drawn_anew():
    inner = nn.Linear(1, 2)
    drive = nn.Sequential(nn.Sequential(inner, nn.ReLU()), nn.Linear(2, 2))
    cell = CascadeCell([Part(FeedForwardCell(2), drive, ["x"])], in_channels=1)
    before = inner.weight.detach().clone()
    cell.reset_parameters()
    assert not torch.equal(inner.weight, before)


@pytest.mark.parametrize("drive", [nn.ReLU(), nn.Linear(4, 4), MLP([4, 8, 4]), nn.Identity()])
def test_a_drive_that_needs_no_edges_is_called_without(drive):
    parts = [Part(FeedForwardCell(4), StencilDrive(1, 4, norm=False), ["x"]),
             Part(FeedForwardCell(4), drive, [0])]  # fmt: skip
    data = ImageToGraph()(torch.rand(1, 3, 3))
    z = GraphDEQ(CascadeCell(parts, in_channels=1).eval())(*arguments(data))
    torch.testing.assert_close(z[:, 4:], drive(z[:, :4]).relu(), atol=1e-5, rtol=0)


def test_an_automaton_prepares_the_graph_once(monkeypatch):
    prepared, check = [], adjacency.check_range
    monkeypatch.setattr(adjacency, "check_range", lambda *a: (prepared.append(a), check(*a)))
    parts = [IGNNCell(1, 4), IGNNCell(4, 4), PropagationCell(4, 0.1), MaxPropagationCell(4)]
    cell = CascadeCell([Part(p, reads=["x" if not i else i - 1]) for i, p in enumerate(parts)], 1)
    path = torch.tensor([[0, 1, 2], [1, 2, 3]])
    counts = []
    for steps in (1, 20):
        GraphNCA(cell, steps)(torch.ones(4, 1), path)
        counts.append(len(prepared))
        prepared.clear()
    assert counts[0] == counts[1] > 0


def test_weights_of_edges_get_their_gradient_through_checkpoints():
    torch.manual_seed(0)
    parts = [PropagationCell(2, 0.3), PropagationCell(2, 0.4, "row")]
    cell = CascadeCell([Part(p, reads=["x" if not i else 0]) for i, p in enumerate(parts)], 2)
    x, edges = torch.rand(4, 2).double(), torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    weight = torch.rand(5).double().requires_grad_()
    found = []
    for every in (None, 7):
        z = GraphNCA(cell, 60, checkpoint_every=every)(x, edges, weight)
        found += torch.autograd.grad(z[:, 2:].square().sum(), weight)
    z = GraphDEQ(cell, tol=1e-9)(x, edges, weight)
    found += torch.autograd.grad(z[:, 2:].square().sum(), weight)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], found[0], rtol=1e-6, atol=1e-9)
    assert float(found[0].abs().min()) > 1e-4
