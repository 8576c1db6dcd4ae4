"""A training run and its folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import signal
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.evaluation import Evaluation, evaluate
from gncadeq.models import PixelGraphClassifier
from gncadeq.models.pretrained import write_atomically
from gncadeq.training.config import TrainConfig
from gncadeq.training.data import EpochBatches, batch_loader
from gncadeq.transforms import ImageToGraph


def training_dynamics(config: TrainConfig, model: PixelGraphClassifier) -> GraphDEQ | GraphNCA:
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
) -> tuple[PixelGraphClassifier, Evaluation]:
    """Train a classifier and evaluate it on the test set at true equilibrium.

    The run's folder receives ``config.json``, ``checkpoints/`` (of the last epoch, for ``resume``),
    ``metrics.csv``, ``model.safetensors`` and at the end ``evaluation.json``.

    Args:
        config: What to train.
        resume: Continue an interrupted run in its folder, to the same result.
        progress: Whether to show progress bars.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the folder can be resumed.
        FileExistsError: If the folder holds a run already and ``resume`` is false.
        FloatingPointError: If the loss is not finite; the message names the cause.
    """
    try:
        import lightning as L
        from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

        from gncadeq.training.task import PixelClassification, RunLog
    except ImportError as error:
        raise ImportError(
            f"Expected the extra 'train' ({error}). pip install 'gncadeq[train]'"
        ) from error

    folder = Path(config.out)
    checkpoint = _find_checkpoint(folder, config, resume)
    to_graph = ImageToGraph(living_threshold=config.living_threshold)
    train_set = PixelGraphs(config.data_root, config.dataset, True, to_graph)
    test_set = PixelGraphs(config.data_root, config.dataset, False, to_graph)
    index = torch.arange(len(train_set))
    if config.validation >= len(index):
        raise ValueError(
            f"Expected fewer than {len(index)} 'validation' images (got {config.validation})"
        )
    held_out = index[len(index) - config.validation :]
    index = index[: len(index) - config.validation][: config.train_limit]

    torch.manual_seed(config.seed)
    model = PixelGraphClassifier(**config.model_arguments())
    solving = model.dynamics
    model.dynamics = training_dynamics(config, model)
    sampler = EpochBatches(index, config.batch_size, config.seed)
    task = PixelClassification(model, config, config.epochs * len(sampler))
    card: dict[str, Any] = {"command": command_line(config), "config": _portable(config)}

    def validate() -> float:
        training, model.dynamics = model.dynamics, solving
        result = evaluate(model, train_set, index=held_out, progress=progress, title="validate")
        model.dynamics = training
        return result.accuracy

    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    log = RunLog(folder, card, validate if config.validation else None)
    keep = ModelCheckpoint(
        folder / "checkpoints", filename="{epoch:03d}", save_on_train_epoch_end=True
    )
    callbacks: list[Any] = [log, keep]
    if progress:
        callbacks.append(RichProgressBar(refresh_rate=5, console_kwargs={"stderr": True}))
    quiet = logging.getLogger("lightning.pytorch")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = L.Trainer(
            max_epochs=config.epochs, callbacks=callbacks, logger=False,
            enable_model_summary=False, enable_progress_bar=progress,
            gradient_clip_val=config.clip, num_sanity_val_steps=0,
            use_distributed_sampler=False, accelerator=config.accelerator, devices=1,
        )  # fmt: skip
        try:
            trainer.fit(
                task, batch_loader(train_set, sampler, config.augment, config.crop),
                ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True,
            )  # fmt: skip
        except SystemExit:  # how Lightning ends after Ctrl-C, with further ones switched off
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        finally:
            quiet.setLevel(level)
    model.cpu()
    model.dynamics = solving
    model.fold()
    solving.on_failure = "ignore"  # the evaluation reports every graph that fails
    result = evaluate(model, test_set, progress=progress, title="test")
    solving.on_failure = "warn"
    card |= {"test": result.summary(), "versions": versions(), "epochs_done": config.epochs}
    seconds = log.rows[-1]["seconds"] if log.rows else 0.0
    card["training_seconds"] = float(seconds)
    model.save_pretrained(str(folder / "model.safetensors"), card)
    write_atomically(folder / "evaluation.json", json.dumps(card, indent=2).encode())
    return model, result


def _find_checkpoint(folder: Path, config: TrainConfig, resume: bool) -> Path | None:
    config.check_folder(folder, resume, places=("out", "data_root"))
    found = sorted((folder / "checkpoints").glob("*.ckpt"))
    return found[-1] if resume and found else None


def _portable(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the folders of this machine."""
    options = dataclasses.asdict(config)
    return {k: v for k, v in options.items() if k not in ("out", "data_root")}


def command_line(config: TrainConfig) -> str:
    """The command that repeats a run, without its folders."""
    words = ["gncadeq train", config.dataset]
    default = TrainConfig()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("dataset", "data_root", "out") or value == getattr(default, field.name):
            continue
        name = {"living_threshold": "living", "hidden_channels": "hidden"}.get(
            field.name, field.name.replace("_", "-")
        )
        if field.name == "living_threshold" and value is None:
            words.append("--pixels all")
        elif isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        else:
            words.append(f"--{name} {'none' if value is None else value}")
    return " ".join(words)


__all__ = ["command_line", "train", "training_dynamics", "versions"]
