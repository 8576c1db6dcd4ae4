"""Images to pixel graphs and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import (
    check_choice,
    check_count,
    check_flag,
    check_type,
    check_value,
)
from gncadeq.transforms.pyramid import pixel_places, pixel_pyramids

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
        halo: Keep the pixels within so many rings around those as well.
        levels: Number of levels: with more than one, coarser pixels stand above the pixels, a
            quarter as many on each level, see
            :func:`gncadeq.transforms.pyramid.pixel_pyramids`. Their ``x`` is zero, and ``level``
            ``[N]`` is their level. Relations from the level below are 9 to 17.

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
        halo: int = 0,
        levels: int = 1,
    ) -> None:
        check_choice("neighborhood", neighborhood, ("moore", "von_neumann"))
        check_flag("periodic", periodic)
        living_threshold = check_value(
            "living_threshold", living_threshold, float | None, least=0.0, below=1.0
        )
        self.halo, self.levels = check_count("halo", halo), check_count("levels", levels, 1)
        if levels > 1 and (periodic or neighborhood != "moore"):
            raise ValueError(
                "Expected neighborhood='moore' and periodic=False with several levels (got "
                f"{neighborhood!r} and {periodic})"
            )
        self.neighborhood, self.periodic = neighborhood, periodic
        self.living_threshold = living_threshold
        self._full: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def forward(self, image: Tensor | np.ndarray) -> Data:
        """Build the graph of ``image``."""
        image = check_image(image)
        nodes, edges, _ = self._graphs(image.unsqueeze(0))
        return Data(**nodes, **edges, image_size=torch.tensor([image.shape[1:]]))

    def _graphs(
        self, images: Tensor, written: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
        """What is known of the nodes and the edges, and how many nodes each image has."""
        living = self.living(images)
        pixels, count = images.permute(0, 2, 3, 1)[living], living.flatten(1).sum(1)
        if self.levels > 1:
            pyramid = pixel_pyramids(living, self.levels)
            x = pixels.new_zeros(pyramid.num_nodes, pixels.size(1))
            x[pyramid.levels[0].rows] = pixels
            count = sum(level.within.grid.count() for level in pyramid.levels)  # type: ignore
            if not written:
                return {"x": x}, {"edge_index": pyramid}, count
            pos, level = pixel_places(pyramid)
            edge_index, relation = pyramid.edges()
            nodes = {"x": x, "pos": pos, "level": level}
            return nodes, {"edge_index": edge_index, "edge_attr": relation}, count
        edge_index, relation, pos = self._edges(living)
        return {"x": pixels, "pos": pos}, {"edge_index": edge_index, "edge_attr": relation}, count

    __call__ = forward

    def living(self, images: Tensor) -> Tensor:
        """Which pixels of images ``[B, C, H, W]`` are nodes: ``[B, H, W]`` booleans."""
        if self.living_threshold is None:
            return torch.ones_like(images[:, 0], dtype=torch.bool)
        living = (images > self.living_threshold).any(dim=1)
        if self.halo:
            width = 2 * self.halo + 1
            living = F.max_pool2d(living.float(), width, 1, self.halo) > 0
        empty = ~living.flatten(1).any(dim=1)
        if bool(empty.any()):
            first = int(empty.nonzero()[0])
            where = f" in image {first}" if len(images) > 1 else ""
            raise ValueError(
                f"Expected a pixel brighter than living_threshold={self.living_threshold:g}{where} "
                f"(the brightest is {float(images[first].max()):.3g}). Lower the threshold, or use "
                "None to keep every pixel"
            )
        return living

    def _edges(self, living: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.living_threshold is not None:
            return pixel_edges(living, self.neighborhood, self.periodic)
        shape = tuple(living.shape)
        if shape not in self._full:  # full grids of one size are all alike: keep the last few
            if len(self._full) == 4:
                self._full.pop(next(iter(self._full)))
            self._full[shape] = pixel_edges(living, self.neighborhood, self.periodic)
        edge_index, relation, pos = self._full[shape]
        return edge_index.clone(), relation.clone(), pos.clone()

    def prepared(self, images: Tensor, y: Tensor | None = None) -> Batch:
        """The batch of :meth:`batch` for a model's eyes: nodes, and edges prepared for stencils.

        ``edge_index`` is a :class:`~gncadeq.graph.levels.Pyramid` and there is no ``edge_attr``.
        It takes a tenth of the time.

        Args:
            images: ``[B, C, H, W]`` in [0, 1].
            y: ``[B]`` labels, or ``None``.
        """
        if self.levels == 1:
            return self.batch(images, y)
        check_images(images)
        nodes, edges, count = self._graphs(images, written=False)
        owner = torch.arange(len(images)).repeat_interleave(count)
        ptr = F.pad(count.cumsum(0), (1, 0))
        out = Batch(_base_cls=Data, **nodes, **edges, edge_attr=None, y=y, batch=owner, ptr=ptr)
        out._num_graphs = len(images)
        return out

    def batch(self, images: Tensor, y: Tensor | None = None) -> Batch:
        """Build the graphs of many equally large images at once, many times faster.

        Args:
            images: ``[B, C, H, W]`` in [0, 1].
            y: ``[B]`` labels, or ``None``.

        Returns:
            The :class:`~torch_geometric.data.Batch` of the single graphs.

        Raises:
            ValueError: If the rank or the range is wrong, or if an image has no living pixel.

        Example:
            >>> ImageToGraph().batch(torch.rand(3, 1, 4, 5)).num_graphs
            3
        """
        check_images(images)
        b, _, height, width = images.shape
        nodes, edges, count = self._graphs(images)
        owner = torch.arange(b).repeat_interleave(count)
        edge_count = torch.bincount(owner[edges["edge_index"][1]], minlength=b)
        by_graph = {"image_size": torch.tensor([[height, width]]).repeat(b, 1)}
        return stack_graphs(
            (count, nodes), (edge_count, edges), by_graph if y is None else by_graph | {"y": y}
        )

    def __repr__(self) -> str:
        more = "".join(
            f", {name}={value}"
            for name, value, usual in (("halo", self.halo, 0), ("levels", self.levels, 1))
            if value != usual
        )
        return (
            f"{self.__class__.__name__}(neighborhood={self.neighborhood!r}, "
            f"periodic={self.periodic}, living_threshold={self.living_threshold}{more})"
        )


def stack_graphs(
    nodes: tuple[Tensor, dict[str, Tensor]],
    edges: tuple[Tensor, dict[str, Tensor]],
    by_graph: dict[str, Tensor],
) -> Batch:
    """The batch of graphs whose tensors are concatenated already.

    Args:
        nodes: How many each graph has ``[B]``, and what is known of them.
        edges: The same of the edges, with an ``edge_index`` that numbers the nodes of all graphs.
        by_graph: Tensors with a row for every graph.

    Example:
        >>> nodes = torch.tensor([2, 1]), {"pos": torch.rand(3, 2)}
        >>> edges = torch.tensor([1, 0]), {"edge_index": torch.tensor([[0], [1]])}
        >>> stack_graphs(nodes, edges, {})[1]
        Data(pos=[1, 2], edge_index=[2, 0])
    """
    b = nodes[0].numel()
    node_ptr, edge_ptr = F.pad(nodes[0].cumsum(0), (1, 0)), F.pad(edges[0].cumsum(0), (1, 0))
    store = nodes[1] | edges[1] | by_graph
    out = Batch(_base_cls=Data, **store)
    out._num_graphs = b
    out.batch, out.ptr = torch.arange(b).repeat_interleave(nodes[0]), node_ptr
    out._slice_dict = dict.fromkeys(nodes[1], node_ptr) | dict.fromkeys(edges[1], edge_ptr)
    out._slice_dict |= dict.fromkeys(by_graph, torch.arange(b + 1))
    zero = torch.zeros(b, dtype=torch.long)
    out._inc_dict = {k: node_ptr[:-1] if k == "edge_index" else zero for k in store}
    return out


def pixel_edges(
    living: Tensor, neighborhood: PixelNeighborhood = "moore", periodic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The graph of the ``living`` pixels ``[B, H, W]`` of a batch of images.

    Returns:
        Edges ``[2, E]`` sorted by target, relations ``[E]``, and positions ``[N, 2]`` as
        (column, row).

    Example:
        >>> edge_index, relation, pos = pixel_edges(torch.ones(1, 1, 2, dtype=torch.bool))
        >>> edge_index, relation
        (tensor([[1, 0],
                [0, 1]]), tensor([5, 3]))
    """
    check_choice("neighborhood", neighborhood, ("moore", "von_neumann"))
    check_flag("periodic", periodic)
    check_type("living", living, Tensor)
    if living.dim() != 3 or living.dtype != torch.bool:
        raise ValueError(
            f"Expected booleans 'living' of shape [B, H, W] (got {list(living.shape)}, "
            f"{living.dtype})"
        )
    _, height, width = living.shape
    owner, row, col = living.nonzero(as_tuple=True)
    n = owner.numel()
    number = torch.full(living.shape, -1)
    number[living] = torch.arange(n)
    if periodic:
        number = number[:, torch.arange(-1, height + 1) % height]
        number = number[:, :, torch.arange(-1, width + 1) % width]
    else:
        number = F.pad(number, (1, 1, 1, 1), value=-1)
    relation = torch.tensor([r for r in range(9) if r != 4])
    if neighborhood == "von_neumann":
        relation = torch.tensor([1, 3, 5, 7])
    offset = (relation // 3) * (width + 2) + relation % 3
    corner = (owner * (height + 2) + row) * (width + 2) + col
    table = number.view(-1)[corner[:, None] + offset]  # [N, K]: each pixel's neighbours, or -1
    inside = table >= 0
    target = torch.arange(n)[:, None].expand_as(table)[inside]
    edge_index = torch.stack([table[inside], target])
    pos = torch.stack([col, row], dim=1).float()
    return edge_index, relation.expand_as(table)[inside], pos


def check_images(images: Tensor) -> None:
    """Raise what is wrong with images ``[B, C, H, W]``, as :func:`check_image` does."""
    if images.dim() != 4:
        raise ValueError(f"Expected images of shape [B, C, H, W] (got {list(images.shape)})")
    if len(images):
        check_image(images.flatten(0, 1))


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

    Of a pyramid the lowest level is painted.

    Example:
        >>> image = torch.rand(1, 4, 5)
        >>> data = ImageToGraph()(image)
        >>> torch.equal(graph_to_image(data.x, data), image)
        True
    """
    height, width = (int(s) for s in data.image_size.view(-1))
    if "level" in data:
        value, data = value[data.level == 0], Data(pos=data.pos[data.level == 0])
    canvas = value.new_full((height * width, value.size(1)), fill)
    col, row = data.pos.long().unbind(1)
    canvas[row * width + col] = value
    return canvas.t().reshape(-1, height, width)


def window_mean(value: Tensor, data: Data, radius: int) -> Tensor:
    """Average node values ``[N, C]`` over the nodes in a square window around each node.

    Args:
        value: Node values.
        data: The pixel graph of one image.
        radius: Half the window's width in pixels; 0 leaves the values as they are.

    Example:
        >>> data = ImageToGraph()(torch.rand(1, 4, 5))
        >>> everywhere = window_mean(data.x, data, radius=5)
        >>> bool((everywhere - data.x.mean()).abs().max() < 1e-6)
        True
    """
    radius = check_count("radius", radius)
    width = 2 * radius + 1
    ones = torch.cat([value, value.new_ones(len(value), 1)], dim=1)
    image = graph_to_image(ones, data).unsqueeze(0)
    total = F.avg_pool2d(image, width, stride=1, padding=radius)[0]
    col, row = data.pos.long().unbind(1)
    sums = total[:, row, col].t()
    return sums[:, :-1] / sums[:, -1:]
