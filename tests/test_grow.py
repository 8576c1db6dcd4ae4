"""Growing automata: training to a known target, resuming, the commands, and any graph."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import killed
from PIL import Image
from torch_geometric.data import Data
from typer.testing import CliRunner

from gncadeq import GrowingCell
from gncadeq.cli import app
from gncadeq.growth import Trial, color_error
from gncadeq.training import GrowConfig
from gncadeq.training.grow import Growth, grow, load_grown
from gncadeq.training.grow_sweeps import SweepGrowth
from gncadeq.training.targets import (
    anchor,
    load_target,
    picture_target,
    read_rgba,
    save_target,
    seed_state,
)
from gncadeq.transforms import ImageToGraph, PixelKernels
from gncadeq.viz import moments as pictures

TINY = {
    "size": None, "channels": 8, "hidden_channels": 24, "min_rollout": 5, "max_rollout": 8,
    "settle": 6, "pool_size": 8, "batch_size": 4, "lr": 5e-3, "fire_rate": 1.0,
}  # fmt: skip


def flag():
    """Six by six pixels, red over green, with a transparent border."""
    rgba = torch.zeros(4, 6, 6)
    rgba[3, 1:5, 1:5] = 1.0
    rgba[0, 1:3, 1:5] = rgba[1, 3:5, 1:5] = 1.0
    return rgba


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "flag.png"
    pixels = (255 * flag()).byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels), "RGBA").save(path)
    return path


def tiny(tmp_path, name="run", **options):
    return GrowConfig(**{"target": "flag", "out": str(tmp_path / name), **TINY, **options})


def triangle_fan(n=12):
    """A graph that is no grid: a wheel, with a mean and an identity kernel, and loops."""
    rim = torch.arange(1, n)
    pairs = torch.cat([torch.stack([torch.zeros_like(rim), rim]),
                       torch.stack([rim, rim % (n - 1) + 1])], 1)  # fmt: skip
    edge_index = torch.cat([pairs, pairs.flip(0), torch.arange(n).expand(2, n)], 1)
    degree = edge_index[1].bincount(minlength=n).float()
    loop = (edge_index[0] == edge_index[1]).float()
    weight = torch.stack([1 / degree[edge_index[1]], loop], 1)
    angle = torch.arange(n) * 2 * torch.pi / (n - 1)
    pos = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    pos[0] = 0
    color = torch.tensor([0.8, 0.2, 0.4]).expand(n, 3).contiguous()
    return Data(edge_index=edge_index, edge_attr=weight, pos=pos, color=color)


@pytest.mark.parametrize("method", ["bptt", "implicit"])
def test_a_flag_is_grown(tmp_path, method):
    options = {"bptt": {}, "implicit": {"max_steps": 12, "phantom_steps": 8}}
    config = tiny(tmp_path, steps=150, method=method, **options[method])
    data = picture_target(flag())
    cell = grow(config, data, progress=False)
    with pytest.raises(ValueError, match=r"targets\.anchor"):
        Trial(cell, data, seed_state(data, 8))
    data.x = anchor(data)
    trial = Trial(cell, data, seed_state(data, 8), fire_rate=1.0)
    start = trial.moments[0].error
    assert trial.run(16).error < 0.3 * start
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [25, 50, 75, 100, 125, 150]
    assert float(rows[-1]["loss"]) < 0.3 * float(rows[0]["loss"])
    found, graph, seed, card = load_grown(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), cell.parameters()))  # noqa: B905
    assert torch.equal(graph.color, data.color)
    assert torch.equal(seed, seed_state(data, 8))
    assert card["steps_done"] == 150
    assert card["command"].startswith("gncadeq grow flag --size none --steps 150")
    with pytest.raises(FileExistsError, match="--resume"):
        grow(config, data, progress=False)


@pytest.mark.parametrize("method", ["bptt", "implicit"])
def test_killed_and_resumed_gives_the_same_result(tmp_path, method):
    options = {"steps": 14, "save_every": 5, "method": method, "damage_from": 0.2, "max_steps": 9,
               "elders": 0.3, "fire_rate": 0.5}  # fmt: skip
    save_target(picture_target(flag()), tmp_path / "flag.safetensors")
    place = {"target": "color", "on": str(tmp_path / "flag.safetensors")}
    whole = grow(tiny(tmp_path, "whole", **place, **options), progress=False)
    part = tiny(tmp_path, "part", **place, **options)
    _kill_in_step(8, part)
    assert not list((tmp_path / "part").rglob("*.tmp"))
    assert load_grown(tmp_path / "part")[3]["steps_done"] == 5
    resumed = grow(part, resume=True, progress=False)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = []
    for name in ("whole", "part"):
        with (tmp_path / name / "metrics.csv").open() as file:
            rows.append([{**r, "seconds": ""} for r in csv.DictReader(file)])
    assert rows[0] == rows[1]
    with pytest.raises(ValueError, match=r"other lr\)"):
        grow(tiny(tmp_path, "part", **place, **{**options, "lr": 1.0}), resume=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        grow(tiny(tmp_path, "none"), resume=True)


def test_the_kept_weights_are_a_running_mean(tmp_path):
    data, last = picture_target(flag()), Growth(tiny(tmp_path, average=0.0), picture_target(flag()))
    run = Growth(tiny(tmp_path, average=0.5), data)
    mean = None
    for count in range(6):
        run.train_step()
        last.train_step()
        weight = run.cell.weight_out.detach().clone()
        share = min(0.5, (1 + count) / (10 + count))
        mean = weight if mean is None else share * mean + (1 - share) * weight
    assert torch.allclose(run.result.weight_out, mean, atol=1e-7)
    assert not torch.equal(run.result.weight_out, run.cell.weight_out)
    assert torch.equal(last.cell.weight_out, run.cell.weight_out)  # training is the same
    assert torch.equal(last.result.weight_out, last.cell.weight_out)


def test_a_run_of_an_earlier_version_keeps_its_weights(tmp_path):
    """Also where nothing is left to do: its checkpoints have no mean."""
    run, again = (Growth(tiny(tmp_path), picture_target(flag())) for _ in range(2))
    for _ in range(3):
        run.train_step()
    state = run.state_dict()
    del state["average"]
    again.load_state_dict(state)
    assert torch.equal(again.result.weight_out, run.cell.weight_out)
    again.train_step()
    assert torch.equal(again.result.weight_out, again.cell.weight_out)  # where the mean begins


@pytest.mark.parametrize("on", ["grid", "icosphere:2"])
def test_sweeps_grow_keep_and_mend(tmp_path, picture, on):
    """At rest by construction, and the same from a resumed run."""
    target = {"target": "gradient", "on": on, "scale": 0.35} if on != "grid" else {
        "target": str(picture), "size": None}  # fmt: skip
    options = {**target, "method": "sweeps", "steps": 60, "channels": 8, "hidden_channels": 16,
               "lr": 2e-2, "save_every": 10}  # fmt: skip
    config = GrowConfig(out=str(tmp_path / "whole"), **options)
    whole = grow(config, progress=False)
    part = GrowConfig(out=str(tmp_path / "part"), **options)
    _kill_in_step(25, part, SweepGrowth)
    assert load_grown(tmp_path / "part")[3]["steps_done"] == 20
    resumed = grow(part, resume=True, progress=False)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    cell, data, z0, _ = load_grown(tmp_path / "whole")
    assert not z0.any()
    for rate in (1.0, 0.5):
        trial = Trial(cell, data, z0, fire_rate=rate)
        grown = trial.run(300)
        one_color = float((data.color - data.color.mean(0)).square().mean())
        assert grown.error < 0.5 * one_color
        assert trial.damage("third").error > grown.error
        mended = trial.run(300, "recovery")
        assert mended.error == pytest.approx(grown.error, rel=1e-4)
        assert mended.residual < 1e-6
    if on != "grid":
        finer = load_grown(tmp_path / "whole", "icosphere:3")[1]
        assert finer.num_nodes == 642
    words = shlex.split(config.command_line())
    assert "--method" in words
    assert "--steps" in words
    usual = GrowConfig("spots", method="sweeps", steps=1000, lr=5e-3, hidden_channels=48)
    assert usual.command_line() == "gncadeq grow spots --method sweeps --out runs/grow"


def test_sweeps_need_a_grid_or_a_mesh(tmp_path):
    with pytest.raises(ValueError, match="grid or a mesh with faces"):
        grow(tiny(tmp_path, method="sweeps"), triangle_fan(), progress=False)


def test_a_finished_run_is_extended_by_more_steps(tmp_path):
    """The rate and the weight of rest go on as in a run of the new length."""
    data = picture_target(flag())
    for steps in (6, 10):
        config = tiny(tmp_path, steps=steps, save_every=1)
        cell = grow(config, data, resume=steps > 6, progress=False)
    found, _, _, card = load_grown(tmp_path / "run")
    assert (card["steps_done"], card["extended_from"]) == (10, [6])
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), cell.parameters()))  # noqa: B905
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    short, long = tiny(tmp_path, steps=6), tiny(tmp_path, steps=10)
    expected = [short.learning_rate(k) for k in range(6)]
    assert rates == expected + [long.learning_rate(k) for k in range(6, 10)]
    again = grow(config, resume=True, progress=False)  # nothing is left to do
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), cell.parameters()))  # noqa: B905
    with pytest.raises(ValueError, match=r"more steps than its 10 to extend it \(got other steps"):
        grow(short, resume=True, progress=False)


def test_the_anchor_is_the_only_thing_that_knows_a_place(tmp_path):
    """Without it, a pattern that has been moved on a torus stays moved, to the last digit."""
    data = PixelKernels()(ImageToGraph(periodic=True)(torch.zeros(1, 8, 8)))
    data.color = torch.zeros(64, 4)
    z = torch.rand(64, 8)
    moved = z.view(8, 8, 8).roll((2, 3), dims=(0, 1)).view(64, 8)
    for anchored in (False, True):
        run = Growth(tiny(tmp_path, anchor=anchored, seed=3), data)
        torch.nn.init.normal_(run.cell.weight_out, std=0.1)
        graph = (run.data.x, data.edge_index, data.edge_attr)
        with torch.no_grad():
            one, two = (run.nca(*graph, z0=s, steps=4, generator=None) for s in (z, moved))
        one = one.view(8, 8, 8).roll((2, 3), dims=(0, 1)).view(64, 8)
        assert (float((one - two).abs().max()) < 1e-4) == (not anchored)


def _kill_in_step(number, config, growth=Growth):
    step = growth.train_step

    def die(self):
        if self.step == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    def run():
        growth.train_step = die
        grow(config, progress=False)

    killed(run)


def test_a_rule_that_blows_up_says_why(tmp_path):
    data = picture_target(flag())
    run = Growth(tiny(tmp_path, steps=10), data)
    run.train_step()
    with torch.no_grad():
        run.cell.weight_out.fill_(float("nan"))
    with (
        pytest.warns(UserWarning, match="finite states"),
        pytest.raises(FloatingPointError, match=r"step 1\): the parameters \['weight_out'\]"),
    ):
        run.train_step()


def test_what_runs_away_is_trained_through_time(tmp_path):
    """Implicit training takes the state at rest where there is one, and the steps where not."""
    options = {"method": "implicit", "pretrain": 0.0, "min_rollout": 3, "max_rollout": 8,
               "max_steps": 8, "steps": 5}  # fmt: skip
    for growth, lengths in ((0.0, [8]), (3.6, [3, 4, 5, 6, 7])):
        run = Growth(tiny(tmp_path, **options), picture_target(flag()))
        with torch.no_grad():  # every living node grows by so much a step
            run.cell.weight_z.zero_()
            run.cell.weight_x.zero_()
            run.cell.bias.fill_(1.0)
            run.cell.weight_out.fill_(growth / 24)
        assert run.train_step()["rollout"] in lengths


def test_it_grows_on_any_graph(tmp_path):
    """Opaque colours on a wheel, seeded at its hub: nothing knows of pixels."""
    data = triangle_fan()
    config = tiny(tmp_path, steps=100, target="color")
    cell = grow(config, data, progress=False)
    _, graph, seed, _ = load_grown(tmp_path / "run")
    assert bool((graph.color[:, 3] == 1).all())
    assert seed[:, 3].tolist() == [1.0] + 11 * [0.0]
    trial = Trial(cell, graph, seed, fire_rate=1.0)
    assert trial.run(12).error < 0.05 * trial.moments[0].error
    assert trial.moments[-1].alive == 1.0
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "--steps", "12"])
    assert result.exit_code == 0, result.output
    for name in ("strip.png", "growth.gif", "viewer.html"):
        assert (tmp_path / "run" / name).stat().st_size > 1000


def test_the_residual_of_a_moment_is_that_of_one_more_step():
    torch.manual_seed(0)
    data, cell = picture_target(flag()), GrowingCell(8, 3, 16)
    torch.nn.init.normal_(cell.weight_out, std=0.1)
    cell.weight_out.data[3].abs_()  # it grows
    trial = Trial(cell, data, seed_state(data, 8), fire_rate=1.0)
    moment = trial.run(5)
    fz = cell(trial.z, trial.z.new_zeros(36, 0), data.edge_index, data.edge_attr)
    expected = float(((fz - trial.z).norm() / fz.norm()).detach())
    assert moment.residual == pytest.approx(expected, rel=1e-5)
    assert moment.error == pytest.approx(
        float((trial.z[:, :4] - data.color).square().mean()), rel=1e-5
    )
    hurt = trial.damage("third")
    assert hurt.alive < moment.alive
    assert [m.event for m in trial.moments] == ["seed", "growth", "damage"]
    with pytest.raises(ValueError, match="'third' or 'disc'"):
        trial.damage("half")


def test_errors_are_of_each_graph_alone():
    z = torch.cat([torch.zeros(3, 5), torch.ones(2, 5)])
    batch = torch.tensor([0, 0, 0, 1, 1])
    assert color_error(z, torch.ones(5, 4), batch).tolist() == [1.0, 0.0]
    assert color_error(z, torch.ones(5, 4)).tolist() == pytest.approx([0.6])


def test_the_commands(tmp_path, picture, monkeypatch):
    folder = tmp_path / "run"
    command = ["grow", str(picture), "--out", str(folder), "--steps", "6", "--size", "none",
               "--min-rollout", "3", "--max-rollout", "4", "--settle", "2", "--hidden", "8",
               "--pool-size", "6", "--save-every", "3"]  # fmt: skip
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    again = CliRunner().invoke(app, ["grow", str(picture), "--out", str(folder), "--resume"])
    assert again.exit_code == 0, again.output
    drawn = []
    tile = pictures.tile
    monkeypatch.setattr(pictures, "tile", lambda *a: drawn.append(a) or tile(*a))
    shown = CliRunner().invoke(
        app, ["run", str(folder), "--steps", "9", "--recovery", "5", "--damage", "disc",
              "--fire-rate", "1.0", "--frames", "7", "--json", "-"],
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    report = json.loads((folder / "trial.json").read_text())
    assert json.loads(shown.stdout) == report
    assert report["fire_rate"] == 1.0
    events = [m["event"] for m in report["moments"]]
    assert events == ["seed", *5 * ["growth"], "damage", *3 * ["recovery"]]
    assert report["moments"][-1]["steps"] == 14
    said = drawn[0][1]
    assert said[0] == "step 0"
    assert said[-2:] == ["step 14", "target"]
    assert "step 9, cut" in said
    for word in ("grown", "injured", "recovered", "error", "residual"):
        assert word in shown.stderr
    with Image.open(folder / "growth.gif") as animation:
        assert 2 <= animation.n_frames <= 9  # Pillow joins equal frames
    with Image.open(folder / "strip.png") as strip:  # two rows, the steps above their pictures
        assert strip.size == (6 * 198 + 5 * 4, 2 * (198 + 32) + 4)


def test_pictures_are_premultiplied_and_centred(tmp_path, picture):
    torch.testing.assert_close(read_rgba(picture), flag())
    half = Image.new("RGBA", (4, 2), (255, 255, 255, 51))
    half.save(tmp_path / "half.png")
    rgba = read_rgba(tmp_path / "half.png", size=4)
    torch.testing.assert_close(rgba[:, 1:3], torch.full((4, 2, 4), 0.2))
    assert float(rgba[:, [0, 3]].abs().max()) == 0.0


def test_what_cannot_be_grown_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="'color', the graph file's own"):
        load_target(str(picture), on="mesh.safetensors")
    with pytest.raises(FileNotFoundError, match="graph file"):
        load_target("color", on=str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="safetensors format"):
        load_target("color", on=str(picture))
    with pytest.raises(FileNotFoundError, match="Expected a picture"):
        load_target(str(tmp_path / "none.png"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="Expected a picture"):
        load_target(str(tmp_path / "text.png"))
    Image.new("RGBA", (3, 3)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="all transparent"):
        read_rgba(tmp_path / "clear.png")
    data = picture_target(flag())
    with pytest.raises(ValueError, match="of at most 35"):
        seed_state(data, 8, node=36)
    data.color = data.color[:, :2]
    with pytest.raises(ValueError, match=r"\[36, 3\] or \[36, 4\]"):
        Growth(tiny(tmp_path), data)
    for options, message in (
        ({"method": "implcit"}, "Did you mean 'implicit'"),
        ({"fire_rate": 0.0}, "'fire_rate'"),
        ({"max_rollout": 4}, "at least 5"),
        ({"damage": 4}, "stays whole"),
        ({"channels": 3}, "at least 4"),
        ({"elders": 1.0}, "Else no seed is grown"),
        ({"pool_size": 3}, "at least 4"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(tmp_path, **options)


def test_emoji_are_drawn_where_the_font_is(tmp_path):
    script = Path(__file__).resolve().parent.parent / "datasets" / "draw_emoji.py"
    command = [sys.executable, str(script), "lizard", "--out", str(tmp_path)]
    missing = subprocess.run(
        [*command, "--font", "none.ttf"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert "sudo apt-get install fonts-noto-color-emoji" in missing.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if "apt-get" in done.stderr:
        pytest.skip("needs the font Noto Color Emoji (fonts-noto-color-emoji)")
    assert done.returncode == 0, done.stderr
    rgba = read_rgba(tmp_path / "lizard.png")
    assert list(rgba.shape) == [4, 40, 40]
    border = torch.ones(40, 40, dtype=torch.bool)
    border[4:36, 4:36] = False
    assert float(rgba[:, border].max()) == 0.0
    assert 0.1 < float((rgba[3] > 0).float().mean()) < 0.6
    assert float(rgba[1].sum()) > float(rgba[0].sum())  # it is green
