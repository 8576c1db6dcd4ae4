"""Separable stencils: the right factors, the promises of the cells that have them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from gncadeq import ConvCell, GraphDEQ
from gncadeq.cells import StencilConv, StencilDrive, separate, stencil_norm
from gncadeq.cells.separable import Separable
from gncadeq.dynamics import Partition
from gncadeq.export.program import StepProgram
from gncadeq.models import ImageClassifier, PyramidClassifier
from gncadeq.transforms import ImageToGraph


def test_the_nearest_separable_stencil():
    weight = torch.randn(9, 3, 5, dtype=torch.double)
    separable = Separable()
    near = separable(*separable.right_inverse(weight))
    rest = torch.linalg.svdvals(weight.transpose(0, 1))[:, 1:]  # Eckart and Young's theorem
    torch.testing.assert_close((weight - near).square().sum(), rest.square().sum())
    torch.testing.assert_close(separable(*separable.right_inverse(near)), near)
    unit = Separable(unit_center=True)
    window, matrix = unit.right_inverse(near)
    assert (window.numel(), matrix.numel()) == (8 * 3, 3 * 5)
    torch.testing.assert_close(unit(window, matrix), near)


def test_a_window_that_is_its_middle_is_one():
    conv = StencilConv(2, 3, kernel_size=1)
    before = conv.weight.detach().clone()
    separate(conv, unit_center=True)
    torch.testing.assert_close(conv.weight, before)


def test_windows_without_a_middle_have_nearly_none():
    weight = torch.randn(9, 3, 1, dtype=torch.double) * torch.randn(3, 5, dtype=torch.double)
    weight[4, 0] = 0.0
    weight[:, 1] = 0.0
    unit = Separable(unit_center=True)
    torch.testing.assert_close(unit(*unit.right_inverse(weight)), weight, rtol=1e-5, atol=1e-5)


def test_a_window_for_each_channel_and_then_a_matrix():
    conv = StencilConv(2, 1, bias=False)
    separate(conv)
    names = dict(conv.named_parameters())
    assert {name: tuple(p.shape) for name, p in names.items()} == {
        "parametrizations.weight.original0": (9, 2), "parametrizations.weight.original1": (2, 1),
    }  # fmt: skip
    window = torch.zeros(9, 2)
    window[3, 0], window[5, 1] = 1.0, 2.0  # the left neighbour; twice the right one
    with torch.no_grad():
        names["parametrizations.weight.original0"].copy_(window)
        names["parametrizations.weight.original1"].copy_(torch.tensor([[10.0], [100.0]]))
    data = ImageToGraph()(torch.ones(1, 1, 3))
    x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 5.0]])
    y = conv(x, data.edge_index, data.edge_attr)
    assert y.flatten().tolist() == [200.0, 10.0 + 1000.0, 20.0]


def test_a_separable_cell_keeps_its_promise_and_its_gradient():
    cell = ConvCell(4, 4, injection="additive", contraction=0.9, scale_spread=0.0, bias=False)
    separate(cell, "weight_z")
    cell = cell.double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(10.0)
    assert float(stencil_norm(cell.state_weight()).detach()) <= 0.9
    data = ImageToGraph()(torch.rand(1, 5, 5, dtype=torch.double))
    x = torch.randn(25, 4, dtype=torch.double)

    def loss(deq_cell: ConvCell, **options: object) -> torch.Tensor:
        deq = GraphDEQ(deq_cell, tol=1e-12, max_steps=400, **options)
        return deq(x, data.edge_index, data.edge_attr).square().sum()

    loss(cell).backward()
    other = deepcopy(cell)
    other.zero_grad()
    z = torch.zeros(25, 4, dtype=torch.double)
    for _ in range(400):
        z = other(z, x, data.edge_index, data.edge_attr)
    z.square().sum().backward()
    for a, b in zip(cell.parameters(), other.parameters(), strict=True):
        assert float(a.grad.abs().max()) > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_reset_draws_anew():
    drive = StencilDrive(3, 4)
    separate(drive.conv)
    before = drive.conv.weight.detach().clone()
    drive.reset_parameters()
    assert float((drive.conv.weight - before).detach().abs().max()) > 0.01


def test_a_separable_pyramid_is_folded_saved_and_loaded(tmp_path):
    model = PyramidClassifier(channels=(4, 8, 12), separable=True)
    assert sum(p.numel() for p in model.parameters()) == 958
    data = model.to_graph(torch.rand(1, 12, 12))
    model(data.x, data.edge_index, data.edge_attr)  # statistics of the drives
    model.eval()
    logits = model(data.x, data.edge_index, data.edge_attr)
    model.fold()
    assert sum(p.numel() for p in model.parameters()) == 958 - 24 - 32 - 25
    folded = model(data.x, data.edge_index, data.edge_attr)
    assert not folded[:, -1].any()
    torch.testing.assert_close(folded, logits - logits[:, -1:], rtol=1e-3, atol=1e-4)
    model.fold()  # twice is once
    model.save_pretrained(str(tmp_path / "small.safetensors"))
    again = ImageClassifier.from_pretrained(str(tmp_path / "small.safetensors")).eval()
    torch.testing.assert_close(
        again(data.x, data.edge_index, data.edge_attr), folded, rtol=1e-4, atol=1e-5
    )


def small_pyramid(**options):
    torch.manual_seed(0)
    model = PyramidClassifier(channels=(2, 3, 4), separable=True, **options)
    data = model.to_graph(torch.rand(1, 12, 12))
    model(data.x, data.edge_index, data.edge_attr)
    return model.eval(), data


def test_a_pyramid_whose_drives_alone_are_folded_is_loaded_and_folded_on(tmp_path):
    """As weights were saved before windows lost their middles."""
    model, data = small_pyramid()
    for part in model.dynamics.cell.parts:
        part.drive.fold()
    model.config["norm"] = False
    logits = model(data.x, data.edge_index, data.edge_attr)
    del model.config["folded"]
    model.save_pretrained(str(tmp_path / "old.safetensors"))
    old = ImageClassifier.from_pretrained(str(tmp_path / "old.safetensors"))
    torch.testing.assert_close(old(data.x, data.edge_index, data.edge_attr), logits)
    old.fold()
    again = old(data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(again.softmax(1), logits.softmax(1))
    assert old.config["folded"]
    assert not again[:, -1].any()
    with pytest.raises(ValueError, match="norm=False and separable=True"):
        PyramidClassifier(folded=True)


def test_what_needs_no_gradient_is_folded_too():
    model, _ = small_pyramid()
    count = sum(p.numel() for p in model.parameters()) - 9 - 12 - 9
    with torch.no_grad():
        model.fold()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    frozen, _ = small_pyramid()
    frozen.readout.requires_grad_(False)
    frozen.dynamics.cell.parts[1].cell.requires_grad_(False)
    frozen.fold()
    assert sum(p.numel() for p in frozen.parameters()) == count
    assert not any(p.requires_grad for p in frozen.dynamics.cell.parts[1].cell.parameters())


def test_a_folded_model_draws_anew_in_its_own_precision():
    model, data = small_pyramid()
    model.fold()
    model.double().reset_parameters()
    assert model(data.x.double(), data.edge_index, data.edge_attr).dtype == torch.double


def test_the_logit_of_one_class_alone_is_no_difference():
    model, data = small_pyramid(num_classes=1)
    logit = model(data.x, data.edge_index, data.edge_attr)
    model.fold()
    folded = model(data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(folded, logit, rtol=1e-4, atol=1e-5)


def test_an_exported_step_says_the_logits_of_the_model():
    model, data = small_pyramid()
    z = torch.rand(data.num_nodes, model.dynamics.cell.channels)
    batch = torch.zeros(data.num_nodes, dtype=torch.long)
    program = StepProgram(model)
    _, logits = program(z, data.edge_index, data.edge_attr, data.x, batch=batch)
    pooled = model.pool(z, Partition(None, z.size(0)), data.edge_index, data.edge_attr)
    expected = model.readout.decode(pooled)
    torch.testing.assert_close(logits, expected)


def test_a_stencil_of_zeros_can_be_trained():
    cell = ConvCell(3, 3, injection="additive", contraction=0.9)
    with torch.no_grad():
        cell.weight_z.zero_()
    separate(cell, "weight_z")
    assert not cell.state_weight().detach().any()
    data = ImageToGraph()(torch.rand(1, 4, 4))
    z = GraphDEQ(cell)(torch.rand(16, 3), data.edge_index, data.edge_attr)
    z.square().sum().backward()
    gradients = {name: p.grad for name, p in cell.named_parameters() if "weight_z" in name}
    assert any(bool(g.any()) for g in gradients.values() if g is not None)


def test_stencils_in_half_precision_are_separated():
    conv = StencilConv(2, 3).bfloat16()
    separate(conv)
    assert {p.dtype for p in conv.parameters()} == {torch.bfloat16}


def test_what_is_no_stencil_is_refused():
    with pytest.raises(ValueError, match=r"stencil 'weight' of shape \[R, F, C\]"):
        separate(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="got ConvCell with None"):
        separate(ConvCell(1, 2), "kernel")
