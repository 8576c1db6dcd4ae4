"""Points without faces: read from tables, arrays and mesh files, drawn and grown on."""

import gzip
import io
import json
import warnings

import numpy as np
import pytest
import torch
from mesh_grammar import FORMS, RED, SQUARE, ply, vertices
from safetensors.torch import load_file
from torch_geometric.data import Data
from typer.testing import CliRunner

from gncadeq.cli import app
from gncadeq.datasets import MeshWarning, load_mesh, load_points, primitives, save_mesh
from gncadeq.testing import assert_bounded_perception
from gncadeq.training.clouds import point_graph, point_normals
from gncadeq.training.surfaces import is_graph, is_surface, read_surface
from gncadeq.transforms import MeshToGraph


def rows(*more, mark=" ", pos=SQUARE):
    return "".join(mark.join(map(str, [*p, *more])) + "\n" for p in pos)


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


UP = [[0.0, 0.0, 1.0]] * 4
named = np.zeros(4, [("x", "f4"), ("y", "f8"), ("z", "i2"), ("red", "u1"), ("green", "u1"),
                     ("blue", "u1")])  # fmt: skip
for k, axis in enumerate("xyz"):
    named[axis] = np.array(SQUARE)[:, k]
named["red"], named["green"] = 255, 51

POINTS = {  # the name of a file: its feature, its content, colours, normals
    "a.xyz": ("spaces", rows(), None, None),
    "b.xyz": (
        "byte order mark, CRLF",
        b"\xef\xbb\xbf" + rows().replace("\n", "\r\n").encode(),
        None,
        None,
    ),
    "c.xyz": ("comments and empty lines", "# a\n\n" + rows() + "# b\n// c\n", None, None),
    "d.xyz": ("bytes", rows(255, 51, 0), RED, None),
    "e.xyz": ("fractions", rows(1, 0.2, 0), RED, None),
    "f.xyz": ("normals", rows(0, 0, 1), None, UP),
    "g.xyz": ("normals and bytes", rows(0, 0, 1, 255, 51, 0), RED, UP),
    "h.xyz": ("bytes and normals", rows(255, 51, 0, 0, 0, 1), RED, UP),
    "i.asc": ("CloudCompare's names", "//X Y Z R G B\n" + rows(255, 51, 0), RED, None),
    "j.txt": ("strength behind", rows(0.5), None, None),
    "k.pts": ("PTS, with its count", "4\n" + rows(-1000, 255, 51, 0), RED, None),
    "l.csv": ("commas", rows(mark=","), None, None),
    "m.csv": ("semicolons", rows(mark=";"), None, None),
    "n.csv": ("names", "x,y,z,red,green,blue\n" + rows(255, 51, 0, mark=","), RED, None),
    "o.csv": (
        "names in quotes and another order",
        '"id","Z","Y","X"\n' + rows(mark=",", pos=[[7, z, y, x] for x, y, z in SQUARE]),
        None,
        None,
    ),
    "p.csv": (
        "dark bytes by name",
        "x,y,z,r,g,b,nx,ny,nz\n" + rows(255, 51, 0, 0, 0, 1, mark=","),
        RED,
        UP,
    ),
    "q.npy": ("float32", npy(np.array(SQUARE, "f4")), None, None),
    "r.npy": ("whole numbers, big-endian", npy(np.array(SQUARE, ">i4")), None, None),
    "s.npy": ("column by column", npy(np.asfortranarray(np.array(SQUARE, "f8"))), None, None),
    "t.npy": ("colours", npy(np.c_[SQUARE, [[255, 51, 0]] * 4]), RED, None),
    "u.npy": ("fields", npy(named), RED, None),
    "v.npy": ("version 2", npy(np.array(SQUARE, "f4"), (2, 0)), None, None),
    "w.ply": ("text", ply(FORMS[0], vertices()), None, None),
    "x.ply": (
        "binary with normals",
        ply(FORMS[1], vertices(["float nx", "float ny", "float nz"], (0, 0, 2))),
        None,
        UP,
    ),
    "y.ply": (
        "colours",
        ply(FORMS[2], vertices(["uchar red", "uchar green", "uchar blue"], (255, 51, 0))),
        RED,
        None,
    ),
    "z.xyz.gz": ("packed", gzip.compress(rows().encode()), None, None),
}


@pytest.mark.parametrize("name", POINTS, ids=[f"{n}: {row[0]}" for n, row in POINTS.items()])
def test_features_are_read_right(name, tmp_path):
    _, content, color, normal = POINTS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshWarning)
        data = load_points(tmp_path / name)
    assert data.pos.tolist() == SQUARE
    assert data.face is None
    for found, wanted in ((data.get("color"), color), (data.get("normal"), normal)):
        assert (found is None) == (wanted is None)
        assert wanted is None or torch.allclose(found, torch.tensor(wanted), atol=1e-6)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def header(shape, kind="<f4"):
    text = str({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "0 0\n1 1\n", "x, y and z.*column of zeros"),
        ("a.xyz", rows() + "1 2\n", "3 numbers in every line .got 2 in line 5"),
        ("a.xyz", rows() + "1 2 x\n", "'1 2 x' in line 5"),
        ("a.xyz", rows() + "1 2 nan\n", "1 vertices with NaN"),
        ("a.xyz", "# nothing\n", "no vertices"),
        ("a.xyz", "hello\n", "a line of numbers"),
        ("a.csv", "name,age\n1,2\n", "Name the columns"),
        ("a.pts", "9\n" + rows(), "9 points.*got 4.*cut short"),
        ("a.npy", "hello", "unreadable"),
        ("a.npy", npy(np.zeros((4, 2))), "x, y and z"),
        ("a.npy", npy(np.zeros(12)), r"shape \[N, 3\].*shape \[12\]"),
        ("a.npy", npy(np.array([["a"] * 3])), r"shape \[N, 3\]"),
        ("a.npy", npy(np.array([[Trap()] * 3])), "Python objects"),
        ("a.npy", header((10**12, 3)) + b"\0" * 48, "12,000,000,000,000 bytes.*cut short"),
        ("a.npy", header((10**30, 3)), "cut short"),
        ("a.npy", npy(np.array(SQUARE, "f4"))[:-1], "cut short"),
        ("a.npz", "x", "ending in"),
    ],
)
def test_what_is_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_points(path)
    assert str(path) in str(caught.value)


def test_too_many_points_are_refused_and_equal_places_merged(tmp_path):
    (tmp_path / "a.xyz").write_text(rows() + rows())
    with pytest.raises(ValueError, match="max_vertices=7"):
        load_points(tmp_path / "a.xyz", max_vertices=7)
    assert load_points(tmp_path / "a.xyz", merge=True).pos.tolist() == SQUARE
    (tmp_path / "b.xyz").write_text(rows(0.5))
    with pytest.warns(MeshWarning, match="left out: columns: 1"):
        load_points(tmp_path / "b.xyz")


def test_clouds_are_written_as_ply_and_keep_their_origin(tmp_path):
    cloud = Data(pos=torch.rand(50, 3), color=torch.ones(50, 3))
    cloud.origin = torch.tensor([[500_000.0, 5_400_000.0, 300.0]], dtype=torch.double)
    save_mesh(cloud, tmp_path / "a.ply")
    data = load_points(tmp_path / "a.ply")
    assert float((data.pos + (data.origin - cloud.origin) - cloud.pos).abs().max()) < 1e-6
    assert bool((data.color == 1).all())


def test_tables_are_told_from_edges_by_what_they_hold(tmp_path):
    (tmp_path / "cloud.csv").write_text("x,y,z\n0,0,1\n")
    (tmp_path / "cloud.txt").write_text("0.5 1 2\n")
    (tmp_path / "edges.csv").write_text("source,target\n0,1\n")
    (tmp_path / "edges.txt").write_text("0 1 0.5\n")
    names = ("cloud.csv", "cloud.txt", "edges.csv", "edges.txt", "gone.txt")
    assert [is_graph(str(tmp_path / name)) for name in names] == [False, False, True, True, True]
    assert all(is_surface(str(tmp_path / name)) for name in names)
    assert read_surface(str(tmp_path / "cloud.csv")).pos.tolist() == [[0, 0, 1]]


def test_normals_of_points(mesh_root):
    sphere = primitives.icosphere(3).pos
    for move in (0.0, 100.0):
        assert float((point_normals(sphere + move) * sphere).sum(1).min()) > 0.99
    torus = primitives.torus(48, 24)
    mesh = MeshToGraph()(torus.clone())
    assert float((point_normals(torus.pos) * mesh.normal).sum(1).min()) > 0.9
    two = torch.cat([sphere, sphere + 10])  # each part is oriented by itself
    assert float((point_normals(two) * torch.cat([sphere, sphere])).sum(1).abs().min()) > 0.99
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshWarning)
        spot = load_mesh(mesh_root / "spot.obj")
    assert float(((point_normals(spot.pos) * spot.normal).sum(1) > 0).double().mean()) > 0.99


@pytest.mark.parametrize("kernels", ["tangent", "harmonics", "isotropic"])
def test_kernels_on_points_are_those_of_the_surface(kernels):
    sphere = primitives.icosphere(3)
    up = (0.0, 1.0, 0.0)
    mesh = MeshToGraph(kernels, up=up)(sphere.clone())
    cloud = point_graph(Data(pos=sphere.pos), kernels, up)
    assert cloud.edge_attr.size(1) == mesh.edge_attr.size(1)
    assert_bounded_perception(cloud)
    field = torch.sin(3 * sphere.pos[:, :1]) + sphere.pos[:, 1:2]
    sensed = []
    for graph in (mesh, cloud):
        source, target = graph.edge_index
        out = torch.zeros(graph.num_nodes, graph.edge_attr.size(1))
        sensed.append(out.index_add_(0, target, graph.edge_attr * field[source]))
    for a, b in zip(*(s.T for s in sensed), strict=True):
        assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.95


def test_few_points_and_a_scale_are_refused():
    from gncadeq.training.surfaces import pattern_color, surface_target

    with pytest.raises(ValueError, match="three points or more"):
        point_graph(Data(pos=torch.rand(2, 3)), "tangent", (0.0, 1.0, 0.0))
    assert point_graph(Data(pos=torch.rand(3, 3)), "tangent", (0.0, 1.0, 0.0)).num_edges == 9
    cloud = Data(pos=torch.rand(30, 3))
    with pytest.raises(ValueError, match="no 'scale' for points"):
        surface_target(cloud, pattern_color("spots", cloud.pos), scale=0.1)


def test_the_commands_take_points(tmp_path):
    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    pos = primitives.icosphere(2).pos
    save_mesh(Data(pos=pos), tmp_path / "cloud.ply")
    np.save(tmp_path / "cloud.npy", pos.numpy())
    far = Data(pos=pos, origin=torch.tensor([[1e6, 0.0, 0.0]]).double())
    save_mesh(far, tmp_path / "far.ply")
    for name in ("cloud.ply", "cloud.npy"):
        call("render", tmp_path / name, tmp_path / "cloud.png", "--size", 48)
        call("render", tmp_path / name, tmp_path / "cloud.html")
    out = tmp_path / "run"
    call("grow", "stripes", "--on", tmp_path / "cloud.ply", "--steps", 2, "--min-rollout", 2,
         "--max-rollout", 3, "--settle", 0, "--hidden", 8, "--pool-size", 4,
         "--out", out)  # fmt: skip
    assert load_file(out / "target.safetensors")["edge_attr"].shape[1] == 3
    for on in (tmp_path / "far.ply", "icosphere:2"):
        call("run", out, "--on", on, "--steps", 2, "--recovery", 2, "--frames", 2)
    assert json.loads((out / "on-far" / "trial.json").read_text())["num_nodes"] == 162
    call("render", out / "on-far" / "trajectory.safetensors", tmp_path / "grown.ply")
    assert load_points(tmp_path / "grown.ply").origin[0, 0] == pytest.approx(1e6)
