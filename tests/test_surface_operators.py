"""Kernels on meshes: what they must see, whatever the mesh, its numbering and its pose."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from surfaces import evenly_spread
from torch_geometric.data import Batch, Data

from benchmarks.surface_operators import errors, perceive, uneven_sphere
from gncadeq.datasets import load_mesh, primitives
from gncadeq.testing import assert_bounded_perception
from gncadeq.transforms import MeshToGraph
from gncadeq.transforms.surface_operators import neighbor_weights

OPTIONS = [
    {"kernels": kernels, **more}
    for kernels in ("isotropic", "tangent", "harmonics")
    for more in ({}, {"weights": "distance"}, {"weights": "uniform"}, {"scale": 0.5})
]


def double(data):
    data.pos = data.pos.double()
    return data


def bumpy(seed=0):
    """An uneven closed surface without symmetry, with a normal near `up`."""
    data = double(uneven_sphere(300, seed))
    x, y, z = data.pos.t()
    data.pos = data.pos * (1 + 0.2 * torch.sin(3 * x + y) + 0.1 * y * z)[:, None]
    return data


def dense(data):
    """Every kernel as a matrix: ``[K, N, N]``."""
    n = data.num_nodes
    out = data.edge_attr.new_zeros(data.edge_attr.size(1), n, n)
    out[:, data.edge_index[1], data.edge_index[0]] = data.edge_attr.t()
    return out


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_constants_are_not_seen_and_edges_are_in_order(options):
    mesh = bumpy()
    data = MeshToGraph(**options)(mesh)
    k = {"isotropic": 1, "tangent": 3, "harmonics": 4}[options["kernels"]]
    assert data.edge_attr.shape == (data.num_edges, k)
    assert data.edge_attr.dtype == torch.float64
    assert float(perceive(data, torch.ones(300, 1).double()).abs().max()) < 1e-12
    source, target = data.edge_index
    assert bool(((target * 300 + source).diff() > 0).all())  # sorted by target, none twice
    assert int((source == target).sum()) == 300
    if "scale" not in options:
        sides = {frozenset(e) for e in data.edge_index.t().tolist()}
        assert sides == {frozenset((int(f[i]), int(f[j]))) for f in mesh.face.t()
                         for i in range(3) for j in range(3)}  # fmt: skip
    assert "edge_index" not in mesh  # the mesh itself is left alone


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_renumbering_the_vertices_renumbers_the_kernels(options):
    mesh = bumpy()
    order = torch.randperm(300)
    rank = order.argsort()
    shuffle = torch.randperm(mesh.face.size(1))
    other = Data(pos=mesh.pos[order], face=rank[mesh.face][:, shuffle].roll(1, 0))
    a, b = MeshToGraph(**options)(mesh), MeshToGraph(**options)(other)
    assert torch.allclose(dense(a)[:, order][:, :, order], dense(b), atol=1e-9)
    assert torch.allclose(a.area[order], b.area)
    assert torch.allclose(a.normal[order], b.normal)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_rotations_and_reflections(scale, mirror):
    mesh = bumpy()
    turn = torch.from_numpy(Rotation.random(random_state=1).as_matrix()) * mirror
    face = mesh.face if mirror > 0 else mesh.face.flip(0)
    other = Data(pos=mesh.pos @ turn.t() + 7.0, face=face)
    to_graph = MeshToGraph("harmonics", scale=scale)
    a, b = to_graph(mesh), to_graph(other)
    assert torch.equal(a.edge_index, b.edge_index)
    assert torch.allclose(a.edge_attr[:, 0], b.edge_attr[:, 0], atol=1e-11)
    assert torch.allclose(a.edge_attr[:, 1:] @ turn.t(), b.edge_attr[:, 1:], atol=1e-10)
    assert torch.allclose(a.normal @ turn.t(), b.normal, atol=1e-11)
    # The tangent frame turns with its axis.
    up = torch.tensor([0.3, -0.2, 0.9], dtype=torch.double)
    a = MeshToGraph("tangent", scale=scale, up=tuple(up.tolist()))(mesh)
    b = MeshToGraph("tangent", scale=scale, up=tuple((turn @ up).tolist()))(other)
    east = mirror  # in the mirror, east is west
    assert torch.allclose(a.edge_attr[:, 0] * east, b.edge_attr[:, 0], atol=1e-10)
    assert torch.allclose(a.edge_attr[:, 1:], b.edge_attr[:, 1:], atol=1e-10)


def test_one_ring_does_not_depend_on_the_size_of_the_mesh():
    mesh = bumpy()
    large = Data(pos=mesh.pos * 1e4, face=mesh.face)
    a, b = (MeshToGraph("harmonics")(m).edge_attr for m in (mesh, large))
    assert torch.allclose(a, b, atol=1e-9)
    a = MeshToGraph("harmonics", scale=0.5)(mesh).edge_attr
    b = MeshToGraph("harmonics", scale=0.5e4)(large).edge_attr
    assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("weights", ["cotangent", "distance", "uniform"])
@pytest.mark.parametrize("make", [bumpy, lambda: double(primitives.delaunay_blob(200))])
def test_spectrum_of_the_laplacian(weights, make):
    data = MeshToGraph(weights=weights)(make())
    values = torch.linalg.eigvals(dense(data)[0])
    assert float(values.imag.abs().max()) < 1e-8
    assert float(values.real.max()) < 1e-10
    assert float(values.real.min()) >= -2 - 1e-10


@pytest.mark.parametrize("options", OPTIONS[4:], ids=str)
@pytest.mark.parametrize("make", [lambda: primitives.plane(9, 8),
                                  lambda: primitives.delaunay_blob(200)])  # fmt: skip
def test_linear_functions_on_a_plane_have_their_exact_gradient(options, make):
    mesh = double(make())
    if "scale" in options:
        options = {**options, "scale": float(MeshToGraph()(mesh).area.mean().sqrt() * 2)}
    data = MeshToGraph(**options)(mesh)
    slope = torch.tensor([2.0, -3.0, 5.0], dtype=torch.double)
    seen = perceive(data, (mesh.pos @ slope)[:, None])[:, 0]
    unit = torch.full((mesh.num_nodes,), options.get("scale", 0.0), dtype=torch.double)
    if "scale" not in options:
        source, target = data.edge_index[:, data.edge_index[0] != data.edge_index[1]]
        length = (mesh.pos[source] - mesh.pos[target]).norm(dim=1)
        count = torch.bincount(target)
        unit = torch.zeros_like(unit).index_add_(0, target, length) / count
    if options["kernels"] == "tangent":  # east is x and north is y
        got, want = seen[:, :2], slope[:2]
    else:
        got, want = seen[:, 1:], torch.tensor([2.0, -3.0, 0.0], dtype=torch.double)
    even = torch.ones_like(unit, dtype=torch.bool)
    if "scale" not in options:
        columns = slice(0, 2) if options["kernels"] == "tangent" else slice(1, 4)
        even = evenly_spread(data, columns, options.get("weights") == "uniform")
    assert int(even.sum()) > 0.9 * mesh.num_nodes  # but for slivers along the border
    assert torch.allclose(got[even], (want * unit[:, None])[even], atol=1e-8)


def test_cotangents_are_known():
    # Two right isosceles triangles: the legs' cotangents are 1, that of the diagonal is zero.
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    data = MeshToGraph()(Data(pos=pos, face=torch.tensor([[0, 0], [1, 2], [2, 3]])))
    matrix = dense(data)[0]
    assert torch.allclose(matrix[0], torch.tensor([-1.0, 0.5, 0.0, 0.5]), atol=1e-6)
    assert torch.allclose(matrix[1], torch.tensor([0.5, -1.0, 0.5, 0.0]), atol=1e-6)
    assert torch.allclose(data.area, torch.tensor([2.0, 1.0, 2.0, 1.0]) / 6)


def test_frames_are_smooth_orthonormal_and_survive_the_poles():
    mesh = primitives.icosphere(3)
    data = MeshToGraph("tangent", up=(0.0, 0.0, 1.0))(mesh)
    axes = torch.cat([data.frame, data.normal[:, None]], dim=1)
    assert torch.allclose(axes @ axes.transpose(1, 2), torch.eye(3).expand(642, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(642), atol=1e-5)
    assert bool((data.frame[:, 1, 2] >= -1e-6).all())  # north is up
    for up in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 2.0)):
        flat = MeshToGraph("tangent", up=up)(primitives.plane(4, 4))
        assert bool(flat.edge_attr.isfinite().all())
        assert torch.allclose(flat.frame.norm(dim=2), torch.ones(16, 2))


@pytest.mark.parametrize("subdivisions", [3, 4, 5])
def test_spherical_harmonics_are_eigenfunctions(subdivisions):
    """At a fixed scale the error falls as the square of the edge length."""
    laplacian, gradient = {3: (0.15, 0.008), 4: (0.03, 0.0025), 5: (0.007, 0.0009)}[subdivisions]
    _, error = errors(double(primitives.icosphere(subdivisions)), 0.1, (2,))
    assert error[0] < laplacian
    assert error[1] < gradient


def test_uneven_and_even_spheres_have_the_same_kernels():
    for mesh in (primitives.icosphere(3), uneven_sphere(642), uneven_sphere(2562)):
        _, error = errors(double(mesh), 0.3, (1, 3))
        assert max(error) < 0.06


def test_two_sheets_side_by_side_do_not_mix():
    near, far = primitives.plane(8, 8), primitives.plane(8, 8)
    far.pos = far.pos + torch.tensor([0.0, 0.0, 0.01])
    both = Batch.from_data_list([near, far])
    mesh = Data(pos=both.pos, face=both.face)
    data = MeshToGraph(scale=1.0)(mesh)
    assert bool((data.edge_index // 64).diff(dim=0).eq(0).all())
    alone = MeshToGraph(scale=1.0)(near)
    assert torch.allclose(dense(data)[0, :64, :64], dense(alone)[0], atol=1e-7)


def test_a_folded_sheet_is_not_glued_to_itself():
    mesh = primitives.plane(4, 40)
    angle = mesh.pos[:, 0] / 3.0  # a spiral whose windings are 0.3 apart
    r = 3.0 + 0.3 * angle / (2 * math.pi)
    mesh.pos = torch.stack([r * angle.cos(), r * angle.sin(), mesh.pos[:, 1]], dim=1)
    source, target = MeshToGraph(scale=1.0)(mesh).edge_index
    assert int((source % 40 - target % 40).abs().max()) <= 4
    assert float((mesh.pos[0] - mesh.pos[19]).norm()) < 1.0  # though the next winding is this near


def broken():
    """Every defect at once."""
    pos = [
        [0, 0, 0], [1, 0, 0], [0, 1, 0],  # a triangle, twice, once the other way around
        [0, 0, 1],  # on a third face of one edge
        [2, 0, 0], [3, 0, 0], [4, 0, 0],  # a face without area, and a needle
        [5, 5, 5],  # in no face
        [6, 6, 6], [6, 6, 6], [6, 6, 6],  # a face in one point
        [7, 0, 0], [7, 1e-7, 0], [9, 0, 0],
    ]  # fmt: skip
    face = [[0, 1, 2], [0, 2, 1], [0, 1, 2], [0, 1, 3], [4, 5, 6], [4, 4, 5], [8, 9, 10], [0, 0, 0],
            [11, 12, 13]]  # fmt: skip
    return Data(pos=torch.tensor(pos, dtype=torch.float), face=torch.tensor(face).t())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_broken_meshes_have_finite_bounded_weights(options):
    if "scale" in options:
        options = {**options, "scale": 2.0}
    data = MeshToGraph(**options)(broken())
    for name in ("edge_attr", "normal", "area"):
        assert bool(data[name].isfinite().all()), name
    assert_bounded_perception(data, atol=1e-5)
    assert float(perceive(data, torch.ones(14, 1)).abs().max()) < 1e-5
    lonely = (data.edge_index == 7).any(0)
    assert data.edge_attr[lonely].tolist() == [[0.0] * data.edge_attr.size(1)]
    if "scale" not in options:  # whoever has a neighbour senses it
        assert torch.allclose(dense(data)[0 if options["kernels"] != "tangent" else 2].diagonal(),
                              torch.tensor([-1.0] * 7 + [0.0] + [-1.0] * 6), atol=1e-6)  # fmt: skip


def test_collapsed_mesh():
    mesh = Data(pos=torch.zeros(3, 3), face=torch.tensor([[0], [1], [2]]))
    data = MeshToGraph("harmonics")(mesh)
    assert bool(data.edge_attr.isfinite().all())
    assert torch.allclose(
        data.edge_attr[data.edge_index[0] == data.edge_index[1], 0], -torch.ones(3)
    )


def test_weights_are_symmetric():
    mesh = bumpy()
    data = MeshToGraph()(mesh)
    edges = data.edge_index[:, data.edge_index[0] != data.edge_index[1]]
    for weights in ("cotangent", "distance", "uniform"):
        w = torch.zeros(300, 300).double()
        w[edges[1], edges[0]] = neighbor_weights(mesh.pos, edges, weights, mesh.face)
        assert torch.allclose(w, w.t(), rtol=1e-12)
        assert float(w.min()) >= 0


@pytest.mark.parametrize("options", [{"kernels": "tangent"}, {"scale": 0.4}])
def test_batches_of_meshes(options):
    graphs = [MeshToGraph(**options)(m) for m in (bumpy(1), double(primitives.icosphere(2)))]
    batch = Batch.from_data_list(graphs)
    first = graphs[0].num_nodes
    z = torch.rand(batch.num_nodes, 2).double()
    alone = torch.cat([perceive(graphs[0], z[:first]), perceive(graphs[1], z[first:])])
    assert torch.allclose(perceive(batch, z), alone)
    with pytest.raises(ValueError, match="Transform, then batch"):
        MeshToGraph(**options)(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": "sobel"}, "'kernels' to be"),
        ({"weights": "cotan"}, "'weights' to be"),
        ({"scale": -1.0}, "'scale' to be a finite number above 0"),
        ({"scale": math.nan}, "'scale' to be a finite number above 0"),
        ({"scale": 1.0, "weights": "uniform"}, "no 'weights' beside"),
        ({"up": (0.0, 0.0, 0.0)}, "axis 'up'"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        MeshToGraph(**options)


def test_wrong_meshes():
    sphere = primitives.icosphere(2)
    pos, face = sphere.pos, sphere.face
    bad = pos.clone()
    bad[3, 1] = math.nan
    for wrong, error, message in (
        (Data(pos=pos), ValueError, "PointsToGraph"),
        (Data(pos=pos[:, :2], face=face), ValueError, r"\[num_nodes, 3\]"),
        (Data(pos=pos.long(), face=face), TypeError, "pos.float"),
        (Data(pos=bad, face=face), ValueError, "1 nodes with NaN"),
        (Data(pos=pos, face=face.t()), ValueError, r"\[3, num_faces\]"),
        (Data(pos=pos, face=face.float()), TypeError, "face.long"),
        (Data(pos=pos[:9], face=face), ValueError, "0 … 8"),
    ):
        with pytest.raises(error, match=message):
            MeshToGraph()(wrong)
    with pytest.raises(ValueError, match="at least the mean edge's length"):
        MeshToGraph(scale=0.01)(sphere)
    with pytest.raises(ValueError, match="max_edges=100"):
        MeshToGraph(scale=0.5, max_edges=100)(sphere)


def test_a_scanned_mesh(mesh_root):
    data = load_mesh(mesh_root / "spot.obj")
    data = MeshToGraph("tangent")(data)
    assert data.num_edges == 2930 + 6 * 2928  # closed, of genus 0: E = 3 (V - 2)
    z = data.pos[:, 2:]
    height = perceive(data, z)[:, 0]
    assert bool((height[:, 1] > -1e-3).all())  # everywhere north leads up
