"""Surfaces by formula: their topology, orientation and size."""

import math

import numpy as np
import pytest
import torch

from gncadeq.datasets import mesh_report, primitives
from gncadeq.transforms.surface_operators import vertex_areas, vertex_normals

SURFACES = {  # Euler characteristic, edges on the boundary, area
    "plane": (primitives.plane(5, 7), 1, 20, 24.0),
    "icosahedron": (primitives.icosphere(0), 2, 0, None),
    "sphere": (primitives.icosphere(4), 2, 0, 4 * math.pi),
    "torus": (primitives.torus(96, 48), 0, 0, 4 * math.pi**2 * 0.4),
    "cylinder": (primitives.cylinder(64, 9), 0, 128, 4 * math.pi),
    "moebius": (primitives.moebius(64, 9), 0, 128, None),
    "blob": (primitives.delaunay_blob(300, seed=3), 1, None, None),
}


@pytest.mark.parametrize("name", SURFACES)
def test_topology_and_area(name):
    data, euler, boundary, area = SURFACES[name]
    report = mesh_report(data)
    assert report.euler_characteristic == euler
    assert report.parts == 1
    assert boundary is None or report.boundary_edges == boundary
    assert report.orientable == (name != "moebius")
    assert set(report.defects) == ({"inconsistent_edges"} if name == "moebius" else set())
    assert data.pos.dtype == torch.float32
    if area is not None:
        assert float(vertex_areas(data.pos, data.face).sum()) == pytest.approx(area, rel=1e-2)


def test_orientation_is_outward():
    for subdivisions in range(4):
        sphere = primitives.icosphere(subdivisions)
        assert bool(((vertex_normals(sphere.pos, sphere.face) * sphere.pos).sum(1) > 0.99).all())
    torus, cylinder = primitives.torus(), primitives.cylinder()
    ring = torus.pos * torch.tensor([1.0, 1.0, 0.0])
    away = torus.pos - ring / ring.norm(dim=1, keepdim=True)
    assert bool(((vertex_normals(torus.pos, torus.face) * away).sum(1) > 0).all())
    side = cylinder.pos * torch.tensor([1.0, 1.0, 0.0])
    assert bool(((vertex_normals(cylinder.pos, cylinder.face) * side).sum(1) > 0.9).all())
    for flat in (primitives.plane(3, 4), primitives.delaunay_blob(50)):
        normal = vertex_normals(flat.pos, flat.face)
        assert torch.equal(normal, torch.tensor([0.0, 0.0, 1.0]).expand_as(normal))


def test_moebius_normals_hold_at_the_seam():
    data = primitives.moebius(64, 9)
    normal = vertex_normals(data.pos, data.face)
    assert torch.allclose(normal.norm(dim=1), torch.ones(data.num_nodes))
    u = torch.atan2(data.pos[:, 1], data.pos[:, 0])
    along = torch.stack([-u.sin(), u.cos(), 0 * u], dim=1)
    middle = torch.arange(data.num_nodes) // 64 == 4  # the central circle, seam included
    assert float((normal * along).sum(1)[middle].abs().max()) < 0.05


def test_icosphere_is_large_fast_and_nested():
    fine = primitives.icosphere(6)
    assert fine.pos.shape == (40962, 3)
    assert torch.allclose(fine.pos.norm(dim=1), torch.ones(40962))
    assert torch.equal(fine.pos[:642], primitives.icosphere(3).pos)


def test_blob_is_repeatable():
    a, b, c = (primitives.delaunay_blob(80, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.pos, b.pos)
    assert torch.equal(a.face, b.face)
    assert not torch.equal(a.pos, c.pos)


@pytest.mark.parametrize(
    "make",
    [
        lambda: primitives.plane(1, 5),
        lambda: primitives.icosphere(12),
        lambda: primitives.torus(2, 9),
        lambda: primitives.torus(tube=2.0),
        lambda: primitives.cylinder(along=1),
        lambda: primitives.cylinder(radius=0.0),
        lambda: primitives.moebius(across=1),
        lambda: primitives.moebius(width=3.0),
        lambda: primitives.delaunay_blob(2),
    ],
)
def test_impossible_sizes(make):
    with pytest.raises(ValueError, match=r"Expected .* \(got "):
        make()


def test_sizes_may_be_scalars_of_tensors_and_arrays():
    expected = primitives.cylinder(radius=1.0, height=3.0)
    for height in (torch.tensor(3), np.float32(3), np.array(3.0)):
        torch.testing.assert_close(primitives.cylinder(radius=1.0, height=height).pos, expected.pos)
