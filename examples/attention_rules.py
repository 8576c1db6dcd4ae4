"""The rules that complete masked digits: attention that is held or free, and what it is compared
with (``attention.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pixel_networks import Images, UNet
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import TransformerConv

from gncadeq import CascadeCell, ConvCell, GraphDEQ, GraphNCA, GrowingCell, Part, WrappedConvCell
from gncadeq.cells import AttentionCell, Cell


class Rule(nn.Module):
    """A rule with its dynamics, and a readout of grey values."""

    def __init__(self, dynamics: GraphDEQ | GraphNCA, form: str) -> None:
        super().__init__()
        self.dynamics, self.form = dynamics, form
        self.readout = nn.Linear(dynamics.cell.channels, 1)

    def forward(self, x: Tensor, data: Batch, dynamics: Any = None, **options: Any) -> Any:
        """Grey values, the state and the solution."""
        z, solution = (dynamics or self.dynamics)(
            x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs,
            return_solution=True, **options,
        )  # fmt: skip
        return self.readout(z).squeeze(1).sigmoid(), z, solution


def cascade(rule: Callable[[], Cell], parts: int, hidden: int) -> CascadeCell:
    """Parts of one kind; each is driven by an MLP of the pixel and of the part before."""
    made = []
    for p in range(parts):
        cell = rule()
        first = 2 if p == 0 else 2 + cell.channels
        layers = [nn.Linear(first, hidden), nn.GELU(), nn.Linear(hidden, cell.in_channels)]
        drive = nn.Sequential(*([nn.LayerNorm(first)] if p else []), *layers)
        made.append(Part(cell, drive, ["x"] if p == 0 else ["x", p - 1]))
    return CascadeCell(made, in_channels=2)


def attention(width: int = 32, heads: int = 8) -> Cell:
    """Attention that is held for a solve, each head at first the average of its own channels."""
    conv = TransformerConv(width, width // heads, heads, edge_dim=3, root_weight=False)
    nn.init.eye_(conv.lin_value.weight)
    nn.init.constant_(conv.lin_query.bias, 2.0)
    score = look_around(heads) * (heads / width) ** 0.5 / 2.0
    conv.lin_edge.weight.data = score.repeat_interleave(width // heads, 0)
    return WrappedConvCell(conv, width, contraction=0.9)


def look_around(heads: int, focus: float = 1.5) -> Tensor:
    """Weights of offsets by which each head looks into a direction of its own at first, ``-focus *
    (distance from there)²`` but for a constant, as in ConViT (d'Ascoli et al. 2021)."""
    angle = torch.arange(heads) * (2 * torch.pi / heads)
    there = torch.stack([angle.cos(), angle.sin()], 1)
    there = there / there.abs().amax(1, keepdim=True)  # the neighbours of a pixel
    return focus * torch.cat([2 * there, -torch.ones(heads, 1)], 1)


def free() -> Rule:
    """ViTCA's rule."""
    cell = AttentionCell(2, 32, 8, 64, 48, edge_dim=3)
    cell.edge_bias.weight.data = look_around(8)
    return Rule(GraphNCA(cell), "offsets")


def convolution(width: int = 25) -> Cell:
    """A bounded convolution."""
    return ConvCell(width, width, injection="additive", contraction=0.9)


def solved(cell: Cell, form: str) -> Rule:
    """A rule at equilibrium, to a residual of 1e-2 in training."""
    return Rule(GraphDEQ(cell, tol=1e-2, max_steps=100, on_failure="ignore"), form)


class Network(nn.Module):
    """A U-net of three levels, two convolutions each on the way down and on the way up."""

    form = "relations"

    def __init__(self) -> None:
        super().__init__()
        self.images = Images(UNet(2, 1, (11, 22, 22), count=2))

    def forward(self, x: Tensor, data: Batch) -> Any:
        """Grey values."""
        return self.images(data, x)[0].flatten().sigmoid(), None, None


MODELS: dict[str, Callable[[], nn.Module]] = {
    "held": lambda: solved(cascade(attention, 3, 64), "offsets"),
    "convs": lambda: solved(cascade(convolution, 3, 64), "relations"),
    "conv": lambda: solved(ConvCell(2, 54, contraction=0.9), "relations"),
    "free": free,
    "growing": lambda: Rule(GraphNCA(GrowingCell(32, 3, 165, 2, None)), "kernels"),
    "U-net": Network,
}
