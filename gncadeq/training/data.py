"""Batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from gncadeq.datasets import PixelGraphs


class EpochBatches(Sampler[Tensor]):
    """Shuffled index batches; the same for the same seed and epoch, also after a resume."""

    def __init__(self, index: Tensor, batch_size: int, seed: int) -> None:
        self.index, self.batch_size, self.seed, self.epoch = index, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = self.index[torch.randperm(len(self.index), generator=generator)]
        for i in range(len(self)):
            yield order[i * self.batch_size : (i + 1) * self.batch_size]


class InOrder(Sampler[Tensor]):
    """Index batches in order, the last one shorter."""

    def __init__(self, index: Tensor, batch_size: int) -> None:
        self.index, self.batch_size = index, batch_size

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.split(self.index, self.batch_size)


class _Batches(Dataset[Batch]):
    def __init__(self, dataset: PixelGraphs) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Tensor) -> Batch:  # type: ignore[override]
        return self.dataset.batch(index)


def batch_loader(dataset: PixelGraphs, sampler: Sampler[Tensor]) -> DataLoader[Batch]:
    """A loader of the batches that ``sampler`` names."""
    return DataLoader(_Batches(dataset), batch_size=None, sampler=sampler)


__all__ = ["EpochBatches", "InOrder", "batch_loader"]
