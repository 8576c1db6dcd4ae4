"""Isosurfaces and figures: their topology, orientation, place and labels."""

import math

import numpy as np
import pytest
import torch
from isosurface import isosurface
from labelled_figures import figure

from gncadeq.datasets import mesh_report
from gncadeq.transforms.surface_operators import vertex_areas, vertex_normals


def ball(p):
    return np.linalg.norm(p, axis=1) - 1


def ring(p):
    return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 1, p[:, 2]) - 0.4


EVEN = np.linspace(-1.6, 1.6, 25)
UNEVEN = np.sort(1.6 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 27)))


@pytest.mark.parametrize("axis", [EVEN, UNEVEN])
@pytest.mark.parametrize(
    ("field", "euler", "area"), [(ball, 2, 4 * math.pi), (ring, 0, 1.6 * math.pi**2)]
)
def test_topology_area_and_place(field, euler, area, axis):
    data = isosurface(field, (axis, EVEN, axis))
    report = mesh_report(data)
    assert (report.euler_characteristic, report.parts, report.boundary_edges) == (euler, 1, 0)
    assert report.orientable
    assert not report.defects
    assert float(vertex_areas(data.pos, data.face).sum()) == pytest.approx(area, rel=2e-2)
    assert float(np.abs(field(data.pos.double().numpy())).max()) < 1e-5


def test_orientation_is_outward():
    data = isosurface(ball, (EVEN, EVEN, EVEN))
    assert float((vertex_normals(data.pos, data.face) * data.pos).sum(1).min()) > 0.97


def test_half_the_spacing_has_four_times_the_vertices():
    coarse, fine = (isosurface(ball, (np.linspace(-1.6, 1.6, n),) * 3) for n in (25, 49))
    assert 3.7 < fine.num_nodes / coarse.num_nodes < 4.3


@pytest.mark.parametrize(
    ("field", "axis", "message"),
    [
        (ball, np.linspace(-0.9, 1.6, 9), "cut by its border"),
        (ball, np.linspace(1.1, 1.6, 9), "nowhere"),
        (ball, np.array([0.0, 1.0, 1.0]), "ascending axis x"),
    ],
)
def test_grids_that_do_not_hold_the_surface(field, axis, message):
    with pytest.raises(ValueError, match=message):
        isosurface(field, (axis, EVEN, EVEN))


def test_a_figure_is_one_closed_surface_with_all_parts():
    for seed in range(4):
        data = figure(seed, spacing=0.12)
        report = mesh_report(data)
        assert (report.euler_characteristic, report.parts, report.boundary_edges) == (2, 1, 0)
        assert data.y.unique().tolist() == [0, 1, 2]


def test_a_figure_is_the_same_at_any_spacing():
    coarse, fine = figure(3, 0.14), figure(3, 0.07)
    distance, nearest = torch.cdist(coarse.pos, fine.pos).min(1)
    assert float(distance.max()) < 0.1
    assert float((fine.y[nearest] == coarse.y).float().mean()) > 0.97
    assert torch.equal(figure(3, 0.14).pos, coarse.pos)
    assert not torch.equal(figure(4, 0.14).pos[:100], coarse.pos[:100])


def test_uneven_figures_have_uneven_edges():
    def spread(data):
        a, b, c = data.pos[data.face]
        length = torch.cat([(a - b).norm(dim=1), (b - c).norm(dim=1), (c - a).norm(dim=1)])
        return float(length.std() / length.mean())

    assert spread(figure(0, 0.12, 0.6)) > 1.3 * spread(figure(0, 0.12))


@pytest.mark.parametrize("options", [{"spacing": 0.2}, {"spacing": 0.0}, {"unevenness": 1.0}])
def test_impossible_figures(options):
    with pytest.raises(ValueError, match="Expected"):
        figure(0, **options)


def test_a_field_without_value_is_refused():
    def torn(p):
        return np.where(p[:, 0] > 0.9, np.nan, ball(p))

    with pytest.raises(ValueError, match="finite values everywhere"):
        isosurface(torn, (EVEN, EVEN, EVEN))


def test_a_grid_so_uneven_that_limbs_are_lost_is_refused():
    with pytest.raises(ValueError, match=r"at most 0\.2"):
        figure(3, 0.15, 0.9)  # its surface would be in two pieces
