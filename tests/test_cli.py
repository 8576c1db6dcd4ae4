from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from gncadeq.cli import app, main
from gncadeq.progress import shows_progress
from gncadeq.training import GrowConfig, TrainConfig
from gncadeq.training.stopping import Terminated
from gncadeq.viz.images import read_image

runner = CliRunner()


RECIPES = {
    "conv": ["--channels", "8", "--hidden", "32", "--epochs", "3"],
    "pyramid": ["--levels", "2,3", "--epochs", "2"],
}


@pytest.fixture(scope="module", params=RECIPES)
def run(request, tmp_path_factory):
    """A small run on digits, by the command line, of either classifier."""
    place = tmp_path_factory.mktemp("cli")
    result = runner.invoke(
        app,
        ["train", "digits", "--recipe", request.param, *RECIPES[request.param],
         "--data-root", str(place / "data"), "--out", str(place / "run")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def call(monkeypatch, capsys):
    """The command as a user runs it, in this process: its exit code and what it says of errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gncadeq", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which main replaces
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


def test_json_has_standard_output_to_itself(run):
    words = ["evaluate", str(run / "run"), "--limit", "100", "--json"]
    result = runner.invoke(app, [*words, "-"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)["equilibrium"]
    assert numbers["graphs"] == 100
    assert "residual p99" in result.stderr
    assert "\r" not in result.stderr  # no progress where there is no terminal
    result = runner.invoke(app, [*words, str(run / "numbers.json")])
    again = json.loads((run / "numbers.json").read_text())["equilibrium"]
    assert {**again, "seconds": numbers["seconds"]} == numbers
    assert "residual p99" in result.stdout
    result = runner.invoke(app, ["doctor", "--json", "-"])
    assert json.loads(result.stdout)["torch"] == version("torch")


def test_what_prints_numbers_writes_them_as_json(tmp_path):
    commands = typer.main.get_command(app).commands
    able = {n for n, c in commands.items() if any("--json" in p.opts for p in c.params)}
    assert able >= {"analyze", "doctor", "evaluate", "export", "grow", "predict", "run", "train"}
    words = ["grow", "spots", "--size", "6", "--steps", "2", "--out", str(tmp_path / "run")]
    result = runner.invoke(app, [*words, "--json", "-"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert numbers["step"] == 2
    assert numbers["run"] == str(tmp_path / "run")
    assert math.isfinite(numbers["loss"])


def test_a_quiet_run_says_nothing(monkeypatch, capsys):
    seen = []

    def train(config, *, resume, progress):
        seen.append(progress)
        return torch.nn.Linear(2, 3)

    monkeypatch.setattr("gncadeq.training.grow.grow", train)
    for words in (["grow", "spots", "--quiet"], ["grow", "spots"]):
        monkeypatch.setattr(sys, "argv", ["gncadeq", *words])
        with pytest.raises(SystemExit):
            main()
        assert ("9 parameters" in capsys.readouterr().out) == (len(words) == 2)
    assert seen == [False, True]


def test_progress_is_for_terminals(monkeypatch):
    assert not shows_progress()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert shows_progress()
    assert not shows_progress(False)


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
    result = runner.invoke(app, ["analyze", str(run / "run"), "--graphs", "3", "--json", "-"])
    assert result.exit_code == 0, result.output
    assert "analysis.html" in result.stderr
    numbers = json.loads(result.stdout)
    assert numbers["graphs"] == numbers["converged"] == 3
    assert numbers["certificate"] in ("structure", "norm")
    assert 0 < numbers["rate"] < 1
    assert len(numbers["measurements"]) == 6
    found = numbers["measurements"]["Lyapunov exponents"]
    assert len(found["exponents"]) == 3
    assert found["failed"] is False
    page = (run / "run" / "analysis.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "Not measured" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "spectral radius" in page.lower()
    assert ("by structure" in page) != ("by norm" in page)


def test_predict_images_of_any_size(run, tmp_path):
    digit = (torch.rand(20, 31) * 255).to(torch.uint8).numpy()
    Image.fromarray(digit).save(tmp_path / "one.png")
    Image.fromarray(255 - digit // 8).convert("RGB").save(tmp_path / "two.jpg")
    result = runner.invoke(
        app,
        ["predict", str(run / "run"), str(tmp_path / "one.png"), str(tmp_path / "two.jpg"),
         "--out", str(tmp_path / "maps"), "--as-is"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "two.jpg" in result.output
    assert "inverted" in result.output
    with Image.open(tmp_path / "maps" / "one_labels.png") as image:
        assert image.width > 300


def test_predict_finds_the_digits_of_a_picture(run, tmp_path):
    page = np.full((120, 200), 230, np.uint8)
    page[20:90, 30:42] = page[20:90, 140:152] = 10
    Image.fromarray(page).save(tmp_path / "bars.png")
    result = runner.invoke(
        app, ["predict", str(run / "run"), str(tmp_path / "bars.png"), "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count(" at (") == 2
    assert (tmp_path / "bars_labels.png").exists()


def test_a_large_picture_is_scaled_by_its_longer_side(tmp_path):
    Image.fromarray(np.full((40, 100), 255, np.uint8)).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", size=28).shape == (1, 11, 28)
    assert read_image(tmp_path / "wide.png").shape == (1, 40, 100)


def test_doctor_and_help():
    result = runner.invoke(app, ["doctor"])
    listed = set(result.stdout.replace(",", " ").split())
    assert {"mnist-pyramid", "mazes", "gecko", "leopard"} <= listed
    assert result.exit_code == 0
    for part in ("torchdeq", "trimesh (extra dev)", "playwright (extra dev)", "browser"):
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
        (("show", "mnst"), "Did you mean 'mnist'?"),
        (("run", run / "run"), "evaluate, show, analyze and export take them"),
        (("predict", run / "run", text), "Expected an image file"),
        (("predict", run / "run", tmp_path / "gone.png"), "does not exist"),
        (("predict", run / "run", blank), "nothing stands out from the paper"),
        (("predict", run / "run", blank, "--as-is"), "Lower the threshold"),
        (("predict", run / "run", tmp_path), "is a folder"),
        (("evaluate", "digits", "--fire-rate", "0.5"), "Use --as nca"),
        (("evaluate", "mnist", "--tol", "nan", "--data-root", tmp_path), "'tol' to be a finite"),
        (("render", tmp_path, tmp_path / "a.gif"), "trajectory.safetensors"),
        (("grow", "spotz", "--on", "torus", "--out", tmp_path / "g"), "Did you mean 'spots'"),
        (("train", "digits", "--out", run / "run"), "--resume"),
        (("train", "digits", "--solver", "andersen", "--out", tmp_path / "n"), "Did you mean"),
    ]
    for words, expected in cases:
        code, message = call(*words)
        assert code == 1, words
        assert message.startswith("Error: "), message
        assert "Expected" in message
        assert expected in message
    assert call("train", "cifar")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "evaluate"),
        (["train", "--help"], 0, "gncadeq train digits --epochs 10"),
        (["train", "digits", "--epoch", "1"], 2, "--epochs"),
        (["trian", "digits"], 2, "train"),
        (["train", "digits", "--update", "dirct"], 2, "'direct', 'residual'"),
        (["train", "digits", "--clip", "x"], 2, "number or 'none'"),
        (["grow", "spots", "--size", "x"], 2, "whole number or 'none'"),
    ],
)
def test_help_and_misspellings_wait_for_no_torch(words, code, said):
    script = (
        "import sys; from gncadeq.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'numpy', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "TERMINAL_WIDTH": "200"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")
    assert "Traceback" not in done.stderr


def test_a_warning_is_a_line(monkeypatch, call):
    def warned(*_, **__):
        warnings.warn("Expected [this]", UserWarning, stacklevel=1)
        raise ValueError("the end")

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("gncadeq.commands.doctor.console.print", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        said = call("doctor")[1]
    assert said == "Warning: Expected [this]\nError: the end\n"


def test_an_error_keeps_its_brackets(monkeypatch, call):
    def broken(*_, **__):
        raise ImportError("Expected the extra 'mesh'. pip install 'gncadeq[mesh]'")

    monkeypatch.setattr("gncadeq.commands.doctor.console.print", broken)
    assert call("doctor") == (
        1, "Error: Expected the extra 'mesh'. pip install 'gncadeq[mesh]'\n"
    )  # fmt: skip


CONFIGS = [
    TrainConfig("digits", out="runs/digits"),
    TrainConfig("digits", "my data", "a run", devices=2, living_threshold=None, clip=None,
                augment=True, standardize=False, train_limit=64, hidden_channels=7),
    TrainConfig.recipe("pyramid", dataset="mnist", out="runs/p", seed=3),
    TrainConfig.recipe("pyramid", dataset="mnist", out="runs/q", lr=0.01, levels="4,8"),
    TrainConfig.recipe("pyramid", dataset="digits", out="runs/r"),
    TrainConfig.recipe("pyramid", dataset="digits", out="runs/t", batch_size=128, levels="8,16,27"),
    TrainConfig("kmnist", dynamics="nca", gradient="bptt", living_threshold=0.1, out="r"),
    TrainConfig.essay(dataset="mnist", out="runs/essay", contraction=None),
    GrowConfig("spots", on="torus:8,4", kernels="harmonics", scale=0.2, up="z", out="runs/x y",
               seed_node=3, anchor=False, checkpoint_every=4),
    GrowConfig("it's.png", size=None, method="implicit", gradient="phantom"),
    GrowConfig.recipe("distill", "a.png", out="runs/d"),
    GrowConfig.recipe("distill", "a.png", out="runs/e", size=24, padding=0, decay=None, damage=0),
    GrowConfig.recipe("isotropic", "a.png", out="runs/i", anchor=False),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.out)
def test_the_command_that_is_printed_makes_the_same_run(config, monkeypatch, capsys):
    seen = []

    def stop(config, **_):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("gncadeq.training.run.train", stop)
    monkeypatch.setattr("gncadeq.training.grow.grow", stop)
    words = shlex.split(config.command_line())
    result = runner.invoke(app, words[1:])
    assert result.exit_code == 130, result.output
    assert seen == [config]
    assert result.stdout == config.command_line() + "\n"
    resume = shlex.split(result.stderr.splitlines()[-1])  # this one, too, can be pasted
    assert resume == [*words[:3], "--out", config.out, "--resume"]
    assert "--data-root" not in config.command_line(data_root=False)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stopped_run_says_what_is_saved(monkeypatch, error, code):
    def stop(config, resume, progress):
        raise error("Interrupted and saved at training step 7")

    monkeypatch.setattr("gncadeq.training.grow.grow", stop)
    result = runner.invoke(app, ["grow", "spots", "--on", "torus", "--out", "r"])
    assert result.exit_code == code
    said, command = result.stderr.splitlines()
    assert said == "Interrupted and saved at training step 7. Continue with"
    assert command == "  gncadeq grow spots --out r --resume"


def test_options_are_the_fields_of_the_library():
    commands = typer.main.get_command(app).commands
    for name, config in (("train", TrainConfig()), ("grow", GrowConfig("spots"))):
        known = {p.name: p for p in commands[name].params}
        for field in dataclasses.fields(config):
            option, said = known[field.name], field.metadata["help"]
            assert option.help == said
            assert f"    {field.name}: {said}" in type(config).__doc__
            if field.name not in ("dataset", "target"):
                assert option.default == getattr(config, field.name)
    assert known["hidden_channels"].opts == ["--hidden"]
    assert known["anchor"].secondary_opts == ["--no-anchor"]


def test_a_command_receives_what_the_user_gave(monkeypatch):
    seen = []
    monkeypatch.setattr("gncadeq.training.run.train", lambda config, **_: seen.append(config))
    conv, essay = ["--recipe", "conv"], ["--recipe", "essay"]
    for words in ([*conv, "--pixels", "all", "--living", "0.1"], [*essay, "--lr", "0.1"],
                  [*essay, "--pixels", "living"], [*conv, "--dynamics", "nca"],
                  ["--epochs", "2"]):  # fmt: skip
        runner.invoke(app, ["train", "digits", *words])
    out = "runs/digits"
    assert seen == [
        TrainConfig("digits", out=out, living_threshold=None),
        TrainConfig.essay(dataset="digits", out=out, lr=0.1),
        TrainConfig.essay(dataset="digits", out=out, living_threshold=0.02),
        TrainConfig("digits", out=out, dynamics="nca", gradient="bptt"),
        TrainConfig.recipe("pyramid", dataset="digits", out=out, epochs=2),
    ]


def test_resuming_looks_for_the_data_where_they_were(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("gncadeq.training.run.train", lambda config, **_: seen.append(config))
    config = TrainConfig("digits", str(tmp_path), str(tmp_path / "run"), devices=2)
    config.save(tmp_path / "run" / "config.json")
    runner.invoke(app, ["train", "digits", "--out", config.out, "--resume"])
    runner.invoke(app, ["train", "digits", "--out", config.out, "--resume", "--data-root", "d"])
    assert seen == [config, dataclasses.replace(config, data_root="d")]


def test_a_refused_run_leaves_nothing_behind(tmp_path, call):
    assert call("train", "digits", "--solver", "newtno", "--out", tmp_path / "run")[0] == 1
    assert not (tmp_path / "run").exists()
