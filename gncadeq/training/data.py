"""Batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from gncadeq.datasets import PixelGraphs
from gncadeq.training.augment import random_affine, random_window


class EpochBatches(Sampler[tuple[Tensor, int]]):
    """Shuffled index batches, each with a seed for its randomness.

    They are the same for the same seed and epoch, also after a resume.
    """

    def __init__(self, index: Tensor, batch_size: int, seed: int) -> None:
        self.index, self.batch_size, self.seed, self.epoch = index, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = self.index[torch.randperm(len(self.index), generator=generator)]
        for i in range(len(self)):
            seed = int(torch.randint(2**62, (), generator=generator))
            yield order[i * self.batch_size : (i + 1) * self.batch_size], seed


class InOrder(Sampler[tuple[Tensor, int]]):
    """Index batches in order, the last one shorter."""

    def __init__(self, index: Tensor, batch_size: int) -> None:
        self.index, self.batch_size = index, batch_size

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for part in torch.split(self.index, self.batch_size):
            yield part, 0


class _Batches(Dataset[Batch]):
    def __init__(self, dataset: PixelGraphs, augment: bool, crop: float) -> None:
        self.dataset, self.augment, self.crop = dataset, augment, crop

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:  # type: ignore[override]
        index, seed = item

        def distort(images: Tensor) -> Tensor:
            if self.augment:
                images = random_affine(images, seed)
            return random_window(images, seed, self.crop) if self.crop > 0 else images

        batch = self.dataset.batch(index, distort)
        batch.image = index
        return batch


def batch_loader(
    dataset: PixelGraphs,
    sampler: Sampler[tuple[Tensor, int]],
    augment: bool = False,
    crop: float = 0.0,
) -> DataLoader[Batch]:
    """A loader of the batches that ``sampler`` names.

    Args:
        dataset: The graphs.
        sampler: Index batches with seeds.
        augment: Distort the images a little.
        crop: Show only a window of this share of the images.
    """
    return DataLoader(_Batches(dataset, augment, crop), batch_size=None, sampler=sampler)


__all__ = ["EpochBatches", "InOrder", "batch_loader"]
