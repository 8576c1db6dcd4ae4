"""Batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch

from gncadeq.datasets import PixelGraphs
from gncadeq.training.augment import random_affine, random_window
from gncadeq.training.config import TrainConfig
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
    def __init__(self, dataset: PixelGraphs, config: TrainConfig, among: Processes) -> None:
        self.dataset, self.config, self.among = dataset, config, among

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:  # type: ignore[override]
        whole, seed = item
        index = self.among.share(whole)

        def distort(images: Tensor) -> Tensor:
            c = self.config
            if c.augment or c.shift > 0:
                amounts = {} if c.augment else {"degrees": 0.0, "scale": 0.0, "shear": 0.0}
                images = random_affine(images, seed, shift=c.shift, among=self.among, **amounts)
            if c.crop > 0:
                images = random_window(images, seed, c.crop, among=self.among)
            return images

        batch = self.dataset.batch(index, distort, prepared=self.config.device == "cpu")
        batch.image = index
        return batch


def batch_loader(
    dataset: PixelGraphs,
    sampler: Sampler[tuple[Tensor, int]],
    config: TrainConfig | None = None,
    among: Processes = ALONE,
) -> DataLoader[Batch]:
    """A loader of the batches that ``sampler`` names.

    Args:
        dataset: The graphs.
        sampler: Index batches with seeds.
        config: How images are distorted; by default not at all.
        among: Load this process's share of every batch.
    """
    batches = _Batches(dataset, config or TrainConfig(), among)
    return DataLoader(batches, batch_size=None, sampler=sampler)
