"""Networks of images that rules are compared with, and how segmentations are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from gncadeq.training.losses import check_gradients
from gncadeq.typing import OptTensor


class Images(nn.Module):
    """A network of images as a model of pixel graphs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, data: Batch, x: OptTensor = None) -> tuple[Tensor, Any]:
        """Logits of the nodes, whose features are ``x``, by default those of the graph."""
        x = data.x if x is None else x
        side = round((len(x) // data.num_graphs) ** 0.5)
        image = x.view(data.num_graphs, side, side, -1).permute(0, 3, 1, 2)
        return self.network(image).permute(0, 2, 3, 1).flatten(0, 2), None


def convolution(below: int, here: int, count: int = 1) -> nn.Sequential:
    """So many 3 × 3 convolutions, normalised."""
    layers: list[nn.Module] = []
    for first in (below, *[here] * (count - 1)):
        layers += [nn.Conv2d(first, here, 3, padding=1), nn.BatchNorm2d(here), nn.ReLU()]
    return nn.Sequential(*layers)


def stack(channels: int, classes: int, width: int = 12) -> nn.Module:
    """Eight convolutions."""
    inner = [convolution(channels if k == 0 else width, width) for k in range(7)]
    return nn.Sequential(*inner, nn.Conv2d(width, classes, 3, padding=1))


class UNet(nn.Module):
    """Levels of such widths, and as many convolutions on each on the way down and on the way up,
    which ends in the first width."""

    def __init__(
        self, channels: int, classes: int, widths: Sequence[int] = (10, 10, 10, 10), count: int = 1
    ) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        below = zip((channels, *widths), widths, strict=False)
        self.down = nn.ModuleList(convolution(b, here, count) for b, here in below)
        coarser = zip((last, *[first] * len(widths)), widths[-2::-1], strict=False)
        self.up = nn.ModuleList(convolution(b + here, first, count) for b, here in coarser)
        self.last = nn.Conv2d(first, classes, 1)

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


def draw_batch(scenes: list[Data], size: int, generator: torch.Generator) -> Batch:
    """So many of the scenes, drawn at random."""
    chosen = torch.randint(len(scenes), (size,), generator=generator).tolist()
    return Batch.from_data_list([scenes[k] for k in chosen])


def descend(
    model: nn.Module, data: Batch, weight: Tensor, optimizer: Any, rate: Any, step: int
) -> float:
    """One step of training by the cross-entropy with weights of classes, and the loss before."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(data)[0], data.y, weight)
    loss.backward()
    check_gradients(model, step)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    rate.step()
    return float(loss.detach())
