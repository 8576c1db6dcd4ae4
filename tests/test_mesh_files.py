"""Meshes from files: every vertex in its place, every defect counted, every error named."""

import warnings

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gncadeq.datasets import MeshWarning, load_mesh, load_points, mesh_report, primitives, save_mesh

trimesh = pytest.importorskip("trimesh", reason="needs trimesh, to compare with")

V = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 2 2\n"


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quiet(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshWarning)
        return load_mesh(path, **options)


def test_stl_shares_no_vertex_until_merged(tmp_path):
    sphere = primitives.icosphere(1)
    mesh = trimesh.Trimesh(sphere.pos.numpy(), sphere.face.t().numpy(), process=False)
    for content in (mesh.export(file_type="stl"), mesh.export(file_type="stl_ascii")):
        path = write(tmp_path, "a.stl", content)
        data = load_mesh(path)
        assert torch.allclose(data.pos, sphere.pos[sphere.face.t().reshape(-1)], atol=1e-6)
        assert mesh_report(data).parts == 80
        merged = load_mesh(path, merge=True)
        report = mesh_report(merged)
        assert (report.vertices, report.parts, report.euler_characteristic) == (42, 1, 2)
        assert torch.equal(merged.pos[merged.face], data.pos[data.face])


def test_merging_takes_minus_zero_for_zero_and_keeps_the_first(tmp_path):
    text = "v 1 0 0 1 0 0\nv 0 0 0 0 1 0\nv -0.0 0 -0 0 0 1\nv 0 1 0\nf 1 2 4\nf 3 4 1\n"
    data = quiet(write(tmp_path, "a.obj", text), merge=True)
    assert data.pos.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert data.face.t().tolist() == [[0, 1, 2], [1, 2, 0]]
    assert data.color.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_glb_parts_follow_each_other_in_place(tmp_path):
    a, b = primitives.icosphere(0), primitives.torus(5, 4)
    scene = trimesh.Scene()
    move, mirror = np.eye(4), np.diag([-1.0, 1, 1, 1])
    move[0, 3] = 5.0
    red = np.tile(np.array([255, 0, 0, 255], np.uint8), (12, 1))
    first = trimesh.Trimesh(a.pos, a.face.t(), vertex_colors=red, process=False)
    scene.add_geometry(first, transform=move, geom_name="a")
    second = trimesh.Trimesh(b.pos, b.face.t(), process=False)
    scene.add_geometry(second, transform=mirror, geom_name="b")
    data = load_mesh(write(tmp_path, "a.glb", scene.export(file_type="glb")))
    expected = torch.cat([a.pos + torch.tensor([5.0, 0, 0]), b.pos * torch.tensor([-1.0, 1, 1])])
    assert torch.allclose(data.pos, expected, atol=1e-5)
    assert data.color.tolist() == [[1, 0, 0]] * 12 + [[1, 1, 1]] * 20
    outward = torch.cat([a.pos, b.pos * torch.tensor([-1.0, 1, 1])])
    assert bool(((data.normal * outward).sum(1)[:12] > 0.9).all())
    assert volume(data) > 0  # the mirrored part is not inside out


def volume(data):
    a, b, c = data.pos.double()[data.face]
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


@pytest.mark.parametrize("suffix", ["ply", "glb", "obj"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e5])
def test_round_trip_keeps_every_bit(suffix, size, tmp_path):
    generator = torch.Generator().manual_seed(1)
    pos = torch.randn(6, 3, generator=generator) * size
    face = torch.tensor([[0, 1, 1], [1, 2, 2], [2, 3, 3]])  # a duplicate, an unused vertex
    color = torch.randint(0, 256, (6, 3), generator=generator) / 255
    path = tmp_path / "new" / f"a.{suffix}"
    save_mesh(Data(pos=pos, face=face), path, color)
    data = quiet(path)
    assert torch.equal(data.pos, pos)
    assert torch.equal(data.face, face)
    assert torch.allclose(data.color, color, atol=1e-6)
    save_mesh(data, path)  # the colours that it has
    assert torch.equal(quiet(path).color, data.color)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_defects_are_counted_and_told(tmp_path):
    text = V + "v 0 0 1\nf 1 2 3\nf 3 1 2\nf 1 3 4\nf 1 3 6\nf 1 1 2\n"
    with pytest.warns(
        MeshWarning, match="unreferenced vertices: 1, duplicate faces: 1, degenerate faces: 1"
    ):
        data = load_mesh(write(tmp_path, "a.obj", text))
    report = mesh_report(data)
    assert report.nonmanifold_edges == 1
    assert report.degenerate_faces == 1
    assert bool(data.normal.isfinite().all())
    assert data.normal[4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb", "off"])
def test_large_files_are_refused_before_they_are_read(suffix, tmp_path):
    sphere = primitives.icosphere(1)
    mesh = trimesh.Trimesh(sphere.pos.numpy(), sphere.face.t().numpy(), process=False)
    path = write(tmp_path, f"a.{suffix}", mesh.export(file_type=suffix))
    with pytest.raises(ValueError, match="max_vertices=41"):
        load_mesh(path, max_vertices=41)
    assert load_mesh(path, max_vertices=240).num_nodes in (42, 240)


def test_what_cannot_be_saved(tmp_path):
    mesh = primitives.icosphere(0)
    with pytest.raises(ValueError, match=r"ending in \.ply"):
        save_mesh(mesh, tmp_path / "a.stl")
    with pytest.raises(ValueError, match=r"\[12, 3\] \(got \[12\]\)"):
        save_mesh(mesh, tmp_path / "a.ply", torch.ones(12))
    for bad in (2.0, float("nan")):
        with pytest.raises(ValueError, match=r"clamp"):
            save_mesh(mesh, tmp_path / "a.ply", torch.full((12, 3), bad))
    with pytest.raises(ValueError, match="'pos' and 'face'"):
        save_mesh(Data(pos=mesh.pos), tmp_path / "a.glb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "vertices", "faces", "unused"),
    [("spot", 2930, 5856, 0), ("stanford-bunny", 35947, 69451, 1113), ("suzanne", 507, 968, 0)],
)
def test_real_meshes(name, vertices, faces, unused, mesh_root):
    path = mesh_root / f"{name}.obj"
    data = quiet(path)
    lines = [s.split()[1:4] for s in path.read_text().splitlines() if s.startswith("v ")]
    assert torch.equal(data.pos, torch.from_numpy(np.array(lines, np.float64).astype(np.float32)))
    assert (data.num_nodes, data.face.size(1)) == (vertices, faces)
    assert mesh_report(data).unreferenced_vertices == unused
    length = data.normal.norm(dim=1)
    assert int((length == 0).sum()) == unused
    assert torch.allclose(length[length > 0], torch.ones(vertices - unused), atol=1e-6)


def test_wrong_endings_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.obj.*a\.dae"):
        load_mesh(write(tmp_path, "a.dae", "x"))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.ply"):
        load_mesh(tmp_path / "gone.ply")


@pytest.mark.parametrize("suffix", ["obj", "ply", "off"])
def test_vertices_without_faces_are_points(suffix, tmp_path):
    path = write(tmp_path, f"a.{suffix}", {
        "obj": V, "off": "OFF\n5 0 0\n" + V.replace("v ", ""),
        "ply": "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n" + V.replace("v ", ""),
    }[suffix])  # fmt: skip
    with pytest.raises(ValueError, match=r"gncadeq\.load_points.*PointsToGraph"):
        load_mesh(path)
    assert load_points(path).pos[-1].tolist() == [2, 2, 2]


@pytest.mark.parametrize("suffix", ["obj", "ply", "off", "stl", "glb"])
def test_trimesh_reads_the_same(suffix, tmp_path):
    sphere = primitives.icosphere(2)
    red = np.tile(np.array([255, 51, 0, 255], np.uint8), (162, 1))
    mesh = trimesh.Trimesh(sphere.pos, sphere.face.t(), vertex_colors=red, process=False)
    path = tmp_path / f"a.{suffix}"
    mesh.export(path)
    back, data = trimesh.load_mesh(path, process=False), load_mesh(path)
    assert torch.equal(data.pos, torch.from_numpy(np.asarray(back.vertices)).float())
    assert data.face.t().tolist() == back.faces.tolist()
    if suffix in ("obj", "ply", "glb"):
        assert torch.allclose(data.color, torch.tensor([1.0, 0.2, 0.0]), atol=1e-6)
        save_mesh(data, path)
        again = trimesh.load_mesh(path, process=False)
        assert np.array_equal(again.vertices.astype("f4"), back.vertices.astype("f4"))
        assert np.array_equal(again.faces, back.faces)
        assert np.array_equal(again.visual.vertex_colors, red)


@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_far_from_the_origin_nothing_collapses(suffix, tmp_path):
    # PDAL #3005, potree #105, meshlab #1276, glTF #1610: UTM, and 50 km
    near = primitives.icosphere(2)
    for place in ([500_000.25, 5_400_000.5, 300.0], [50_000.0, 0.0, 0.0], [1e9, 0.0, -1e9]):
        far = Data(pos=near.pos, face=near.face, origin=torch.tensor([place]).double())
        path = tmp_path / f"a.{suffix}"
        save_mesh(far, path)
        data = load_mesh(path)
        assert data.origin.shape == (1, 3)
        assert data.origin.dtype == torch.float64
        assert float((data.pos - near.pos).abs().max()) < 1e-6
        assert torch.allclose(data.normal, load_mesh_of(near, tmp_path).normal, atol=1e-3)
        whole = data.pos.double() + data.origin
        save_mesh(data, path)
        back = load_mesh(path)
        assert float((back.pos.double() + back.origin - whole).abs().max()) < 3e-7


def load_mesh_of(mesh, folder):
    save_mesh(mesh, folder / "near.ply")
    data = load_mesh(folder / "near.ply")
    assert "origin" not in data
    return data


def test_meshes_near_the_origin_stay_where_they_are(tmp_path):
    near = primitives.icosphere(2)
    near.pos = near.pos + 20
    assert torch.equal(load_mesh_of(near, tmp_path).pos, near.pos)
