"""Principal curvatures where they are known, and what they don't depend on."""

import math

import pytest
import torch
from curvature import PrincipalCurvatures
from labelled_figures import figure
from torch_geometric.data import Data

from gncadeq.datasets import primitives


def turned(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    return q * torch.linalg.det(q).sign()


def test_of_a_sphere_a_cylinder_and_a_plane():
    sphere = primitives.icosphere(4)
    sphere.pos = 2 * sphere.pos
    assert float((PrincipalCurvatures(0.2)(sphere).x - 0.1).abs().max()) < 2e-3
    cylinder = PrincipalCurvatures(0.1)(primitives.cylinder(64, 32))
    inside = cylinder.pos[:, 2].abs() < 0.6
    expected = torch.tensor([0.1, 0.0]).expand(int(inside.sum()), 2)
    torch.testing.assert_close(cylinder.x[inside], expected, atol=1e-3, rtol=0)
    flat = PrincipalCurvatures(1.0)(primitives.plane(8, 9)).x
    assert float(flat.abs().max()) < 1e-6


def test_of_a_torus_inside_and_outside():
    """1 / r around the tube, and cos v / (R + r cos v) along it: a saddle where v points in."""
    data = PrincipalCurvatures(0.08)(primitives.torus(96, 48, radius=1.0, tube=0.4))
    v = (torch.arange(data.num_nodes) // 96) * (2 * math.pi / 48)
    along = 0.08 * v.cos() / (1 + 0.4 * v.cos())
    torch.testing.assert_close(data.x[:, 1], along, atol=6e-3, rtol=0)
    torch.testing.assert_close(data.x[:, 0], torch.full_like(along, 0.2), atol=6e-3, rtol=0)


def test_invariance():
    data = figure(1, 0.14)
    before = PrincipalCurvatures(0.1)(data.clone()).x
    moved = data.clone()
    moved.pos = 3.0 * data.pos @ turned(0).T + torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(PrincipalCurvatures(0.3)(moved).x, before, atol=1e-3, rtol=0)
    inside_out = Data(pos=data.pos, face=data.face[[0, 2, 1]])
    torch.testing.assert_close(
        PrincipalCurvatures(0.1)(inside_out).x, -before.flip(1), atol=1e-5, rtol=0
    )


def test_columns_are_appended_and_nothing_else_changes():
    data = primitives.icosphere(2)
    data.x = torch.ones(162, 1)
    data = PrincipalCurvatures(0.3)(data)
    assert list(data.x.shape) == [162, 3]
    assert bool((data.x[:, 0] == 1).all())
    assert set(data.keys()) == {"pos", "face", "x"}


def test_a_point_cloud_is_refused():
    with pytest.raises(ValueError, match="'face'"):
        PrincipalCurvatures(0.1)(Data(pos=torch.rand(9, 3)))


def test_whole_numbers_beside_curvatures_become_real():
    mesh = primitives.icosphere(2)
    alone = PrincipalCurvatures(0.4)(mesh.clone()).x
    mesh.x = torch.arange(mesh.num_nodes)
    both = PrincipalCurvatures(0.4)(mesh).x
    assert torch.equal(both[:, 1:], alone)
    assert torch.equal(both[:, 0].long(), mesh.x)
