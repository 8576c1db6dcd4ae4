"""One process at a time writes the folder of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # a system without POSIX locks
    fcntl = None  # type: ignore[assignment]

_NAME = "run.lock"


@contextlib.contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold the folder of a run, so that a second process is refused.

    The system gives the lock back when a process ends, however it ends: a killed run leaves a file
    ``run.lock`` with its number, and no lock.

    Raises:
        RuntimeError: If another process holds it.
        OSError: If the folder can't be made.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    file = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held, so that no other's file is removed
        file.close()
        if is_new:
            with contextlib.suppress(OSError):  # something was written there
                folder.rmdir()


def _lock(path: Path) -> IO[str]:
    while True:
        file = path.open("a+")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another one"
            file.close()
            raise RuntimeError(
                f"Expected no other process to write the run in {path.parent} (got process "
                f"{owner}, which does). Wait until it ends, or use another --out"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path} can't be locked ({error}): let only one process write this run",
                stacklevel=4,
            )
        if _is_at(file, path):
            break
        file.close()  # the process before has removed the file since it was opened
    file.truncate(0)
    file.write(f"{os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
