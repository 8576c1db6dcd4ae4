"""Meshes from files: every vertex in its place, every defect counted, every error named."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import gncadeq
from gncadeq.datasets import MeshWarning, load_mesh, mesh_report, primitives, save_mesh

trimesh = pytest.importorskip("trimesh", reason="needs the extra 'mesh'")

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 2, 2]])
V = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 2 2\n"


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quiet(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshWarning)
        return load_mesh(path, **options)


OBJ = {
    "seams": V + "vt 0 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/1\nf 1/2 3/3 4/1\nf 3/2 4/2 5/1\n",
    "mixed": V + "vn 0 0 1\nvt 0 0\nf 1/1 2/1 3/1\nf 1//1 3//1 4//1\nf 3 4 5\n",
    "materials": "o A\nusemtl m\n" + V + "vt 0 0\nf 1/1 2/1 3/1\nusemtl n\nf 1 3 4\no B\nf 3 4 5\n",
    "relative": V + "f -5 -4 -3\nf -5 -3 -2\nf -3 -2 -1\n",
    "quad": V + "f 1 2 3 4\nf 3 4 5\n",
    "continued": V + "f 1 2 \\\n 3 4 # a comment\nf 3 4 5\n",
    "tabs": (V + "f 1 2 3 4\nf 3 4 5\n").replace(" ", "\t").replace("\n", "\r\n"),
    "late": "v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\nv 0 1 0\nf 1 3 4\nv 2 2 2\nf 3 4 5\n",
}


@pytest.mark.parametrize("name", OBJ)
def test_obj_vertices_keep_number_and_order(name, tmp_path):
    data = quiet(write(tmp_path, "a.obj", OBJ[name]))
    assert torch.equal(data.pos, CORNERS)
    assert data.face.t().tolist() == [[0, 1, 2], [0, 2, 3], [2, 3, 4]]


def ply(vertex="", rows="", faces="3 0 1 2\n4 0 1 2 3\n5 0 1 2 3 4\n", count=3):
    lines = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n2 2 2\n".replace("\n", f"{rows}\n")
    head = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\n"
    head += f"property float z\n{vertex}element face {count}\n"
    return head + "property list uchar int vertex_indices\nend_header\n" + lines + faces


RGB = "property {0} red\nproperty {0} green\nproperty {0} blue\n"
COLOURED = {
    "bytes.ply": ply(RGB.format("uchar"), " 255 51 0"),
    "floats.ply": ply(RGB.format("float"), " 1 0.2 0"),
    "textured.ply": ply(
        RGB.format("uchar") + "property float s\nproperty float t\n", " 255 51 0 0 1"
    ),
    "floats.obj": V.replace("\n", " 1 0.2 0\n") + "f 1 2 3 4 5\n",
    "bytes.obj": V.replace("\n", " 255 51 0\n") + "f 1 2 3 4 5\n",
    "coff.off": "COFF\n5 2 0\n"
    + V.replace("v ", "").replace("\n", " 255 51 0 255\n")
    + "3 0 1 2\n5 0 1 2 3 4\n",
}


@pytest.mark.parametrize("name", COLOURED)
def test_vertex_colours_are_kept(name, tmp_path):
    data = quiet(write(tmp_path, name, COLOURED[name]))
    assert torch.equal(data.pos, CORNERS)
    assert data.face[:, -1].tolist() == [0, 3, 4]  # polygons are fans
    assert torch.allclose(data.color, torch.tensor([1.0, 0.2, 0.0]).expand(5, 3), atol=1e-6)


def test_only_some_obj_vertices_are_coloured(tmp_path):
    data = quiet(write(tmp_path, "a.obj", V + "v 3 3 3 0 1 0\nf 1 2 6\n"))
    assert data.color.tolist() == [[1, 1, 1]] * 5 + [[0, 1, 0]]


def test_off_without_colours(tmp_path):
    text = "OFF 5 2 0 # header\n" + V.replace("v ", "") + "3 0 1 2 255 0 0\n5 0 1 2 3 4\n"
    data = quiet(write(tmp_path, "a.off", text))
    assert data.face.size(1) == 4
    assert "color" not in data


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


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.xyz", "0 0 0", ValueError, "ending in .obj"),
        ("gone.ply", None, FileNotFoundError, "no such file"),
        ("a.obj", "", ValueError, "an empty file"),
        ("a.obj", "# nothing\n", ValueError, "no vertices"),
        ("a.obj", V, ValueError, "PointsToGraph"),
        ("a.ply", ply(faces="", count=0), ValueError, "PointsToGraph"),
        ("a.off", "OFF\n5 0 0\n" + V.replace("v ", ""), ValueError, "PointsToGraph"),
        ("a.obj", V + "v nan 0 inf\nf 1 2 3\n", ValueError, "1 vertices with NaN .* first is 5"),
        ("a.obj", "v 1e300 0 0\n" + V + "f 1 2 3\n", ValueError, "float32"),
        ("a.obj", "v 0 zero 0\nf 1 1 1\n", ValueError, "three numbers a vertex"),
        ("a.obj", "v 0 0\nf 1 1 1\n", ValueError, "three numbers a vertex"),
        ("a.obj", V + "f 1 2 x\n", ValueError, "'f 1 2 x' in line 6"),
        ("a.obj", V + "f 0 1 2\n", ValueError, "from 1 on"),
        ("a.obj", V + "f 1 2 9\n", ValueError, r"0 … 4 \(got 8"),
        ("a.obj", V + "f 1 2 -9\n", ValueError, r"0 … 4 \(got -4"),
        ("a.off", "OFF\n5 2 0\n" + V.replace("v ", "") + "3 0 1 2\n", ValueError, "cut short"),
        ("a.off", "OFF\n5 1 0\n" + V.replace("v ", "") + "3 0 1\n", ValueError, "3 vertex numb"),
        ("a.off", "OFF\nfive\n", ValueError, "numbers of vertices"),
        ("a.off", "hello\n", ValueError, "starts with OFF"),
        ("a.ply", ply(faces="3 0 1 2\n"), ValueError, "cut short"),
        ("a.ply", ply(faces="3 0 1 2\n3 0 1 -1\n3 0 1 9\n"), ValueError, r"0 … 4"),
        ("a.ply", "hello", ValueError, "unreadable"),
        ("a.stl", "hello", ValueError, "no STL"),
        ("a.stl", b"\0" * 80 + b"\5\0\0\0" + b"\0" * 60, ValueError, "cut short"),
        ("a.stl", "solid a\nendsolid a\n", ValueError, "no vertices|unreadable"),
        ("a.glb", "hello", ValueError, "unreadable"),
        ("a.glb", b"glTF" + b"\0" * 40, ValueError, "unreadable"),
    ],
)
def test_errors_name_file_and_remedy(name, content, error, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(error, match=message) as caught:
        quiet(path)
    assert str(path) in str(caught.value)


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
        save_mesh(Data(pos=mesh.pos), tmp_path / "a.ply")
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


def test_only_some_formats_need_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path, "a.ply", ply())
    monkeypatch.setitem(sys.modules, "trimesh", None)
    for call in (lambda: quiet(path), lambda: save_mesh(primitives.icosphere(0), path)):
        with pytest.raises(ImportError, match=r"pip install 'gncadeq\[mesh\]'"):
            call()
    save_mesh(primitives.icosphere(0), tmp_path / "a.obj")
    assert gncadeq.load_mesh(tmp_path / "a.obj").num_nodes == 12
