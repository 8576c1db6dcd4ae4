"""Runs that are killed at random moments lose little, and end as they would have ended.

``GNCADEQ_KILLS=50 pytest tests/test_kill.py`` (``make fuzz``) kills so many times.
"""

from __future__ import annotations

import csv
import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from gncadeq.files.checkpoints import Checkpoints
from gncadeq.files.tensors import read_tensors
from gncadeq.training import GrowConfig, TrainConfig
from gncadeq.training.grow import Growth, grow
from gncadeq.training.run_config import run_id
from gncadeq.training.targets import picture_target
from gncadeq.training.textures import TextureConfig, TextureTraining, train_texture

KILLS = int(os.environ.get("GNCADEQ_KILLS", "3"))
LIMIT = 300.0  # seconds that a child may take
STEPS = {"grow": 9, "texture": 8, "train": 12}
SAVED = {"grow": 2, "texture": 2, "train": 6}  # training steps between checkpoints
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gncadeq.training.run", "gncadeq.training.task", "test_kill"])


def config_of(folder: Path):
    picture = {"size": None, "channels": 5, "hidden_channels": 8, "min_rollout": 2}
    return GrowConfig(
        "flag", out=str(folder), steps=STEPS["grow"], max_rollout=4, pool_size=4, batch_size=2,
        settle=2, save_every=SAVED["grow"], **picture,
    )  # fmt: skip


def run_grow(folder: Path, resume: bool) -> None:
    rgba = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))
    grow(config_of(folder), picture_target(rgba), resume=resume, progress=False)


def run_texture(folder: Path, resume: bool) -> None:
    from gncadeq.files.weights import save_pretrained

    target = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    config = TextureConfig(
        4, size=20, steps=STEPS["texture"], min_rollout=2, max_rollout=4, pool_size=4, batch_size=2
    )
    cell = train_texture(target, config, False, folder / "checkpoints", SAVED["texture"])
    save_pretrained(cell, folder / "model.safetensors")


def run_train(folder: Path, resume: bool) -> None:
    from gncadeq.training.run import train

    config = TrainConfig(
        "digits", str(folder.parent), str(folder), epochs=2, channels=4, hidden_channels=8,
        batch_size=16, train_limit=96,
    )  # fmt: skip
    train(config, resume=resume, progress=False)


RUNS = {"grow": run_grow, "texture": run_texture, "train": run_train}


def child(kind: str, folder: Path, resume: bool, done) -> None:
    """Run in another process, which notes in ``done`` how many training steps it has done."""
    from gncadeq.training.task import PixelClassification

    torch.set_num_threads(1)
    for owner, name in ((Growth, "train_step"), (TextureTraining, "train_step")):
        note_steps(owner, name, done, lambda self: self.step)
    note_steps(PixelClassification, "on_train_batch_start", done, lambda self: self.global_step)
    try:
        RUNS[kind](folder, resume)
    except KeyboardInterrupt as error:
        raise SystemExit(77 if str(error) else 78) from None


def note_steps(owner, name, done, step):
    method = getattr(owner, name)

    def noting(self, *arguments):
        result = method(self, *arguments)
        done.value = step(self)
        return result

    setattr(owner, name, noting)


def begin(kind, folder):
    done = CONTEXT.Value("i", -1)
    resume = (folder / "config.json").exists()
    process = CONTEXT.Process(target=child, args=(kind, folder, resume, done))
    process.start()
    process.done = done  # which must live until the child has it
    return process, done


def wait(process):
    process.join(LIMIT)
    assert not process.is_alive()
    return process.exitcode


def saved_step(kind, folder):
    """The training step of the newest checkpoint, which must be intact."""
    place = folder / "checkpoints"
    if kind == "texture":
        paths = Checkpoints(place, "").paths()
        return int(paths[0].stem[5:]) if paths else 0
    path = Checkpoints(place, run_id(folder / "config.json")).newest_path()
    return int(path.stem[5:]) if path else 0


def kill(kind, folder, draw):
    """Start or resume a run and kill it; returns its exit status and the training steps lost."""
    process, done = begin(kind, folder)
    moment, end = draw.randint(-1, STEPS[kind] - 1), time.monotonic() + LIMIT
    while done.value < moment and process.is_alive():
        assert time.monotonic() < end
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.03)
    which = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    if process.is_alive():
        os.kill(process.pid, which)
    code = wait(process)
    assert code in (0, 77, 78, -which), (kind, which)
    return code, max(0, done.value - saved_step(kind, folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of runs that nobody killed."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "whole"
            assert wait(begin(kind, folder)[0]) == 0
            made[kind] = read_tensors(folder / "model.safetensors").tensors
        return made[kind]

    return of


def test_killed_at_random_moments(tmp_path, whole, capsys):
    pytest.importorskip("lightning")
    draw, kills, lost = random.Random(0), 0, []
    for number in range(KILLS):
        if kills >= KILLS:
            break
        kind, folder = list(RUNS)[number % 3], tmp_path / str(number) / "run"
        for _ in range(draw.randint(1, 1 + KILLS // 10)):
            code, steps = kill(kind, folder, draw)
            kills += 1
            # A signal that was noted in time loses nothing.
            assert steps <= (0 if code in (0, 77) else SAVED[kind]), (kind, code)
            lost.append(steps)
            if code == 0 or kills >= KILLS:
                break
        assert wait(begin(kind, folder)[0]) == 0
        assert not [p for p in folder.rglob("*") if p.suffix in (".tmp", ".lock", ".unused")]
        found = read_tensors(folder / "model.safetensors").tensors
        assert all(torch.equal(found[name], value) for name, value in whole(kind).items())
        assert len(list((folder / "checkpoints").iterdir())) <= 2
    with capsys.disabled():
        print(f"\n{kills} kills: at most {max(lost)} training steps lost, {sum(lost)} in all")


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    folder = tmp_path / "run"
    process, done = begin("grow", folder)
    while done.value < 1:
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGSTOP)
    for resume in (False, True):
        with pytest.raises(RuntimeError, match=f"got process {process.pid} on"):
            run_grow(folder, resume)
    os.kill(process.pid, signal.SIGKILL)
    wait(process)
    run_grow(folder, (folder / "config.json").exists())
    assert saved_step("grow", folder) == STEPS["grow"]


def limited(folder: Path, most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        run_grow(folder, (folder / "checkpoints").exists())
    except OSError as error:
        raise SystemExit(error.errno) from None


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, whole):
    """The system ends a write in the middle, as a full disk does."""
    folder = tmp_path / "run"
    process, done = begin("grow", folder)
    while done.value < 5:
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    wait(process)
    before = saved_step("grow", folder)
    size = max(p.stat().st_size for p in folder.rglob("*.ckpt"))
    process = CONTEXT.Process(target=limited, args=(folder, size - 1))
    process.start()
    assert wait(process) == errno.EFBIG
    assert saved_step("grow", folder) == before >= 4
    assert not list(folder.rglob("*.tmp"))
    assert wait(begin("grow", folder)[0]) == 0
    found = read_tensors(folder / "model.safetensors").tensors
    assert all(torch.equal(found[name], value) for name, value in whole("grow").items())


@pytest.mark.parametrize("kind", ["grow", "train"])
def test_lost_weights_of_a_finished_run_are_made_from_its_checkpoint(tmp_path, whole, kind):
    folder = tmp_path / "run"
    assert wait(begin(kind, folder)[0]) == 0
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])):
        damage(folder / "model.safetensors")
        assert wait(begin(kind, folder)[0]) == 0
        found = read_tensors(folder / "model.safetensors").tensors
        assert all(torch.equal(found[name], value) for name, value in whole(kind).items())


@pytest.fixture
def interrupts():
    """Python's own handler of interrupts, which shells take from processes in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("kind", "owner", "name", "step", "saved"),
    [
        ("grow", Growth, "train_step", 3, 4),
        ("texture", TextureTraining, "train_step", 4, 5),
        ("train", "PixelClassification", "training_step", 8, 9),  # in the middle of an epoch
        ("train", "PixelClassification", "training_step", 5, 6),  # at the end of one
    ],
)
def test_a_signal_is_obeyed_after_the_step(
    tmp_path, whole, monkeypatch, which, kind, owner, name, step, saved
):
    from gncadeq.training import task
    from gncadeq.training.stopping import Terminated

    owner = getattr(task, owner) if isinstance(owner, str) else owner
    method = getattr(owner, name)

    def signalled(self, *arguments):
        if (self.global_step if kind == "train" else self.step) == step:
            signal.raise_signal(which)
            signal.raise_signal(which)  # a launcher's, right after the terminal's
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, signalled)
    folder, handlers = tmp_path / "run", [signal.getsignal(s) for s in (2, 15)]
    with pytest.raises(KeyboardInterrupt, match=f"saved at training step {saved}$") as caught:
        RUNS[kind](folder, resume=False)
    assert caught.type is (Terminated if which == signal.SIGTERM else KeyboardInterrupt)
    assert [signal.getsignal(s) for s in (2, 15)] == handlers
    assert saved_step(kind, folder) == saved
    monkeypatch.undo()
    RUNS[kind](folder, resume=True)
    assert [signal.getsignal(s) for s in (2, 15)] == handlers
    found = read_tensors(folder / "model.safetensors").tensors
    assert all(torch.equal(found[name], value) for name, value in whole(kind).items())
    if kind != "texture":
        with (folder / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert steps == sorted(set(steps))
        assert saved in steps
        assert steps[-1] == STEPS[kind]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["grow", "texture", "train"])
def test_a_run_that_failed_before_it_saved_does_not_block_the_next(
    tmp_path, whole, monkeypatch, kind, resume
):
    from gncadeq.training import task

    owner, name = {
        "grow": (Growth, "train_step"),
        "texture": (TextureTraining, "train_step"),
        "train": (task.PixelClassification, "training_step"),
    }[kind]

    def fail(*_):
        raise FloatingPointError("Expected a finite loss")

    monkeypatch.setattr(owner, name, fail)
    folder = tmp_path / "run"
    with pytest.raises(FloatingPointError):
        RUNS[kind](folder, resume=False)
    monkeypatch.undo()
    RUNS[kind](folder, resume=resume)
    found = read_tensors(folder / "model.safetensors").tensors
    assert all(torch.equal(found[name], value) for name, value in whole(kind).items())
