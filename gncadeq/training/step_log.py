"""The log of a training run: averages over some training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from gncadeq.files.csv_rows import read_rows, write_rows


def _mean(_: str, values: Sequence[float]) -> float:
    return fmean(values)


class StepLog:
    """The rows of ``metrics.csv``: averages over some training steps.

    Args:
        path: The file.
        columns: Its columns, ``"step"`` and ``"seconds"`` among them.
        every: A row is complete after so many steps.
        average: Averages the values of a column over the steps of a row.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        every: int,
        average: Callable[[str, Any], float] = _mean,
    ) -> None:
        self.path, self.columns, self.every, self.average = path, columns, every, average
        self.rows: list[dict[str, Any]] = []
        self._values: dict[str, list[Any]] = {}
        self._elapsed, self._began = 0.0, time.perf_counter()

    def read(self, step: int) -> None:
        """Keep the rows of an interrupted run up to a checkpoint; the clock goes on from there."""
        rows = read_rows(self.path) if self.path.is_file() else []
        self.rows = [row for row in rows if int(row["step"]) <= step]
        self._elapsed = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        self._began = time.perf_counter()

    def add(
        self, step: int, figures: dict[str, Any], flush: bool, **more: int
    ) -> dict[str, Any] | None:
        """Take the figures of a step; return a row, with ``more``, when one is complete."""
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)
        if not flush and step % self.every:
            return None
        row: dict[str, Any] = {k: self.average(k, v) for k, v in self._values.items()}
        seconds = self._elapsed + time.perf_counter() - self._began
        row |= {"step": step, "seconds": round(seconds, 1), **more}
        self.rows.append(row)
        self._values = {}
        return row

    def write(self) -> None:
        """Write the file, by way of a temporary one."""
        write_rows(self.path, self.columns, self.rows)
