"""Batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from gncadeq.datasets import PixelGraphs
from gncadeq.training.augment import random_affine, random_window
from gncadeq.training.processes import ALONE, Processes


class EpochBatches(Sampler[tuple[Tensor, int]]):
    """Shuffled index batches, each with a seed for its randomness.

    They are the same for the same seed and epoch, also after a resume, and in every one of several
    processes, which take their shares of them.

    Args:
        index: The images.
        batch_size: Images a batch, in all processes together.
        seed: Seed of the order.
        groups: Shuffle so many parts of the images, each for itself: with as many groups as
            processes an image stays with its process.

    Attributes:
        skip: How many batches to leave out when the next epoch begins: those that a run had
            before it was interrupted.
    """

    def __init__(self, index: Tensor, batch_size: int, seed: int, groups: int = 1) -> None:
        self.index, self.batch_size, self.seed, self.epoch = index, batch_size, seed, 0
        self.groups, self.skip = groups, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        parts = [self.index[g :: self.groups] for g in range(self.groups)]
        each = len(parts[-1])
        shuffled = [p[torch.randperm(len(p), generator=generator)[:each]] for p in parts]
        order = torch.stack(shuffled, dim=1).flatten()
        skip, self.skip = self.skip, 0
        for i in range(len(self)):
            seed = int(torch.randint(2**62, (), generator=generator))
            if i >= skip:
                yield order[i * self.batch_size : (i + 1) * self.batch_size], seed


class _Batches(Dataset[Batch]):
    def __init__(self, dataset: PixelGraphs, augment: bool, crop: float, among: Processes) -> None:
        self.dataset, self.augment, self.crop, self.among = dataset, augment, crop, among

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:  # type: ignore[override]
        whole, seed = item
        index = self.among.share(whole)

        def distort(images: Tensor) -> Tensor:
            if self.augment:
                images = random_affine(images, seed, among=self.among)
            if self.crop > 0:
                images = random_window(images, seed, self.crop, among=self.among)
            return images

        batch = self.dataset.batch(index, distort)
        batch.image = index
        return batch


def batch_loader(
    dataset: PixelGraphs,
    sampler: Sampler[tuple[Tensor, int]],
    augment: bool = False,
    crop: float = 0.0,
    among: Processes = ALONE,
) -> DataLoader[Batch]:
    """A loader of the batches that ``sampler`` names.

    Args:
        dataset: The graphs.
        sampler: Index batches with seeds.
        augment: Distort the images a little.
        crop: Show only a window of this share of the images.
        among: Load this process's share of every batch.
    """
    batches = _Batches(dataset, augment, crop, among)
    return DataLoader(batches, batch_size=None, sampler=sampler)
