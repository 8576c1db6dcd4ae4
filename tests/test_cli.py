from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gncadeq.cli import app, main

runner = CliRunner()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run on digits, by the command line."""
    place = tmp_path_factory.mktemp("cli")
    result = runner.invoke(
        app,
        ["train", "digits", "--channels", "8", "--hidden", "32", "--epochs", "3",
         "--data-root", str(place / "data"), "--out", str(place / "run")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def call(monkeypatch, capsys):
    """The command as a user runs it, in this process: its exit code and what it says of errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gncadeq", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


def test_evaluate_both_ways(run, tmp_path):
    result = runner.invoke(
        app,
        ["evaluate", str(run / "run"), "--as", "nca", "--steps", "200", "--fire-rate", "0.5",
         "--limit", "100", "--json", str(tmp_path / "e.json")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for word in ("accuracy", "converged", "residual p99", "agreement", "steps mean"):
        assert word in result.output
    assert (tmp_path / "e.json").exists()


def test_show_writes_pictures_that_open(run):
    result = runner.invoke(app, ["show", str(run / "run"), "--images", "2"])
    assert result.exit_code == 0, result.output
    figures = run / "run" / "figures"
    names = {p.name for p in figures.iterdir()}
    assert names == {
        "figure1_noise_to_stasis.png", "figure1_noise_to_stasis.gif", "figure2_truncated.png",
        "residuals.png", "learning_curve.png", "confusion.png",
    }  # fmt: skip
    for path in figures.iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("RGB")).std() > 5
            if path.suffix == ".gif":
                assert image.n_frames > 3


def test_analyze_writes_a_page_that_loads_nothing(run):
    result = runner.invoke(app, ["analyze", str(run / "run"), "--graphs", "3"])
    assert result.exit_code == 0, result.output
    page = (run / "run" / "analysis.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "spectral radius" in page.lower()


def test_predict_images_of_any_size(run, tmp_path):
    digit = (torch.rand(20, 31) * 255).to(torch.uint8).numpy()
    Image.fromarray(digit).save(tmp_path / "one.png")
    Image.fromarray(255 - digit // 8).convert("RGB").save(tmp_path / "two.jpg")
    result = runner.invoke(
        app,
        ["predict", str(run / "run"), str(tmp_path / "one.png"), str(tmp_path / "two.jpg"),
         "--out", str(tmp_path / "maps")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "two.jpg" in result.output
    assert "inverted" in result.output
    with Image.open(tmp_path / "maps" / "one_labels.png") as image:
        assert image.width > 300


def test_doctor_and_help():
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0
    for part in ("torchdeq", "trimesh (extra mesh)", "playwright (extra dev)", "browser"):
        assert part in result.output
    for command in ("train", "evaluate", "show", "analyze", "predict", "grow", "run", "render",
                    "export"):  # fmt: skip
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert f"gncadeq {command}" in result.output  # an example


def test_errors_are_a_line_that_names_the_remedy(run, tmp_path, call):
    blank = tmp_path / "blank.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(blank)
    text = tmp_path / "text.png"
    text.write_text("no image")
    cases = [
        (("evaluate", tmp_path / "nothing"), "shipped weights"),
        (("evaluate", tmp_path), "model.safetensors"),
        (("predict", run / "run", text), "Expected an image file"),
        (("predict", run / "run", tmp_path / "gone.png"), "does not exist"),
        (("predict", run / "run", blank), "Lower the threshold"),
        (("train", "digits", "--out", run / "run"), "--resume"),
        (("train", "digits", "--solver", "andersen", "--out", tmp_path / "n"), "Did you mean"),
    ]
    for words, expected in cases:
        code, message = call(*words)
        assert code == 1, words
        assert message.startswith("Error: Expected"), message
        assert expected in message
    assert call("train", "cifar")[0] == 2


def test_a_process_ends_with_a_line_and_a_code():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gncadeq.cli", "evaluate", "nothing"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Expected")
    assert "Traceback" not in done.stderr


def test_a_refused_run_leaves_nothing_behind(tmp_path, call):
    assert call("train", "digits", "--solver", "newton", "--out", tmp_path / "run")[0] == 1
    assert not (tmp_path / "run").exists()


def test_import_is_light():
    script = (
        "import sys, gncadeq, gncadeq.export;"
        "heavy = {'lightning', 'pytorch_lightning', 'torchvision', 'matplotlib', 'sklearn',"
        "'trimesh', 'skimage', 'scipy.sparse', 'scipy.spatial', 'networkx', 'onnx', 'onnxscript',"
        "'onnxruntime'};"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
