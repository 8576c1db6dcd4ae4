"""Ending a run between two training steps when it is asked to by a signal."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

_AGAIN = 1.0  # seconds; a launcher may send a second signal right after the terminal's


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


class StopSignals:
    """Notes SIGINT (Ctrl-C) and SIGTERM, so that a run can end after the step that it is in.

    A second signal, more than a second later, ends the run at once. In other threads than the main
    one, which get no signals, nothing is noted.

    Attributes:
        received: The signal, or ``None``.

    Example:
        >>> with StopSignals() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(stop.received.name)
        SIGTERM
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._when = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def install(self) -> None:
        """Handle the signals."""
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(which) is not signal.SIG_IGN:  # as under nohup
                    self._before[which] = signal.signal(which, self._note) or signal.SIG_DFL

    def restore(self) -> None:
        """Restore the handlers that were there before."""
        for which, handler in self._before.items():
            signal.signal(which, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and time.monotonic() - self._when > _AGAIN:
            raise self.error()
        if self.received is None:
            self.received, self._when = signal.Signals(number), time.monotonic()

    def error(self, message: str = "") -> KeyboardInterrupt:
        """The exception that belongs to the signal."""
        kind = Terminated if self.received is signal.SIGTERM else KeyboardInterrupt
        return kind(message) if message else kind()


class Steps(ABC):
    """A training of one cell by one optimiser that is counted in steps.

    Attributes:
        cell: What is trained.
        optimizer: What trains it.
        step: Training steps done.
    """

    cell: nn.Module
    optimizer: Optimizer
    step: int

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """One step of training; returns its figures.

        Raises:
            FloatingPointError: If a state, the loss or a gradient is not finite.
        """

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            "step": self.step, "cell": self.cell.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, to the same result."""
        self.step = state["step"]
        self.cell.load_state_dict(state["cell"])
        self.optimizer.load_state_dict(state["optimizer"])


def run_steps(
    run: Steps, total: int, save_every: int, save: Callable[[], None] | None
) -> Iterator[tuple[dict[str, float], bool]]:
    """Train, save every so many steps and at the end, and save and stop when a signal arrives.

    Args:
        run: The training, which may have done steps already.
        total: How many steps it has in all.
        save_every: Steps between two saves.
        save: Saves the training; ``None`` leaves signals alone, since nothing would be kept.

    Yields:
        The figures of a step, and whether the training is saved next.

    Raises:
        KeyboardInterrupt: After the training was saved because of a signal.
    """
    stop = StopSignals()
    with stop if save is not None else nullcontext():
        while run.step < total:
            figures = run.train_step()
            done, asked = run.step == total, stop.received is not None
            keep = save is not None and (done or asked or run.step % save_every == 0)
            yield figures, keep
            if save is not None and keep:
                save()
            if asked and not done:
                raise stop.error(f"Interrupted and saved at training step {run.step}")
