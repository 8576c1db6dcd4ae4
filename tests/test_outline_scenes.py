"""Scenes of outlines: what is closed there, and what edges know of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from outline_scenes import scene, to_graph
from scene_graphs import GRAPHS
from scipy.ndimage import label as connected
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def parts(data, relation: int) -> np.ndarray:
    """The connected part of every node along edges of a relation."""
    ends = data.edge_index[:, data.edge_attr == relation].numpy()
    graph = coo_matrix((np.ones(ends.shape[1]), ends), (len(data.x), len(data.x)))
    return connected_components(graph, directed=False)[1]


def closed(data) -> torch.Tensor:
    """Ink whose outline touches ground that no way on ground joins to the frame."""
    ground, ink = parts(data, 0), parts(data, 1)
    outside = np.isin(ground, ground[(data.x[:, 1] > 0).numpy()])
    source, target = data.edge_index[:, data.edge_attr == 2].numpy()
    around = ink[target[~outside[source]]]
    return torch.from_numpy(np.isin(ink, around))


@pytest.mark.parametrize(
    ("size", "scale", "kind"),
    [
        (48, 1, "pixels"),
        (96, 1, "pixels"),
        (96, 2, "pixels"),
        (48, 1, "superpixels"),
        (48, 1, "delaunay"),
    ],
)
def test_a_flood_tells_what_is_closed(size, scale, kind):
    right = nodes = 0
    for seed in range(6 if kind == "superpixels" else 12):
        data = to_graph(*scene(seed, size, 0.0, scale), kind, seed)
        ink = data.y > 0
        if kind != "superpixels":
            assert torch.equal(data.x[:, 0] > 0.5, ink)
        right += int((closed(data) == (data.y == 1))[ink].sum())
        nodes += int(ink.sum())
    assert right == nodes if kind == "pixels" else right > 0.9 * nodes


def test_larger_outlines_are_fewer_and_longer():
    longest = []
    for scale in (1, 2):
        label = scene(5, 96, scale=scale)[1]
        found, count = connected(label.numpy() > 0, np.ones((3, 3)))
        longest.append(np.bincount(found.flatten())[1:].max())
        assert 1 <= count <= 12 // scale**2
    assert longest[1] > 1.5 * longest[0]


def test_seeds_decide():
    images, labels = zip(*(scene(seed) for seed in (3, 3, 4)), strict=True)
    assert torch.equal(images[0], images[1])
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(images[0], images[2])
    assert all(0 <= float(image.min()) <= float(image.max()) <= 1 for image in images)


def test_every_pixel_has_a_node():
    image, label = scene(0)
    for kind in GRAPHS:
        data = to_graph(image, label, kind)
        assert data.of_pixel.shape == (48 * 48,)
        assert int(data.of_pixel.max()) < len(data.x)
    with pytest.raises(ValueError, match="'pixels', 'superpixels' or 'delaunay'"):
        to_graph(image, label, "hexagons")
    with pytest.raises(ValueError, match="64"):
        scene(0, size=48, scale=2)
