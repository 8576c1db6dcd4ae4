"""Images to graphs of superpixels."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_count, check_number, check_value, import_extra
from gncadeq.transforms.image import check_image, check_images, stack_graphs
from gncadeq.transforms.points import nearest_neighbors

SuperpixelEdges = Literal["polar", "relation"]


class ImageToSuperpixels(BaseTransform):  # type: ignore[misc]
    r"""Turn an image into a graph of superpixels, each of which senses its ``k`` nearest.

    The superpixels are those of :func:`slic`; a node's features are the mean of its pixels and its
    place, as in `"Benchmarking Graph Neural Networks" <https://arxiv.org/abs/2003.00982>`_ (Dwivedi
    et al. 2020). Neighbours are nearest by place alone, so that edges have directions; those need
    not be mutual. Edges are sorted by target.

    ``edges="relation"`` rounds directions to the eight of the compass and numbers them as
    :class:`ImageToGraph` does: any model of pixel graphs runs on superpixels as it is. Several
    neighbours may share a direction, so the certificate of a :class:`gncadeq.ConvCell` does not
    hold; the solution's status tells.

    Args:
        num_segments: The most superpixels, or ``None``: every pixel is one.
        compactness: What a distance of one superpixel's width counts against a difference of one
            in grey, see :func:`slic`.
        min_size: Smaller ones, in shares of the mean, join a neighbour, whatever its grey.
        k: Neighbours; all others in a graph of no more nodes.
        edges: ``"polar"``: ``edge_attr`` ``[E, 3]``, the distance to the source in superpixels'
            widths, and its direction as a unit vector (right, down); or ``"relation"``: ``[E]``.
        living_threshold: Keep only superpixels of which a channel's mean is brighter than this;
            ``None`` keeps all.

    Returns (when called with an image ``[C, H, W]`` in [0, 1]):
        ``Data`` with ``x`` ``[N, C + 2]`` (means, column and row in (0, 1)), ``edge_index``
        ``[2, E]``, ``edge_attr``, ``pos`` ``[N, 2]`` (mean column, row), and ``image_size``
        ``[1, 2]`` (height, width).

    Raises:
        TypeError: If the image is no tensor or array, or of an unknown dtype.
        ImportError: Without scikit-image, unless ``num_segments`` is ``None``.
        ValueError: On an unknown or impossible option, an image of a wrong rank or range, or
            without a living superpixel.

    Example:
        >>> image = torch.linspace(0, 1, 784).view(1, 28, 28)
        >>> ImageToSuperpixels()(image)
        Data(x=[49, 3], pos=[49, 2], edge_index=[2, 392], edge_attr=[392, 3], image_size=[1, 2])
    """

    def __init__(
        self,
        num_segments: int | None = 75,
        compactness: float = 0.25,
        k: int = 8,
        edges: SuperpixelEdges = "polar",
        living_threshold: float | None = None,
        min_size: float = 0.5,
    ) -> None:
        num_segments = check_value("num_segments", num_segments, int | None, least=1)
        compactness = check_number("compactness", compactness, above=0.0)
        min_size = check_number("min_size", min_size, least=0.0, most=1.0)
        k = check_count("k", k, 1)
        check_choice("edges", edges, get_args(SuperpixelEdges))
        living_threshold = check_value(
            "living_threshold", living_threshold, float | None, least=0.0, below=1.0
        )
        self.num_segments, self.compactness, self.k = num_segments, compactness, k
        self.edges, self.living_threshold, self.min_size = edges, living_threshold, min_size

    def forward(self, image: Tensor | np.ndarray) -> Data:
        """Build the graph of ``image``."""
        return self.batch(check_image(image).unsqueeze(0))[0]

    __call__ = forward

    def batch(self, images: Tensor, y: Tensor | None = None) -> Batch:
        """The graphs of equally large images ``[B, C, H, W]``, with labels ``[B]`` if there are.

        Example:
            >>> ImageToSuperpixels(20).batch(torch.rand(3, 1, 28, 28)).num_graphs
            3
        """
        x, pos, count, _ = self.nodes(images)
        owner = torch.arange(count.numel()).repeat_interleave(count)
        edge_index = nearest_neighbors(pos, self.k, owner)
        return self.join(x, pos, count, edge_index, images.shape[2:], y)

    def nodes(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The superpixels of ``images`` ``[B, C, H, W]``.

        Returns:
            Features ``[N, C + 2]``, positions ``[N, 2]`` as (column, row), how many each image has
            ``[B]``, and ``[B, H, W]``, the node of every pixel, or -1.
        """
        check_images(images)
        b, _, height, width = images.shape
        if self.num_segments is None:
            label = torch.arange(height * width).expand(b, -1)
        else:
            options = (self.num_segments, self.compactness, self.min_size)
            label = torch.stack([slic(image, *options) for image in images]).flatten(1)
        most = height * width if self.num_segments is None else self.num_segments
        place = _places(height, width, images.dtype)
        pixel = torch.cat([images.flatten(2).transpose(1, 2), place.expand(b, -1, 2)], dim=2)
        slot = (label + most * torch.arange(b)[:, None]).flatten()
        mean, size = _means(pixel.flatten(0, 1), slot, b * most)
        alive = size > 0
        if self.living_threshold is not None:
            alive &= (mean[:, :-2] > self.living_threshold).any(1)
        count = alive.view(b, most).sum(1)
        if not bool(count.all()):
            raise ValueError(
                f"Expected a superpixel brighter than living_threshold={self.living_threshold} in "
                f"every image (got none in image {int((count == 0).nonzero()[0])}). Lower the "
                "threshold, or use None to keep every superpixel"
            )
        grey, pos = mean[alive, :-2], mean[alive, -2:]
        x = torch.cat([grey, (pos + 0.5) / pos.new_tensor([width, height])], dim=1)
        number = torch.where(alive, alive.cumsum(0) - 1, -1)
        return x, pos, count, number[slot].view(b, height, width)

    def degree(self, count: Tensor) -> Tensor:
        """How many neighbours a node senses in graphs of ``count`` ``[B]`` nodes."""
        return (count - 1).clamp(max=self.k)

    def join(
        self, x: Tensor, pos: Tensor, count: Tensor, edge_index: Tensor, size: tuple[int, ...],
        y: Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """The batch of graphs of which nodes (:meth:`nodes`) and edges, by target, are known;
        with the height and width of the images, and labels.
        """
        offset = pos[edge_index[0]] - pos[edge_index[1]]
        if self.edges == "relation":
            edge_attr = compass_relations(offset)
        else:
            pixels = size[0] * size[1]
            cell = math.sqrt(pixels / (self.num_segments or pixels))
            length = offset.norm(dim=1, keepdim=True)
            edge_attr = torch.cat([length / cell, F.normalize(offset)], dim=1)
        by_graph = {"image_size": torch.tensor([list(size)]).repeat(count.numel(), 1)}
        return stack_graphs(
            (count, {"x": x, "pos": pos}),
            (count * self.degree(count), {"edge_index": edge_index, "edge_attr": edge_attr}),
            by_graph if y is None else by_graph | {"y": y},
        )

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(num_segments={self.num_segments}, "
            f"compactness={self.compactness}, k={self.k}, edges={self.edges!r}, "
            f"living_threshold={self.living_threshold}, min_size={self.min_size})"
        )


def slic(
    image: Tensor, num_segments: int = 75, compactness: float = 0.25, min_size: float = 0.5
) -> Tensor:
    r"""Superpixels by `SLIC <https://doi.org/10.1109/TPAMI.2012.120>`_ (Achanta et al. 2012): the
    k-means of pixels, from centres on a regular grid, with the distance (eqs. 2 and 3)

    .. math::
        D^2 = \lVert \mathbf{c}_i - \mathbf{c}_k \rVert^2 + \Big( \frac{m}{S} \Big)^2
        \lVert \mathbf{p}_i - \mathbf{p}_k \rVert^2 , \qquad
        S = \sqrt{\text{pixels} / \text{segments}} .

    scikit-image is asked for ever fewer until it makes at most ``num_segments``, as in Dwivedi et
    al. (2020).

    Args:
        image: ``[C, H, W]`` in [0, 1]; three channels are compared in CIELAB, others as they are.
        num_segments: The most segments.
        compactness: :math:`m`; larger, and the segments are squares, smaller, and they follow grey.
        min_size: Smaller ones, in shares of the mean, join a neighbour, whatever its grey.

    Returns:
        ``[H, W]``, connected segments, numbered from zero without gaps.

    Raises:
        ImportError: Without scikit-image.

    Example:
        >>> image = torch.zeros(1, 4, 6)
        >>> image[..., 2:] = 1.0
        >>> slic(image, 4, compactness=0.1)
        tensor([[0, 0, 1, 1, 1, 1],
                [0, 0, 1, 1, 1, 1],
                [0, 0, 1, 1, 1, 1],
                [0, 0, 1, 1, 1, 1]])
    """
    scikit_slic = import_extra("skimage.segmentation", "superpixels").slic
    values = image.permute(1, 2, 0).double().numpy()
    for asked in range(num_segments, 0, -1):
        label = scikit_slic(
            values, n_segments=asked, compactness=compactness, min_size_factor=min_size,
            start_label=0, channel_axis=-1,
        )  # fmt: skip
        label = np.unique(label, return_inverse=True)[1].reshape(label.shape)
        if label.max() < num_segments:
            break
    return torch.from_numpy(label)


def compass_relations(offset: Tensor) -> Tensor:
    """The nearest of the eight directions of ``offset`` ``[E, 2]`` (right, down), as a relation.

    They are numbered row by row in a 3 × 3 window, as :class:`ImageToGraph` does; 4 is no offset.

    Example:
        >>> compass_relations(torch.tensor([[1.0, 0.1], [0.2, -3.0], [-5.0, 4.0], [0.0, 0.0]]))
        tensor([5, 1, 6, 4])
    """
    octant = (torch.atan2(offset[:, 1], offset[:, 0]) * (4 / math.pi)).round().long() % 8
    relation = torch.tensor([5, 8, 7, 6, 3, 0, 1, 2])[octant]
    return relation.masked_fill((offset == 0).all(1), 4)


def _places(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """``[pixels, 2]`` as (column, row)."""
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([col.flatten(), row.flatten()], dim=1).to(dtype)


def _means(value: Tensor, slot: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The mean of ``value`` ``[N, D]`` in every slot, zero in empty ones, and their sizes."""
    size = torch.bincount(slot, minlength=slots)
    total = value.new_zeros(slots, value.size(1)).index_add_(0, slot, value)
    return total / size.clamp(min=1)[:, None], size
