"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sys
from pathlib import Path

_PREFIX, _SUFFIX = ".gncadeq-", ".tmp"
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that its name never holds half a file.

    Devices and pipes, such as ``/dev/null`` and ``/dev/stdout``, are written to as they are.
    Temporary files that killed processes of this machine have left in the folder are removed.

    Raises:
        OSError: If the file can't be written. What it held before is unchanged.
    """
    path = Path(path)
    try:
        if (stream := _STREAMS.get(str(path))) is not None:
            (sys.stdout if stream == 1 else sys.stderr).flush()
            with open(stream, "wb", closefd=False) as file:
                file.write(content)
            return
        if _is_special(path):
            path.write_bytes(content)
            return
        path = path.resolve() if path.is_symlink() else path  # keep the link, replace its target
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        _replace(path, content)
    except OSError as error:
        # The name that the caller knows, not that of the temporary file.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _is_special(path: Path) -> bool:
    """Whether a path is there, and neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _replace(path: Path, content: bytes) -> None:
    name = f"{_PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    temporary = path.with_name(name)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: str | Path) -> None:
    """Remove the temporary files that killed processes of this machine have left in a folder."""
    prefix = f"{_PREFIX}{_machine()}-"
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(_SUFFIX)]
    for name in found:
        process = name[len(prefix) :].split("-")[0]
        if process.isdecimal() and not _runs(int(process)):
            with contextlib.suppress(OSError):  # another process may have removed it first
                (Path(folder) / name).unlink()


def _machine() -> str:
    """This machine's name, without the characters that separate the parts of a file name."""
    return "".join(c for c in platform.node() if c.isalnum())[:40]


def _runs(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs under another user
        return True
    return True
