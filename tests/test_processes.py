"""Several processes learn what one learns."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, GCNConv, global_mean_pool

from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.files.checkpoints import Checkpoints
from gncadeq.training import TrainConfig
from gncadeq.training.data import EpochBatches
from gncadeq.training.processes import Processes, gathered, launch, stop_together
from gncadeq.training.run import fit, train
from gncadeq.training.synced_norm import SyncedBatchNorm1d
from gncadeq.transforms import ImageToGraph

EXACT = {"tol": 1e-13, "max_steps": 500}


class ConvNet(nn.Module):
    """A graph classifier of an equilibrium with any conv."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.deq = GraphDEQ.from_conv(conv, 1, solver="picard", on_failure="raise", **EXACT)
        self.linear = nn.Linear(8, 10)

    def forward(self, data):
        z, solution = self.deq(data.x, data.edge_index, batch=data.batch, return_solution=True)
        return self.linear(global_mean_pool(z, data.batch)), solution


class PixelNet(nn.Module):
    """The classifier that ``gncadeq train`` trains, batch statistics included."""

    def __init__(self, synced: bool) -> None:
        super().__init__()
        self.net = PixelGraphClassifier(
            channels=8, hidden_channels=8, contraction=0.9,
            deq={"solver": "picard", "on_failure": "raise", **EXACT},
        )  # fmt: skip
        if synced:
            self.net.readout.norm = SyncedBatchNorm1d.of(self.net.readout.norm)

    def forward(self, data):
        graph = (data.x, data.edge_index, data.edge_attr, data.batch)
        return self.net(*graph, return_solution=True)


def models(synced: bool) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "classifier": PixelNet(synced).double(),
        "GCNConv": ConvNet(GCNConv(8, 8)).double(),
        "GATConv": ConvNet(GATConv(8, 8)).double(),
    }


def graphs() -> list:
    """Images of different sizes and brightness: one process has the slow ones, or the fast."""
    torch.manual_seed(1)
    to_graph, out = ImageToGraph(living_threshold=0.3), []
    for i, size in enumerate((3, 4, 6, 9, 5, 12, 7, 8)):
        data = to_graph(torch.rand(1, size, size, dtype=torch.double))
        data.x = data.x * (1.0, 100.0)[i % 2]
        data.y = torch.tensor([i])
        out.append(data)
    return out


def learn(model: nn.Module, data: Batch) -> torch.Tensor:
    logits, solution = model(data)
    F.cross_entropy(logits, data.y).backward()
    return solution.num_steps


def config(tmp_path: Path, name: str, **options) -> TrainConfig:
    given = {
        "dataset": "digits", "channels": 6, "hidden_channels": 16, "train_limit": 128,
        "batch_size": 32, "epochs": 2, "validation": 21, "augment": True, "crop": 0.3, **options,
    }  # fmt: skip
    return TrainConfig(data_root=str(tmp_path / "data"), out=str(tmp_path / name), **given)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def in_two_processes(folder: str) -> None:
    """What each of the two does; the files in ``folder`` say what came of it."""
    dist.init_process_group("gloo")
    here, result = Processes.here(), {}
    mine = graphs()[here.rank :: here.count]
    for name, model in models(synced=True).items():
        steps = learn(nn.parallel.DistributedDataParallel(model), Batch.from_data_list(mine))
        result[name] = {n: p.grad for n, p in model.named_parameters()}
        result[f"{name} steps"] = steps
        result[f"{name} buffers"] = dict(model.named_buffers())
    result["threads"] = torch.get_num_threads()
    result["gathered"] = gathered(torch.tensor([float(here.rank), 7.0]))
    stop_together(None, torch.device("cpu"))
    synced = GraphDEQ.from_conv(GCNConv(8, 8), 1, norm=nn.SyncBatchNorm(8)).double()
    with pytest.raises(TypeError, match=r"doesn't wait for other processes .*2 of them"):
        synced(mine[0].x, mine[0].edge_index)
    try:
        stop_together("rank 1 saw NaN" if here.rank == 1 else None, torch.device("cpu"))
    except FloatingPointError as error:
        result["stopped"] = str(error)
    torch.save(result, Path(folder) / f"{here.rank}.pt")
    fit(config(Path(folder), "two"), progress=False)
    if here.rank == 1:
        raise ValueError("Expected the error of a process in the one that launched it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.raises(ValueError, match="in the one that launched it"):
        launch(in_two_processes, 2, str(folder))
    return folder


def test_processes_share_the_threads(folder):
    threads = [torch.load(folder / f"{rank}.pt")["threads"] for rank in (0, 1)]
    assert threads == [max(1, torch.get_num_threads() // 2)] * 2


def test_two_processes_have_the_gradient_of_one(folder):
    results = [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
    whole = Batch.from_data_list([*graphs()[::2], *graphs()[1::2]])
    for name, model in models(synced=False).items():
        steps = learn(model, whole)
        assert torch.equal(torch.cat([r[f"{name} steps"] for r in results]), steps)
        assert int(steps.max()) > int(steps.min()) * (2 if name == "classifier" else 1)
        for result in results:
            for parameter, value in model.named_parameters():
                torch.testing.assert_close(
                    result[name][parameter], value.grad, rtol=1e-10, atol=1e-12, msg=parameter
                )
            for buffer, value in model.named_buffers():
                torch.testing.assert_close(result[f"{name} buffers"][buffer], value)
    for result in results:
        assert result["gathered"].tolist() == [[0.0, 7.0], [1.0, 7.0]]
        assert result["stopped"] == "rank 1 saw NaN"


def test_a_run_of_two_processes_is_that_of_one(folder):
    """The same weights, log and files."""
    fit(config(folder, "one"), progress=False)
    one, two = (load_file(folder / n / "model.safetensors") for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    logs = [rows(folder / name) for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 2
    for a, b in zip(*logs, strict=True):
        for name in ("loss", "accuracy", "residual", "solver_steps", "validation_accuracy"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-2), name
    files = [sorted(p.name for p in (folder / name).rglob("*")) for name in ("one", "two")]
    assert files[0] == files[1]


def test_shares_make_up_the_batches():
    index, seen = torch.arange(50), []
    for epoch in range(2):
        whole = EpochBatches(index, 12, seed=3)
        whole.set_epoch(epoch)
        batches = [batch for batch, _ in whole]
        for batch in batches:
            shares = [Processes(rank, 3).share(batch) for rank in range(3)]
            assert torch.equal(torch.cat(shares).sort().values, batch.sort().values)
        seen.append(torch.cat(batches))
    assert not torch.equal(*seen)
    assert len(seen[0].unique()) == 48


def test_an_image_stays_with_its_process_for_its_warm_start():
    owner: dict[int, int] = {}
    for epoch in range(4):
        sampler = EpochBatches(torch.arange(50), 12, seed=3, groups=3)
        sampler.set_epoch(epoch)
        for batch, _ in sampler:
            assert len(batch.unique()) == 12
            for rank in range(3):
                for image in Processes(rank, 3).share(batch).tolist():
                    assert owner.setdefault(image, rank) == rank


@pytest.mark.parametrize("distortion", ["random_affine", "random_window"])
def test_distortions_of_shares_are_those_of_the_batch(distortion):
    from gncadeq.training import augment

    images = torch.rand(6, 1, 9, 9)
    distort = getattr(augment, distortion)
    options = {"share": 0.7} if distortion == "random_window" else {}
    whole = distort(images, seed=5, **options)
    assert not torch.equal(whole, images)
    for rank in range(2):
        here = Processes(rank, 2)
        part = distort(here.share(images), seed=5, among=here, **options)
        torch.testing.assert_close(part, here.share(whole), rtol=0, atol=1e-6)


def test_what_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"3 processes share equally \(got 32 images.*such as 33"):
        config(tmp_path, "run", devices=3)
    with pytest.raises(ValueError, match="'devices' to be a whole number of at least 1"):
        config(tmp_path, "run", devices=0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Processes.here() == Processes(0, 4, 2)
    with pytest.raises(ValueError, match="as torchrun says, 2"):
        train(config(tmp_path, "run", devices=4), progress=False)
    assert not (tmp_path / "run").exists()


def command(folder: Path, *words: str) -> list[str]:
    return ["-W", "ignore", "-m", "gncadeq.cli", "train", "digits", "--recipe", "conv",
            "--channels", "6", "--data-root", str(folder / "data"), "--out", str(folder / "run"),
            *words]  # fmt: skip


@pytest.mark.slow
def test_nan_stops_all_processes_with_its_cause(tmp_path):
    words = command(tmp_path, "--optimizer", "sgd", "--lr", "1e30", "--clip", "none",
                    "--schedule", "constant", "--devices", "2")  # fmt: skip
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "have exploded: lower 'lr'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_interrupting_ends_all_processes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, *command(tmp_path, "--epochs", "200", "--devices", "2")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    checkpoints, deadline = tmp_path / "run" / "checkpoints", time.monotonic() + 300
    try:
        while not list(checkpoints.glob("*.ckpt")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.2)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = workers.read_text().split() if workers.exists() else []
        process.send_signal(signal.SIGINT)  # to the first one alone
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "--resume" in output
    assert "Traceback" not in output
    deadline = time.monotonic() + 30  # the tracker of resources goes a moment later
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_resumes(tmp_path):
    half = config(tmp_path, "two", devices=2, epochs=3, augment=False, crop=0.0, warm_start=True)
    with pytest.raises(RuntimeError, match=r"process \[1\] killed"):
        launch(fit_and_die, 2, half)
    assert len(rows(tmp_path / "two")) == 1
    resumed, _ = train(half, resume=True, progress=False)
    whole, _ = train(config(tmp_path, "whole", devices=2, epochs=3, augment=False, crop=0.0,
                  warm_start=True),
                     progress=False)  # fmt: skip
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
    assert len(rows(tmp_path / "two")) == 3


def test_processes_that_resume_elsewhere_are_refused(tmp_path, monkeypatch):
    """A machine that doesn't see the checkpoint would begin at the start."""
    from gncadeq.training import task

    monkeypatch.setattr(task, "gathered", lambda value: torch.stack([value, value - 2]))
    trainer, module = SimpleNamespace(global_step=2), SimpleNamespace(device="cpu")
    log = task.RunLog(tmp_path, {}, Checkpoints(tmp_path, ""), None)
    with pytest.raises(ValueError, match=r"one step \(got \[2, 0\]\).*every machine sees"):
        log.on_train_start(trainer, module)
    log.on_train_end()


def fit_and_die(half: TrainConfig) -> None:
    """The second process is killed in the second epoch, between two collective calls."""
    from gncadeq.training import task

    step = task.PixelClassification.training_step

    def die(self, data, i):
        if self.current_epoch == 1 and i == 1 and self.global_rank == 1:
            os.kill(os.getpid(), 9)
        return step(self, data, i)

    task.PixelClassification.training_step = die
    fit(half, progress=False)


@pytest.mark.slow
def test_torchrun(tmp_path):
    words = command(tmp_path, "--epochs", "2")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *words[2:]], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The run is in") == 1
    assert len(rows(tmp_path / "run")) == 2
