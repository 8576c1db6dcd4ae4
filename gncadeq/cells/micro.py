"""The cell of ultra-compact textures: a few hundred parameters, and no hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_count
from gncadeq.graph.perception import Perception, check_kernels
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class MicroStep(Restrictable):
    """One step of a :class:`MicroCell` with the graph bound.

    Args:
        perceptions: One for each kernel; kernel ``k`` is for the channels ``k, k + K, k + 2K, …``.
        weight: ``[C, 4C]``.
        bias: ``[C]``.
    """

    perceptions: list[Perception]
    weight: Tensor
    bias: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # z' = z + W [z, y, |z|, |y|] + b
        senses = torch.cat([z, self._perceive(z)], dim=1)
        senses = torch.cat([senses, senses.abs()], dim=1)
        return z + F.linear(senses, self.weight, self.bias)

    def _perceive(self, z: Tensor) -> Tensor:
        count = len(self.perceptions)
        y = torch.empty_like(z)
        for k, perception in enumerate(self.perceptions):
            y[:, k::count] = perception(z[:, k::count]).squeeze(1)
        return y


class MicroCell(Cell):
    r"""The cell of `"µNCA: Texture Generation with Ultra-Compact Neural Cellular Automata"
    <https://arxiv.org/abs/2111.13545>`_ (Mordvintsev & Niklasson 2021) on any graph whose edges
    carry kernel weights.

    .. math::
        \mathbf{z}_i' = \mathbf{z}_i + \mathbf{W} \big[ \mathbf{z}_i \Vert \mathbf{y}_i \Vert
        |\mathbf{z}_i| \Vert |\mathbf{y}_i| \big] + \mathbf{b} , \qquad
        y_{ic} = \sum_{e = (j \to i)} w_{e, \, c \bmod K} \, z_{jc}

    Every channel senses through one kernel, in turn, and there is no hidden layer, which leaves
    :math:`C (4C + 1)` parameters: 68, 150, 264 and 588 with 4, 6, 8 and 12 channels, those of the
    paper. (The order in which channels take the kernels is a choice of ours.) With a Laplacian
    alone the rule knows no directions. The parameters start at zero, the rule as the identity.

    Args:
        channels: Channels :math:`C` of the state ``z``; by custom the first three, plus a half,
            are red, green and blue (:func:`gncadeq.training.textures.state_color`).
        num_kernels: Kernels :math:`K`, the width of ``edge_attr``.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, 0)`, edge
          indices :math:`(2, |\mathcal{E}|)`, kernel weights :math:`(|\mathcal{E}|, K)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range, or the graph has no such kernel weights.

    Example:
        >>> from gncadeq import GraphNCA
        >>> from gncadeq.datasets import primitives
        >>> from gncadeq.transforms import MeshToGraph
        >>> cell = MicroCell(channels=8, num_kernels=1)
        >>> cell
        MicroCell(8, num_kernels=1, parameters=264)
        >>> data = MeshToGraph("isotropic")(primitives.icosphere(2))
        >>> nca = GraphNCA(cell, steps=20, fire_rate=0.5, start="normal")
        >>> nca(data.pos[:, :0], data.edge_index, data.edge_attr).shape
        torch.Size([162, 8])
    """

    in_channels = 0

    def __init__(self, channels: int = 12, num_kernels: int = 3) -> None:
        super().__init__()
        num_kernels = check_count("num_kernels", num_kernels, 1)
        channels = check_count(
            "channels", channels, num_kernels, hint="Every kernel needs a channel"
        )
        self.channels, self.num_kernels = channels, num_kernels
        self.weight = nn.Parameter(torch.empty(channels, 4 * channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero, so that the rule is the identity: without a hidden layer nothing is symmetric."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> MicroStep:
        """Bind the graph; see :class:`Cell`. ``edge_attr`` holds the kernel weights."""
        check_graph(x, edge_index, self.in_channels, self.weight.dtype)
        edge_attr = check_kernels(edge_attr, self.num_kernels)
        perceptions = [
            Perception(edge_index, edge_attr[:, k : k + 1], x.size(0))
            for k in range(self.num_kernels)
        ]
        return MicroStep(perceptions, self.weight, self.bias)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make a cell like this one, without its weights."""
        return {"channels": self.channels, "num_kernels": self.num_kernels}

    def extra_repr(self) -> str:
        """The arguments and the number of parameters, shown by ``repr``."""
        count = self.channels * (4 * self.channels + 1)
        return f"{self.channels}, num_kernels={self.num_kernels}, parameters={count}"
