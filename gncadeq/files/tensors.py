"""Named tensors as safetensors files with a checksum; reading them runs no code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gncadeq.files.atomic import write_atomically

_CHECKSUM = "sha256"


class Tensors(NamedTuple):
    """What a file of tensors holds.

    Attributes:
        tensors: The tensors by name.
        metadata: The strings of the header by name, without the checksum.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors and strings to a safetensors file, atomically, with a checksum.

    Raises:
        OSError: If the file can't be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.safetensors"
        >>> write_tensors(path, {"a": torch.arange(2)}, {"of": "me"})
        >>> read_tensors(path).tensors
        {'a': tensor([0, 1])}
    """
    # A copy each, since safetensors refuses tensors that share memory. (A single number counts as
    # contiguous with any stride; this copy has the usual one.)
    layout = torch.contiguous_format
    plain = {k: v.detach().cpu().clone(memory_format=layout) for k, v in tensors.items()}
    header = {"format": "pt", **(metadata or {})}
    header[_CHECKSUM] = _checksum(plain, header)
    write_atomically(path, save(plain, metadata=header))


def read_tensors(path: str | Path, expected: str = "a safetensors file") -> Tensors:
    """Read a safetensors file, and compare its checksum where it has one.

    Args:
        path: The file.
        expected: What it should be, for the error's sentence.

    Raises:
        ValueError: If the file is corrupt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _corrupt(expected, path, error) from error
    known = metadata.pop(_CHECKSUM, None)
    if known is not None and known != _checksum(tensors, metadata):
        raise _corrupt(expected, path, "its checksum is another")
    return Tensors(tensors, metadata)


def read_header(
    path: str | Path, expected: str = "a safetensors file"
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of a file's tensors and the strings of its header, without reading the tensors.

    Raises:
        ValueError: If the file is corrupt. Tensors larger than the file count as such.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            return shapes, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _corrupt(expected, path, error) from error


def _corrupt(expected: str, path: str | Path, cause: object) -> ValueError:
    return ValueError(
        f"Expected {expected} (got a corrupt one: {path}: {cause}). Make or download it again"
    )


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of all names, types, shapes, values and strings."""
    digest = hashlib.sha256()
    for name in sorted(metadata):
        digest.update(repr((name, metadata[name])).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
