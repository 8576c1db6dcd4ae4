"""The message of a command that fails: one sentence for every exception."""

from __future__ import annotations

import errno
from collections.abc import Callable

_REMEDIES = {
    errno.ENOSPC: "Free some space, and run the command again (--resume, if it has that option)",
    errno.EDQUOT: "Free some space, and run the command again (--resume, if it has that option)",
    errno.EFBIG: "Write to a file system that takes files of that size",
    errno.EACCES: "Change the permissions, or name another place",
    errno.EPERM: "Change the permissions, or name another place",
    errno.EROFS: "Name a place that can be written to",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "Name a file",
    errno.ENAMETOOLONG: "Use a shorter name",
    errno.EMFILE: "Close some files (ulimit -n)",
}


def sentence(error: BaseException) -> str:
    """What went wrong, in one sentence that names the file, where there is one, and the remedy.

    Errors of this package say all that already. Others are translated by their kind; what isn't
    expected at all is called a bug.

    Example:
        >>> sentence(ValueError("Expected 'tol' to be a finite number (got nan)"))
        "Expected 'tol' to be a finite number (got nan)"
        >>> sentence(KeyError("cell.weight"))[:60]
        "Unexpected error of gncadeq (KeyError: 'cell.weight'). Run i"
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    message = " ".join(str(error).split())
    if message.startswith("Expected") or type(error).__module__.startswith("gncadeq"):
        return str(error)
    for recognises, say in _TRANSLATIONS:
        if recognises(error, message):
            return say(message)
    if isinstance(error, ValueError | TypeError | OSError | FloatingPointError | ImportError):
        return str(error) or type(error).__name__
    return (
        f"Unexpected error of gncadeq ({type(error).__name__}: {_short(message)}). Run it again "
        "with --debug, and report what it prints"
    )


def _of_system(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    what = f"{error.strerror}: {', '.join(names)}" if names else str(error.strerror)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"Expected to read or write files (got {what})" + (f". {remedy}" if remedy else "")


def _out_of_memory(error: BaseException, message: str) -> bool:
    kinds = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
    return type(error).__name__ in kinds or "allocate memory" in message


_TRANSLATIONS: tuple[tuple[Callable[[BaseException, str], bool], Callable[[str], str]], ...] = (
    (
        _out_of_memory,
        lambda message: (
            f"Expected enough memory (got {_short(message) or 'none left'}). Use a "
            "smaller picture, mesh, batch (--batch-size) or number of channels"
        ),
    ),
    (
        lambda error, _: isinstance(error, RecursionError),
        lambda _: "Expected input that is nested less deeply (got more levels than Python follows)",
    ),
    (
        lambda error, _: type(error).__name__ in ("LinAlgError", "_LinAlgError"),
        lambda message: (
            f"Expected finite, regular matrices (got: {_short(message)}). The weights "
            "have become too large: lower the learning rate (--lr)"
        ),
    ),
)


def _short(message: str, most: int = 200) -> str:
    return message if len(message) <= most else message[: most - 1] + "…"
