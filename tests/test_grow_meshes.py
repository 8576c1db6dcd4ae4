"""Growing on surfaces: targets by known answers, the same rule elsewhere, and the commands."""

from __future__ import annotations

import json
import math

import networkx as nx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gncadeq.cli import app
from gncadeq.datasets import MeshWarning, load_mesh, primitives, save_mesh
from gncadeq.growth import Trial
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow, load_grown
from gncadeq.training.surfaces import (
    PATTERNS,
    pattern_color,
    project_picture,
    projection_of,
    read_surface,
    surface_target,
)
from gncadeq.training.targets import load_target, read_graph, save_target, seed_state
from gncadeq.transforms import MeshToGraph
from gncadeq.viz import load_trajectory

TINY = {
    "channels": 8, "hidden_channels": 24, "min_rollout": 6, "max_rollout": 10, "settle": 6,
    "pool_size": 8, "batch_size": 4, "lr": 5e-3,
}  # fmt: skip


def quadrants():
    """Left red, right green; below half as bright: each quarter can be told."""
    rgba = torch.zeros(4, 40, 40)
    rgba[3] = 1.0
    rgba[0, :, :20] = rgba[1, :, 20:] = 1.0
    rgba[:3, 20:] *= 0.5
    return rgba


RED, GREEN = torch.tensor([1.0, 0, 0, 1]), torch.tensor([0, 1.0, 0, 1])
DARK_RED, DARK_GREEN = torch.tensor([0.5, 0, 0, 1]), torch.tensor([0, 0.5, 0, 1])


@pytest.mark.parametrize(
    ("projection", "right", "up"),
    [("front", (1, 0, 0), (0, 1, 0)), ("side", (0, 0, -1), (0, 1, 0)),
     ("top", (1, 0, 0), (0, 0, -1))],
)  # fmt: skip
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_picture_is_seen_upright_and_not_mirrored(projection, right, up, axis):
    """With y up, the front is z and the right x; other axes are this one, turned in a cycle."""
    right, up = torch.tensor(right) * 1.0, torch.tensor(up) * 1.0
    corners = torch.stack([up - right, up + right, -up - right, -up + right])
    pos = torch.cat([0.8 * corners, 0.8 * corners + torch.linalg.cross(right, up)])
    pos = pos.roll({"y": 0, "z": 1, "x": 2}[axis], dims=1)
    color = project_picture(quadrants(), pos + 7, projection, axis)
    expected = torch.stack([RED, GREEN, DARK_RED, DARK_GREEN]).repeat(2, 1)
    torch.testing.assert_close(color, expected)


def test_a_sphere_has_the_middle_of_the_picture_in_front_and_its_border_behind():
    pos = torch.tensor([
        [-0.5, 0.5, 0.7], [0.5, 0.5, 0.7], [-0.5, -0.5, 0.7], [0.5, -0.5, 0.7],
        [-0.5, 0.5, -0.7], [0.5, 0.5, -0.7], [-0.5, -0.5, -0.7], [0.5, -0.5, -0.7],
    ])  # fmt: skip
    color = project_picture(quadrants(), pos, "sphere")
    torch.testing.assert_close(
        color, torch.stack([RED, GREEN, DARK_RED, DARK_GREEN]).repeat(2, 1), atol=1e-5, rtol=0
    )
    ramp = torch.linspace(0.5 / 64, 1 - 0.5 / 64, 64).expand(4, 32, 64).clone()
    pos = primitives.icosphere(3).pos
    found = project_picture(ramp, pos, "sphere")[:, 0]
    longitude = torch.atan2(pos[:, 0], pos[:, 2]) / math.pi
    inside = longitude.abs() < 1 - 1 / 32
    torch.testing.assert_close(found[inside], (longitude[inside] + 1) / 2, atol=1e-5, rtol=0)


def test_the_picture_keeps_its_shape_and_what_is_beside_it_stays_empty():
    plane = primitives.plane(5, 9)  # twice as wide as high
    assert projection_of(plane.pos) == "front"
    alpha = project_picture(torch.ones(4, 4, 4), plane.pos)[:, 3].view(5, 9)
    assert alpha.tolist() == [[0.0] * 2 + [1.0] * 5 + [0.0] * 2] * 5
    assert projection_of(primitives.icosphere(1).pos) == "sphere"
    assert projection_of(primitives.torus().pos, up="z") == "top"
    assert projection_of(plane.pos[:, [2, 0, 1]]) == "side"
    with pytest.raises(ValueError, match="got a line as seen in 'top'"):
        project_picture(torch.ones(4, 4, 4), plane.pos, "top")


def test_patterns_are_their_formulas_on_any_size_and_on_grids():
    pos = primitives.torus(20, 12).pos
    for name in PATTERNS:
        color = pattern_color(name, pos)
        assert color.shape == (240, 4)
        assert 0.2 < float((color.amax(0) - color.amin(0)).max()) <= 1.0  # a pattern, and no blank
        torch.testing.assert_close(pattern_color(name, 30 * pos - 5), color, atol=1e-3, rtol=0)
    level = torch.sigmoid(6 * torch.sin(3 * math.pi * pos[:, 1] / 1.4))
    torch.testing.assert_close(
        pattern_color("stripes", pos)[:, 0], 0.1 + 0.85 * level, atol=1e-4, rtol=0
    )
    grid, plane = load_target("gradient", size=6), load_target("gradient", on="plane:6,6")
    upside_down = grid.color.view(6, 6, 4).flip(0)  # rows of a picture go down
    torch.testing.assert_close(upside_down, plane.color.view(6, 6, 4))


@pytest.mark.parametrize("kernels", ["tangent", "harmonics", "isotropic"])
def test_the_target_of_a_mesh_has_its_edges_kernels_and_seed(kernels, tmp_path):
    data = load_target("spots", on="icosphere:2", kernels=kernels, scale=0.3)
    sphere = primitives.icosphere(2)
    same = MeshToGraph(kernels, scale=0.3, up=(0.0, 1.0, 0.0))(sphere.clone())
    assert torch.equal(data.edge_index, same.edge_index)
    assert torch.equal(data.edge_attr, same.edge_attr)
    assert torch.equal(data.face, sphere.face)
    assert torch.equal(data.pos, sphere.pos)
    assert data.pos[data.seed_node].tolist() == [[0.0, 0.0, 1.0]]
    assert seed_state(data, 6)[:, 3].nonzero().tolist() == [data.seed_node.tolist()]
    save_target(data, tmp_path / "target.safetensors")
    back = read_graph(tmp_path / "target.safetensors")
    for name in ("pos", "edge_index", "edge_attr", "color", "face", "seed_node"):
        assert torch.equal(back[name], data[name])


def test_the_seed_is_at_the_same_place_on_every_resolution():
    for on in ("icosphere:1", "icosphere:3", "icosphere:4"):
        data = load_target("spots", on=on)
        assert data.pos[data.seed_node].tolist() == [[0.0, 0.0, 1.0]]
    turned = load_target("spots", on="icosphere:2", up="z")
    assert turned.pos[turned.seed_node].tolist() == [[1.0, 0.0, 0.0]]


def test_the_seed_is_where_the_target_is_visible_and_lost_parts_are_named():
    sphere = primitives.icosphere(1)
    both = sphere.clone()
    both.pos = torch.cat([sphere.pos, 0.5 * sphere.pos[:12] + 5])  # with loose vertices
    color = torch.ones(54, 4)
    color[:42, 3] = (sphere.pos[:, 2] < 0).float()
    with pytest.warns(MeshWarning, match="12 visible vertices in other parts"):
        data = surface_target(both, color)
    assert int(data.seed_node) < 42
    assert float(data.color[data.seed_node, 3]) == 1.0
    with pytest.raises(ValueError, match="only transparent"):
        surface_target(sphere, torch.zeros(42, 4))


def test_vertex_colours_of_a_file_are_a_target(tmp_path):
    sphere = primitives.icosphere(2)
    color = (sphere.pos + 1) / 2
    save_mesh(sphere, tmp_path / "sphere.obj", color)
    data = load_target("color", on=str(tmp_path / "sphere.obj"))
    torch.testing.assert_close(data.color[:, :3], color, atol=1e-6, rtol=0)
    assert bool((data.color[:, 3] == 1).all())
    save_mesh(sphere, tmp_path / "plain.obj")
    with pytest.raises(ValueError, match=r"vertex colours in .*plain\.obj"):
        load_target("color", on=str(tmp_path / "plain.obj"))


def test_a_real_mesh_is_a_target(mesh_root):
    data = load_target("stripes", on=str(mesh_root / "spot.obj"))
    mesh = load_mesh(mesh_root / "spot.obj", merge=True)
    assert torch.equal(data.face, mesh.face)
    assert data.color.shape == (mesh.num_nodes, 4)
    assert data.edge_attr.shape == (data.num_edges, 3)


def test_wrong_options_are_named():
    for on, message in (
        ("icosphere:2,3", "with its size, a whole number, 'icosphere:3'"),
        ("icosphere:x", r"'icosphere:3' \(got 'icosphere:x'\)"),
        ("torus:big", "2 whole numbers"),
        ("icosphere:12", "of at most 11"),
    ):
        with pytest.raises(ValueError, match=message):
            read_surface(on)
    with pytest.raises(ValueError, match=r"one of .*icosphere"):
        load_target("spots", on="icosfere")
    with pytest.raises(FileNotFoundError, match=r"one of .*'spots'.* \(got spot,"):
        load_target("spot", on="icosphere")
    with pytest.raises(FileNotFoundError, match=r"none\.obj"):
        load_target("spots", on="none.obj")
    with pytest.raises(ValueError, match=r"\['scale'\] for surfaces alone"):
        GrowConfig("lizard.png", scale=0.1)
    with pytest.raises(ValueError, match="Did you mean 'sphere'"):
        GrowConfig("lizard.png", on="torus", projection="spere")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny rule, trained on the icosphere of 162 vertices."""
    folder = tmp_path_factory.mktemp("meshes") / "run"
    quick = {"lr": 1e-2, "settle": 0, "rest": 0.0, "damage": 0, "elders": 0.0, "reset_every": 1}
    options = {"on": "icosphere:2", "scale": 0.3, "steps": 150, **TINY, **quick}
    grow(GrowConfig("gradient", out=str(folder), **options), progress=False)
    return folder


def test_a_rule_grows_on_a_sphere_and_on_another_resolution(run):
    for on, vertices, most in ((None, 162, 0.4), ("icosphere:3", 642, 0.5)):
        cell, data, z0, card = load_grown(run, on)
        assert data.num_nodes == vertices
        trial = Trial(cell, data, z0, fire_rate=1.0)
        uniform = float((data.color - data.color.mean(0)).square().mean())  # the best of one colour
        assert trial.run(12).error < most * uniform
        assert trial.moments[-1].alive == 1.0
    assert card["command"].startswith("gncadeq grow gradient --on icosphere:2 --scale 0.3")


def test_a_run_on_no_surface_goes_on_no_other(run, tmp_path):
    config = GrowConfig("gradient", size=8, steps=1, out=str(tmp_path / "grid"), **TINY)
    grow(config, progress=False)
    with pytest.raises(ValueError, match=r"a run on 'grid'.*train on 'plane'"):
        load_grown(tmp_path / "grid", "icosphere")
    with pytest.raises(ValueError, match="'grid'"):
        load_grown(run, "grid")


def test_a_rule_of_a_graph_file_goes_on_other_graph_files(tmp_path):
    """Learned on an edge list, whose nodes are laid out, and run on a larger lattice."""
    small = nx.convert_node_labels_to_integers(nx.grid_graph((6, 6)))
    nx.write_edgelist(small, tmp_path / "small.edgelist", data=False)
    large = nx.grid_graph((9, 9))
    for (row, col), at in large.nodes(data=True):
        at["x"], at["y"] = float(row), float(col)
    nx.write_graphml(nx.convert_node_labels_to_integers(large), tmp_path / "large.graphml")
    on, out = str(tmp_path / "small.edgelist"), str(tmp_path / "run")
    words = ["grow", "gradient", "--on", on, "--steps", "60", "--out", out, "--channels", "8"]
    words += [
        "--lr",
        "5e-3",
        "--hidden",
        "24",
        "--min-rollout",
        "6",
        "--max-rollout",
        "10",
        "--settle",
        "6",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    cell, data, z0, _ = load_grown(out)
    assert (data.num_nodes, data.edge_attr.size(1), data.pos.size(1)) == (36, 1, 3)
    trial = Trial(cell, data, z0, fire_rate=1.0)
    blank = float(data.color.square().mean())
    assert trial.run(12).error < 0.5 * blank
    assert trial.moments[-1].alive == 1.0
    short = ["--steps", "6", "--recovery", "3", "--frames", "4"]
    result = CliRunner().invoke(app, ["run", out, "--on", str(tmp_path / "large.graphml"), *short])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "on-large" / "trial.json").read_text())
    assert report["num_nodes"] == 81
    with pytest.raises(ValueError, match="a graph file for one on a graph"):
        load_grown(out, "icosphere")
    with pytest.raises(ValueError, match=r"\['scale'\] for surfaces alone"):
        GrowConfig("gradient", on=on, scale=0.1)


def test_a_numbered_seed_keeps_its_place(tmp_path):
    config = GrowConfig(
        "gradient", on="icosphere:2", steps=1, seed_node=100, out=str(tmp_path / "run"), **TINY
    )
    grow(config, progress=False)
    _, small, _, _ = load_grown(tmp_path / "run")
    _, large, z0, _ = load_grown(tmp_path / "run", "icosphere:3")
    assert z0[:, 3].nonzero().tolist() == [[100]]  # vertices of the coarser sphere come first
    assert torch.equal(large.pos[100], small.pos[100])
    assert int(large.x.argmax()) == 100


def test_the_commands_run_render_and_grow(run, tmp_path):
    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    short = ("--steps", 6, "--recovery", 3, "--frames", 4, "--damage", "third", "--fire-rate", 1)
    call("run", run, *short)
    call("run", run, "--on", "icosphere:3", *short)
    for folder, vertices in ((run, 162), (run / "on-icosphere-3", 642)):
        report = json.loads((folder / "trial.json").read_text())
        assert report["num_nodes"] == vertices
        assert [m["event"] for m in report["moments"]] == [
            "seed", *3 * ["growth"], "damage", *2 * ["recovery"]
        ]  # fmt: skip
        assert "<canvas" in (folder / "viewer.html").read_text()
        with Image.open(folder / "growth.gif") as animation:
            assert animation.n_frames >= 3
        strip = Image.open(folder / "strip.png").convert("RGB")
        assert strip.height > 2 * 200 + 20  # two rows, the steps above their pictures
        target = strip.crop((strip.width - 200, strip.height - 200, strip.width, strip.height))
        assert len(target.getcolors(100_000)) > 500  # the gradient, last
    states = run / "trajectory.safetensors"
    _, z, fields, steps = load_trajectory(states)
    assert z.shape == (7, 162, 3)
    assert steps == [m["steps"] for m in report["moments"]]
    assert float(fields["alpha"][0].max()) == 1.0  # the seed
    call("render", states, tmp_path / "last.ply")
    mesh = load_mesh(tmp_path / "last.ply")
    torch.testing.assert_close(mesh.color, z[-1], atol=1 / 255, rtol=0)
    call("render", tmp_path / "last.ply", tmp_path / "last.png", "--size", 50, "--up", "z")
    with Image.open(tmp_path / "last.png") as picture:
        assert picture.size == (50, 50)
        assert len(picture.convert("RGB").getcolors(2500)) > 50
    wrong = CliRunner().invoke(
        app, ["render", str(states), str(tmp_path / "a.ply"), "--size", "9"]
    )  # fmt: skip
    assert isinstance(wrong.exception, ValueError)
    assert "['size'] for pictures alone" in str(wrong.exception)
    wrong = CliRunner().invoke(
        app, ["render", str(states), str(tmp_path / "a.html"), "--size", "9"]
    )
    assert "['size'] for pictures alone" in str(wrong.exception)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    call("grow", tmp_path / "red.png", "--on", "torus:8,6", "--kernels", "harmonics", "--up", "z",
         "--projection", "top", "--steps", 2, "--min-rollout", 2, "--max-rollout", 3,
         "--settle", 0, "--hidden", 8, "--pool-size", 4, "--out", tmp_path / "torus")  # fmt: skip
    config = GrowConfig.load(tmp_path / "torus" / "config.json")
    assert (config.kernels, config.up, config.projection) == ("harmonics", "z", "top")
    assert load_grown(tmp_path / "torus")[0].num_kernels == 4
    assert "trimesh (extra dev)" in call("doctor")
