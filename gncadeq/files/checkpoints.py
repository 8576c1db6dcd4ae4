"""The checkpoints of a run: numbered, with a checksum, and tied to the run."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from gncadeq.files.atomic import write_atomically

_MAGIC = b"gncadeq checkpoint 1"
_NAME = re.compile(r"step=[0-9]+\.ckpt")
KEPT = 2  # the newest, and the one before in case the newest is damaged


class ForeignCheckpointError(ValueError):
    """A checkpoint belongs to another run."""


def write_checkpoint(path: str | Path, state: Any, run: str) -> None:
    """Write a state (tensors, numbers, strings, lists and dicts) of a run, atomically.

    Args:
        path: The file.
        state: What ``torch.load(weights_only=True)`` reads.
        run: The id of the run.

    Raises:
        OSError: If the file can't be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = run.encode() + b"\n" + buffer.getvalue()
    checksum = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, b"\n".join([_MAGIC, checksum, content]))


def read_checkpoint(path: str | Path, run: str) -> Any:
    """Read what :func:`write_checkpoint` wrote; no code is run.

    Raises:
        ForeignCheckpointError: If it is of another run.
        ValueError: If it is damaged.
    """
    try:
        magic, checksum, content = Path(path).read_bytes().split(b"\n", 2)
        intact = magic == _MAGIC and checksum == hashlib.sha256(content).hexdigest().encode()
        owner, state = content.split(b"\n", 1)
    except (ValueError, OSError):
        intact = False
    if not intact:
        raise ValueError(
            f"Expected a checkpoint of gncadeq's (got {path}, which is damaged, or was written by "
            "another version). Resume from the one before it, or start the run anew"
        )
    if owner != run.encode():
        raise ForeignCheckpointError(
            f"Expected a checkpoint of this run (got {path}, of the run {owner.decode()!r}). "
            "Resume in the folder that it came from"
        )
    try:
        return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its reader raises
        raise ValueError(
            f"Expected a checkpoint of tensors and numbers (got {path}: {type(error).__name__})"
        ) from error


class Checkpoints:
    """The newest checkpoints of a run, in a folder.

    Args:
        folder: The folder.
        run: The id of the run.

    Example:
        >>> import tempfile
        >>> checkpoints = Checkpoints(tempfile.mkdtemp(), "run 1")
        >>> for step in (9, 999, 1000):
        ...     checkpoints.save(step, {"weight": torch.ones(2) * step})
        >>> checkpoints.newest()
        {'weight': tensor([1000., 1000.])}
        >>> [path.name for path in checkpoints.paths()]
        ['step=00001000.ckpt', 'step=00000999.ckpt']
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        self.folder, self.run = Path(folder), run

    def path(self, step: int) -> Path:
        """The file of a training step."""
        return self.folder / f"step={step:08d}.ckpt"

    def paths(self) -> list[Path]:
        """The files that are there, the newest first."""
        found = [path for path in self.folder.glob("*.ckpt") if _NAME.fullmatch(path.name)]
        return sorted(found, key=self._step, reverse=True)

    @staticmethod
    def _step(path: Path) -> int:
        return int(path.stem.removeprefix("step="))

    def save(self, step: int, state: Any) -> None:
        """Write the state after a training step, and remove old checkpoints."""
        write_checkpoint(self.path(step), state, self.run)
        self.remove_old(step)

    def remove_old(self, step: int) -> None:
        """Remove all but the newest checkpoints up to a training step.

        Later ones are those that this run did not resume from, since they were damaged or of
        another run. They are renamed, and count no more.
        """
        for path in self.paths():
            if self._step(path) > step:
                path.replace(path.with_suffix(".unused"))
        for path in self.paths()[KEPT:]:
            path.unlink(missing_ok=True)

    def newest_path(self) -> Path | None:
        """The newest checkpoint that is intact and of this run, or ``None`` if there is none.

        Raises:
            ValueError: If there are checkpoints, but none is intact and of this run.
        """
        reasons: list[ValueError] = []
        for path in self.paths():
            try:
                read_checkpoint(path, self.run)
            except ValueError as error:
                reasons.append(error)
            else:
                for reason in reasons:
                    warnings.warn(f"{reason}. Went on from {path.name}", stacklevel=2)
                return path
        if reasons:
            raise reasons[0]
        return None

    def newest(self) -> Any | None:
        """The state in :meth:`newest_path`, or ``None``.

        Raises:
            ValueError: If there are checkpoints, but none is intact and of this run.
        """
        path = self.newest_path()
        return None if path is None else read_checkpoint(path, self.run)
