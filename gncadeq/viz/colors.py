"""States to colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_choice, check_number

LABEL_COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2",
    "#b279a2", "#eeca3b", "#9d755d", "#ff9da6", "#7f7f7f",
)  # fmt: skip
NO_VALUE = "#ff00ff"
"""The colour of NaN and infinity: no colour map holds it."""

Kind = Literal["rgb", "rgba", "scalar", "labels"]


@dataclass(frozen=True)
class ColorScale:
    """Maps node values to colours: the same value has the same colour in every frame.

    Args:
        kind: ``"rgb"``, channels 0 to 2 as red, green and blue; ``"rgba"``, the same on white, with
            colours premultiplied by channel 3, the way of Growing NCA (Mordvintsev et al. 2020);
            ``"scalar"``, one channel through a colour map; ``"labels"``, integers through a palette
            of ten.
        low: The value that is darkest; ignored by ``"rgba"`` and ``"labels"``.
        high: The value that is brightest; values outside are clipped, NaN and infinity magenta.
        colormap: The name of a matplotlib colour map.

    Example:
        >>> scale = ColorScale.fit(torch.tensor([0.0, 0.5, 1.0]), colormap="gray")
        >>> scale(torch.tensor([0.0, 1.0]))
        tensor([[0., 0., 0.],
                [1., 1., 1.]])
        >>> ColorScale.fit(torch.tensor([3, 1])).kind
        'labels'
    """

    kind: Kind = "rgb"
    low: float = 0.0
    high: float = 1.0
    colormap: str = "viridis"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        low = check_number("low", self.low)
        high = check_number("high", self.high, least=low)
        object.__setattr__(self, "low", low)  # the class is frozen
        object.__setattr__(self, "high", high)

    @classmethod
    def fit(
        cls,
        value: Tensor,
        kind: Kind | None = None,
        low: float | None = None,
        high: float | None = None,
        colormap: str = "viridis",
    ) -> ColorScale:
        """The scale for values ``[*, N]`` or ``[*, N, C]``, such as a whole trajectory.

        Args:
            value: Integers are labels; floating-point ``[N, C]`` with C ≥ 3 are colours. Anything
                else is a scalar, and so is a one-dimensional value; say ``kind`` where a trajectory
                of scalars ``[T, N]`` could be taken for colours.
            kind: What the values are, where their shape doesn't say it.
            low: By default the least finite value; colours that don't fit into [0, 1] range from
                the 1st to the 99th percentile of the three channels together.
            high: See ``low``.
            colormap: The colour map of scalars.
        """
        if kind is None:
            discrete = not value.is_floating_point()
            several = value.dim() > 1 and value.size(-1) >= 3
            kind = "labels" if discrete else "rgb" if several else "scalar"
        if kind in ("rgba", "labels"):
            return cls(kind)
        bounds = _bounds(value[..., :3] if kind == "rgb" else value, kind == "rgb")
        low = bounds[0] if low is None else low
        high = bounds[1] if high is None else high
        return cls(kind, low, high, colormap)

    def __call__(self, value: Tensor) -> Tensor:
        """Colours ``[*, N, 3]`` in [0, 1].

        Raises:
            ValueError: If the values have too few or too many channels for this scale.
        """
        value = value.detach().cpu()
        if self.kind in ("rgb", "rgba"):
            least = len(self.kind)
            if value.dim() < 2 or value.size(-1) < least:
                raise ValueError(
                    f"Expected values of shape [num_nodes, channels >= {least}] "
                    f"for kind={self.kind!r} (got {list(value.shape)}). Choose one: z[:, 0]"
                )
            value = value[..., :least].float()
            finite = value.isfinite().all(-1, keepdim=True)
            if self.kind == "rgba":
                color = value[..., :3] + 1.0 - value[..., 3:]
            else:
                color = self._unit(value)
        else:
            if value.dim() > 1 and value.size(-1) == 1:
                value = value.squeeze(-1)
            finite = value.isfinite().unsqueeze(-1)
            if self.kind == "labels":
                color = torch.tensor(rgb(LABEL_COLORS))[value.long() % len(LABEL_COLORS)]
            else:
                position = self._unit(value.double()).nan_to_num() * 255
                color = color_table(self.colormap)[position.round().long()]
        return torch.where(finite, color.clamp(0, 1), torch.tensor(rgb([NO_VALUE])[0]))

    def _unit(self, value: Tensor) -> Tensor:
        span = self.high - self.low
        return ((value - self.low) / (span if span > 0 else 1.0)).clamp(0, 1)


def color_table(name: str) -> Tensor:
    """The ``[256, 3]`` colours of a matplotlib colour map.

    Raises:
        ValueError: If there is no such colour map.
    """
    from matplotlib import colormaps

    if name not in colormaps:
        raise ValueError(
            f"Expected the name of a matplotlib colour map such as 'viridis' (got {name!r})"
        )
    return torch.from_numpy(colormaps[name].resampled(256)(range(256))[:, :3]).float()


def _bounds(value: Tensor, color: bool) -> tuple[float, float]:
    finite = value.detach().cpu().double()
    finite = finite[finite.isfinite()]
    if not finite.numel():
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if not color:
        return low, high
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    last = len(finite) - 1  # torch.quantile takes 16 million values at most
    percentiles = (finite.kthvalue(1 + round(q * last)).values for q in (0.01, 0.99))
    low, high = (float(p) for p in percentiles)
    return low, high


def rgb(colors: Sequence[str]) -> list[list[float]]:
    """Colours ``"#rrggbb"`` as numbers in [0, 1]."""
    return [[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in colors]


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


def drawn(value: Tensor, data: Data) -> Tensor:
    """The rows of node values that pictures show: all, or of a pyramid those of level 1, the finest
    on which nodes of a state sense each other."""
    return value[data.level == 1] if "level" in data else value


def paint_graph(color: Tensor, data: Data) -> Tensor:
    """Paint the colours of the :func:`drawn` nodes of an image's graph ``[height, width, 3]``: a
    pixel each, or 2 × 2 pixels for a node of level 1."""
    height, width = (int(s) for s in data.image_size.view(-1))
    if "level" not in data:
        return paint(color, data.pos, height, width)
    coarse = paint(color, drawn(data.pos, data) / 2, -(-height // 2), -(-width // 2))
    return coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)[:height, :width]
