"""Numbers of text files, each error with its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from gncadeq.files.content import bad

Words = list[bytes]


def numbered_lines(text: bytes, comment: bytes = b"#") -> tuple[list[int], list[Words]]:
    """The lines that have words, without comments: their numbers, and their words."""
    numbers, rows = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if comment in line:
            line = line.partition(comment)[0]
        words = line.split()
        if words:
            numbers.append(number)
            rows.append(words)
    return numbers, rows


def is_number(word: str | bytes) -> bool:
    """Whether a word is a number, NaN and infinity included."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def block(lines: Sequence[bytes], whole: bool = False) -> np.ndarray | None:
    """Lines of equally many numbers as an array ``[lines, numbers]``, or None if they are not.

    Example:
        >>> block([b"1 2", b"3 4"]), block([b"1 2", b"3"])
        (array([[1., 2.],
               [3., 4.]]), None)
    """
    if not lines:
        return None
    kind = np.int64 if whole else np.float64
    try:
        found = np.loadtxt(lines, kind, comments=None, ndmin=2)
    except (ValueError, OverflowError):
        return None
    return found if len(found) == len(lines) else None  # an empty line has no row


def table(
    path: Path, rows: Sequence[Words], numbers: Sequence[int], expected: str, whole: bool = False
) -> np.ndarray:
    """All words of rows as one flat array of numbers.

    Args:
        path: The file, for errors.
        rows: The words of each row.
        numbers: The line of each row, for errors.
        expected: What a row should be, for errors.
        whole: Whether to read integers.

    Raises:
        ValueError: If a word is no number; the message shows its line.
    """
    convert: Callable[[bytes], float] = int if whole else float
    try:
        words = chain.from_iterable(rows)
        return np.fromiter(map(convert, words), np.int64 if whole else np.float64)
    except (ValueError, OverflowError):
        for number, row in zip(numbers, rows, strict=True):
            try:
                np.array([convert(word) for word in row], np.int64 if whole else np.float64)
            except (ValueError, OverflowError) as error:
                raise bad_line(path, number, expected, row) from error
        raise


def bad_line(path: Path, number: int, expected: str, words: Words) -> ValueError:
    """The error for a line that cannot be read."""
    line = b" ".join(words)[:60].decode(errors="replace")
    return bad(path, expected, f"{line!r} in line {number}")
