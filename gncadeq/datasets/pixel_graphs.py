"""MNIST and its relatives as pixel graphs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, Dataset

from gncadeq.datasets.sources import (
    cache_folder,
    default_root,
    download,
    folder_name,
    load_images,
    raw_files,
)
from gncadeq.files.atomic import write_atomically
from gncadeq.transforms import ImageToGraph


class PixelGraphs(Dataset):  # type: ignore[misc]
    r"""MNIST, Fashion-MNIST, KMNIST or scikit-learn's digits as pixel graphs.

    What is cached are the images; graphs are built when they are asked for, which is faster than
    reading them and takes 30 times less memory. With a ``pre_transform`` or ``pre_filter`` the
    resulting graphs are cached, the way PyG does.

    Args:
        root: The data root, which holds ``MNIST/raw`` and so on; by default ``GNCADEQ_DATA``, else
            ``datasets``. A root without write permission is read in place, and the cache goes to
            ``GNCADEQ_CACHE``, else ``~/.cache/gncadeq``.
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or ``"digits"``.
        train: The training or the test set.
        to_graph: How an image becomes a graph.
        transform: Applied to every graph when it is asked for.
        pre_transform: Applied to every graph once, before caching.
        pre_filter: Keeps the graphs for which it is true, before caching.
        force_reload: Make the cache anew.

    Raises:
        FileNotFoundError: If the files are neither there nor to be downloaded.
        ValueError: If a file is corrupt.

    Example:
        >>> import tempfile
        >>> dataset = PixelGraphs(tempfile.mkdtemp(), "digits", train=False)
        >>> dataset
        PixelGraphs(digits, 360)
        >>> dataset[0].num_nodes
        64
    """

    def __init__(
        self,
        root: str | Path | None = None,
        name: str = "mnist",
        train: bool = True,
        to_graph: ImageToGraph | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        self.name, self.train = name, train
        self._folder = folder_name(name)
        self.to_graph = to_graph or ImageToGraph()
        self._root = Path(root) if root is not None else default_root()
        super().__init__(
            str(self._root), transform, pre_transform, pre_filter, log=False,
            force_reload=force_reload,
        )  # fmt: skip
        cache: dict[str, Any] = torch.load(self.processed_paths[0], weights_only=not self._custom)
        self._graphs: list[Data] | None = cache.get("graphs")
        self.images: Tensor = cache.get("images", torch.empty(0, 1, 0, 0, dtype=torch.uint8))
        self.labels: Tensor = cache.get("labels", torch.empty(0, dtype=torch.long))

    @property
    def _custom(self) -> bool:
        return self.pre_transform is not None or self.pre_filter is not None

    @property
    def raw_dir(self) -> str:
        """Where the downloaded files lie."""
        return str(self._root / self._folder / "raw")

    @property
    def processed_dir(self) -> str:
        """Where the cache lies."""
        return str(cache_folder(self._root, self.name))

    @property
    def raw_file_names(self) -> list[str]:
        """The four files of the dataset; an unpacked one counts."""
        return raw_files(self._root, self.name)

    @property
    def processed_file_names(self) -> list[str]:
        """The cache file of this split."""
        split = "train" if self.train else "test"
        if not self._custom:
            return [f"{split}.pt"]
        recipe = repr((self.to_graph, self.pre_transform, self.pre_filter)).encode()
        return [f"{split}_graphs_{hashlib.sha256(recipe).hexdigest()[:12]}.pt"]

    def download(self) -> None:
        """Let torchvision download and check the files."""
        download(self._root, self.name)

    def process(self) -> None:
        """Read, check and cache."""
        images, labels = load_images(self._root, self.name, self.train)
        cache: dict[str, Any] = {"images": images, "labels": labels}
        if self._custom:
            graphs = [self._build(image, y) for image, y in zip(images, labels, strict=True)]
            if self.pre_filter is not None:
                graphs = [g for g in graphs if self.pre_filter(g)]
            if self.pre_transform is not None:
                graphs = [self.pre_transform(g) for g in graphs]
            cache = {"graphs": graphs}
        buffer = io.BytesIO()
        torch.save(cache, buffer)
        write_atomically(self.processed_paths[0], buffer.getvalue())

    def _build(self, image: Tensor, label: Tensor) -> Data:
        data = self.to_graph(image.float() / 255)
        data.y = label.view(1)
        return data

    def len(self) -> int:
        """Number of graphs."""
        return len(self._graphs) if self._graphs is not None else len(self.images)

    def get(self, idx: int) -> Data:
        """The graph of one image, with its label ``y`` ``[1]``."""
        if self._graphs is not None:
            return self._graphs[idx]
        return self._build(self.images[idx], self.labels[idx])

    def batch(self, index: Tensor, distort: Callable[[Tensor], Tensor] | None = None) -> Batch:
        """The batch of the graphs ``index``, built at once (without ``transform``).

        Args:
            index: Which of them.
            distort: Applied to the images ``[B, C, H, W]`` before they become graphs.
        """
        if self._graphs is not None:
            return Batch.from_data_list([self._graphs[i] for i in index.tolist()])
        images = self.images[index].float() / 255
        if distort is not None:
            images = distort(images)
        return self.to_graph.batch(images, self.labels[index])

    @property
    def num_classes(self) -> int:
        """Ten, for all of them."""
        return 10

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name}, {len(self)})"


__all__ = ["PixelGraphs"]
