"""Every command, given a file that another command takes, names that command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gncadeq import PixelGraphClassifier
from gncadeq.cli import app
from gncadeq.commands.kinds import kind_of
from gncadeq.datasets import primitives, save_mesh
from gncadeq.training import GrowConfig
from gncadeq.training.grow import grow

GRAPHML = (
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
    '<node id="a"/><node id="b"/><edge source="a" target="b"/></graph></graphml>'
)
# Of each kind: a file of it, and the command that an error names.
FILES = {
    "picture": ("seven.png", "gncadeq predict mnist seven.png"),
    "shape": ("mesh.ply", "gncadeq render mesh.ply OUT.png"),
    "points": ("cloud.xyz", "gncadeq render cloud.xyz OUT.png"),
    "graph": ("graph.graphml", "gncadeq render graph.graphml OUT.png"),
    "colored": ("grown/target.safetensors", "gncadeq grow color --on grown/target.safetensors"),
    "trajectory": ("trajectory.safetensors", "gncadeq render trajectory.safetensors OUT.png"),
    "growth": ("grown", "gncadeq run grown"),
    "growth, its file": ("grown/model.safetensors", "gncadeq run grown"),
    "classifier": ("weights.safetensors", "gncadeq predict weights.safetensors IMAGE"),
}
SURFACES = {"shape", "points", "graph"}
# Every argument of a command that names a file, and the kinds that it takes.
COMMANDS = {
    ("render", "FILE", "out.png"): {*SURFACES, "trajectory"},
    ("predict", "FILE", "seven.png"): {"classifier"},
    ("predict", "weights.safetensors", "FILE"): {"picture"},
    ("run", "FILE"): {"growth", "growth, its file"},
    ("run", "grown", "--on", "FILE"): {*SURFACES, "colored"},
    ("export", "FILE", "out.onnx"): {"growth", "growth, its file", "classifier"},
    ("evaluate", "FILE"): {"classifier"},
    ("show", "FILE"): {"classifier"},
    ("analyze", "FILE"): {"classifier"},
    ("grow", "FILE", "--out", "new"): {"picture"},
    ("grow", "spots", "--on", "FILE", "--out", "new"): {*SURFACES, "colored"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    Image.fromarray((255 * np.eye(28)).astype(np.uint8)).save(folder / "seven.png")
    save_mesh(primitives.icosphere(1), folder / "mesh.ply")
    np.savetxt(folder / "cloud.xyz", np.random.default_rng(0).random((20, 3)))
    (folder / "graph.graphml").write_text(GRAPHML)
    PixelGraphClassifier(1, 4).save_pretrained(folder / "weights.safetensors")
    config = GrowConfig(
        "spots", on="icosphere:1", steps=1, variants=0, max_rollout=2, min_rollout=1, settle=0,
        out=str(folder / "grown"),
    )  # fmt: skip
    grow(config, progress=False)
    words = ["run", config.out, "--steps", "2", "--damage", "none"]
    assert CliRunner().invoke(app, words).exit_code == 0
    shutil.copy(folder / "grown" / "trajectory.safetensors", folder)
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_kinds_are_known_by_content(files, kind):
    known = {"points": "shape", "growth, its file": "growth"}.get(kind, kind)
    assert kind_of(files / FILES[kind][0]) == known


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_names_its_command(files, command, kind, monkeypatch):
    if kind in COMMANDS[command]:
        return
    monkeypatch.chdir(files)
    file, remedy = FILES[kind]
    result = CliRunner().invoke(app, [file if word == "FILE" else word for word in command])
    said = " ".join(f"{result.exception} {result.output}".split())
    assert result.exit_code == 1
    assert f"(got {file}, " in said
    assert remedy in said
    assert not Path("new").exists()
