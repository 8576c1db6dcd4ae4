"""The log of a training run that is counted in steps."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from gncadeq.files.atomic import write_atomically

LOG_EVERY = 25
COLUMNS = (
    "step", "loss", "pool_loss", "overflow", "rest", "rollout", "age", "gradient_norm", "lr",
    "seconds",
)  # fmt: skip


class StepLog:
    """The rows of ``metrics.csv``: averages over some training steps.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._sums: dict[str, list[float]] = {}
        self._elapsed, self._began = 0.0, time.perf_counter()

    def read(self, step: int) -> None:
        """Keep the rows of an interrupted run up to a checkpoint."""
        if not self.path.is_file():
            return
        with self.path.open() as file:
            self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= step]
        self._elapsed = float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def add(self, step: int, figures: dict[str, float], flush: bool) -> dict[str, Any] | None:
        """Take the figures of a step; return a row when one is complete."""
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        if not flush and step % LOG_EVERY:
            return None
        row: dict[str, Any] = {k: sum(v) / len(v) for k, v in self._sums.items()}
        row["step"] = step
        row["seconds"] = round(self._elapsed + time.perf_counter() - self._began, 1)
        self.rows.append(row)
        self._sums = {}
        return row

    def write(self) -> None:
        """Write the file, by way of a temporary one."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())


__all__ = ["StepLog"]
