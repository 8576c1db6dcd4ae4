"""Pictures: what is seen where, in which colour."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from surfaces import pixels, sphere, square
from torch_geometric.data import Batch, Data

from gncadeq.viz import (
    ColorScale,
    SurfaceRenderer,
)
from gncadeq.viz.colors import NO_VALUE, color_table, rgb
from gncadeq.viz.geometry import geometry
from gncadeq.viz.raster import ZBuffer, barycentric

CUBE = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


def test_z_buffer_agrees_with_every_pixel_against_every_triangle():
    rng = np.random.default_rng(0)
    corner = rng.uniform(-3, 23, (60, 3))
    face = rng.permutation(60).reshape(20, 3)
    buffer = ZBuffer(20, 16)
    buffer.triangles(corner, face)
    for row in range(16):
        for column in range(20):
            p = corner[face]
            weight = barycentric(np.tile([column + 0.5, row + 0.5], (20, 1)), p[..., :2])
            inside = (weight >= 0).all(1)
            z = np.where(inside, (weight * p[..., 2]).sum(1), -np.inf)
            expected = int(z.argmax()) if inside.any() else -1
            assert buffer.owner[row, column] == expected
            if inside.any():
                assert buffer.depth[row, column] == pytest.approx(z.max())


def test_z_buffer_in_pieces_is_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    corner, face = rng.uniform(0, 50, (90, 3)), np.arange(90).reshape(30, 3)
    whole, pieces = ZBuffer(50, 50), ZBuffer(50, 50)
    whole.triangles(corner, face)
    whole.discs(corner, np.full(90, 3.0), first=30)
    monkeypatch.setattr("gncadeq.viz.raster._CHUNK", 7)
    pieces.triangles(corner, face)
    pieces.discs(corner, np.full(90, 3.0), first=30)
    assert np.array_equal(whole.depth, pieces.depth)
    assert np.array_equal(whole.owner, pieces.owner)


def test_neighbouring_triangles_share_no_pixel_and_leave_no_gap():
    n = 7
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * 9.37
    corner = np.column_stack([grid, np.zeros(n * n)])
    corner[:, :2] += np.random.default_rng(0).uniform(-2, 2, (n * n, 2))
    a = np.array([r * n + c for r in range(n - 1) for c in range(n - 1)])
    face = np.concatenate([np.stack([a, a + 1, a + n], 1), np.stack([a + 1, a + n + 1, a + n], 1)])
    covered = np.zeros((64, 64), int)
    for f in face:
        one = ZBuffer(64, 64)
        one.triangles(corner, f[None])
        covered += one.owner >= 0
    assert covered.max() == 1
    assert (covered[6:48, 6:48] == 1).all()


def test_disc_has_its_area_and_its_nearest_point():
    buffer = ZBuffer(100, 100)
    buffer.discs(np.array([[50.0, 50.0, 5.0]]), np.array([40.0]))
    assert (buffer.owner == 0).sum() == pytest.approx(math.pi * 40**2, rel=0.01)
    assert buffer.depth[50, 50] == pytest.approx(45.0, abs=0.01)


def test_flat_mesh_shows_exactly_its_colours():
    data, color = square(), torch.tensor([0.2, 0.6, 1.0]).expand(4, 3)
    picture = pixels(SurfaceRenderer(data, size=50)(color))
    assert (picture[5:-5, 5:-5] == [51, 153, 255]).all()
    assert (picture[0] == 255).all()


def test_colours_run_linearly_over_a_face_and_y_points_up():
    data = square()
    value = data.pos[:, 1]
    picture = pixels(SurfaceRenderer(data, size=100)(value, ColorScale("scalar", colormap="gray")))
    column = picture[6:94, 50, 0]
    assert column[0] > 245
    assert column[-1] < 10
    assert np.abs(np.diff(column, n=2)).max() <= 2
    data.image_size = torch.tensor([[2, 2]])  # rows of an image run downwards
    down = pixels(SurfaceRenderer(data, size=100)(value, ColorScale("scalar", colormap="gray")))
    assert np.abs(down[::-1] - picture)[6:94, 6:94].max() <= 2


def test_picture_is_linear_in_the_colours():
    renderer = SurfaceRenderer(sphere(2), size=60, background="black")
    a, b = torch.rand(2, 162, 3) / 2
    total = pixels(renderer(a, lambda v: v)) + pixels(renderer(b, lambda v: v))
    assert np.abs(pixels(renderer(a + b, lambda v: v)) - total).max() <= 1


def test_sphere_covers_its_disc_and_is_lit_from_the_upper_left():
    renderer = SurfaceRenderer(sphere(3), size=200, background=None)
    picture = pixels(renderer(torch.ones(642, 3)))
    area = (picture[..., 3] / 255).sum()
    assert area == pytest.approx(math.pi * (100 * 0.92) ** 2, rel=0.02)
    assert picture[60, 60, 0] > picture[140, 140, 0] + 60
    assert picture[0, 0, 3] == 0


@pytest.mark.parametrize(
    ("azimuth", "elevation", "seen"),
    [(0, 0, [0, 0, 1]), (90, 0, [1, 0, 0]), (180, 0, [0, 0, -1]), (0, 90, [0, 1, 0])],
)
def test_camera_looks_from_where_it_is_said_to(azimuth, elevation, seen):
    data = sphere(2)
    front = (data.pos @ torch.tensor(seen, dtype=torch.float) > 0.5).float()
    picture = SurfaceRenderer(data, size=40, azimuth=azimuth, elevation=elevation)(
        front, ColorScale("scalar", colormap="gray")
    )
    assert pixels(picture)[20, 20].min() > 150
    behind = SurfaceRenderer(data, size=40, azimuth=azimuth + 180, elevation=-elevation)(
        front, ColorScale("scalar", colormap="gray")
    )
    assert pixels(behind)[20, 20].max() == 0


@pytest.mark.parametrize(("up", "order"), [("z", [1, 2, 0]), ("x", [2, 0, 1])])
def test_up_turns_the_object_without_mirroring_it(up, order):
    data = sphere(2)
    data.pos = data.pos * torch.tensor([1.0, 0.6, 0.3])
    turned = Data(pos=data.pos[:, order], face=data.face)
    color = torch.rand(162, 3)
    a, b = (SurfaceRenderer(d, size=50, up=u)(color) for d, u in ((data, up), (turned, "y")))
    assert np.array_equal(pixels(a), pixels(b))
    assert torch.linalg.det(torch.eye(3)[:, order]) > 0


def test_renumbered_nodes_and_turned_faces_give_the_same_picture():
    data, color = sphere(2), torch.rand(162, 3)
    picture = pixels(SurfaceRenderer(data, size=60)(color))
    p = torch.randperm(162)
    moved = Data(pos=data.pos[p], face=p.argsort()[data.face])
    assert np.abs(pixels(SurfaceRenderer(moved, size=60)(color[p])) - picture).max() <= 1
    inside_out = Data(pos=data.pos, face=data.face[[0, 2, 1]])
    assert np.abs(pixels(SurfaceRenderer(inside_out, size=60)(color)) - picture).max() <= 1


def test_graph_has_nodes_and_edges():
    pos = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    edge_index = torch.tensor([[0, 1, 0], [1, 0, 0]])  # both ways, and a loop
    data = Data(pos=pos, edge_index=edge_index)
    assert geometry(data).edge.tolist() == [[0, 1]]
    red = torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3)
    picture = pixels(SurfaceRenderer(data, size=200, node_size=3)(red))
    assert (picture[100, 100] == 158).all()  # the edge
    assert (picture[100, 20] == [255, 0, 0]).all()
    apart = pixels(SurfaceRenderer(data, size=200, edges=False)(red))
    assert (apart[100, 100] == 255).all()


def test_node_values_of_the_wrong_number_or_shape_are_refused():
    renderer = SurfaceRenderer(square(), size=20)
    with pytest.raises(ValueError, match=r"Expected values of 4 nodes \(got shape \[5, 3\]\)"):
        renderer(torch.rand(5, 3))
    with pytest.raises(ValueError, match=r"Choose one channel: z\[:, 0\]"):
        renderer(torch.rand(4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": None}, r"spring_layout"),
        ({"pos": torch.rand(4, 4)}, r"got \[4, 4\]"),
        ({"pos": torch.full((4, 3), float("nan"))}, r"got 4 nodes with NaN"),
        ({"face": torch.tensor([[0], [1], [4]])}, r"name nodes 0 to 3 \(got 0 to 4\)"),
        ({"face": torch.zeros(2, 3, dtype=torch.long)}, r"shape \[3, \*\] \(got \[2, 3\]\)"),
    ],
)
def test_undrawable_graphs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        geometry(Data(**{**square().to_dict(), **change}))


def test_options_and_batches_are_refused():
    with pytest.raises(ValueError, match=r"Expected one graph \(got a batch of 2\)"):
        geometry(Batch.from_data_list([square(), square()]))
    with pytest.raises(ValueError, match="'up' to be 'x', 'y' or 'z'"):
        geometry(square(), up="-z")
    with pytest.raises(ValueError, match="'zoom' to be a finite number above 0"):
        SurfaceRenderer(square(), zoom=0.0)


def test_scale_reads_its_kind_and_range():
    assert ColorScale.fit(torch.tensor([[0.0, 0.5, 1.0]])) == ColorScale("rgb", 0.0, 1.0)
    assert ColorScale.fit(torch.tensor([-1.0, 3.0, float("inf")])) == ColorScale(
        "scalar", -1.0, 3.0
    )
    wide = torch.linspace(-5, 5, 3000).view(1000, 3)
    assert ColorScale.fit(wide).low == pytest.approx(-4.9, abs=0.01)
    assert ColorScale.fit(wide, low=0.0).low == 0.0
    assert torch.equal(
        ColorScale("scalar", 0, 1, "magma")(torch.tensor([0.0, 1.0, 9.0])),
        color_table("magma")[[0, 255, 255]],
    )


def test_constant_labels_and_transparent_values_have_colours():
    assert ColorScale.fit(torch.full((3,), 2.0))(torch.full((3,), 2.0)).isfinite().all()
    labels = ColorScale.fit(torch.tensor([1, 11, 2]))(torch.tensor([1, 11, 2]))
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    rgba = ColorScale("rgba")(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]]))
    assert torch.equal(rgba, torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.5, 0.5]]))


def test_what_is_not_finite_is_magenta():
    magenta = torch.tensor(rgb([NO_VALUE])[0])
    bad = torch.tensor([float("nan"), float("inf"), 1.0])
    assert (ColorScale.fit(bad)(bad) == magenta).all(1).tolist() == [True, True, False]
    state = torch.ones(2, 3)
    state[0, 1] = float("nan")
    assert (ColorScale()(state) == magenta).all(1).tolist() == [True, False]


def test_unknown_scales_are_refused():
    with pytest.raises(ValueError, match="'kind' to be "):
        ColorScale("hsv")
    with pytest.raises(ValueError, match="'high' to be"):
        ColorScale("scalar", 1.0, 0.0)
    with pytest.raises(ValueError, match="matplotlib colour map"):
        ColorScale("scalar", colormap="verdant")(torch.rand(3))


def read_obj(path: Path) -> Data:
    """Vertices and triangulated faces of an OBJ file."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    pos = torch.tensor([[float(x) for x in line[1:4]] for line in lines if line[0] == "v"])
    faces = [[int(v.split("/")[0]) - 1 for v in line[1:]] for line in lines if line[0] == "f"]
    fans = [[f[0], f[k], f[k + 1]] for f in faces for k in range(1, len(f) - 1)]
    return Data(pos=pos, face=torch.tensor(fans).T)


@pytest.mark.parametrize(
    ("name", "share"), [("spot", 0.35), ("stanford-bunny", 0.48), ("suzanne", 0.4)]
)
def test_real_meshes_are_drawn(name, share):
    root = os.environ.get("GNCADEQ_DATA")
    path = Path(root or "absent") / "meshes" / f"{name}.obj"
    if not path.is_file():
        pytest.skip(f"needs meshes/{name}.obj under $GNCADEQ_DATA")
    data = read_obj(path)
    renderer = SurfaceRenderer(data, size=200, background=None)
    picture = pixels(renderer(torch.ones(data.num_nodes, 3)))
    opaque = picture[..., 3] == 255
    assert opaque.mean() == pytest.approx(share, abs=0.1)
    # No pinholes: what is clear within the outline is as large as a gap between two legs.
    from scipy.ndimage import label

    regions, _ = label(picture[..., 3] < 255)
    sizes = np.bincount(regions[picture[..., 3] < 128])
    assert (sizes[1:] > 20).all() or sizes[1:].max() == sizes[1:].sum()
