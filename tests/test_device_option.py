"""``--device``: every command that computes takes it, and refuses a device that isn't there."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings

import pytest
import torch
import typer
from conftest import REPOSITORY
from torch import nn
from torch_geometric.data import Data
from typer.testing import CliRunner

from gncadeq import device
from gncadeq.cli import app, main
from gncadeq.device import beside, on_cpu, usable_device
from gncadeq.training import GrowConfig, TrainConfig
from gncadeq.training.processes import Processes
from gncadeq.training.run import _strategy, train

COMPUTE = ("train", "evaluate", "predict", "show", "analyze", "grow", "run", "zoo")
GROW = [str(REPOSITORY / "datasets" / "gecko.png"), "--size", "8", "--steps", "1"]


@pytest.fixture
def alone(monkeypatch):
    """A machine without accelerators."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.fixture
def two(monkeypatch):
    """A machine that says it has two of them."""
    monkeypatch.setattr(device, "devices", lambda: ["cpu", "cuda:0", "cuda:1"])


def test_every_command_that_computes_takes_a_device():
    root = typer.main.get_command(app)
    taking = {n for n, c in root.commands.items() if any("--device" in p.opts for p in c.params)}
    assert taking == set(COMPUTE)


def test_a_device_that_is_not_there_is_refused_in_a_sentence(alone, tmp_path, monkeypatch, capsys):
    grown = tmp_path / "grown"
    words = ["grow", *GROW, "--device", "cpu", "--out", str(grown)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert CliRunner().invoke(app, ["run", str(grown), "--steps", "2", "--recovery", "1",
                                    "--device", "cpu"]).exit_code == 0  # fmt: skip
    picture = str(REPOSITORY / "datasets" / "gecko.png")
    out = tmp_path / "new"
    for words in (
        ["train", "digits", "--out", out], ["evaluate", "digits"], ["predict", "digits", picture],
        ["evaluate", "digits", "--labels", "cells"], ["show", "digits", "--out", out],
        ["analyze", "digits", "--out", out], ["grow", *GROW, "--out", out], ["run", grown],
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["gncadeq", *map(str, words), "--device", "cuda"])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which main replaces
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 1, words
        assert "a device that torch can compute on here, one of ['cpu'] (got 'cuda')" in said
        assert not (out / "config.json").exists()


def test_names_of_devices(two):
    assert usable_device("cpu:0") == torch.device("cpu")
    assert usable_device("cuda").index is None
    assert usable_device("cuda:1").index == 1
    for name in ("gpu", "mps", "meta", "", "cuda:x"):
        with pytest.raises(ValueError, match="torch can compute on here"):
            usable_device(name)
    with pytest.raises(ValueError, match=r"one of the devices that are here.*got 'cuda:2'"):
        usable_device("cuda:2")


def test_what_lightning_is_told(two, tmp_path):
    one, several = Processes(), Processes(1, 4, 2)
    assert _strategy(one, torch.device("cpu")) == {"accelerator": "cpu", "devices": 1}
    assert _strategy(one, torch.device("cuda:1")) == {"accelerator": "cuda", "devices": [1]}
    assert _strategy(one, torch.device("mps")) == {"accelerator": "mps", "devices": [0]}
    told = _strategy(several, torch.device("cuda"))
    assert (told["accelerator"], told["devices"], told["num_nodes"]) == ("cuda", 2, 2)
    config = TrainConfig(dataset="digits", device="cuda:1", devices=2, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="a kind of device for several processes"):
        train(config)


def test_the_zoo_passes_the_device_on():
    words = ["zoo", "growing", "--dry-run", "--device", "cuda:1"]
    lines = CliRunner().invoke(app, words).output.splitlines()
    commands = [line for line in lines if line.startswith("$ ")]
    assert commands
    assert all(line.endswith(" --device cuda:1") for line in commands)
    told = CliRunner().invoke(app, ["zoo", "growing", "--dry-run"]).output
    assert "--device" not in told


def test_an_earlier_run_says_accelerator(tmp_path):
    options = dataclasses.asdict(TrainConfig())
    options["accelerator"] = options.pop("device")
    (tmp_path / "config.json").write_text(json.dumps(options))
    assert TrainConfig.load(tmp_path / "config.json").device == "cpu"
    assert GrowConfig(target="spots").device == "cpu"


def test_what_is_moved_stays_where_it_was():
    data = Data(x=torch.zeros(2, 1), edge_index=torch.tensor([[0], [1]]))
    moved = beside(data, nn.Linear(1, 1, device="meta"))
    assert moved.x.device.type == "meta"
    assert data.x.device.type == "cpu"

    @dataclasses.dataclass(frozen=True)
    class Found:
        value: torch.Tensor
        name: str
        more: tuple = ()

    found = on_cpu(Found(torch.ones(1), "one", (torch.zeros(1), {"a": 2})))
    assert (found.name, float(found.value), found.more[1]) == ("one", 1.0, {"a": 2})
