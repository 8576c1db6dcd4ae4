"""Scenes of textured shapes, and the cascade that tells what is seen there."""

from __future__ import annotations

import pytest
import torch
from hourglass import Hourglass
from segment_shapes import to_graph
from textured_scenes import CLASSES, scene
from torch_geometric.data import Batch

from gncadeq import GraphNCA


def test_no_grey_value_tells_the_class():
    images, labels = zip(*(scene(seed) for seed in range(60)), strict=True)
    image, label = torch.stack(images).squeeze(1), torch.stack(labels)
    for number in range(len(CLASSES)):
        inside = image[label == number]
        assert len(inside) > 2000
        assert float(inside.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(inside.std()) == pytest.approx(0.2, abs=0.02)


def test_seeds_decide_and_larger_scenes_have_more_shapes():
    assert all(torch.equal(a, b) for a, b in zip(scene(3), scene(3), strict=True))
    assert not torch.equal(scene(3)[0], scene(4)[0])
    shares = [sum(float((scene(seed, size)[1] > 0).float().mean()) for seed in range(20))
              for size in (48, 96)]  # fmt: skip
    assert shares[1] == pytest.approx(shares[0], rel=0.25)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pixels", "delaunay"])
def test_the_cascade_comes_to_rest_from_any_start(kind):
    torch.manual_seed(0)
    model = Hourglass(1, len(CLASSES), width=3).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    data = Batch.from_data_list([to_graph(*scene(seed, 32), kind, seed) for seed in (0, 1)])
    data.x = data.x.double()
    if "edge_attr" in data:
        data.edge_attr = data.edge_attr.double()
    model.tol = 1e-12
    logits, solution = model(data)
    draw = torch.Generator().manual_seed(1)
    nca = GraphNCA(model.deq.cell, 500, fire_rate=0.5, start="normal")
    run, end = model(data, nca, generator=draw)
    torch.testing.assert_close(run, logits, rtol=1e-6, atol=1e-8)
    assert bool(solution.converged.all())
    assert float(end.residual.max()) < 1e-9


def test_it_is_certified_on_every_graph():
    torch.manual_seed(0)
    model = Hourglass(1, len(CLASSES), width=3).eval()
    data = to_graph(*scene(0, 32), "delaunay", 0)
    proof = model.deq.cell.certificate(data.edge_index, data.edge_attr, num_nodes=len(data.x))
    assert proof.kind == "structure"
    assert float(proof.rate) <= 0.9 + 1e-5
