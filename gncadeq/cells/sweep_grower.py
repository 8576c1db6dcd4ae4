"""Colours grown from a seed by sweeps: at rest by construction."""

from __future__ import annotations

from typing import Any

from torch import nn

from gncadeq.cells.cascade import CascadeCell, Part
from gncadeq.cells.drives import FeedForwardCell
from gncadeq.cells.sweep import SweepCell

_COLORS = 4


class SweepGrower(CascadeCell):
    r"""Two stages of sweeps, a hidden layer, and four colours.

    .. math::
        \mathbf{s}_1' &= \mathrm{sweep}_1(\mathbf{s}_1, \mathbf{x}) , \qquad
        \mathbf{s}_2' = \mathrm{sweep}_2(\mathbf{s}_2, \mathbf{B} \, \mathbf{s}_1) \\
        \mathbf{h}' &= \tanh(\mathbf{A} [\mathbf{s}_1 \Vert \mathbf{s}_2]) , \qquad
        \mathbf{c}' = \mathbf{O} \, \mathbf{h}

    with a :class:`gncadeq.SweepCell` each. The injection :math:`\mathbf{x}` marks where the sweeps
    begin. There are no biases: nodes that no sweep has reached are zero, so the pattern grows from
    the marks outwards, and grows back wherever nodes are reset.

    Args:
        in_channels: Marks.
        groups: Groups of channels of a stage.
        kernels: Weights of an edge for a group.
        channels: Channels of a group.
        hidden_channels: Width of the hidden layer.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, of which the first four channels are red,
          green, blue and alpha; the others as of :class:`gncadeq.SweepCell`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> import torch
        >>> from gncadeq import GraphDEQ
        >>> from gncadeq.transforms import ImageToGraph, Sweeps
        >>> data = Sweeps()(ImageToGraph()(torch.zeros(1, 4, 4)))
        >>> data.x[5] = 1.0
        >>> cell = SweepGrower(1, groups=4, kernels=3, channels=8, hidden_channels=48)
        >>> GraphDEQ(cell)(data.x, data.edge_index, data.edge_attr)[:, :4].shape
        torch.Size([16, 4])
    """

    alive_channel = 3
    alive_threshold = 0.1

    def __init__(
        self,
        in_channels: int,
        groups: int,
        kernels: int,
        channels: int = 16,
        hidden_channels: int = 48,
    ) -> None:
        width = groups * channels
        sweeps: dict[str, Any] = {"groups": groups, "kernels": kernels, "bias": False}
        first = SweepCell(in_channels, channels, gain=0.6, **sweeps)
        second = SweepCell(width, channels, gain=0.4, injection="additive", **sweeps)
        super().__init__(
            [
                Part(first, reads=["x"]),
                Part(second, nn.Linear(width, width, bias=False), [0]),
                Part(
                    FeedForwardCell(hidden_channels, "tanh"),
                    nn.Linear(2 * width, hidden_channels, bias=False), [0, 1],
                ),
                Part(
                    FeedForwardCell(_COLORS, "identity"),
                    nn.Linear(hidden_channels, _COLORS, bias=False), [2],
                ),
            ],
            in_channels,
        )  # fmt: skip
        self.config = {
            "in_channels": in_channels, "groups": groups, "kernels": kernels,
            "channels": channels, "hidden_channels": hidden_channels,
        }  # fmt: skip
        self.card: dict[str, Any] = {}
        # The colours are the first channels, as of all growing rules.
        *others, colors = self.places
        size = colors.stop - colors.start
        self.places = [slice(c.start + size, c.stop + size) for c in others] + [slice(0, size)]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        super().reset_parameters()
        drive = self.parts[1].drive
        nn.init.normal_(drive.weight, std=drive.in_features**-0.5)
