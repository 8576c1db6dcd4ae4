"""Equilibria of the epoch before, from which the next one's solves start."""

from __future__ import annotations

import torch
from torch import Tensor


class WarmStarts:
    """Keeps the equilibria of as many graphs as fit, in half precision.

    Between two epochs a graph's equilibrium moves little, and half precision is far finer than
    that. Where it is forgotten, a solve starts from zeros. What is learned is the same to the
    tolerance of the solves, not to the last bit.

    Args:
        megabytes: Bound on the memory; graphs that come when it is full are not kept.

    Example:
        >>> warm = WarmStarts(megabytes=1)
        >>> index, count = torch.tensor([7, 3]), torch.tensor([1, 2])
        >>> warm.keep(index, count, torch.ones(3, 4))
        >>> warm.start(torch.tensor([3, 5]), torch.tensor([2, 1]), torch.zeros(3, 4)).sum(1)
        tensor([4., 4., 0.])
    """

    def __init__(self, megabytes: float) -> None:
        self.most = int(1e6 * megabytes)
        self._states: dict[int, Tensor] = {}
        self._size = 0

    def start(self, index: Tensor, count: Tensor, zeros: Tensor) -> Tensor:
        """The start of graphs ``index`` with ``count`` nodes each: ``[num_nodes, channels]``."""
        parts = torch.split(zeros, count.tolist())
        known = [self._states.get(i, own) for i, own in zip(index.tolist(), parts, strict=True)]
        fits = [k if k.shape == own.shape else own for k, own in zip(known, parts, strict=True)]
        return torch.cat([part.to(zeros) for part in fits])

    def keep(self, index: Tensor, count: Tensor, z: Tensor) -> None:
        """Remember the equilibria ``z`` of graphs ``index``."""
        half = z.detach().half().cpu()
        for i, state in zip(index.tolist(), torch.split(half, count.tolist()), strict=True):
            old = self._states.get(i)
            grown = self._size + state.nbytes - (0 if old is None else old.nbytes)
            if grown <= self.most and bool(state.isfinite().all()):
                self._states[i] = state.clone()
                self._size = grown

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self._size
