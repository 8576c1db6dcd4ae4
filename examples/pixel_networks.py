"""Networks of images that rules are compared with, and how segmentations are judged."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch


class Images(nn.Module):
    """A network of images as a model of pixel graphs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, data: Batch) -> tuple[Tensor, Any]:
        """Logits of the nodes."""
        side = round((len(data.x) // data.num_graphs) ** 0.5)
        image = data.x.view(data.num_graphs, side, side, -1).permute(0, 3, 1, 2)
        return self.network(image).permute(0, 2, 3, 1).flatten(0, 2), None


def convolution(below: int, here: int) -> nn.Sequential:
    """A 3 × 3 convolution, normalised."""
    return nn.Sequential(nn.Conv2d(below, here, 3, padding=1), nn.BatchNorm2d(here), nn.ReLU())


def stack(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Eight convolutions."""
    inner = [convolution(channels if k == 0 else width, width) for k in range(7)]
    return nn.Sequential(*inner, nn.Conv2d(width, classes, 3, padding=1))


class UNet(nn.Module):
    """Four levels, one convolution each on the way down and on the way up."""

    def __init__(self, channels: int, classes: int, width: int = 10) -> None:
        super().__init__()
        self.down = nn.ModuleList(convolution(channels if k == 0 else width, width)
                                  for k in range(4))  # fmt: skip
        self.up = nn.ModuleList(convolution(2 * width, width) for _ in range(3))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, y: Tensor) -> Tensor:
        """Logits of every pixel."""
        passed = []
        for k, layer in enumerate(self.down):
            y = layer(y if k == 0 else F.max_pool2d(y, 2))
            passed.append(y)
        for layer, beside in zip(self.up, reversed(passed[:-1]), strict=True):
            y = F.interpolate(y, beside.shape[-2:])
            y = layer(torch.cat([beside, y], 1))
        return self.last(y)


def overlap(found: Tensor, wanted: Tensor, classes: int) -> float:
    """The mean of intersection over union of the classes that are there."""
    each = [((found == k) & (wanted == k)).sum() / ((found == k) | (wanted == k)).sum()
            for k in range(classes)]  # fmt: skip
    return float(torch.stack(each).nanmean())
