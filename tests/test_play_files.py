"""Files brought to the page: meshes have PyTorch's kernels, and weights PyTorch's steps."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from page import decoded, run_node
from test_play_kernel import shaken
from torch_geometric.data import Data
from typer.testing import CliRunner

from gncadeq import GrowingCell, MicroCell
from gncadeq.cells import SweepGrower
from gncadeq.choices import AXES, UPRIGHT
from gncadeq.cli import app
from gncadeq.datasets import load_mesh, primitives
from gncadeq.datasets.mesh_files import save_mesh
from gncadeq.dynamics.rollout import advance
from gncadeq.export.description import packed
from gncadeq.files.weights import save_pretrained
from gncadeq.models import PixelGraphClassifier, PyramidClassifier, SelfClassifier
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.grow_sweeps import blank_state, sweep_graph
from gncadeq.training.shipped import load_shipped
from gncadeq.training.surfaces import pattern_color, surface_target
from gncadeq.training.targets import anchor, picture_target, seed_state
from gncadeq.training.textures import texture_grid
from gncadeq.transforms import MeshToGraph
from gncadeq.viz.geometry import geometry
from gncadeq.viz.play import digit_scene, grown_scene, life_scene, texture_scene, voronoi_scene

KERNELS = """
const made = surface(unpack(task.position), unpack(task.face));
const { ptr, source, weight } = meshGraph(made, task.senses);
out({ ptr: Array.from(ptr), source: Array.from(source), weight: encode(weight),
      seed: frontOf(made) });
"""
BRING = """
const page = { scenes: task.scenes }, [first] = page.scenes;
const info = bring(task.name, bytes(task.file).buffer, page, first);
info.columns = 28;
const scene = new SCENES[info.kind](info);
if (info.kind === "digits") {
  scene.paper.picture(unpack(task.picture), 28, 28);
  [scene.fit, scene.edited] = [false, true];
  scene.update();
  scene.automaton.z.fill(0);
  scene.young.fill(0);
}
const states = {}, start = encode(scene.automaton.z);
for (let t = 1; t <= 100; t++) {
  scene.step(1);
  if ([1, 10, 100].includes(t)) states[t] = encode(scene.automaton.z);
}
out({ states, start, n: scene.n, name: info.name, facts: info.facts, votes: scene.votes?.(),
      position: scene.mesh && encode(scene.mesh.position),
      face: scene.mesh && Array.from(scene.mesh.face) });
"""


def bumpy(level: int = 2) -> Data:
    """A closed surface without symmetries."""
    mesh = primitives.icosphere(level)
    wave = 1 + 0.3 * torch.sin(3 * mesh.pos @ torch.tensor([[1.0], [0.7], [-0.4]]))
    return Data(pos=mesh.pos * wave * torch.tensor([1.0, 1.4, 0.8]) + 3.0, face=mesh.face)


def crumpled() -> Data:
    """A surface with a border, faces without area, and a vertex in none."""
    mesh = primitives.delaunay_blob(120)
    pos = torch.cat([mesh.pos, torch.tensor([[0.0, 0.0, 9.0]])])
    face = torch.cat([mesh.face, torch.tensor([[3], [3], [7]])], 1)
    return Data(pos=pos, face=face)


@pytest.mark.parametrize("up", ["x", "y", "z"])
@pytest.mark.parametrize("kernels", ["isotropic", "tangent", "harmonics"])
@pytest.mark.parametrize("scale", [None, 0.35])
def test_kernels_of_a_mesh_are_those_of_pytorch(kernels: Any, scale: Any, up: Any) -> None:
    mesh = bumpy(1) if up == "z" else bumpy() if up == "y" else crumpled()
    data = MeshToGraph(kernels, scale=scale, up=AXES[up])(mesh.clone())
    shape = geometry(mesh, up)
    senses = grown_senses(mesh, kernels, scale, up)
    task = {"position": packed(torch.from_numpy(shape.pos)), "senses": senses,
            "face": packed(torch.from_numpy(shape.face.copy()))}  # fmt: skip
    found = run_node(KERNELS, task)
    source, target = data.edge_index
    assert found["source"] == source.tolist()
    assert found["ptr"] == [0, *torch.bincount(target, minlength=data.num_nodes).cumsum(0).tolist()]
    got = decoded(found["weight"], data.edge_attr.size(1))
    assert float((got - data.edge_attr).abs().max()) < 2e-5
    if up == "y":
        color = pattern_color("spots", mesh.pos)
        assert found["seed"] == int(surface_target(mesh, color).seed_node)


def grown_senses(mesh: Data, kernels: Any, scale: Any, up: Any) -> dict[str, Any]:
    cell = GrowingCell(4, {"isotropic": 1, "tangent": 3, "harmonics": 4}[kernels], 4)
    senses = MeshToGraph(kernels, scale=scale, up=AXES[up])
    data = senses(mesh.clone())
    data.x = mesh.pos[:, :0]
    z0 = torch.zeros(data.num_nodes, 4)
    return grown_scene(cell, data, z0, up=up, senses=senses)["senses"]


def spots() -> tuple[Any, dict[str, Any]]:
    cell, data, z0, _ = load_shipped("spots")
    return cell, grown_scene(
        cell, data, z0, senses=MeshToGraph("tangent", scale=0.15, up=AXES["y"])
    )


def steps_of(cell: Any, data: Data, z: torch.Tensor) -> dict[int, torch.Tensor]:
    found = {}
    with torch.no_grad():
        step = cell.bind(data.x, data.edge_index, data.edge_attr)
        for t in range(1, 101):
            z = advance(step, z)
            found[t] = z
    return {t: found[t] for t in (1, 10, 100)}


def brought(path: Path, *scenes: dict[str, Any], **more: Any) -> dict[str, Any]:
    file = base64.b64encode(path.read_bytes()).decode()
    return run_node(BRING, {"name": path.name, "file": file, "scenes": scenes, **more})


def same_states(found: dict[str, Any], expected: dict[int, torch.Tensor]) -> None:
    for t, z in expected.items():
        scale = float(z.abs().max().clamp(min=1.0))
        got = decoded(found["states"][str(t)], z.size(1))
        assert float((got - z).abs().max()) < 1e-4 * scale, t


def test_a_rule_runs_on_a_mesh_that_is_brought(tmp_path: Path) -> None:
    cell, scene = spots()
    save_mesh(bumpy(3), tmp_path / "bumpy.ply")
    found = brought(tmp_path / "bumpy.ply", life_scene(), scene)
    assert (found["name"], found["facts"]) == ("bumpy", "642 vertices.")
    mesh = load_mesh(tmp_path / "bumpy.ply", merge=True)
    color = pattern_color("spots", mesh.pos)
    data = surface_target(mesh, color, "tangent", 0.15 * geometry(mesh).size)
    data.x = anchor(data)
    same_states(found, steps_of(cell, data, seed_state(data, 16)))


def test_meshes_go_to_a_scene_like_the_one_that_is_shown(tmp_path: Path) -> None:
    textures = {"a": shaken(MicroCell(4, 1), 0.01)}
    ring = texture_scene(textures, primitives.torus(12, 6))
    save_mesh(primitives.icosphere(2), tmp_path / "a.ply")
    pages = {
        "grow": [spots()[1]], "voronoi": [voronoi_scene(), spots()[1]],
        "texture": [texture_scene(textures), spots()[1], ring],
    }  # fmt: skip
    driver = """const file = bytes(task.file).buffer, [current] = task.scenes;
    const info = bring("a.ply", file, { scenes: task.scenes }, current);
    out({ kind: info.kind, n: new SCENES[info.kind](info).n });"""
    file = base64.b64encode((tmp_path / "a.ply").read_bytes()).decode()
    for kind, scenes in pages.items():
        if kind == "grow":
            scenes[0]["senses"]["scale"] = None  # of one ring, as the mesh is coarse
        assert run_node(driver, {"file": file, "scenes": scenes}) == {"kind": kind, "n": 162}


OBJ = """# a roof, whose ridge is there twice
v 0 0 0
v 1 0 0
v 1 1 0.5
v 0 1 .5e0
v 0 1 0.5 1 0 0
v 1 1 0.5
v 1 2 0
v 0 2 -0
f 1/1/1 2/2/1 3//1 4
f -4 -3 \\
 -2 -1
"""


@pytest.mark.parametrize("name", ["a.obj", "a.ply", "text.ply", "big.ply"])
def test_meshes_are_read_as_by_load_mesh(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (tmp_path / "a.obj").write_text(OBJ)
    mesh = load_mesh(tmp_path / "a.obj")
    if name == "a.ply":
        save_mesh(mesh, path)
    elif name != "a.obj":
        kind = "ascii" if name == "text.ply" else "binary_big_endian"
        header = (f"ply\nformat {kind} 1.0\nelement vertex 8\nproperty float x\nproperty float y\n"
                  "property float z\nelement face 4\nproperty list uchar int vertex_indices\n"
                  "end_header\n").encode()  # fmt: skip
        pos, face = mesh.pos.numpy(), mesh.face.T.numpy()
        if kind == "ascii":
            rows = [*(" ".join(map(str, p)) for p in pos), *("3 {} {} {}".format(*f) for f in face)]
            path.write_bytes(header + "\n".join(rows).encode())
        else:
            faces = b"".join(b"\3" + f.astype(">i4").tobytes() for f in face)
            path.write_bytes(header + pos.astype(">f4").tobytes() + faces)
    read = """const { position, face } = readMesh(task.name, bytes(task.file).buffer);
    out({ position: Array.from(position), face: Array.from(face) });"""
    file = base64.b64encode(path.read_bytes()).decode()
    found = run_node(read, {"name": name, "file": file})
    mesh = load_mesh(path, merge=True)
    assert torch.equal(torch.tensor(found["position"]).view(-1, 3), mesh.pos)
    assert found["face"] == mesh.face.T.flatten().tolist()
    assert mesh.num_nodes == 6


def test_long_kernels_are_shortened_to_the_edges_that_a_page_holds() -> None:
    mesh, large = primitives.icosphere(4), torch.arange(70_000 * 6).view(-1, 3) % 70_000
    found = run_node(
        """const info = { rule: { channels: 4, in_channels: 0 }, senses: task.senses };
        const { facts, senses } = onMesh(info, task.mesh);
        const again = onMesh({ ...info, senses }, task.mesh);
        let said;
        try { onMesh({ ...info, senses: { kernels: "isotropic", axes: [0, 1, 2] } }, task.large); }
        catch (error) { said = error.message; }
        out({ facts, senses, said, again: again.senses.scale });""",
        {"large": {"position": packed(torch.rand(70_000, 3)), "face": packed(large)},
         "mesh": {"position": packed(mesh.pos), "face": packed(mesh.face.T.contiguous())},
         "senses": {"kernels": "isotropic", "scale": 0.3, "axes": [0, 1, 2]}},
    )  # fmt: skip
    scale = found["senses"]["scale"]
    assert 0.5 < scale / 0.3 < 0.6
    assert found["facts"].endswith(f"Its kernels are {100 * scale / 0.3:.0f} % as long as where it "
                                   "was trained.")  # fmt: skip
    assert found["again"] == scale
    assert found["said"] == ("Expected a mesh whose kernels have at most 400,000 edges (got 70,000 "
                             "vertices). Simplify it")  # fmt: skip
    edges = MeshToGraph("isotropic", scale=scale)(mesh).num_edges
    assert 0.85 * 400_000 < edges <= 400_000


@pytest.mark.parametrize("on", ["pixels", "surface", "sweeps"])
def test_weights_of_gncadeq_grow_run(on: str, tmp_path: Path) -> None:
    _, scene = spots()
    sphere = primitives.icosphere(3)
    if on == "surface":
        cell = shaken(GrowingCell(8, 4, 12, 1, bound=1.5), 0.05)
        data = surface_target(sphere, pattern_color("spots", sphere.pos), "harmonics", 0.2)
        senses = {"on": "surface", "kernels": "harmonics", "scale": 0.2}
    else:
        cell = shaken(GrowingCell(8, 3, 12, 1, bound=1.5), 0.05)
        data = picture_target(torch.ones(4, 9, 12))
        senses = {"on": "pixels", "size": [9, 12]}
    data.x, z = anchor(data), seed_state(data, 8)
    if on == "sweeps":
        cell = SweepGrower(1, groups=4, kernels=3, channels=4, hidden_channels=10)
        data = sweep_graph(data)
        z = blank_state(data, cell)
    save_pretrained(cell, tmp_path / "a.safetensors", {"senses": senses, "fire_rate": 0.5})
    found = brought(tmp_path / "a.safetensors", scene)
    same_states(found, steps_of(cell, data, z))


@pytest.mark.parametrize("scale", [None, 0.35, 0.12])
def test_weights_of_sweeps_over_surfaces_run(scale: float | None, tmp_path: Path) -> None:
    cell, mesh = SweepGrower(1, groups=1, kernels=4, channels=6, hidden_channels=10), bumpy()
    senses = MeshToGraph("isotropic", up=AXES["z"])
    data = senses(mesh.clone())
    data.x = mesh.pos[:, :0]
    host = grown_scene(GrowingCell(4, 1, 4), data, torch.zeros(162, 4), up="z", senses=senses)
    card = {"senses": {"on": "surface", "kernels": "tangent", "scale": scale}}
    save_pretrained(cell, tmp_path / "a.safetensors", card if scale else {})
    found = brought(tmp_path / "a.safetensors", host)
    shown = seen(found, up="z")
    assert ("divided" in found["facts"]) == (found["n"] > 162) == (scale == 0.12)
    data = sweep_graph(surface_target(shown, pattern_color("spots", shown.pos), up="z"), scale)
    same_states(found, steps_of(cell, data, blank_state(data, cell)))


def test_weights_of_short_kernels_run_on_divided_faces(tmp_path: Path) -> None:
    _, scene = spots()
    cell = shaken(GrowingCell(8, 3, 12, 1, bound=1.5), 0.05)
    card = {"senses": {"on": "surface", "kernels": "tangent", "scale": 0.05}}
    save_pretrained(cell, tmp_path / "a.safetensors", card)
    found = brought(tmp_path / "a.safetensors", scene)
    assert found["n"] == 2562
    assert found["facts"].endswith("2,562 vertices. Its faces are divided, for such short kernels.")
    shown = seen(found)
    data = surface_target(shown, pattern_color("spots", shown.pos), "tangent", 0.05)
    data.x = anchor(data)
    same_states(found, steps_of(cell, data, seed_state(data, 8)))


def seen(found: dict[str, Any], up: Any = "y") -> Data:
    """The surface of a scene, with its axes as they were."""
    pos = decoded(found["position"], 3)
    axes = [UPRIGHT[up].index(k) for k in range(3)]
    return Data(pos=pos[:, axes], face=torch.tensor(found["face"]).view(-1, 3).T)


@pytest.mark.parametrize("kind", ["micro", "growing"])
def test_weights_of_textures_run(kind: str, tmp_path: Path) -> None:
    micro = kind == "micro"
    cell = shaken(MicroCell(6, 3) if micro else GrowingCell(5, 1, 8, 0, None, bound=2.0), 0.05)
    path = tmp_path / "a.safetensors"
    save_pretrained(cell, path)
    found = brought(path, life_scene())
    data = texture_grid(96, "tangent" if micro else "isotropic")
    data.x = data.x[:, :0]
    z = decoded(found["start"], cell.channels)
    assert 0.25 < float(z.std()) < 0.35
    same_states(found, steps_of(cell, data, z))
    assert CliRunner().invoke(
        app, ["play", str(path), "-o", str(tmp_path / "a.html"), "--no-open"]
    ).exit_code == 0  # fmt: skip
    page = (tmp_path / "a.html").read_text()
    assert '"kind": "texture"' in page


@pytest.mark.parametrize("on", ["grid", "icosphere:2"])
def test_a_run_says_what_its_rule_senses(on: str, tmp_path: Path) -> None:
    more = {} if on == "grid" else {"scale": 0.4, "kernels": "harmonics"}
    config = GrowConfig(
        "spots", on, size=7, out=str(tmp_path), steps=2, channels=5, hidden_channels=6,
        min_rollout=2, max_rollout=3, pool_size=4, batch_size=2, settle=0, variants=0, **more,
    )  # fmt: skip
    grow(config, progress=False)
    cell, data, z, _ = load_grown(tmp_path)
    scenes = [life_scene()]
    if on != "grid":
        kernels = MeshToGraph("isotropic", up=AXES["y"])  # others than the run's
        scenes.append(grown_scene(cell, data, z, senses=kernels))
    found = brought(tmp_path / "model.safetensors", *scenes)
    assert found["n"] == data.num_nodes
    same_states(found, steps_of(cell, data, z))


def trained(kind: str) -> Any:
    """A classifier as a run leaves it, with the statistics of its training still apart."""
    torch.manual_seed(0)
    if kind == "pyramid":
        model: Any = PyramidClassifier(channels=(6, 8, 9))
    else:
        model = PixelGraphClassifier(1, 12, 20, update=kind, contraction=0.95)
        bound = model.dynamics.cell.weight_z
        bound.data *= 4  # beyond the bound
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean += 0.1 * torch.randn_like(module.running_mean)
            module.running_var *= 1 + torch.rand_like(module.running_var)
    return model.eval()


@pytest.mark.parametrize("kind", ["direct", "residual", "pyramid"])
def test_weights_of_gncadeq_train_run(kind: str, tmp_path: Path) -> None:
    model = trained(kind)
    save_pretrained(model, tmp_path / "a.safetensors")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 28, 28, generator=generator) * 0.7 + 0.3
    image[:, :6], image[:, :, 20:] = 0.0, 0.0
    found = brought(tmp_path / "a.safetensors", life_scene(), picture=packed(image[0]))
    own = SelfClassifier(model).eval()
    data = model.to_graph(image)
    with torch.no_grad():
        data.x, data.edge_index, data.edge_attr = own.inject(
            data.x, data.edge_index, data.edge_attr
        )
    same_states(found, steps_of(own.cell, data, torch.zeros(found["n"], own.cell.channels)))
    described = digit_scene(model)
    assert found["facts"].startswith(f"{described['facts'].split()[0]} parameters")


def test_what_cannot_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _, scene = spots()
    save_pretrained(MicroCell(4, 2), tmp_path / "a.safetensors")
    with pytest.raises(AssertionError, match=r"a texture with one or three kernels \(got 2"):
        brought(tmp_path / "a.safetensors", scene)

    class Other(torch.nn.Module):
        config: ClassVar = {"channels": 3}

    save_pretrained(Other(), tmp_path / "f.safetensors")
    with pytest.raises(AssertionError, match=r"weights of PixelGraphClassifier, .*got Other\)"):
        brought(tmp_path / "f.safetensors", scene)
    found = run_node(
        """const damaged = "ply\\nformat binary_little_endian 1.0\\nelement vertex 9\\n" +
          "property float x\\nend_header\\n", file = new TextEncoder().encode(damaged).buffer;
        let said = "";
        try { bring("a.ply", file, { scenes: [] }, {}); } catch (error) { said = error.message; }
        out({ said });""",
        {},
    )
    assert found["said"].startswith("Expected a file that can be read (got a.ply: ")
    cases = {
        "b.obj": (b"v 0 0 0\nv 1 0 0\n", "a mesh with faces (got none in b.obj)"),
        "c.ply": (b"ply\nformat ascii 1.0\n", "its header's end (got none)"),
        "d.safetensors": (b"12345678", "weights saved by gncadeq (got no header"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AssertionError, match=re.escape(message)):
            brought(tmp_path / name, scene)
    sphere = primitives.icosphere(1)
    save_mesh(sphere, tmp_path / "e.obj")
    with pytest.raises(AssertionError, match="a rule on a surface in this page, for a mesh"):
        brought(tmp_path / "e.obj", life_scene())
