"""Where images come from: torchvision's files, or the digits that ship with scikit-learn."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gncadeq.check import import_extra

NAMES = ("mnist", "fashion-mnist", "kmnist", "digits")
_CLASS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def default_root() -> Path:
    """The data root: the environment's ``GNCADEQ_DATA``, else ``datasets``."""
    return Path(os.environ.get("GNCADEQ_DATA") or "datasets")


def folder_name(name: str) -> str:
    """The folder of a dataset below the data root.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"Expected a dataset of {NAMES} (got {name!r})")
    return _CLASS.get(name, "digits")


def cache_folder(root: Path, name: str) -> Path:
    """Where what is made of a dataset is kept: beside it, or where the root can't be written, in
    the environment's ``GNCADEQ_CACHE``, else ``~/.cache/gncadeq``."""
    place = root / folder_name(name)
    if not _writable(root):
        key = hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:12]
        home = os.environ.get("GNCADEQ_CACHE") or Path.home() / ".cache" / "gncadeq"
        place = Path(home) / f"{folder_name(name)}-{key}"
    return place / "processed"


def _writable(folder: Path) -> bool:
    """Whether anybody may write there; root, who always can, respects it too."""
    while not folder.exists():
        folder = folder.parent if folder.parent != folder else Path.cwd()
    bits = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return bool(folder.stat().st_mode & bits) and os.access(folder, os.W_OK)


def raw_file_names(name: str) -> list[str]:
    """The four files that torchvision downloads, none for ``digits``."""
    if name == "digits":
        return []
    return [file for file, _ in _torchvision_class(name).resources]


def raw_files(root: Path, name: str) -> list[str]:
    """The names of a dataset's files as they lie there; an unpacked one counts."""
    raw = root / folder_name(name) / "raw"
    plain = {n: n.removesuffix(".gz") for n in raw_file_names(name)}
    return [p if not (raw / n).exists() and (raw / p).exists() else n for n, p in plain.items()]


def download(root: Path, name: str) -> None:
    """Let torchvision download and check the four files.

    Raises:
        FileNotFoundError: If they are neither there nor to be had.
    """
    if name == "digits":
        return
    kind = _torchvision_class(name)
    source = kind.__new__(kind)  # its constructor would load a cache of its own, if there is one
    source.root = str(root)
    try:
        source.download()
    except (RuntimeError, OSError) as error:
        files = "\n  ".join(raw_file_names(name))
        raise FileNotFoundError(
            f"Expected the files of {name} in {root / folder_name(name) / 'raw'} or a network to "
            f"download them (got neither: {error}). Put there\n  {files}\nor name the right folder "
            "with --data-root or GNCADEQ_DATA; 'digits' needs no download"
        ) from error


def load_images(root: Path, name: str, train: bool) -> tuple[Tensor, Tensor]:
    """Read images ``[N, 1, H, W]`` (uint8) and labels ``[N]``, after a download if need be.

    ``digits`` (1,797 of 8 × 8) are split 4 : 1, stratified, always the same way; their 17 grey
    levels are stretched to 0 … 255.

    Raises:
        FileNotFoundError: If the files are neither there nor to be had.
        ValueError: If a file is corrupt.
    """
    if name == "digits":
        return _load_digits(train)
    raw = root / folder_name(name) / "raw"
    if not all((raw / file).is_file() for file in raw_files(root, name)):
        download(root, name)
    prefix = "train" if train else "t10k"
    checksums = dict(_torchvision_class(name).resources)
    pair = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        pair.append(_read_idx(raw / f"{prefix}-{kind}.gz", checksums[f"{prefix}-{kind}.gz"]))
    images, labels = pair
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"Expected as many images as labels in {raw} (got shapes {images.shape} and "
            f"{labels.shape})"
        )
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def _torchvision_class(name: str) -> Any:
    import torchvision

    return getattr(torchvision.datasets, folder_name(name))


def _read_idx(path: Path, md5: str) -> np.ndarray:
    """Read an IDX file, packed (and then checked) or unpacked."""
    from torchvision.datasets.utils import check_md5

    unpacked = path.with_suffix("")
    if not path.is_file() and not unpacked.is_file():
        raise FileNotFoundError(f"Expected {path} (got no such file)")
    if path.is_file():
        if not check_md5(str(path), md5):
            raise ValueError(
                f"Expected {path} with the checksum {md5} (got a corrupt or truncated file). "
                "Delete it and run again to download it"
            )
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"Expected a gzip file (got a corrupt one: {path}: {error}). Delete it"
            ) from error
    else:
        path, content = unpacked, unpacked.read_bytes()
    rank = content[3] if len(content) > 3 else 0
    head = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:head]) if len(content) >= head else ()
    if content[:3] != b"\x00\x00\x08" or rank == 0 or len(content) - head != int(np.prod(shape)):
        raise ValueError(
            f"Expected an IDX file of bytes (got a corrupt or truncated one: {path}). Delete it "
            "and run again to download it"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def _load_digits(train: bool) -> tuple[Tensor, Tensor]:
    digits = import_extra("sklearn.datasets", "train").load_digits()
    split = import_extra("sklearn.model_selection", "train").train_test_split
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    parts = split(images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    image, label = (parts[0], parts[2]) if train else (parts[1], parts[3])
    return torch.from_numpy(image).unsqueeze(1), torch.from_numpy(label).long()
