"""A training run and its folder."""

from __future__ import annotations

import dataclasses
import logging
import platform
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq import models
from gncadeq.check import import_extra
from gncadeq.datasets import PixelGraphs
from gncadeq.device import usable_device
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.evaluation import Evaluation, evaluate
from gncadeq.files.checkpoints import Checkpoints
from gncadeq.files.csv_rows import read_rows
from gncadeq.files.json_files import write_json
from gncadeq.files.run_lock import run_lock
from gncadeq.models import ImageClassifier
from gncadeq.progress import shows_progress
from gncadeq.training.config import TrainConfig
from gncadeq.training.data import EpochBatches, batch_loader
from gncadeq.training.describe import describe_inputs
from gncadeq.training.processes import Processes, launch
from gncadeq.training.run_config import extended_from, run_id
from gncadeq.training.synced_norm import SyncedBatchNorm1d
from gncadeq.transforms import ImageToGraph


def training_dynamics(config: TrainConfig, model: ImageClassifier) -> GraphDEQ | GraphNCA:
    """The dynamics that a run trains through, around the model's own cell."""
    cell = model.dynamics.cell
    if config.dynamics == "nca":
        return GraphNCA(cell, config.nca_steps, config.fire_rate, start=config.start)
    return GraphDEQ(
        cell,
        solver=config.solver,
        tol=config.tol,
        max_steps=config.max_steps,
        gradient=config.gradient,  # type: ignore[arg-type]
        phantom_steps=config.phantom_steps,
        start=config.start,
        on_failure="ignore",
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("gncadeq", "torch", "torch-geometric", "torchdeq")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def train(
    config: TrainConfig, *, resume: bool = False, progress: bool = True
) -> tuple[ImageClassifier, Evaluation]:
    """Train a classifier and evaluate it on the test set at true equilibrium.

    The run's folder receives ``config.json``, ``checkpoints/`` (of the last two epochs, for
    ``resume``), ``metrics.csv``, ``model.safetensors`` and at the end ``evaluation.json``. Ctrl-C
    and SIGTERM end the run after the training step that it is in, which is saved.

    With ``devices`` above one, so many new processes share every batch; what is learned is the
    same to rounding, but for Gaussian starts, update masks and the order of images with
    ``warm_start``, which are another draw. Started by ``torchrun``, a process takes its share as
    well, and only the first one writes: ``out`` is a folder that every machine sees.

    Args:
        config: What to train.
        resume: Continue an interrupted run in its folder, to the same result, with as many
            processes as one likes; or any run for longer, if ``config`` has more epochs than it
            had.
        progress: Whether to show progress bars.

    Raises:
        KeyboardInterrupt: On Ctrl-C and SIGTERM; the folder can be resumed.
        FileExistsError: If the folder holds a run already and ``resume`` is false.
        FloatingPointError: If the loss is not finite; the message names the cause.
        RuntimeError: If another process writes the run.
        ValueError: If there is no such device, the batches can't be shared equally between the
            processes, or no checkpoint of the run to resume is intact.
    """
    here = Processes.here()
    if usable_device(config.device).index is not None and max(here.count, config.devices) > 1:
        raise ValueError(
            f"Expected a kind of device for several processes, of which each takes one (got "
            f"device={config.device!r}). Use {config.device.partition(':')[0]!r}"
        )
    if here.count > 1 and config.devices not in (1, here.local_count):
        raise ValueError(
            f"Expected 'devices' to be left out, or as torchrun says, {here.local_count} (got "
            f"{config.devices})"
        )
    with run_lock(config.out) if here.rank == 0 else nullcontext():
        return _train(config, here, resume, progress and here.rank == 0)


def _train(
    config: TrainConfig, here: Processes, resume: bool, progress: bool
) -> tuple[ImageClassifier, Evaluation]:
    folder = Path(config.out)
    if here.rank == 0:
        config.check_folder(folder, resume, places=("out", "data_root", "devices", "device"))
    checkpoint = _checkpoints(folder).newest_path() if resume else None
    if here.count == 1 and config.devices > 1:
        launch(fit, config.devices, config, checkpoint, progress)
    else:
        fit(config, checkpoint, progress)
    return _finish(config, progress, write=here.rank == 0)


def _checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", run_id(folder / "config.json"))


def fit(config: TrainConfig, checkpoint: Path | None = None, progress: bool = True) -> None:
    """Train in this process, with those of which :meth:`Processes.here` knows.

    Args:
        config: What to train; the run's folder receives the weights.
        checkpoint: Where to go on.
        progress: Whether to show a progress bar.
    """
    L = import_extra("lightning", "train")
    from lightning.pytorch.callbacks import RichProgressBar

    from gncadeq.training.task import CheckpointFiles, PixelClassification, RunLog

    device = usable_device(config.device)
    here, folder = Processes.here(), Path(config.out)
    progress = shows_progress(progress and here.rank == 0)
    name, arguments = config.architecture()
    to_graph = ImageToGraph(**arguments["transform"])
    train_set = PixelGraphs(config.data_root, config.dataset, True, to_graph)
    index, held_out = _divided(config, len(train_set))
    held_out = here.share(held_out)
    config.check_shares(here.count, len(index))
    torch.manual_seed(config.seed)
    model: ImageClassifier = getattr(models, name)(**arguments)
    solving = model.dynamics
    model.dynamics = training_dynamics(config, model)
    if here.count > 1:
        _share_statistics(model)
    if here.rank == 0:
        config.save(folder / "config.json")  # once nothing is left to refuse
    # A process remembers the equilibria of its own images.
    groups = here.count if config.warm_start else 1
    sampler = EpochBatches(index, config.batch_size, config.seed, groups)
    task = PixelClassification(model, config, config.epochs * len(sampler))
    card: dict[str, Any] = {
        "command": config.command_line(data_root=False), "config": _portable(config),
        "extended_from": extended_from(folder / "config.json"),
    }  # fmt: skip

    def validate() -> tuple[int, int]:
        if not len(held_out):
            return 0, 0
        training, model.dynamics = model.dynamics, solving
        result = evaluate(model, train_set, index=held_out, progress=progress, title="validate")
        model.dynamics = training
        return int(result.right.sum()), len(held_out)

    checkpoints = _checkpoints(folder)
    log = RunLog(folder, card, checkpoints, sampler, validate if config.validation else None)
    callbacks: list[Any] = [log]
    if progress:
        callbacks.append(
            RichProgressBar(refresh_rate=5, leave=True, console_kwargs={"stderr": True})
        )
    with _quiet_lightning():
        trainer = L.Trainer(
            max_epochs=config.epochs, callbacks=callbacks, logger=False,
            plugins=[CheckpointFiles(checkpoints.run)], enable_checkpointing=False,
            enable_model_summary=False, enable_progress_bar=progress,
            gradient_clip_val=config.clip, num_sanity_val_steps=0,
            use_distributed_sampler=False, **_strategy(here, device),
        )  # fmt: skip
        try:
            trainer.fit(
                task, batch_loader(train_set, sampler, config, here),
                ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True,
            )  # fmt: skip
        except SystemExit:  # how Lightning ends after Ctrl-C, with further ones switched off
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise log.interruption() from None
    if here.rank == 0:
        log.save_weights(model, config.epochs)  # a finished run may have lost them
    if log.stop.received is not None:
        raise log.interruption()


def _divided(config: TrainConfig, count: int) -> tuple[Tensor, Tensor]:
    """The numbers of the training images, and of those that are held out."""
    if config.validation >= count:
        raise ValueError(
            f"Expected fewer than {count} 'validation' images (got {config.validation})"
        )
    index = torch.arange(count)
    first = count - config.validation
    return index[:first][: config.train_limit], index[first:]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep what Lightning logs and warns of off the terminal."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _share_statistics(model: ImageClassifier) -> None:
    """Let processes standardise over the batch of all of them."""
    for module in list(model.modules()):
        norm = getattr(module, "norm", None)
        if isinstance(norm, nn.BatchNorm1d):
            module.norm = SyncedBatchNorm1d.of(norm)


def _strategy(here: Processes, device: torch.device) -> dict[str, Any]:
    """What a Lightning trainer is told of the device and the processes."""
    where: dict[str, Any] = {"accelerator": device.type}
    if here.count == 1:
        return {**where, "devices": 1 if device.type == "cpu" else [device.index or 0]}
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    return {
        **where,
        "devices": here.local_count,
        "num_nodes": here.count // here.local_count,
        "strategy": DDPStrategy(cluster_environment=TorchElasticEnvironment()),
    }


def _finish(config: TrainConfig, progress: bool, write: bool) -> tuple[ImageClassifier, Evaluation]:
    """Fold the weights of the last epoch and evaluate them."""
    folder = Path(config.out)
    model = ImageClassifier.from_pretrained(str(folder / "model.safetensors"))
    model.fold()
    model.to(usable_device(config.device))
    test_set = PixelGraphs(config.data_root, config.dataset, False, model.to_graph)
    model.dynamics.on_failure = "ignore"  # the evaluation reports every graph that fails
    result = evaluate(model, test_set, progress=progress, title="test")
    model.dynamics.on_failure = "warn"
    if write:
        seconds = [float(row["seconds"]) for row in read_rows(folder / "metrics.csv")]
        model.card |= {
            "test": result.summary(), "versions": versions(), "epochs_done": config.epochs,
            "training_seconds": seconds[-1] if seconds else 0.0,
        }  # fmt: skip
        train_set = PixelGraphs(config.data_root, config.dataset, True, model.to_graph)
        unseen = train_set.images[-config.validation :] if config.validation else test_set.images
        inputs = describe_inputs(model, train_set, limit=5000, unseen=unseen)
        model.save_pretrained(str(folder / "model.safetensors"), {**model.card, "inputs": inputs})
        write_json(folder / "evaluation.json", model.card)
        model.card["inputs"] = inputs
    return model, result


def _portable(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the folders of this machine."""
    options = dataclasses.asdict(config)
    return {k: v for k, v in options.items() if k not in ("out", "data_root", "devices", "device")}
