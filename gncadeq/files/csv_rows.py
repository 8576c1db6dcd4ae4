"""Tables of numbers as CSV, a dictionary a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gncadeq.files.atomic import write_atomically


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table whose first line names the columns.

    Raises:
        OSError: If the file can't be read.
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, atomically; what a row doesn't have stays empty.

    Raises:
        ValueError: If a row has a column of another name.
        OSError: If the file can't be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "metrics.csv"
        ...     write_rows(path, ["step", "loss"], [{"step": 1, "loss": 0.5}, {"step": 2}])
        ...     read_rows(path)
        [{'step': '1', 'loss': '0.5'}, {'step': '2', 'loss': ''}]
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
