"""Batch normalisation over the batches of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm1d(nn.BatchNorm1d):
    r"""``BatchNorm1d`` with the statistics of the batches of all processes.

    .. math::
        \mathbf{y} = \frac{\mathbf{x} - \mu}{\sqrt{\sigma^2 + \varepsilon}} \, \gamma + \beta,
        \qquad \mu, \sigma^2 \text{ over the rows of all processes}

    :class:`torch.nn.SyncBatchNorm` does that on GPUs alone. Not for use within a cell: processes
    take different numbers of steps, and would wait for each other.

    Shapes:
        - **input, output:** :math:`(|\mathcal{G}|, C)`

    Example:
        >>> norm = SyncedBatchNorm1d(2, affine=False)
        >>> norm(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).round(decimals=3)
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> SyncedBatchNorm1d:
        """The same norm, synchronised; parameters and statistics are shared."""
        new = cls.__new__(cls)
        new.__dict__.update(norm.__dict__)
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``; alone, or in evaluation, as ``BatchNorm1d`` does."""
        together = dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and together):
            return super().forward(input)
        count = _over_all(input.new_tensor(float(input.size(0))))
        mean = _over_all(input.sum(0)) / count
        centered = input - mean
        variance = _over_all(centered.square().sum(0)) / count
        self._track(mean.detach(), (variance * count / (count - 1)).detach())
        out = centered * (variance + self.eps).rsqrt()
        return out * self.weight + self.bias if self.affine else out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the average of all batches
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose losses are added up as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _over_all(grad)


def _over_all(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total
