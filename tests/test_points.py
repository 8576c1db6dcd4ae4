"""Kernels on point clouds in the plane and in space."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from surfaces import evenly_spread
from torch_geometric.data import Batch, Data

from benchmarks.surface_operators import perceive
from gncadeq.datasets import primitives
from gncadeq.testing import assert_bounded_perception
from gncadeq.transforms import PointsToGraph

WAYS = [{"k": 8}, {"radius": 0.4}, {"k": 8, "weights": "uniform"}]


def cloud(dim=3, n=200):
    return Data(pos=torch.rand(n, dim, dtype=torch.double))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
def test_constants_and_linear_functions(way, dim):
    data = PointsToGraph(**way, kernels="harmonics")(cloud(dim))
    source, target = data.edge_index
    assert bool(((target * 200 + source).diff() > 0).all())
    assert data.edge_attr.shape == (data.num_edges, 1 + dim)
    assert float(perceive(data, torch.ones(200, 1).double()).abs().max()) < 1e-12
    slope = torch.tensor([2.0, -3.0, 5.0], dtype=torch.double)[:dim]
    seen = perceive(data, (data.pos @ slope)[:, None])[:, 0, 1:]
    away = source != target
    source, target = source[away], target[away]
    length = (data.pos[source] - data.pos[target]).norm(dim=1)
    count = torch.bincount(target, minlength=200)
    unit = torch.zeros(200).double().index_add_(0, target, length) / count
    full = evenly_spread(data, slice(1, 1 + dim), way.get("weights") == "uniform")
    assert int(full.sum()) > 180
    assert torch.allclose(seen[full], (unit[:, None] * slope)[full], atol=1e-8)


def test_neighbours_are_the_nearest():
    data = cloud()
    distance = torch.cdist(data.pos, data.pos)
    near = PointsToGraph(k=5)(data).edge_index
    expected = distance.topk(6, largest=False)[1]
    for node in range(200):
        assert set(near[0, near[1] == node].tolist()) == set(expected[node].tolist())
    within = PointsToGraph(radius=0.25)(data).edge_index
    assert {tuple(e) for e in within.t().tolist()} == {
        tuple(e) for e in (distance <= 0.25).nonzero().tolist()
    }


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_rotation_and_renumbering(way):
    data = cloud()
    turn = torch.from_numpy(-Rotation.random(random_state=2).as_matrix())
    to_graph = PointsToGraph(**way, kernels="harmonics")
    a, b = to_graph(data), to_graph(Data(pos=data.pos @ turn.t() - 3.0))
    assert torch.equal(a.edge_index, b.edge_index)
    assert torch.allclose(a.edge_attr[:, 0], b.edge_attr[:, 0], atol=1e-12)
    assert torch.allclose(a.edge_attr[:, 1:] @ turn.t(), b.edge_attr[:, 1:], atol=1e-9)
    order = torch.randperm(200)
    c = to_graph(Data(pos=data.pos[order]))
    z = torch.rand(200, 2).double()
    assert torch.allclose(perceive(a, z)[order], perceive(c, z[order]), atol=1e-9)


def test_laplacian_averages():
    data = PointsToGraph(radius=0.3)(cloud())
    loop = data.edge_index[0] == data.edge_index[1]
    assert bool((data.edge_attr[~loop] > 0).all())
    assert torch.allclose(data.edge_attr[loop], -torch.ones(200, 1).double())


def test_points_with_normals_have_a_gradient_along_their_surface():
    sphere = primitives.icosphere(3)
    data = PointsToGraph(k=6, kernels="harmonics")(Data(pos=sphere.pos, normal=sphere.pos))
    seen = perceive(data, sphere.pos[:, 2:])[:, 0, 1:]
    up = torch.tensor([0.0, 0.0, 1.0])
    along = up - sphere.pos * sphere.pos[:, 2:]
    assert float((seen * sphere.pos).sum(1).abs().max()) < 1e-5
    ratio = (seen * along).sum(1) / along.square().sum(1).clamp_min(1e-9)
    steep = along.norm(dim=1) > 0.3
    assert float(ratio[steep].std() / ratio[steep].mean()) < 0.1


def test_coincident_collinear_and_lonely_points_stay_finite():
    pos = np.zeros((30, 3))
    pos[10:20, 0] = np.arange(10)
    pos[20:29, :2] = np.random.default_rng(0).normal(size=(9, 2))
    pos[29] = 100.0
    for way in ({"k": 4}, {"k": 12}, {"radius": 1.5}):
        for kernels in ("isotropic", "harmonics"):
            data = PointsToGraph(**way, kernels=kernels)(Data(pos=torch.from_numpy(pos)))
            assert bool(data.edge_attr.isfinite().all())
            assert_bounded_perception(data, 9.0, atol=1e-10)
            assert int((data.edge_index[0] == data.edge_index[1]).sum()) == 30
            if "k" in way:
                assert torch.bincount(data.edge_index[1]).tolist() == [way["k"] + 1] * 30
    assert data.edge_attr[data.edge_index[1] == 29].tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of 'k' and 'radius'"),
        ({"k": 3, "radius": 1.0}, "one of 'k' and 'radius'"),
        ({"k": 0}, "at least 1 .*Or give 'radius'$"),
        ({"radius": math.inf}, "'radius' to be .*Or give 'k'$"),
        ({"k": 3, "kernels": "tangent"}, "'kernels' to be"),
        ({"k": 3, "weights": "cotangent"}, "'weights' to be"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        PointsToGraph(**options)


def test_wrong_clouds():
    data = cloud()
    with pytest.raises(ValueError, match="more points than k=200"):
        PointsToGraph(k=200)(data)
    with pytest.raises(ValueError, match="with neighbours in it"):
        PointsToGraph(radius=1e-6)(data)
    with pytest.raises(ValueError, match="max_edges=10"):
        PointsToGraph(radius=0.5, max_edges=10)(data)
    with pytest.raises(ValueError, match=r"\[num_nodes, 2 or 3\]"):
        PointsToGraph(k=3)(Data(pos=torch.rand(9, 4)))
    with pytest.raises(ValueError, match="Transform, then batch"):
        PointsToGraph(k=3)(Batch.from_data_list([data, data]))
    with pytest.raises(ValueError, match="'normal' of the shape"):
        PointsToGraph(k=3, kernels="harmonics")(Data(pos=data.pos, normal=data.pos[1:]))
