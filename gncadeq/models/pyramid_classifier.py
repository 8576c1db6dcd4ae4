"""A classifier whose equilibrium is a cascade up a pyramid of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_geometric.data import Data

from gncadeq.cell import check_graph
from gncadeq.cells.cascade import CascadeCell, Part
from gncadeq.cells.conv import ConvCell
from gncadeq.cells.drives import FeedForwardCell, StencilDrive
from gncadeq.cells.separable import assign, fix_centers, separate
from gncadeq.check import check_count, check_flag, check_options, check_value
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.graph.levels import Pyramid
from gncadeq.graph.partition import Partition
from gncadeq.models.image_classifier import ImageClassifier
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.pyramid import window_peaks
from gncadeq.typing import Adj, OptTensor

_TRANSFORM = {"living_threshold": 0.0, "halo": 1, "levels": 3}


class PyramidClassifier(ImageClassifier):
    r"""A classifier of pixel pyramids: the equilibrium of a cascade, level after level.

    .. math::
        \mathbf{z}_0' &= \mathrm{ReLU} \big( \mathrm{BN}(\mathbf{U}_0 * \mathbf{x}) \big) \\
        \mathbf{z}_l' &= \mathrm{ReLU} \big( \mathbf{K}_l * \mathbf{z}_l +
        \mathrm{BN}(\mathbf{U}_l *_2 \mathbf{z}_{l-1}) \big) , \qquad
        \lVert \mathbf{K}_l \rVert_2 \le \kappa < 1 \\
        \mathbf{y} &= \mathbf{W} \big[ \mathrm{mean}_i \, \mathbf{z}_{L,i} \Vert \max_i
        \mathbf{z}_{L,i} \big] + \mathbf{b}

    Each level is a contraction of its own state, driven by the level below through a stencil of
    stride 2 that needs no bound: one equilibrium, which every start reaches at every fire rate
    (:class:`gncadeq.CascadeCell`). The multi-scale equilibrium of `Bai et al. 2020
    <https://arxiv.org/abs/2006.08656>`_ couples its levels both ways, and has no such promise. The
    default sizes give 14,629 parameters.

    Args:
        in_channels: Channels of the image.
        channels: Channels of the state on every level.
        num_classes: Number of classes.
        contraction: The bound :math:`\kappa` of every level.
        norm: Whether drives are normalised in training; :meth:`fold` sets it to false.
        separable: Whether the stencils above level 0 are separable
            (:func:`gncadeq.cells.separate`), which have a third to a seventh of the parameters.
        transform: Arguments of the :class:`ImageToGraph` that makes the graphs the model is for.
        deq: Arguments of :class:`GraphDEQ`.
        folded: Whether a separable model is without the parameters that change no answer;
            :meth:`fold` sets it to true.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F)`, edge indices
          :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`, batch vector
          :math:`(|\mathcal{V}|)`
        - **output:** logits :math:`(|\mathcal{G}|, \text{num\_classes})`

    Example:
        >>> model = PyramidClassifier().eval()
        >>> data = model.to_graph(torch.rand(1, 28, 28))
        >>> model(data.x, data.edge_index, data.edge_attr).shape
        torch.Size([1, 10])
    """

    pooling = ("mean", "max")

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (8, 16, 27),
        num_classes: int = 10,
        contraction: float = 0.9,
        norm: bool = True,
        separable: bool = False,
        transform: dict[str, Any] | None = None,
        deq: dict[str, Any] | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        channels = [check_count("channels", each, 1) for each in channels]
        num_classes = check_count("num_classes", num_classes, 1)
        contraction = check_value("contraction", contraction, float | None, above=0.0)
        transform = {
            **_TRANSFORM, "levels": len(channels),
            **check_options("transform", transform, ImageToGraph),
        }  # fmt: skip
        deq = check_options("deq", deq, GraphDEQ)
        if transform["levels"] != len(channels) or len(channels) < 2:
            raise ValueError(
                f"Expected 'channels' for each of at least two levels (got {channels} for "
                f"levels={transform['levels']})"
            )
        check_flag("separable", separable)
        if check_flag("folded", folded) and (norm or not separable):
            raise ValueError(
                "Expected norm=False and separable=True with folded=True (got "
                f"norm={norm} and separable={separable})"
            )
        self.config = {
            "in_channels": in_channels, "channels": channels, "num_classes": num_classes,
            "contraction": contraction, "norm": norm, "separable": separable, "folded": folded,
            "transform": transform, "deq": deq,
        }  # fmt: skip
        self.in_channels, self.card = in_channels, {}
        self.to_graph = ImageToGraph(**transform)
        parts = [
            Part(FeedForwardCell(channels[0]), StencilDrive(in_channels, channels[0], norm), ["x"])
        ]
        for level, (below, here) in enumerate(pairwise(channels), 1):
            cell = ConvCell(
                here, here, injection="additive", contraction=contraction, scale_spread=0.0,
                activation="relu", bias=False,
            )  # fmt: skip
            drive = StencilDrive(below, here, norm)
            if separable:
                separate(cell, "weight_z", unit_center=folded)
                separate(drive.conv, unit_center=folded)
            parts.append(Part(cell, drive, [level - 1], level))
        self.dynamics: GraphDEQ | GraphNCA = GraphDEQ(CascadeCell(parts, in_channels), **deq)
        self.readout = PeakReadout(channels[-1], num_classes)
        if folded:
            self.readout.fix_last()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        self.dynamics.reset_parameters()
        self.readout.reset_parameters()

    def encode(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
        """The pixels themselves, which the first part of the cascade reads."""
        return x

    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """Prepare the levels; see :class:`gncadeq.models.classifier.Classifier`."""
        check_graph(x, edge_index, self.in_channels)
        pyramid = Pyramid.of(edge_index, edge_attr, x.size(0))
        ground = pyramid.levels[0]
        self.check_inputs(x[ground.rows], ground.within)
        return x, pyramid, None

    def pool(
        self, z: Tensor, partition: Partition, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Tensor:
        """Mean and maximum over the nodes of the top level, ``[num_graphs, 2 channels]``."""
        rows = Pyramid.of(edge_index, edge_attr, z.size(0)).levels[-1].rows
        top, nodes = z[rows, : self.readout.channels], partition.part(rows)
        mean = nodes.mean(top)
        peak = torch.zeros_like(mean)
        peak = peak.scatter_reduce(0, nodes.batch[:, None].expand_as(top), top, "amax")
        return torch.cat([mean, peak], 1)

    def pool_around(self, z: Tensor, data: Data, radius: int) -> Tensor:
        """Mean and maximum over the pixels in the window, each with its state of the top level."""
        return window_peaks(z[:, : self.readout.channels], data, radius)

    def fold(self) -> None:
        """Move the drives' normalisations into their stencils; eval outputs stay the same.

        Of a separable model the middles of windows become one, and the last class's logit zero, by
        a change of all logits that no probability depends on: neither is a parameter any more.
        """
        cell: Any = self.dynamics.cell
        for part in cell.parts:
            part.drive.fold()
        self.config["norm"] = False
        if self.config["separable"] and not self.config["folded"]:
            for part in cell.parts[1:]:
                fix_centers(part.cell, "weight_z")
                fix_centers(part.drive.conv)
            self.readout.fix_last()
            self.config["folded"] = True


class PeakReadout(nn.Module):
    """A linear map of the mean and the maximum of a graph's states, which are not negative.

    Args:
        channels: Channels of the state.
        out_channels: Number of outputs.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = check_count("channels", channels, 1)
        self.lin = nn.Linear(2 * channels, check_count("out_channels", out_channels, 1))

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        weight = self.lin.weight
        fresh = nn.Linear(
            2 * self.channels, self.lin.out_features, device=weight.device, dtype=weight.dtype
        )
        assign(self.lin, "weight", fresh.weight.detach())
        assign(self.lin, "bias", fresh.bias.detach())

    def fix_last(self) -> None:
        """Make the last of several outputs zero, by a change of all: softmax stays the same."""
        for name in ("weight", "bias") if self.lin.out_features > 1 else ():
            parametrize.register_parametrization(self.lin, name, _LastZero())

    def decode(self, pooled: Tensor) -> Tensor:
        """Logits ``[num_graphs, out_channels]``."""
        out: Tensor = self.lin(pooled)
        return out


class _LastZero(nn.Module):
    """The parametrisation of rows of which the last is zero."""

    def forward(self, rows: Tensor) -> Tensor:
        """Append the last row."""
        return torch.cat([rows, torch.zeros_like(rows[:1])])

    def right_inverse(self, rows: Tensor) -> Tensor:
        """Subtract the last row from all others."""
        return rows[:-1] - rows[-1]
