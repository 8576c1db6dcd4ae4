"""What the datasets of images have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.data import Data, Dataset

from gncadeq.datasets.sources import default_root, folder_name, load_images, raw_files


class ImageDataset(Dataset):  # type: ignore[misc]
    """A dataset whose graphs are made of the images and labels of one split.

    It has no ``process``: with one, PyG unpickles ``processed/pre_transform.pt`` and
    ``processed/pre_filter.pt``, which run whatever code the data root's author put there.
    """

    images: Tensor
    labels: Tensor

    def __init__(
        self,
        root: str | Path | None,
        name: str,
        train: bool,
        *transforms: Callable[[Data], Any] | None,
    ) -> None:
        self.name, self.train = name, train
        self._folder = folder_name(name)
        self._root = Path(root) if root is not None else default_root()
        super().__init__(str(self._root), *transforms, log=False)
        self.images, self.labels = load_images(self._root, name, train)

    @property
    def raw_dir(self) -> str:
        """Where the downloaded files lie."""
        return str(self._root / self._folder / "raw")

    @property
    def raw_file_names(self) -> list[str]:
        """The four files of the dataset; an unpacked one counts."""
        return raw_files(self._root, self.name)

    @property
    def num_classes(self) -> int:
        """Ten, for all of them."""
        return 10

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name}, {len(self)})"
