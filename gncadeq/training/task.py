"""The Lightning side of training; imported only when training starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from torch_geometric.data import Batch

from gncadeq.dynamics import Status
from gncadeq.files.checkpoints import Checkpoints, read_checkpoint, write_checkpoint
from gncadeq.models import ImageClassifier
from gncadeq.training.config import TrainConfig
from gncadeq.training.data import EpochBatches
from gncadeq.training.losses import check_gradients
from gncadeq.training.processes import gathered, stop_together
from gncadeq.training.step_log import StepLog
from gncadeq.training.stopping import StopSignals
from gncadeq.training.warm import WarmStarts

_COLUMNS = (
    "epoch", "step", "loss", "accuracy", "residual", "solver_steps", "converged",
    "validation_accuracy", "seconds",
)  # fmt: skip


class PixelClassification(L.LightningModule):
    """Cross-entropy of a :class:`ImageClassifier`."""

    def __init__(self, model: ImageClassifier, config: TrainConfig, total_steps: int) -> None:
        super().__init__()
        self.model, self.config, self.total_steps = model, config, total_steps
        self.warm = WarmStarts(config.warm_start_mb) if config.warm_start else None
        self._epoch, self._graphs = -1, 0
        self._sums: dict[str, Tensor | float] = {}

    def training_step(self, data: Batch, _: int) -> dict[str, Tensor]:
        """The loss of a batch; stops the run with the cause if it isn't a number."""
        # Randomness depends on seed and step alone, so a resumed run repeats it. (Warm starts are
        # not kept in checkpoints: a resumed run begins with cold ones, and differs by rounding.)
        generator = torch.Generator(data.x.device)
        # Every process draws its own starts and update masks.
        own = self.global_rank << 40
        generator.manual_seed(self.config.seed * 1_000_003 + self.global_step + own)
        z0 = count = None
        if self.warm is not None:
            count = data.ptr.diff()
            zeros = data.x.new_zeros(data.num_nodes, self.config.channels)
            z0 = self.warm.start(data.image, count, zeros)
        logits, solution = self.model(
            data.x, data.edge_index, data.edge_attr, batch=data.batch, z0=z0,
            batch_size=data.num_graphs, generator=generator, return_solution=True,
        )  # fmt: skip
        if self.warm is not None and count is not None:
            self.warm.keep(data.image, count, solution.state)
        loss = F.cross_entropy(logits, data.y)
        cause = None if bool(loss.isfinite()) else self._cause(data, solution.status)
        stop_together(cause, loss.device)
        row = {
            "loss": loss.detach(),
            "accuracy": (logits.argmax(1) == data.y).float().mean(),
            "residual": solution.residual.max(),
            "solver_steps": solution.num_steps.float().mean(),
            "converged": (solution.status == Status.CONVERGED).float().mean(),
        }
        self._show(row, data.num_graphs)
        return {**row, "loss": loss}

    def _show(self, row: dict[str, Tensor], graphs: int) -> None:
        """Show the means of the epoch so far: those of a single batch jump, and are no result."""
        if self._epoch != self.current_epoch:
            self._epoch, self._graphs, self._sums = self.current_epoch, 0, {}
        self._graphs += graphs
        for name, of in (("loss", "loss"), ("train_accuracy", "accuracy")):
            self._sums[name] = self._sums.get(name, 0.0) + row[of] * graphs
        means = {name: total / self._graphs for name, total in self._sums.items()}
        self.log_dict(means, prog_bar=True, on_epoch=False, batch_size=graphs)

    def _cause(self, data: Batch, status: Tensor) -> str:
        bad = [n for n, p in self.model.named_parameters() if not bool((p.abs() < 1e6).all())]
        if bad:
            cause = f"the parameters {bad} have exploded: lower 'lr' or set 'clip'"
        elif not bool(data.x.isfinite().all()):
            cause = "the input holds NaN or infinity"
        else:
            count = int((status == Status.NON_FINITE).sum())
            cause = (
                f"the solve of {count} of {len(status)} graphs ended in NaN or infinity: bound "
                "the cell (contraction=0.95) or try solver='picard'"
            )
        return f"Expected a finite loss (got NaN or infinity in step {self.global_step}); {cause}"

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Stop the run before an update that would turn weights into NaN."""
        check_gradients(self.model, self.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep of the schedule where it was: its course is that of this run's length."""
        states = checkpoint["lr_schedulers"]
        checkpoint["lr_schedulers"] = [{"last_epoch": state["last_epoch"]} for state in states]

    def on_train_start(self) -> None:
        """Set the rate of the first step, which a longer run has changed."""
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            with warnings.catch_warnings():  # that the rate isn't the last step's, on purpose
                warnings.filterwarnings("ignore", message="To get the last learning rate")
                rates = schedule.get_lr()
            for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def configure_optimizers(self) -> Any:
        """Adam or SGD, with a one-cycle or a constant rate."""
        c = self.config
        parameters: Any = self.model.parameters()
        optimizer: torch.optim.Optimizer
        if c.optimizer == "adamw":
            parameters = list(parameters)
            groups = [
                {"params": [p for p in parameters if p.dim() > 1], "weight_decay": c.weight_decay},
                {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=(0.9, 0.99))
        elif c.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameters, lr=c.lr, momentum=c.momentum)
        else:
            optimizer = torch.optim.Adam(parameters, lr=c.lr)
        if c.schedule == "constant":
            return optimizer
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, c.lr, total_steps=self.total_steps + 1, pct_start=0.15,
            cycle_momentum=False,
        )  # fmt: skip
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": cycle, "interval": "step"},
        }


class CheckpointFiles(CheckpointIO):
    """Lightning's checkpoints in the files of :mod:`gncadeq.files.checkpoints`.

    Args:
        run: The id of the run.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, atomically."""
        write_checkpoint(path, checkpoint, self.run)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of this run; no code is run.

        Raises:
            ValueError: If it is damaged or of another run.
        """
        state: dict[str, Any] = read_checkpoint(path, self.run)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class RunLog(Callback):
    """Keeps ``metrics.csv``, ``model.safetensors`` and the checkpoints up to date.

    A checkpoint is written after every epoch, and when SIGINT or SIGTERM has arrived: then after
    the training step that the run is in, where it ends.

    Args:
        folder: The run's folder; the first of several processes writes there.
        card: What is known of the run.
        checkpoints: Where checkpoints go.
        sampler: The source of the batches, which goes on where the run was interrupted.
        validate: Returns the number of right answers and of questions, of this process's share.
    """

    def __init__(
        self,
        folder: Path,
        card: dict[str, Any],
        checkpoints: Checkpoints,
        sampler: EpochBatches,
        validate: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.metrics = StepLog(folder / "metrics.csv", _COLUMNS, 50, self._average)
        self.weights = folder / "model.safetensors"
        self.card, self.validate = card, validate
        self.checkpoints, self.sampler, self.stop = checkpoints, sampler, StopSignals()
        self.saved = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Read the rows of an interrupted run up to the step it resumes at.

        Raises:
            ValueError: If the processes don't resume at one step.
        """
        self.stop.install()  # after Lightning, whose own handlers don't wait for a step to end
        steps = gathered(torch.tensor(trainer.global_step, device=module.device)).tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"Expected all processes to resume at one step (got {steps}). 'out' must be a "
                "folder that every machine sees"
            )
        self.sampler.skip = trainer.global_step % len(self.sampler)
        self.metrics.read(trainer.global_step)

    def on_train_end(self, *_: Any) -> None:
        """Give the signals back, before Lightning does the same."""
        self.stop.restore()

    def on_exception(self, *_: Any) -> None:
        """Give the signals back."""
        self.stop.restore()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Average and keep the figures of some steps; save and end where that is asked for.

        Raises:
            KeyboardInterrupt: If a signal has arrived.
        """
        last = trainer.is_last_batch
        # A last batch ends the epoch first, and is saved there.
        asked = not last and self._asked(module.device)
        figures = {name: value.detach() for name, value in outputs.items()}
        self.metrics.add(trainer.global_step, figures, last or asked, epoch=trainer.current_epoch)
        if asked:
            self._save(trainer, module, trainer.current_epoch)
            raise self.interruption()

    def _asked(self, device: torch.device) -> bool:
        """Whether a signal has reached one of the processes."""
        noted = torch.tensor(self.stop.received is not None, device=device)
        return bool(gathered(noted).any())

    @staticmethod
    def _average(name: str, steps: list[Tensor]) -> float:
        """The mean over the steps; of a step in all processes, the largest residual or the mean."""
        each = gathered(torch.stack(steps))
        step = each.amax(0) if name == "residual" else each.mean(0)
        return float(step.cpu().double().mean())

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the log, the weights and a checkpoint, each by way of a temporary file."""
        if self.validate is not None:
            right, count = gathered(torch.tensor(self.validate(), device=module.device)).sum(0)
            accuracy = self.metrics.rows[-1]["validation_accuracy"] = float(right / count)
            module.log("val_accuracy", accuracy, prog_bar=True)
        self._save(trainer, module, trainer.current_epoch + 1)
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and self._asked(module.device):
            raise self.interruption()

    def interruption(self) -> KeyboardInterrupt:
        """The exception of an interrupted run, which says what is saved."""
        step = f" and saved at training step {self.saved}" if self.saved else ""
        return self.stop.error(f"Interrupted{step}")

    def _save(self, trainer: L.Trainer, module: L.LightningModule, epochs: int) -> None:
        if trainer.is_global_zero:
            self.metrics.write()
            self.save_weights(module.model, epochs)
        trainer.save_checkpoint(self.checkpoints.path(trainer.global_step))  # by all processes
        if trainer.is_global_zero:
            self.checkpoints.remove_old(trainer.global_step)
        self.saved = trainer.global_step

    def save_weights(self, model: ImageClassifier, epochs: int) -> None:
        """Write the weights after so many epochs."""
        model.save_pretrained(str(self.weights), {**self.card, "epochs_done": epochs})
