"""MNIST and its relatives as graphs of superpixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch, Data, Dataset
from tqdm import tqdm

from gncadeq.datasets.sources import (
    cache_folder,
    default_root,
    download,
    folder_name,
    load_images,
    raw_files,
)
from gncadeq.files.atomic import write_atomically
from gncadeq.transforms.points import nearest_neighbors
from gncadeq.transforms.superpixels import ImageToSuperpixels

_AT_ONCE = 1000  # images


class Superpixels(Dataset):  # type: ignore[misc]
    r"""MNIST, Fashion-MNIST, KMNIST or scikit-learn's digits as graphs of superpixels.

    Superpixels and neighbours are found once and cached, in 2.5 kB for a digit of MNIST; the
    geometry of the edges is computed when graphs are asked for.

    Args:
        root: The data root, as for :class:`PixelGraphs`.
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or ``"digits"``.
        train: The training or the test set.
        to_graph: How an image becomes a graph; with ``num_segments=None`` its pixels are nodes.
        limit: Only the first so many images.
        transform: Applied to every graph when it is asked for.
        force_reload: Make the cache anew.

    Raises:
        FileNotFoundError: If the files are neither there nor to be downloaded.
        ValueError: If a file or the cache is corrupt, or ``limit`` is not positive.

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
        if limit is not None and limit < 1:
            raise ValueError(f"Expected 'limit' of at least 1 or None (got {limit})")
        self.name, self.train, self.limit = name, train, limit
        self._folder = folder_name(name)
        self.to_graph = to_graph or ImageToSuperpixels()
        self._root = Path(root) if root is not None else default_root()
        super().__init__(str(self._root), transform, log=False, force_reload=force_reload)
        self._load()

    @property
    def raw_dir(self) -> str:
        """Where the downloaded files lie."""
        return str(self._root / self._folder / "raw")

    @property
    def processed_dir(self) -> str:
        """Where the cache lies."""
        return str(cache_folder(self._root, self.name) / "superpixels")

    @property
    def raw_file_names(self) -> list[str]:
        """The four files of the dataset; an unpacked one counts."""
        return raw_files(self._root, self.name)

    @property
    def processed_file_names(self) -> list[str]:
        """The cache file of this split, transform and limit."""
        g = self.to_graph  # without its edges, which are not cached
        recipe = (g.num_segments, g.compactness, g.min_size, g.k, g.living_threshold, self.limit)
        key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
        return [f"{'train' if self.train else 'test'}_{key}.pt"]

    def download(self) -> None:
        """Let torchvision download and check the files."""
        download(self._root, self.name)

    def process(self) -> None:
        """Read, find superpixels and neighbours, and cache."""
        images, labels = load_images(self._root, self.name, self.train)
        images, labels = images[: self.limit], labels[: self.limit]
        parts: dict[str, list[Tensor]] = {"x": [], "pos": [], "count": [], "source": []}
        begins = range(0, len(images), _AT_ONCE)
        for begin in tqdm(begins, "superpixels", unit="k images", disable=None, leave=False):
            part = images[begin : begin + _AT_ONCE].float() / 255
            x, pos, count, _ = self.to_graph.nodes(part)
            owner = torch.arange(count.numel()).repeat_interleave(count)
            source, target = nearest_neighbors(pos, self.to_graph.k, owner)
            source = source - (count.cumsum(0) - count)[owner[target]]
            for key, value in (("x", x), ("pos", pos), ("count", count), ("source", source)):
                parts[key].append(value.short() if key == "source" else value)
        cache = {key: torch.cat(value) for key, value in parts.items()}
        buffer = io.BytesIO()
        torch.save(cache | {"y": labels, "size": torch.tensor(images.shape[2:])}, buffer)
        write_atomically(self.processed_paths[0], buffer.getvalue())

    def _load(self) -> None:
        path = self.processed_paths[0]
        try:
            cache: dict[str, Any] = torch.load(path, weights_only=True)
            self.x, self.pos = cache["x"], cache["pos"]
            self.count: Tensor = cache["count"]
            self.labels: Tensor = cache["y"]
            self._source, self._size = cache["source"], tuple(cache["size"].tolist())
        except Exception as error:  # torch.load raises whatever its reader does
            raise ValueError(
                f"Expected a cache of superpixels (got a corrupt one: {path}: {error}). Use "
                "force_reload=True"
            ) from error
        degree = self.to_graph.degree(self.count)
        self._node_ptr = F.pad(self.count.cumsum(0), (1, 0))
        self._edge_ptr = F.pad((self.count * degree).cumsum(0), (1, 0))
        nodes, edges = int(self._node_ptr[-1]), int(self._edge_ptr[-1])
        if (len(self.x), len(self._source), len(self.labels)) != (nodes, edges, len(self.count)):
            raise ValueError(
                f"Expected a cache of {nodes} nodes and {edges} edges (got {len(self.x)} and "
                f"{len(self._source)} in {path}). Use force_reload=True"
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

    @property
    def num_classes(self) -> int:
        """Ten, for all of them."""
        return 10

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name}, {len(self)})"


def _ranges(start: Tensor, count: Tensor) -> Tensor:
    """``start[0], start[0] + 1, …``, ``count[0]`` of them, then the next."""
    shift = start - (count.cumsum(0) - count)
    return torch.arange(int(count.sum())) + shift.repeat_interleave(count)


__all__ = ["Superpixels"]
