"""The cell of growing neural cellular automata, on pixels, meshes and any graph with kernels."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_count, check_flag, check_number, check_value
from gncadeq.graph.perception import Perception, check_kernels
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class GrowingStep(Restrictable):
    """One step of a :class:`GrowingCell` with graph and injection bound."""

    perception: Perception
    weight: tuple[Tensor, Tensor, Tensor]
    drive: OptTensor
    alive: tuple[int, float] | None
    bound: float | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        return self.partial(z, None)

    def partial(self, z: Tensor, rate: OptTensor) -> Tensor:
        """The next state where the update is multiplied by ``rate``, before it is told who lives.

        Args:
            z: The state.
            rate: ``[num_nodes, 1]``, or a scalar; ``None`` for one.
        """
        # z' = a(z) a(v) v,  v = z + r g,  g = W₂ ReLU(W₁ [z, y¹, …, y^K, x] + b)
        inside, bias, outside = self.weight
        parts = []
        for rows, y in self.perception.in_blocks(z):
            senses = torch.cat([z[rows], y.flatten(1)], dim=1)
            hidden = F.linear(senses, inside, None if self.drive is not None else bias)
            if self.drive is not None:
                hidden = hidden + self.drive[rows]
            update = F.linear(hidden.relu_(), outside)
            if rate is not None:
                update = update * (rate[rows] if rate.dim() else rate)
            parts.append(z[rows] + update)
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.bound is not None:
            out = out.clamp(-self.bound, self.bound)
        if self.alive is None:
            return out
        alive = self._alive(z, *self.alive) & self._alive(out, *self.alive)
        return out * alive.unsqueeze(1)

    def _alive(self, z: Tensor, channel: int, threshold: float) -> Tensor:
        """Whether a node, or one that it senses, is above the threshold."""
        ripe = (z[:, channel].detach() > threshold).to(z.dtype).unsqueeze(1)
        return (self.perception.count(ripe) + ripe).squeeze(1) > 0


class GrowingCell(Cell):
    r"""The cell of `"Growing Neural Cellular Automata" <https://doi.org/10.23915/distill.00023>`_
    (Mordvintsev et al. 2020) on any graph whose edges carry kernel weights.

    .. math::
        \mathbf{g}_i = \mathbf{W}_2 \, \mathrm{ReLU} \Big( \mathbf{W}_1 \big[ \mathbf{z}_i \Vert
        \mathbf{y}_i^1 \Vert \dots \Vert \mathbf{y}_i^K \Vert \mathbf{x}_i \big] + \mathbf{b} \Big),
        \quad \mathbf{y}_i^k = \sum_{e = (j \to i)} w_{ek} \mathbf{z}_j , \qquad
        \mathbf{z}_i' = a_i(\mathbf{z}) \, a_i(\mathbf{z} + \mathbf{g}) \,
        (\mathbf{z}_i + \mathbf{g}_i)

    with :math:`a_i \in \{0, 1\}` telling whether node :math:`i` or one that it senses has more than
    the threshold in its alive channel. The last layer starts at zero, so the rule starts as the
    identity. The weights :math:`w_{ek}` are ``edge_attr``, and hold all the geometry:
    :class:`gncadeq.transforms.PixelKernels` (which makes this the convolution of the paper) and
    :class:`gncadeq.transforms.MeshToGraph` write them.

    The update mask of the dynamics, ``GraphNCA(cell, fire_rate=0.5)``, multiplies the update
    :math:`\mathbf{g}` before nodes live or die, as published. A fixed point without a mask is one
    for every mask.

    Args:
        channels: Channels of the state ``z``.
        num_kernels: Kernels :math:`K`, the width of ``edge_attr``.
        hidden_channels: Width of the MLP.
        in_channels: Channels of the injection ``x``; often 0, with ``x`` of shape
            ``[num_nodes, 0]``.
        alive_channel: The channel that tells whether a node lives, or ``None`` if all do.
        alive_threshold: The least value of a living node in that channel.
        out_bias: Whether the last layer has a bias, as published, which starts at zero too.
        bound: Clamp :math:`\mathbf{z} + \mathbf{g}` to :math:`[-b, b]`: no graph and no number of
            steps takes a state beyond. ``None``, as published, does not.
        max_degree: Refuse graphs on which a node senses more than so many by its one kernel, for
            weights that were made for at most that (:meth:`gncadeq.TotalisticCell.to_growing`).

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, kernel weights :math:`(|\mathcal{E}|, K)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range, or the graph has no kernel weights.

    Example:
        >>> from gncadeq import GraphNCA
        >>> from gncadeq.transforms import ImageToGraph, PixelKernels
        >>> data = PixelKernels()(ImageToGraph()(torch.zeros(1, 8, 8)))
        >>> cell = GrowingCell(channels=16, num_kernels=3)
        >>> seed = torch.zeros(64, 16)
        >>> seed[27, 3:] = 1.0
        >>> nca = GraphNCA(cell, steps=20, fire_rate=0.5)
        >>> z = nca(data.x[:, :0], data.edge_index, data.edge_attr, z0=seed)
        >>> z.shape
        torch.Size([64, 16])
    """

    def __init__(
        self,
        channels: int = 16,
        num_kernels: int = 3,
        hidden_channels: int = 128,
        in_channels: int = 0,
        alive_channel: int | None = 3,
        alive_threshold: float = 0.1,
        max_degree: int | None = None,
        bound: float | None = None,
        out_bias: bool = False,
    ) -> None:
        super().__init__()
        channels = check_count("channels", channels, 1)
        num_kernels = check_count("num_kernels", num_kernels, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        in_channels = check_count("in_channels", in_channels)
        alive_threshold = check_number("alive_threshold", alive_threshold)
        alive_channel = check_value(
            "alive_channel", alive_channel, int | None, least=0, most=channels - 1
        )
        max_degree = check_value("max_degree", max_degree, int | None)
        if max_degree is not None and num_kernels != 1:
            raise ValueError(f"Expected num_kernels=1 with 'max_degree' (got {num_kernels})")
        self.in_channels, self.channels = in_channels, channels
        self.num_kernels, self.hidden_channels = num_kernels, hidden_channels
        self.alive_channel, self.alive_threshold = alive_channel, alive_threshold
        # Who lives depends on the next states of the neighbours, and these on theirs.
        self.hops = 1 if alive_channel is None else 2
        self.max_degree = max_degree
        self.bound = check_value("bound", bound, float | None, above=0.0)
        senses = channels * (1 + num_kernels)
        self.weight_z = nn.Parameter(torch.empty(hidden_channels, senses))
        weight_x = torch.empty(hidden_channels, in_channels)
        self.weight_x = nn.Parameter(weight_x) if in_channels else None
        self.bias = nn.Parameter(torch.empty(hidden_channels))
        self.weight_out = nn.Parameter(torch.empty(channels, hidden_channels))
        self.out_bias = check_flag("out_bias", out_bias)
        self.bias_out = nn.Parameter(torch.empty(channels)) if out_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters; the last layer is zero, the rule the identity."""
        bound = (self.weight_z.size(1) + self.in_channels) ** -0.5
        nn.init.uniform_(self.weight_z, -bound, bound)
        if self.weight_x is not None:
            nn.init.uniform_(self.weight_x, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        nn.init.zeros_(self.weight_out)
        if self.bias_out is not None:
            nn.init.zeros_(self.bias_out)

    def layers(self) -> tuple[Tensor, OptTensor, Tensor, Tensor]:
        r"""The MLP: :math:`\mathbf{W}_1` of state and senses, that of the injection,
        :math:`\mathbf{b}` and :math:`\mathbf{W}_2`.

        A bias of the last layer is the column of one more hidden unit, which is always one.
        """
        if self.bias_out is None:
            return self.weight_z, self.weight_x, self.bias, self.weight_out
        weight_x = None if self.weight_x is None else F.pad(self.weight_x, (0, 0, 0, 1))
        outside = torch.cat([self.weight_out, self.bias_out[:, None]], 1)
        return (
            F.pad(self.weight_z, (0, 0, 0, 1)),
            weight_x,
            F.pad(self.bias, (0, 1), value=1.0),
            outside,
        )

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> GrowingStep:
        """Bind graph and injection; see :class:`Cell`. ``edge_attr`` holds the kernel weights."""
        check_graph(x, edge_index, self.in_channels, self.weight_z.dtype)
        edge_attr = check_kernels(edge_attr, self.num_kernels)
        perception = Perception(edge_index, edge_attr, x.size(0))
        self._check_degree(perception, x)
        inside, weight_x, bias, outside = self.layers()
        drive = None if weight_x is None else F.linear(x, weight_x, bias)
        channel = self.alive_channel
        alive = None if channel is None else (channel, self.alive_threshold)
        return GrowingStep(perception, (inside, bias, outside), drive, alive, self.bound)

    def _check_degree(self, perception: Perception, x: Tensor) -> None:
        if self.max_degree is None or not x.size(0) or torch.compiler.is_compiling():
            return
        most = int(perception.count(self.bias.new_ones(x.size(0), 1)).max())
        if most > self.max_degree:
            raise ValueError(
                f"Expected a graph of nodes with at most {self.max_degree} neighbours (got one "
                f"with {most}), for which these weights were made. Use to_growing(max_degree="
                f"{most})"
            )

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make a cell like this one, without its weights."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"{self.channels}, num_kernels={self.num_kernels}, hidden={self.hidden_channels}"
        if self.in_channels:
            text += f", in_channels={self.in_channels}"
        return text if self.alive_channel is None else f"{text}, alive={self.alive_channel}"
