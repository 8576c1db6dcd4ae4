"""Ending a run between two training steps when it is asked to by a signal."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

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
        """Take the signals."""
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(which) is not signal.SIG_IGN:  # as under nohup
                    self._before[which] = signal.signal(which, self._note) or signal.SIG_DFL

    def restore(self) -> None:
        """Give the signals back."""
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


__all__ = ["StopSignals", "Terminated"]
