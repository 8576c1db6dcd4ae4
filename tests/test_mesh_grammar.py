"""Every feature of every mesh format: read right, or refused by name."""

import gzip
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from gltf_grammar import ROWS, Gltf, primitive, square_gltf
from mesh_grammar import (
    FORMS,
    SQUARE,
    TRIANGLES,
    F,
    P,
    T,
    V,
    faces,
    facet,
    ply,
    stl,
    vertices,
)  # fmt: skip

from gncadeq.datasets import MeshWarning, load_mesh

NAMES = [f"{row.ending}: {row.feature}" for row in ROWS]


def turned(face):
    """Triangles from their smallest corner on: the same ones, of the same orientation."""
    return [corner[k:] + corner[:k] for corner in face for k in [corner.index(min(corner))]]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_features_are_read_right(row, tmp_path):
    path = tmp_path / f"a.{row.ending}"
    path.write_bytes(row.content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshWarning)
        data = load_mesh(path)
    assert torch.allclose(data.pos, torch.tensor(row.pos, dtype=torch.float), atol=1e-6)
    assert turned(data.face.t().tolist()) == turned(row.face)
    if row.color is None:
        assert "color" not in data
    else:
        assert torch.allclose(data.color, torch.tensor(row.color), atol=1e-6)


def refused():
    """Rows of a file, its content, and a part of the sentence that refuses it."""
    square, two = vertices(), faces(TRIANGLES)
    yield "a.obj", V + "f 1 2 x\n", "'1 2 x' in line 5"
    yield "a.obj", V + "f 1 2 99999999999999999999\n", "in line 5"
    yield "a.obj", "v 0 zero 0\n" + F, "'0 zero 0' in line 1"
    yield "a.obj", "v 0 0\n" + F, "three numbers a vertex .got 'v 0 0' in line 1"
    yield "a.obj", V + "f 0 1 2\n", "from 1 on"
    yield "a.obj", V + "f 1 2 9\n", r"0 … 3 \(got 8"
    yield "a.obj", V + "f 1 2 -9\n", r"0 … 3 \(got -5"
    yield "a.obj", V.replace("\n", " 300 0 0\n") + F, "colours from 0 to 255"
    yield "a.obj", V.replace("\n", " -1 0 0\n") + F, "colours from 0 to 1"
    yield "a.obj", V.replace("\n", " nan 0 0\n") + F, "colours"
    yield "a.obj", "v 1e300 0 0\nv 0 0 0\nv 0 1 0\nf 1 2 3\n", "float32"
    yield "a.obj", V + "v nan 0 inf\n" + F, "1 vertices with NaN .* first is 4"
    yield "a.off", "hello\n", "starts with OFF"
    yield "a.off", "OFF\n", "numbers of vertices"
    yield "a.off", "OFF\nfive\n", "numbers of vertices"
    yield "a.off", "OFF\n-4 2 0\n" + P + T, "numbers of vertices"
    yield "a.off", "OFF BINARY\n\0\0\0\4", "binary form.*Save it as text"
    yield "a.off", f"4OFF\n4 2 0\n{P}{T}", "three coordinates a vertex"
    yield "a.off", f"nOFF\n2\n4 2 0\n{P}{T}", "three coordinates a vertex"
    yield "a.off", f"OFF\n4 2 0\n{P}3 0 1 2\n", "2 faces.*cut short"
    yield "a.off", "OFF\n4 2 0\n0 0 0\n1 0 0\n", "4 vertices.*got 2.*cut short"
    yield "a.off", f"OFF\n4 1 0\n{P}3 0 1\n", "a number of corners"
    yield "a.off", f"OFF\n4 1 0\n{P}3 0 1 2.5\n", "a number of corners"
    yield "a.off", f"OFF\n4 2 0\n{P.replace(chr(10), ' 255 0 0' + chr(10))}{T}", "begin with COFF"
    yield "a.ply", "hello", "starts with 'ply'"
    yield "a.ply", "ply\nformat ascii 1.0\nelement vertex 3\n", "end_header"
    yield "a.ply", "ply\nformat ascii 1.0\nelement vertex -3\nend_header\n", "element vertex -3"
    yield "a.ply", "ply\nformat text 1.0\nend_header\n", "format text"
    yield "a.ply", "ply\nelement vertex 0\nend_header\n", "one format"
    yield "a.ply", ply("ascii", square, two).replace(b"float x", b"real x"), "real x"
    yield "a.ply", ply("ascii", square, two).replace(b" x\n", b" a\n"), "x, y and z"
    yield "a.ply", ply("ascii", square, two).replace(b"list uchar", b"list float"), "list float"
    yield "a.ply", ply("ascii", square, square), "each element once"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"3 0 1 x"), "line 14"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"3 0 1 2 3"), "a row of 'face'"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"-1 0 1 2"), "a row of 'face'"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"3 0 1 9"), r"0 … 3 \(got 9"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"3 0 1 -1"), r"0 … 3 \(got -1"
    yield "a.ply", ply("ascii", square, two).replace(b"3 0 1 2", b"3 0 1 1.5"), "whole numbers"
    four = faces([[[0, 1, 2, 3]], [[3, 2, 1, 0]], [[0, 1, 2, 3]]])
    yield "a.ply", ply("ascii", square, four)[:-10], "3 rows of 'face'.*cut short"
    yield "a.ply", ply("ascii", square, four)[:-3], "a row of 'face'"
    for form in FORMS[1:]:
        whole, mixed = ply(form, square, two), faces([[[0, 1, 2, 3]], [[0, 1, 2]]])
        yield "a.ply", whole[:-1], "2 rows of 'face'.*cut short"
        yield "a.ply", ply(form, square, mixed)[:-1], "2 rows of 'face'.*got 1.*cut short"
        yield "a.ply", whole[:-30], "cut short"
        huge = faces(TRIANGLES, ["list uint int vertex_indices"])
        end = whole.index(b"end_header\n") + 11 + 48
        huge = bytearray(ply(form, square, huge))
        end = huge.index(b"end_header\n") + 11 + 48
        huge[end : end + 4] = b"\xff\xff\xff\xff"
        yield "a.ply", bytes(huge), "'face'.*cut short"
        whole = whole.replace(b"element face 2", b"element face 4000000000")
        yield "a.ply", whole, "4,000,000,000 rows of 'face'.*cut short"
        whole = whole.replace(b"element vertex 4", b"element vertex 4000000")
        yield "a.ply", whole, "4,000,000 rows of 'vertex'.*cut short"
    yield "a.stl", "hello", "no STL"
    yield "a.stl", stl(count=3), "cut short"
    yield "a.stl", stl(count=2**32 - 1), "cut short"
    yield "a.stl", stl()[:-1], "cut short"
    yield "a.stl", "solid a\nendsolid a\n", "no vertices"
    yield "a.stl", "solid a\n" + facet([(0, 0, 0)] * 3), "endsolid"
    yield "a.stl", "solid a\n" + facet([(0, 0, 0)] * 4) + "endsolid a\n", "three vertices a loop"
    yield "a.stl", "solid a\n" + facet([(0, "x", 0)] * 3) + "endsolid a\n", "in line 4"
    yield "a.stl", "solid a\n" + facet([(0, 0, "")] * 3) + "endsolid a\n", "line 4"
    # trimesh #2101: a GLB that requires Draco compression
    for name in (
        "KHR_draco_mesh_compression",
        "EXT_meshopt_compression",
        "EXT_mesh_gpu_instancing",
    ):
        yield "a.glb", square_gltf().finish(extensionsRequired=[name]).glb(), f"required {name}"
    empty = Gltf()
    hollow = empty.mesh(primitive(empty, empty.array(SQUARE)))
    del hollow.tree["accessors"][0]["bufferView"]
    yield "a.glb", hollow.glb(), "data for accessor 0.*compressed"
    yield "a.glb", "hello", "JSON or starts with 'glTF'"
    yield "a.glb", b"glTF" + b"\0" * 40, "version 0"
    yield "a.glb", b"glTF", "unreadable"
    yield "a.glb", square_gltf().glb()[:-4], "cut short"
    yield "a.glb", square_gltf().finish(asset={"version": "1.0"}).glb(), "version 1.0"
    yield "a.gltf", b"[]", "unreadable"
    yield "a.gltf", b"[" * 100_000, "unreadable"
    for count, sentence in (
        (4_000_000, "4,000,000 rows.*cut short"),
        (-1, "cut short"),
        ("4", "unreadable"),
    ):
        big = square_gltf()
        big.tree["accessors"][0]["count"] = count
        yield "a.glb", big.glb(), sentence
    big = square_gltf()
    big.tree["accessors"][1]["count"] = 10**9
    yield "a.glb", big.glb(), "corners of faces"
    big = square_gltf()
    sparse = {"count": 0, "indices": {"bufferView": 0, "componentType": 5121}}
    sparse["values"] = {"bufferView": 0}
    more = {"componentType": 5126, "count": 10**12, "type": "VEC3", "sparse": sparse}
    big.tree["accessors"].append(more)
    big.tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = 2
    yield "a.glb", big.glb(), "at most 60,000,000 sparse rows"
    keyed = square_gltf()
    keyed.tree["meshes"][0]["weights"] = [1]
    keyed.tree["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": keyed.array([[0, 0, 1]])}]
    yield "a.glb", keyed.glb(), "a shape key of 4 vertices .got 1"
    for change, sentence in (
        ({"nodes": [{"mesh": 7}]}, "one of 1 meshes .got 7"),
        ({"nodes": [{"mesh": -1}]}, "one of 1 meshes"),
        ({"nodes": [{"children": [0], "mesh": 0}], "scenes": [{"nodes": [0]}]}, "one parent"),
        ({"nodes": [{"mesh": 0, "matrix": [1, 2, 3]}]}, "unreadable"),
        ({"nodes": [{"mesh": 0, "scale": [1, 1, float("nan")]}]}, "NaN"),
    ):
        yield "a.glb", square_gltf().finish(**change).glb(), sentence
    for uri in ("../a.bin", "/etc/passwd", "..%2fa.bin", "file:///etc/passwd", "http://a.b/c.bin"):
        yield "a.gltf", square_gltf().gltf(uri), "in the folder"
    yield "a.gltf", square_gltf().gltf("data:;base64,????"), "base64"
    yield "a.gltf", square_gltf().gltf("data:;base64,AAAA"), "cut short"
    cut = Gltf()
    yield "a.glb", cut.mesh(primitive(cut, index=(0, 1, 9))).glb(), "0 … 3 .got 9"
    odd = Gltf()
    yield "a.glb", odd.mesh(primitive(odd, mode=9)).glb(), "a mode of 0 … 6"
    yield "a.obj.gz", gzip.compress((V + F).encode())[:-9], "gzip"
    yield "a.obj.gz", b"hello", "gzip"
    yield "a.obj.gz", gzip.compress(b" " * (80 << 20)), "at most .* unpack it yourself"
    for name in ("a.obj", "a.ply", "a.off", "a.glb", "a.obj.gz"):
        yield name, "", "an empty file|no vertices|gzip"


REFUSED = list(refused())


@pytest.mark.parametrize(
    ("name", "content", "sentence"), REFUSED, ids=[f"{n}: {s}" for n, _, s in REFUSED]
)
def test_what_is_refused_is_refused_in_a_sentence(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tracemalloc.start()
    with pytest.raises(ValueError, match=sentence) as caught:
        load_mesh(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert str(caught.value).startswith("Expected ")
    assert peak < 8 * max(len(content), 2**22) + 2**27  # what is declared is never allocated


def test_a_mesh_shown_many_times_counts_as_often(tmp_path):
    path = tmp_path / "a.glb"
    path.write_bytes(square_gltf().finish(nodes=[{"mesh": 0}] * 50).glb())
    assert load_mesh(path, max_vertices=200).num_nodes == 200
    with pytest.raises(ValueError, match="max_vertices=199"):
        load_mesh(path, max_vertices=199)


def test_data_beside_a_gltf_file(tmp_path):
    file = square_gltf()
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "a.bin").write_bytes(file.binary)
    (tmp_path / "a.gltf").write_bytes(file.gltf("a%20folder/a.bin"))
    assert load_mesh(tmp_path / "a.gltf").pos.tolist() == SQUARE
    outside = tmp_path / "other"
    outside.mkdir()
    (outside / "a.bin").symlink_to(tmp_path / "a folder" / "a.bin")
    (outside / "a.gltf").write_bytes(file.gltf("a.bin"))
    with pytest.raises(ValueError, match="in the folder"):
        load_mesh(outside / "a.gltf")
    (tmp_path / "a.gltf").write_bytes(file.gltf("gone.bin"))
    with pytest.raises(FileNotFoundError, match=r"gone\.bin"):
        load_mesh(tmp_path / "a.gltf")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("obj: lines", "lines: 2"), ("obj: two corners", "faces of fewer than three corners: 1"),
        ("ply: trailing bytes", "bytes behind the last element: 3"),
        ("stl: trailing bytes", "bytes behind the last triangle: 4"),
        ("glb: lines and points beside faces", "lines: 1, points: 1"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told(row, told, tmp_path):
    contents = {
        "obj: lines": (V + "l 1 2\nl 2 3\n" + F).encode(),
        "obj: two corners": (V + "f 1 2\n" + F).encode(),
        "ply: trailing bytes": ply(FORMS[1], vertices(), faces(TRIANGLES), tail=b"abc"),
        "stl: trailing bytes": stl(tail=b"more"),
    }
    found = {f"{r.ending}: {r.feature}": r.content for r in ROWS} | contents
    path = tmp_path / f"a.{row.partition(':')[0]}"
    path.write_bytes(found[row])
    with pytest.warns(MeshWarning, match=f"left out: {told}"):
        load_mesh(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_never_crash(name, seed, tmp_path):
    row = ROWS[NAMES.index(name)]
    random = np.random.default_rng([seed, NAMES.index(name)])
    path = tmp_path / f"a.{row.ending}"
    for _ in range(6):
        content = bytearray(row.content)
        for at in random.integers(0, len(content), 3):
            content[at] = random.integers(0, 256)
        cut = random.integers(1, len(content) + 1) if random.random() < 0.5 else len(content)
        path.write_bytes(content[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = load_mesh(path)
            except (ValueError, FileNotFoundError) as error:
                sentence = str(error)
            else:
                sentence = "Expected "
                assert bool(data.pos.isfinite().all())
                assert 0 <= int(data.face.min()) <= int(data.face.max()) < data.num_nodes
        assert sentence.startswith("Expected ")
