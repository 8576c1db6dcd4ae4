"""Nothing that gncadeq reads can run code."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import gncadeq
from gncadeq.cli import app
from gncadeq.datasets import PixelGraphs, Superpixels
from gncadeq.files.checkpoints import Checkpoints
from gncadeq.transforms.superpixels import ImageToSuperpixels

UNSAFE = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"}
SOURCES = sorted(Path(gncadeq.__file__).parent.rglob("*.py"))


class Bomb:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def plant(folder, mark, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save(Bomb(mark), folder / name)


@pytest.fixture
def mark(tmp_path):
    """A file that a planted pickle makes; the fixture proves that the pickle works."""
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()
    mark.unlink()
    return mark


def test_pickles_in_a_data_root_do_not_run(tmp_path, mark):
    planted = ("pre_filter.pt", "pre_transform.pt", "test.pt", "train.pt", "data.pt")
    places = ("digits/processed", "digits/processed/superpixels", "digits/raw", "processed", "raw")
    for place in places:
        plant(tmp_path / place, mark, *planted)
    done = CliRunner().invoke(
        app, ["evaluate", "digits", "--data-root", str(tmp_path), "--limit", "2"]
    )
    assert done.exit_code == 0, done.output
    PixelGraphs(tmp_path, "digits", False, pre_transform=lambda data: data)
    pixels = ImageToSuperpixels(num_segments=None, living_threshold=0.1)
    options = (tmp_path, "digits", False, pixels, 5)
    Superpixels(*options)
    (cache,) = tmp_path.rglob("test_*.safetensors")
    torch.save(Bomb(mark), cache)
    Superpixels(*options)
    assert not mark.exists()


def test_a_pickle_in_the_place_of_weights_or_trajectories_does_not_run(tmp_path, mark, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(tmp_path, mark, "model.safetensors", "target.safetensors", "t.safetensors")
    for words in (
        ["evaluate", str(tmp_path)],
        ["evaluate", str(tmp_path / "model.safetensors")],
        ["run", str(tmp_path)],
        ["export", str(tmp_path), str(tmp_path / "rule.onnx")],
        ["render", str(tmp_path / "t.safetensors"), str(tmp_path / "t.png")],
        ["grow", "color", "--on", str(tmp_path / "target.safetensors")],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1, (words, done.output)
    assert not mark.exists()


def test_a_pickle_in_a_checkpoint_does_not_run(tmp_path, mark):
    checkpoints = Checkpoints(tmp_path / "c", "run")
    checkpoints.save(3, {"step": Bomb(mark)})  # with the right checksum and id
    with pytest.raises(ValueError, match=r"tensors and numbers \(got .*UnpicklingError"):
        checkpoints.newest()
    assert not mark.exists()


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_no_module_calls_what_runs_code():
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, name) for name in names if name.split(".")[0] in UNSAFE]
        for name, options in calls(tree):
            unsafe = name in {"eval", "exec", "fs.torch_load", "torch.jit.load"}
            unsafe |= name == "torch.load" and options.get("weights_only") != "True"
            unsafe |= name in {"np.load", "numpy.load"} and "allow_pickle" in options
            found += [(path.name, name)] if unsafe else []
    assert not found


def test_no_dataset_takes_the_way_on_which_pyg_unpickles():
    classes = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    for node in classes:
        bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
        methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        assert "InMemoryDataset" not in bases, node.name
        assert not ("process" in methods and any("Dataset" in base for base in bases)), node.name
    assert {"PixelGraphs", "Superpixels"} <= {node.name for node in classes}
