"""States to colours."""

from __future__ import annotations

import torch
from torch import Tensor

LABEL_COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2",
    "#b279a2", "#eeca3b", "#9d755d", "#ff9da6", "#7f7f7f",
)  # fmt: skip


class StateColors:
    """Maps states ``[*, channels]`` to colours ``[*, 3]``, fitted to the nodes of a reference.

    The first three principal components of the reference become the three axes of a colour cube,
    each stretched from its 2nd to its 98th percentile; equal states get equal colours.

    Args:
        reference: States ``[num_nodes, channels]``, usually the equilibrium.

    Example:
        >>> colors = StateColors(torch.randn(50, 8))
        >>> colors(torch.randn(5, 50, 8)).shape
        torch.Size([5, 50, 3])
    """

    def __init__(self, reference: Tensor) -> None:
        reference = reference.detach().double()
        self.mean = reference.mean(0)
        _, _, v = torch.linalg.svd(reference - self.mean, full_matrices=False)
        axes = torch.zeros(reference.size(1), 3, dtype=torch.double)
        k = min(3, v.size(0))
        axes[:, :k] = v[:k].T
        # The sign of a principal axis is arbitrary: let its largest entry be positive.
        flip: Tensor = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        self.axes = axes * torch.where(flip == 0, 1.0, flip)
        projected = (reference - self.mean) @ self.axes
        q = torch.tensor([0.02, 0.98], dtype=torch.double)
        self.low, self.high = torch.quantile(projected, q, dim=0)

    def __call__(self, z: Tensor) -> Tensor:
        """Colours in [0, 1]."""
        span = (self.high - self.low).clamp(min=1e-9)
        unit = ((z.detach().double() - self.mean) @ self.axes - self.low) / span
        color: Tensor = (0.08 + 0.84 * unit.clamp(0, 1)).float()
        return color


def paint(color: Tensor, pos: Tensor, height: int, width: int, background: float = 1.0) -> Tensor:
    """Paint node colours ``[num_nodes, 3]`` onto a canvas ``[height, width, 3]``."""
    canvas = torch.full((height, width, 3), background)
    col, row = pos.long().unbind(1)
    canvas[row, col] = color
    return canvas


__all__ = ["LABEL_COLORS", "StateColors", "paint"]
