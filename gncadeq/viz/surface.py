"""Pictures of node values on meshes, point clouds and graphs, drawn by the processor alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor
from torch import Tensor

from gncadeq.check import check_count, check_flag, check_number, check_type, check_value
from gncadeq.choices import Up
from gncadeq.viz.colors import ColorScale
from gncadeq.viz.geometry import geometry
from gncadeq.viz.images import write_gif
from gncadeq.viz.legend import beside, color_bar, tile
from gncadeq.viz.projection import camera, visible

_MOST_SIDE = 16_384  # pixels
_EDGE_COLOR = (0.62, 0.62, 0.62)

Colors = Callable[[Tensor], Tensor]
"""Node values to colours ``[num_nodes, 3]`` in [0, 1]: ``ColorScale``, ``StateColors``, …"""


class SurfaceRenderer:
    r"""Draws a graph from one side, in any colours.

    An orthographic z-buffer finds once what is seen where; pictures are linear in the colours
    :math:`\mathbf{C}` of the nodes, and cost milliseconds:

    .. math::
        \mathbf{I} = \mathbf{S} \, \mathbf{C} + (1 - \mathbf{\alpha}) \, \mathbf{b}

    Meshes are lit smoothly from the upper left, both sides of a face alike; points and nodes are
    balls, edges lines. Graphs in a plane are drawn flat, without light.

    Args:
        data: A graph as :func:`gncadeq.viz.geometry.geometry` takes it.
        size: Width and height in pixels, or both at once.
        azimuth: Degrees by which the camera goes to the right around the object.
        elevation: Degrees by which it rises.
        up: The axis of ``pos`` that points up.
        zoom: Enlargement; at 1 the object fills the picture.
        background: A colour, or ``None`` for transparency.
        edges: Whether to draw edges where there are no faces.
        node_size: Enlargement of nodes.
        supersample: Rows and columns of samples in a pixel.
        of_faces: Whether values belong to the faces of a mesh, each of one colour, and not to its
            nodes, between which colours blend.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> renderer = SurfaceRenderer(Data(pos=pos, face=torch.tensor([[0], [1], [2]])), size=64)
        >>> renderer(torch.eye(3)).size
        (64, 64)
    """

    def __init__(
        self,
        data: Any,
        *,
        size: int | tuple[int, int] = 640,
        azimuth: float | None = None,
        elevation: float | None = None,
        up: Up = "y",
        zoom: float = 1.0,
        background: str | None = "white",
        edges: bool = True,
        node_size: float = 1.0,
        supersample: int = 2,
        of_faces: bool = False,
    ) -> None:
        from scipy.sparse import csr_array

        sides = size if isinstance(size, tuple) else (size, size)
        if len(sides) != 2:
            raise TypeError(f"Expected 'size' as one number or (width, height) (got {size!r})")
        width, height = (check_count("size", side, 1, _MOST_SIDE) for side in sides)
        self.size = width, height
        supersample = check_count("supersample", supersample, 1, 16)
        zoom = check_number("zoom", zoom, above=0.0)
        node_size = check_number("node_size", node_size, above=0.0)
        azimuth = check_value("azimuth", azimuth, float | None)
        elevation = check_value("elevation", elevation, float | None)
        if background is not None:
            check_type("background", background, str)
        try:
            self.background = None if background is None else ImageColor.getrgb(background)[:3]
        except ValueError:
            raise ValueError(
                "Expected 'background' to be a colour's name or '#rrggbb', or None (got "
                f"{background!r})"
            ) from None
        shape = geometry(data, up, edges)
        if check_flag("of_faces", of_faces) and not len(shape.face):
            raise ValueError("Expected a mesh with faces for of_faces=True (got a graph without)")
        self.of_faces = of_faces
        self.num_values = len(shape.face) if of_faces else shape.num_nodes
        turn = camera(
            azimuth if azimuth is not None else 0.0 if shape.flat else 30.0,
            elevation if elevation is not None else 0.0 if shape.flat else 15.0,
        )
        pixel, node, weight, light = visible(
            shape, turn, self.size, zoom, node_size, supersample, of_faces
        )
        weight = weight / supersample**2
        count = self.size[0] * self.size[1]
        self._colors = csr_array(
            ((light[:, None] * weight).ravel(), (np.repeat(pixel, 3), node.ravel())),
            shape=(count, self.num_values + 1),
        )
        self._alpha = np.bincount(pixel, weight.sum(1), count)[:, None].clip(0, 1)

    def __call__(self, value: Tensor, scale: Colors | None = None) -> Image.Image:
        """Draw one frame.

        Args:
            value: Node values: ``[num_nodes]`` scalars or labels, ``[num_nodes, C]`` states whose
                first three channels are red, green and blue.
            scale: How values become colours; by default fitted to ``value``.

        Raises:
            ValueError: If there isn't one colour for every node.
        """
        if not value.dim() or value.size(0) != self.num_values:
            raise ValueError(f"Expected values of {self._values()} (got shape {list(value.shape)})")
        color = (scale or ColorScale.fit(value))(value).detach().cpu()
        if color.shape != (self.num_values, 3):
            raise ValueError(
                f"Expected colours of shape [{self.num_values}, 3] (got {list(color.shape)} from "
                f"values {list(value.shape)}). Choose one channel: z[:, 0]"
            )
        every = np.concatenate([color.double().numpy(), [_EDGE_COLOR]])
        painted = self._colors @ every
        width, height = self.size
        if self.background is None:
            painted = painted / np.maximum(self._alpha, 1e-9)  # PNG keeps colours unmultiplied
            painted = np.concatenate([painted, self._alpha], axis=1)
        else:
            painted += (1 - self._alpha) * (np.array(self.background) / 255)
        picture = (painted.clip(0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(picture.reshape(height, width, -1))

    def __repr__(self) -> str:
        width, height = self.size
        return f"{self.__class__.__name__}({self._values()}, {width} x {height})"

    def _values(self) -> str:
        return f"{self.num_values} {'faces' if self.of_faces else 'nodes'}"


def render_surface(
    data: Any, value: Tensor, scale: Colors | None = None, legend: bool = True, **view: Any
) -> Image.Image:
    """Draw node values on a mesh, point cloud or graph.

    Args:
        data: A graph with ``pos`` and perhaps ``face``.
        value: One frame of node values, as :class:`SurfaceRenderer` takes it.
        scale: How values become colours; by default fitted to ``value``.
        legend: Whether a scalar gets its colour bar beside the picture.
        view: The options of :class:`SurfaceRenderer`.

    Example:
        >>> import torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 8, 8))
        >>> render_surface(data, data.x, size=100, legend=False).size
        (100, 100)
    """
    scale = scale or ColorScale.fit(value)
    return _with_legend(SurfaceRenderer(data, **view)(value, scale), scale, legend)


def render_frames(
    data: Any,
    trajectory: Tensor,
    steps: Sequence[int] | None = None,
    scale: Colors | None = None,
    **view: Any,
) -> list[Image.Image]:
    """Draw frames of a trajectory, all from one side and in one scale of colours.

    Args:
        data: The graph.
        trajectory: ``[T, num_nodes]`` labels, or ``[T, num_nodes, C]`` states.
        steps: The frames to draw; all by default.
        scale: How values become colours; by default fitted to the whole trajectory.
        view: The options of :class:`SurfaceRenderer`.

    Example:
        >>> import torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 8, 8))
        >>> len(render_frames(data, torch.rand(5, 64, 3), steps=[0, 4], size=50))
        2
    """
    if trajectory.dim() not in (2, 3) or not len(trajectory):
        raise ValueError(
            "Expected a trajectory of shape [T, num_nodes, channels] or [T, num_nodes] "
            f"(got {list(trajectory.shape)})"
        )
    if scale is None:
        scalar = trajectory.dim() == 2 and trajectory.is_floating_point()
        scale = ColorScale.fit(trajectory, "scalar" if scalar else None)
    renderer = SurfaceRenderer(data, **view)
    chosen = range(len(trajectory)) if steps is None else steps
    return [renderer(trajectory[t], scale) for t in chosen]


def render_strip(
    frames: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    scale: Colors | None = None,
) -> Image.Image:
    """Set frames side by side, with captions above and, for a scalar, its colour bar at the end.

    Example:
        >>> frames = [Image.new("RGB", (40, 30)), Image.new("RGB", (40, 30))]
        >>> render_strip(frames).size
        (84, 30)
    """
    return _with_legend(tile(frames, captions, columns), scale, legend=True)


def render_gif(
    path: str | Path, frames: Sequence[Image.Image], ms: int = 120, last_ms: int = 1000
) -> Path:
    """Write frames as a GIF that starts over; the last one stays for a while.

    Args:
        path: The file, which is written atomically.
        frames: Pictures of one size; transparency becomes white.
        ms: Milliseconds a frame is shown.
        last_ms: Milliseconds the last frame is shown.
    """
    opaque = [_on_white(frame) for frame in frames]
    if opaque:  # One dithered palette: palettes of single frames flicker, and take far longer.
        palette = tile(opaque[:: -(-len(opaque) // 8)]).quantize(256)
        opaque = [frame.quantize(palette=palette) for frame in opaque]
    return write_gif(path, opaque, ms, last_ms)


def _on_white(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGBA", picture.size, "white")
    sheet.alpha_composite(picture.convert("RGBA"))
    return sheet.convert("RGB")


def _with_legend(picture: Image.Image, scale: Colors | None, legend: bool) -> Image.Image:
    if not legend or not isinstance(scale, ColorScale) or scale.kind != "scalar":
        return picture
    return beside([picture, color_bar(scale, picture.height)])
