"""Images to pixel graphs and back."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

PixelNeighborhood = Literal["moore", "von_neumann"]


class ImageToGraph(BaseTransform):  # type: ignore[misc]
    r"""Turn an image into a pixel graph.

    Nodes are pixels, numbered row by row. An edge runs from every neighbour to a pixel, and its
    ``edge_attr`` is the relation: the offset of the source from the target, numbered row by row in
    the 3 × 3 window (0 is up-left, 4 the pixel itself, 8 down-right). Pixels sense themselves
    without an edge. The edges are sorted by target.

    Args:
        neighborhood: ``"moore"``, the eight surrounding pixels, or ``"von_neumann"``, the four
            that share a side.
        periodic: Whether the image wraps around at its borders.
        living_threshold: Keep only the pixels of which some channel is brighter than this; ``None``
            keeps all.

    Returns (when called with an image ``[C, H, W]`` in [0, 1]):
        ``Data`` with ``x`` ``[N, C]``, ``edge_index`` ``[2, E]``, ``edge_attr`` ``[E]`` integers,
        ``pos`` ``[N, 2]`` (column, row), and ``image_size`` ``[1, 2]`` (height, width).

    Raises:
        TypeError: If the image is no tensor or array, or of an unknown dtype.
        ValueError: If its rank or range is wrong, if it holds NaN, or if no pixel lives.

    Example:
        >>> ImageToGraph()(torch.rand(1, 4, 5))
        Data(x=[20, 1], edge_index=[2, 110], edge_attr=[110], pos=[20, 2], image_size=[1, 2])
    """

    def __init__(
        self,
        neighborhood: PixelNeighborhood = "moore",
        periodic: bool = False,
        living_threshold: float | None = None,
    ) -> None:
        if neighborhood not in ("moore", "von_neumann"):
            raise ValueError(
                f"Expected 'neighborhood' to be 'moore' or 'von_neumann' (got {neighborhood!r})"
            )
        if living_threshold is not None and not 0.0 <= living_threshold < 1.0:
            raise ValueError(
                f"Expected 'living_threshold' in [0, 1) or None (got {living_threshold})"
            )
        self.neighborhood, self.periodic = neighborhood, periodic
        self.living_threshold = living_threshold
        self._grids: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, image: Tensor | np.ndarray) -> Data:
        """Build the graph of ``image``."""
        return self.forward(image)

    def forward(self, image: Tensor | np.ndarray) -> Data:
        """Build the graph of ``image``."""
        image = check_image(image)
        height, width = image.shape[1:]
        x = image.flatten(1).t().contiguous()
        edge_index, relation, pos = self._grid(height, width)
        if self.living_threshold is not None:
            living = (x > self.living_threshold).any(dim=1)
            if not bool(living.any()):
                raise ValueError(
                    f"Expected a pixel brighter than living_threshold={self.living_threshold:g} "
                    f"(the brightest is {float(x.max()) if x.numel() else 0:.3g}). Lower the "
                    "threshold, or use None to keep every pixel"
                )
            both = living[edge_index[0]] & living[edge_index[1]]
            index = living.cumsum(0) - 1
            x, pos = x[living], pos[living]
            edge_index, relation = index[edge_index[:, both]], relation[both]
        size = torch.tensor([[height, width]])
        return Data(x=x, edge_index=edge_index, edge_attr=relation, pos=pos, image_size=size)

    def _grid(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        key = (height, width)
        if key not in self._grids:
            if len(self._grids) > 64:
                self._grids.clear()
            self._grids[key] = grid_edges(height, width, self.neighborhood, self.periodic)
        edge_index, relation, pos = self._grids[key]
        return edge_index.clone(), relation.clone(), pos.clone()

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(neighborhood={self.neighborhood!r}, "
            f"periodic={self.periodic}, living_threshold={self.living_threshold})"
        )


def grid_edges(
    height: int, width: int, neighborhood: PixelNeighborhood = "moore", periodic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The edges ``[2, E]``, relations ``[E]`` and positions ``[N, 2]`` of a full pixel grid."""
    offset = torch.arange(3) - 1
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    relation = torch.arange(9)
    keep = relation != 4
    if neighborhood == "von_neumann":
        keep &= (dy == 0).flatten() | (dx == 0).flatten()
    dy, dx, relation = dy.flatten()[keep], dx.flatten()[keep], relation[keep]
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, col = row.reshape(-1, 1), col.reshape(-1, 1)
    r, c = row + dy, col + dx  # [N, K]: where each pixel's neighbours stand
    inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
    if periodic:
        r, c, inside = r % height, c % width, torch.ones_like(inside)
    source = (r * width + c)[inside]
    target = (row * width + col).expand_as(r)[inside]
    pos = torch.cat([col, row], dim=1).float()
    return torch.stack([source, target]), relation.expand_as(r)[inside].contiguous(), pos


def check_image(image: Tensor | np.ndarray) -> Tensor:
    """Return ``image`` as a float tensor ``[C, H, W]``, or raise what is wrong with it.

    Raises:
        TypeError: If it is no tensor or array, or of an unknown dtype.
        ValueError: If its rank or range is wrong, or if it holds NaN.
    """
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image))
    if not isinstance(image, Tensor):
        raise TypeError(f"Expected an image tensor [C, H, W] (got {type(image).__name__})")
    if image.dim() != 3:
        hint = " Use image.unsqueeze(0) for a grey one" if image.dim() == 2 else ""
        raise ValueError(f"Expected an image of shape [C, H, W] (got {list(image.shape)}).{hint}")
    if 0 in image.shape:
        raise ValueError(f"Expected an image with pixels (got shape {list(image.shape)})")
    if not image.is_floating_point():
        raise TypeError(
            f"Expected floating-point pixels in [0, 1] (got {image.dtype}). Use image.float() / 255"
        )
    if bool(image.isnan().any()):
        raise ValueError(f"Expected an image without NaN (got {int(image.isnan().sum())} of them)")
    low, high = float(image.min()), float(image.max())
    if low < 0.0 or high > 1.0:
        raise ValueError(
            f"Expected pixels in [0, 1] (got {low:g} to {high:g}). Divide 8-bit images by 255"
        )
    return image


def graph_to_image(value: Tensor, data: Data, fill: float = 0.0) -> Tensor:
    """Paint node values ``[N, C]`` back onto the image's canvas: ``[C, H, W]``.

    Example:
        >>> image = torch.rand(1, 4, 5)
        >>> data = ImageToGraph()(image)
        >>> torch.equal(graph_to_image(data.x, data), image)
        True
    """
    height, width = (int(s) for s in data.image_size.view(-1))
    canvas = value.new_full((height * width, value.size(1)), fill)
    col, row = data.pos.long().unbind(1)
    canvas[row * width + col] = value
    return canvas.t().reshape(-1, height, width)


__all__ = ["ImageToGraph", "check_image", "graph_to_image", "grid_edges"]
