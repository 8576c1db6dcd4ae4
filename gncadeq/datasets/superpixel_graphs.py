"""MNIST and its relatives as graphs of superpixels."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.check import check_value
from gncadeq.datasets.image_dataset import ImageDataset
from gncadeq.datasets.sources import cache_folder
from gncadeq.files.tensors import read_tensors, write_tensors
from gncadeq.progress import progress_bar
from gncadeq.transforms.points import nearest_neighbors
from gncadeq.transforms.superpixels import ImageToSuperpixels

_AT_ONCE = 1000  # images
_CACHED = ("x", "pos", "count", "source")
_FORMAT = 2  # of the cache; another one is made where the algorithm changes


class Superpixels(ImageDataset):
    r"""MNIST, Fashion-MNIST, KMNIST or scikit-learn's digits as graphs of superpixels.

    Superpixels and neighbours are found once and cached, in 2.5 kB for a digit of MNIST. The cache
    is named after the images and the options, and is made anew if it is damaged.

    Args:
        root: The data root, as for :class:`PixelGraphs`. The cache lies beside the files, or where
            the root can't be written, in ``GNCADEQ_CACHE``, else ``~/.cache/gncadeq``.
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or ``"digits"``.
        train: The training or the test set.
        to_graph: How an image becomes a graph; with ``num_segments=None`` its pixels are nodes.
        limit: Only the first so many images.
        transform: Applied to every graph when it is asked for.
        force_reload: Make the cache anew.

    Raises:
        FileNotFoundError: If the files are neither there nor to be downloaded.
        ValueError: If a file is corrupt, or ``limit`` is not positive.

    Example:
        >>> import tempfile
        >>> to_graph = ImageToSuperpixels(num_segments=None, living_threshold=0.1)
        >>> dataset = Superpixels(tempfile.mkdtemp(), "digits", False, to_graph, limit=50)
        >>> dataset
        Superpixels(digits, 50)
        >>> dataset[0].edge_attr.shape  # of the 8 neighbours of 27 pixels
        torch.Size([216, 3])
    """

    def __init__(
        self,
        root: str | Path | None = None,
        name: str = "mnist",
        train: bool = True,
        to_graph: ImageToSuperpixels | None = None,
        limit: int | None = None,
        transform: Callable[[Data], Data] | None = None,
        force_reload: bool = False,
    ) -> None:
        limit = check_value("limit", limit, int | None, least=1)
        super().__init__(root, name, train, transform)
        self.limit, self.to_graph = limit, to_graph or ImageToSuperpixels()
        self.images, self.labels = self.images[:limit], self.labels[:limit]
        self._size = tuple(self.images.shape[2:])
        nodes = None if force_reload else self._read()
        if nodes is None:
            nodes = self._find()
            self._write(nodes)
        self.x, self.pos, self.count, self._source = (nodes[key] for key in _CACHED)
        degree = self.to_graph.degree(self.count)
        self._node_ptr = F.pad(self.count.cumsum(0), (1, 0))
        self._edge_ptr = F.pad((self.count * degree).cumsum(0), (1, 0))

    @property
    def processed_dir(self) -> str:
        """Where the cache lies."""
        return str(cache_folder(self._root, self.name) / "superpixels")

    @property
    def processed_file_names(self) -> list[str]:
        """The cache file of these images and this transform."""
        g = self.to_graph  # without its edges, which are not cached
        options = g.num_segments, g.compactness, g.min_size, g.k, g.living_threshold
        key = hashlib.sha256(json.dumps([_FORMAT, _package(), *options]).encode())
        key.update(repr(tuple(self.images.shape)).encode())
        key.update(self.images.numpy().data)
        return [f"{'train' if self.train else 'test'}_{key.hexdigest()[:24]}.safetensors"]

    def _read(self) -> dict[str, Tensor] | None:
        """The cache, or ``None`` if there is none that is intact."""
        path = Path(self.processed_paths[0])
        try:
            nodes = read_tensors(path).tensors if path.is_file() else {}
        except ValueError:
            return None
        if nodes.keys() != set(_CACHED):
            return None
        count = nodes["count"]
        edges = int((count * self.to_graph.degree(count)).sum())
        lengths = [int(count.sum())] * 2 + [len(self.images), edges]
        return nodes if [len(nodes[key]) for key in _CACHED] == lengths else None

    def _find(self) -> dict[str, Tensor]:
        """Find superpixels and neighbours."""
        parts: dict[str, list[Tensor]] = {key: [] for key in _CACHED}
        begins = range(0, len(self.images), _AT_ONCE)
        for begin in progress_bar(begins, "superpixels", unit="k images", leave=False):
            part = self.images[begin : begin + _AT_ONCE].float() / 255
            x, pos, count, _ = self.to_graph.nodes(part)
            owner = torch.arange(count.numel()).repeat_interleave(count)
            source, target = nearest_neighbors(pos, self.to_graph.k, owner)
            source = source - (count.cumsum(0) - count)[owner[target]]
            for key, value in zip(_CACHED, (x, pos, count, source.short()), strict=True):
                parts[key].append(value)
        return {key: torch.cat(value) for key, value in parts.items()}

    def _write(self, nodes: dict[str, Tensor]) -> None:
        try:
            write_tensors(self.processed_paths[0], nodes)
        except OSError as error:  # minutes of work are not thrown away for want of a cache
            warnings.warn(
                f"The superpixels are not cached, and will be found anew next time ({error}). Name "
                "a folder that can be written to with GNCADEQ_CACHE",
                stacklevel=3,
            )

    def len(self) -> int:
        """Number of graphs."""
        return len(self.labels)

    def get(self, idx: int) -> Data:
        """The graph of one image, with its label ``y`` ``[1]``."""
        return self.batch(torch.tensor([idx]))[0]

    def batch(self, index: Tensor) -> Batch:
        """The batch of the graphs ``index``, built at once (without ``transform``)."""
        count = self.count[index]
        degree = self.to_graph.degree(count)
        node = _ranges(self._node_ptr[index], count)
        first = (count.cumsum(0) - count).repeat_interleave(count * degree)
        source = self._source[_ranges(self._edge_ptr[index], count * degree)].long() + first
        target = torch.arange(node.numel()).repeat_interleave(degree.repeat_interleave(count))
        edge_index = torch.stack([source, target])
        return self.to_graph.join(
            self.x[node], self.pos[node], count, edge_index, self._size, self.labels[index]
        )


def _package() -> str | None:
    """The version of scikit-image, whose superpixels they are."""
    try:
        return version("scikit-image")
    except PackageNotFoundError:  # pixels are nodes, which need none
        return None


def _ranges(start: Tensor, count: Tensor) -> Tensor:
    """``start[0], start[0] + 1, …``, ``count[0]`` of them, then the next."""
    shift = start - (count.cumsum(0) - count)
    return torch.arange(int(count.sum())) + shift.repeat_interleave(count)
