from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from gncadeq.transforms import ImageToGraph, graph_to_image


def test_offsets_point_from_target_to_source():
    data = ImageToGraph()(torch.rand(1, 4, 5))
    source, target = data.edge_index
    offset = data.pos[source] - data.pos[target]
    assert torch.equal(offset[:, 0].long() + 1, data.edge_attr % 3)
    assert torch.equal(offset[:, 1].long() + 1, data.edge_attr // 3)
    assert data.num_edges == 2 * (4 * 4 + 3 * 5 + 2 * 3 * 4)
    assert not data.has_self_loops()
    assert bool((target[1:] >= target[:-1]).all())


def test_von_neumann_and_periodic():
    four = ImageToGraph(neighborhood="von_neumann", periodic=True)(torch.rand(1, 4, 5))
    assert four.num_edges == 4 * 20
    assert set(four.edge_attr.tolist()) == {1, 3, 5, 7}
    assert torch.equal(torch.bincount(four.edge_index[1]), torch.full((20,), 4))


@pytest.mark.parametrize("living", [None, 0.6])
@pytest.mark.parametrize("periodic", [False, True])
def test_batch_is_the_batch_of_the_single_graphs(living, periodic):
    to_graph = ImageToGraph(living_threshold=living, periodic=periodic)
    images = torch.rand(5, 2, 4, 3)
    images[:, :, 1, 1] = 0.99
    single = [to_graph(i) for i in images]
    for data, label in zip(single, range(5), strict=True):
        data.y = torch.tensor([label])
    expected = Batch.from_data_list(single)
    batch = to_graph.batch(images, torch.arange(5))
    assert set(batch.keys()) == set(expected.keys())
    for key in expected.keys():  # noqa: SIM118
        assert torch.equal(batch[key], expected[key]), key
    for data, other in zip(batch.to_data_list(), single, strict=True):
        for key in other.keys():  # noqa: SIM118
            assert torch.equal(data[key], other[key]), key
    assert batch.num_graphs == 5


def test_empty_batch():
    assert ImageToGraph().batch(torch.rand(0, 1, 4, 4)).num_nodes == 0


def test_round_trip_of_a_living_graph():
    image = torch.rand(1, 6, 7)
    data = ImageToGraph(living_threshold=0.5)(image)
    expected = image * (image > 0.5)
    assert torch.equal(graph_to_image(data.x, data), expected)


def test_one_pixel():
    data = ImageToGraph()(torch.ones(1, 1, 1))
    assert (data.num_nodes, data.num_edges) == (1, 0)


def test_full_grids_are_not_shared_between_calls():
    to_graph = ImageToGraph()
    first = to_graph(torch.rand(1, 3, 3))
    first.edge_index.zero_()
    assert int(to_graph(torch.rand(1, 3, 3)).edge_index.max()) == 8


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(4, 4), ValueError, r"\[C, H, W\].*unsqueeze"),
        (torch.rand(1, 1, 4, 4), ValueError, r"got \[1, 1, 4, 4\]"),
        (torch.zeros(1, 0, 4), ValueError, "with pixels"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), TypeError, "255"),
        (torch.full((1, 4, 4), 255.0), ValueError, r"in \[0, 1\]"),
        (torch.full((1, 4, 4), -0.1), ValueError, r"in \[0, 1\]"),
        (torch.full((1, 4, 4), float("nan")), ValueError, "NaN"),
        ([[0.0]], TypeError, "list"),
        (np.zeros((4, 4), np.float32), ValueError, r"\[C, H, W\]"),
    ],
)
def test_bad_images(image, error, message):
    with pytest.raises(error, match=message):
        ImageToGraph()(image)


def test_no_living_pixel_is_said():
    to_graph = ImageToGraph(living_threshold=0.5)
    with pytest.raises(ValueError, match=r"brightest is 0\.4.*Lower the threshold"):
        to_graph(torch.full((1, 3, 3), 0.4))
    images = torch.ones(3, 1, 2, 2)
    images[2] = 0.1
    with pytest.raises(ValueError, match="in image 2"):
        to_graph.batch(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighborhood": "hex"}, "moore"),
        ({"living_threshold": 1.5}, "below 1"),
        ({"living_threshold": -0.1}, "below 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ImageToGraph(**options)
