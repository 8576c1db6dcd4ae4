from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import killed

from gncadeq import PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.models import ImageClassifier, PyramidClassifier
from gncadeq.training import TrainConfig
from gncadeq.training.describe import describe_inputs
from gncadeq.training.run import train
from gncadeq.training.task import PixelClassification

TINY = {"dataset": "digits", "channels": 6, "hidden_channels": 16, "train_limit": 320}


def tiny(tmp_path, name="run", **options):
    return TrainConfig(
        data_root=str(tmp_path / "data"), out=str(tmp_path / name), **{**TINY, **options}
    )


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_digits_are_learned(tmp_path):
    """The demo in small: real training to a real accuracy, at true equilibrium."""
    config = tiny(
        tmp_path, channels=16, hidden_channels=64, train_limit=None, epochs=8, augment=False
    )
    _model, result = train(config, progress=False)
    assert result.accuracy > 0.93
    assert bool(result.converged.all())
    folder = tmp_path / "run"
    card = json.loads((folder / "evaluation.json").read_text())
    assert card["test"]["accuracy"] == result.accuracy
    again = PixelGraphClassifier.from_pretrained(str(folder / "model.safetensors"))
    from gncadeq.evaluation import evaluate

    test_set = PixelGraphs(config.data_root, "digits", False, again.to_graph)
    assert evaluate(again, test_set, progress=False).accuracy == result.accuracy
    assert [int(r["epoch"]) for r in rows(folder)][-1] == 7
    with pytest.raises(FileExistsError, match="--resume"):
        train(config, progress=False)


@pytest.mark.parametrize("recipe", ["conv", "pyramid"])
@pytest.mark.parametrize("validation", [0, 200])
def test_limits_of_certainty_come_from_unseen_images(recipe, validation, tmp_path):
    """A hundredth of the held-out images, else of the test set, is less certain."""
    kind = {"channels": 6, "hidden_channels": 16} if recipe == "conv" else {"levels": "3,4"}
    config = TrainConfig(
        dataset="digits", data_root=str(tmp_path / "data"), out=str(tmp_path / "run"),
        validation=validation, train_limit=320, epochs=1, **kind,
    )  # fmt: skip
    train(config, progress=False)
    model = ImageClassifier.from_pretrained(str(tmp_path / "run" / "model.safetensors"))
    images = PixelGraphs(config.data_root, "digits", validation > 0, model.to_graph)
    data = images.batch(torch.arange(len(images))[-validation:])
    with torch.no_grad():
        logits = model(data.x, data.edge_index, data.edge_attr, data.batch).double()
    limits = model.card["inputs"]["certainty"]
    expected = {"probability": logits.softmax(1).amax(1), "log-sum-exp": logits.exp().sum(1).log()}
    assert limits.keys() == expected.keys()
    for name, value in expected.items():
        assert limits[name] == pytest.approx(float(value.quantile(0.01)), abs=1e-4)


def test_of_differences_of_logits_no_size_is_described(tmp_path):
    model = PyramidClassifier(channels=(2, 3), separable=True).eval()
    model.fold()
    data = PixelGraphs(tmp_path, "digits", True, model.to_graph)
    model.dynamics.on_failure = "ignore"
    found = describe_inputs(model, data, limit=60, unseen=data.images[-30:])
    assert found["certainty"].keys() == {"probability"}
    card = ImageClassifier.from_pretrained("mnist-tiny").card
    assert card["inputs"]["certainty"].keys() == {"probability"}


def test_the_bar_shows_means_of_the_epoch_and_the_validation_by_name(tmp_path, monkeypatch):
    from lightning.pytorch.callbacks import RichProgressBar

    seen = []
    end = RichProgressBar.on_train_epoch_end

    def watch(self, trainer, module):
        seen.append(dict(trainer.progress_bar_metrics))
        end(self, trainer, module)

    monkeypatch.setattr(RichProgressBar, "on_train_epoch_end", watch)
    monkeypatch.setattr("gncadeq.training.run.shows_progress", lambda wanted: wanted)
    train(tiny(tmp_path, epochs=2, validation=100))
    logged = rows(tmp_path / "run")  # five batches of 64 an epoch: one row, their mean
    assert len(seen) == len(logged) == 2
    for shown, row in zip(seen, logged, strict=True):
        assert shown.keys() == {"loss", "train_accuracy", "val_accuracy"}
        assert shown["loss"] == pytest.approx(float(row["loss"]), rel=1e-5)
        assert shown["train_accuracy"] == pytest.approx(float(row["accuracy"]), rel=1e-5)
        assert shown["val_accuracy"] == pytest.approx(float(row["validation_accuracy"]), rel=1e-5)


@pytest.mark.parametrize("start", ["zeros", "normal"])
def test_resuming_gives_the_same_result(tmp_path, start):
    """Stopped after an epoch by kill -9 in the middle of the next, and resumed."""
    whole = tiny(tmp_path, "whole", epochs=3, start=start)
    model, _ = train(whole, progress=False)
    part = tiny(tmp_path, "part", epochs=3, start=start)
    step = PixelClassification.training_step

    def die(self, data, i):
        if self.current_epoch == 1 and i == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, data, i)

    def run():
        PixelClassification.training_step = die
        train(part, progress=False)

    killed(run)
    folder = tmp_path / "part"
    assert not list(folder.rglob("*.tmp"))
    PixelGraphClassifier.from_pretrained(str(folder / "model.safetensors"))
    resumed, _ = train(part, resume=True, progress=False)
    for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [r["loss"] for r in rows(folder)] == [r["loss"] for r in rows(tmp_path / "whole")]


def test_interrupting_leaves_a_run_to_resume(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "gncadeq.cli", "train", "digits",
               "--levels", "4,6", "--epochs", "200", "--out", str(tmp_path / "run"),
               "--data-root", str(tmp_path / "data")]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A background job ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 600
    try:
        while not list(checkpoints.glob("*.ckpt")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.2)
        assert list(checkpoints.glob("*.ckpt"))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "--resume" in output
    assert "Traceback" not in output
    assert list(checkpoints.glob("*.ckpt"))
    ImageClassifier.from_pretrained(str(tmp_path / "run" / "model.safetensors"))


def test_augmented_images_stay_images():
    from gncadeq.training.augment import random_affine

    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 8:20, 10:18] = 1.0
    out = random_affine(images, seed=3)
    assert not torch.equal(out, images)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    area = out.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert bool(((area > 0.7) & (area < 1.4)).all())
    assert torch.equal(random_affine(images, 3, 0.0, 0.0, 0.0), images)


def test_same_seed_same_run(tmp_path):
    models = [train(tiny(tmp_path, n, epochs=1), progress=False)[0] for n in ("a", "b")]
    for a, b in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "phantom", "phantom_steps": 3},
        {"gradient": "one_step", "solver": "anderson", "start": "normal"},
        {"dynamics": "nca", "gradient": "bptt", "nca_steps": 8, "fire_rate": 0.5},
        {"injection": "additive", "contraction": None, "solver": "torchdeq:anderson"},
        {"update": "residual", "contraction": None, "solver": "broyden", "optimizer": "sgd",
         "schedule": "constant", "standardize": False, "clip": None, "living_threshold": None},
        {"validation": 200, "augment": True},
        {"crop": 0.5},
        {"warm_start": True},
    ],
)  # fmt: skip
def test_every_way_to_train(tmp_path, options):
    _, result = train(tiny(tmp_path, epochs=1, **options), progress=False)
    assert len(result.label) == 360
    last = rows(tmp_path / "run")[-1]
    assert float(last["loss"]) < 2.6
    assert bool(last["validation_accuracy"]) == ("validation" in options)


def test_warm_starts_spare_solver_steps(tmp_path):
    """The same learning from fewer steps, once every image has an equilibrium to start from."""
    options = {"epochs": 6, "tol": 1e-3, "lr": 2e-3, "schedule": "constant"}
    last = {}
    for warm in (False, True):
        train(tiny(tmp_path, f"warm{warm}", warm_start=warm, **options), progress=False)
        last[warm] = rows(tmp_path / f"warm{warm}")[-1]
    assert float(last[True]["solver_steps"]) < float(last[False]["solver_steps"]) - 1
    assert abs(float(last[True]["loss"]) - float(last[False]["loss"])) < 0.02


def test_warm_starts_keep_within_their_memory():
    from gncadeq.training.warm import WarmStarts

    warm = WarmStarts(megabytes=100e-6)
    index, count = torch.arange(3), torch.tensor([4, 4, 4])
    z = torch.ones(12, 4)
    warm.keep(index, count, z)
    assert warm.nbytes == 96
    start = warm.start(index, count, torch.zeros(12, 4))
    assert start[:12].sum(1).tolist() == [4.0] * 12
    warm.keep(torch.tensor([9]), torch.tensor([1]), torch.ones(1, 4))
    assert warm.start(torch.tensor([9]), torch.tensor([1]), torch.zeros(1, 4)).sum() == 0
    z[0] = float("nan")
    warm.keep(index, count, 2 * z)  # a state that isn't finite is no start
    assert float(warm.start(index, count, torch.zeros(12, 4))[0].sum()) == 4.0


def test_nan_stops_the_run_with_its_cause(tmp_path):
    with pytest.raises(FloatingPointError, match=r"have exploded: lower 'lr'"):
        train(tiny(tmp_path, epochs=1, optimizer="sgd", lr=1e30, clip=None,
                   schedule="constant"), progress=False)  # fmt: skip


def test_an_infinite_gradient_stops_the_run_before_weights_are_nan(tmp_path, monkeypatch):
    """The loss is finite, its gradient isn't: what the root of zero does."""
    from gncadeq.training import task

    model = {}

    def step(self, data, _):
        model["it"] = self.model
        logits = self.model(data.x, data.edge_index, data.edge_attr, batch=data.batch)
        loss = logits.square().mean() + (0.0 * logits).sum().sqrt()
        return {"loss": loss}

    monkeypatch.setattr(task.PixelClassification, "training_step", step)
    with pytest.raises(FloatingPointError, match=r"finite gradients .* in step 0"):
        train(tiny(tmp_path, epochs=1), progress=False)
    assert all(bool(p.isfinite().all()) for p in model["it"].parameters())


def test_a_finished_run_is_extended_by_more_epochs(tmp_path, monkeypatch):
    """The rate goes on as in a run of the new length; with a constant one the result is its."""
    from gncadeq.training import task

    rates = []
    step = task.PixelClassification.training_step

    def watch(self, data, index):
        rates.append(self.optimizers().param_groups[0]["lr"])
        return step(self, data, index)

    monkeypatch.setattr(task.PixelClassification, "training_step", watch)
    for schedule in ("constant", "one_cycle"):
        found = {}
        for name, lengths in (("whole", [3]), ("longer", [1, 2, 3])):
            rates.clear()
            for epochs in lengths:
                config = tiny(tmp_path, f"{schedule}-{name}", epochs=epochs, schedule=schedule)
                model, _ = train(config, resume=epochs > lengths[0], progress=False)
            found[name] = (model.state_dict(), list(rates))
        (whole, expected), (longer, seen) = found["whole"], found["longer"]
        assert len(seen) == len(expected) == 15  # five batches an epoch
        assert seen[10:] == expected[10:]
        if schedule == "constant":
            assert all(torch.equal(a, b) for a, b in zip(whole.values(), longer.values()))  # noqa: B905
        assert model.card["extended_from"] == [1, 2]
        assert [int(row["epoch"]) for row in rows(tmp_path / f"{schedule}-longer")] == [0, 1, 2]


def test_resume_refuses_other_options_and_missing_runs(tmp_path):
    train(tiny(tmp_path, epochs=2), progress=False)
    with pytest.raises(ValueError, match=r"more epochs than its 2 to extend it \(got other epochs"):
        train(tiny(tmp_path, epochs=1), resume=True, progress=False)
    with pytest.raises(ValueError, match="got other channels"):
        train(tiny(tmp_path, epochs=3, channels=8), resume=True, progress=False)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        train(tiny(tmp_path, "nothing"), resume=True, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "'epochs' to be"),
        ({"gradient": "bptt"}, "dynamics='nca'"),
        ({"dynamics": "nca"}, "gradient='bptt'"),
        ({"batch_size": 1}, "at least 2"),
        ({"validation": -1}, "validation"),
        ({"crop": 2.0}, "crop"),
        ({"crop": 0.5, "warm_start": True}, "the same images in every epoch"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"schedule": "cosine"}, "one_cycle"),
        ({"train_limit": 0}, "train_limit"),
        ({"fire_rate": 0.0}, "fire_rate"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_the_essays_recipe_is_the_essays():
    config = TrainConfig.essay()
    assert (config.optimizer, config.lr, config.momentum, config.epochs) == ("sgd", 5e-3, 0.9, 10)
    assert (config.start, config.solver, config.update) == ("normal", "broyden", "residual")
    assert config.living_threshold is None
