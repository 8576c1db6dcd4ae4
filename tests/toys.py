"""Small cells that tests need, and nobody else."""

from __future__ import annotations

import torch
from torch import nn

from gncadeq import Cell, ConvCell, Status
from gncadeq.dynamics import Partition


class EdgeCell(Cell):
    """``z_i' = tanh(g_i sum_j w_ij z_j W + x_i V)``: float edge weights, any number of edges.

    The gain ``g`` is 0.3, and 30 where the first channel of the injection is above ten; without
    ``tanh`` such a graph diverges.
    """

    def __init__(self, in_channels: int, channels: int, bounded: bool = True) -> None:
        super().__init__()
        self.in_channels, self.channels, self.bounded = in_channels, channels, bounded
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.inject = nn.Parameter(torch.empty(in_channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)
        nn.init.normal_(self.inject)

    def prepare(self, x, edge_index, edge_attr=None):
        source, target = edge_index
        weight = x.new_ones(source.numel()) if edge_attr is None else edge_attr
        degree = x.new_ones(x.size(0)).index_add_(0, target, x.new_ones(target.numel()))
        gain = torch.where(x[:, :1].detach() > 10, 30.0, 0.5) / degree.unsqueeze(1)
        drive = x.clamp(max=1.0) @ self.inject

        def step(z):
            message = (z @ self.weight)[source] * weight.unsqueeze(1)
            out = drive + gain * (z + torch.zeros_like(z).index_add(0, target, message))
            return out.tanh() if self.bounded else out

        return step


class NoisyCell(Cell):
    """Dropout and batch normalisation around a contraction of each node by itself."""

    def __init__(self, channels: int, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.in_channels = self.channels = channels
        self.linear = nn.Linear(channels, channels, bias=not norm)
        self.drop = nn.Dropout(dropout) if dropout else None
        self.norm = nn.BatchNorm1d(channels) if norm else None
        self.evaluations = 0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.linear.weight, gain=0.3)

    def prepare(self, x, edge_index, edge_attr=None):
        weight, bias = self.linear.weight, self.linear.bias

        def step(z):
            self.evaluations += 1
            z = nn.functional.linear(z, weight, bias)
            z = z if self.drop is None else self.drop(z)
            z = z + x
            return torch.tanh(z if self.norm is None else 0.5 * self.norm(z))

        return step


def conv_cell(update: str = "direct", contraction: float = 0.6) -> ConvCell:
    torch.manual_seed(1)
    return ConvCell(2, 3, update=update, contraction=contraction).double()


SOLVERS = ("picard", "anderson", "broyden")


ONE = Partition(None, 3)


def status(solution):
    return [Status(int(code)).name for code in solution.status]


def stencil_cell(name: str, contraction: float = 0.9) -> ConvCell:
    torch.manual_seed(1)
    cells = {
        "direct": lambda: ConvCell(2, 6, contraction=contraction),
        "additive": lambda: ConvCell(2, 2, injection="additive", contraction=contraction),
        "residual": lambda: ConvCell(2, 6, update="residual", contraction=contraction),
        "wide": lambda: ConvCell(2, 3, contraction=contraction, kernel_size=5),
    }
    return cells[name]().double()


STENCIL_CELLS = ("direct", "additive", "residual")
