"""What a growing automaton is to become: colours on the nodes of a graph, and the seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_choice, check_count, check_type, did_you_mean
from gncadeq.choices import Kernels, Projection, Up
from gncadeq.files.tensors import read_tensors, write_tensors
from gncadeq.training.surfaces import (
    PATTERNS,
    SURFACES,
    is_surface,
    pattern_color,
    project_picture,
    projection_of,
    read_surface,
    surface_target,
)
from gncadeq.transforms import ImageToGraph, PixelKernels
from gncadeq.transforms.kernels import OF_PIXELS

_FIELDS = ("pos", "edge_index", "edge_attr", "color", "face", "image_size", "seed_node",
           "origin")  # fmt: skip

MOST_PIXELS = 1 << 26  # of a picture that is shrunk
MOST_NODES = 1 << 22  # of one that is not


def read_rgba(path: str | Path, size: int | None = None) -> Tensor:
    r"""Read a picture as ``[4, H, W]`` in [0, 1], its colours multiplied by alpha.

    .. math::
        (r, g, b, \alpha) \mapsto (\alpha r, \alpha g, \alpha b, \alpha)

    so that transparent pixels are zero, and two pictures differ only where one sees it.

    Args:
        path: A picture in any format that Pillow reads.
        size: Side of a square to shrink the picture into, centred on transparency; by default the
            picture's own size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture, a too large one, or nothing of it is visible.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a picture (got {path}, which does not exist)")
    try:
        # From memory: a chunk that declares 4 GB reads what there is, and reserves no more.
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            if file.width * file.height > (MOST_NODES if size is None else MOST_PIXELS):
                raise ValueError(
                    f"{file.width} × {file.height} pixels are too many. Shrink it, or give a 'size'"
                )
            picture = file.convert("RGBA").convert("RGBa")
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"Expected a picture (got {path}: {error})") from error
    if size is not None and picture.size != (size, size):
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.BOX)
        picture = Image.new("RGBa", (size, size))
        picture.paste(small, ((size - width) // 2, (size - height) // 2))
    rgba = torch.from_numpy(np.array(picture, dtype=np.float32) / 255).permute(2, 0, 1)
    if not bool((rgba[3] > 0).any()):
        raise ValueError(f"Expected a picture with visible pixels (got {path}, all transparent)")
    return rgba.contiguous()


def picture_target(rgba: Tensor, kernels: Kernels = "tangent") -> Data:
    """The pixel grid of a picture, with kernel weights and the picture as ``color``.

    Args:
        rgba: ``[4, H, W]`` in [0, 1], colours multiplied by alpha (:func:`read_rgba`).
        kernels: ``"tangent"`` (Sobel and Laplacian), ``"gradient"`` (Sobel) or ``"isotropic"``
            (Laplacian).

    Returns:
        ``Data`` with ``edge_index``, ``edge_attr`` ``[num_edges, num_kernels]``, ``pos``,
        ``image_size`` and ``color`` ``[num_nodes, 4]``.

    Example:
        >>> picture_target(torch.rand(4, 5, 6)).color.shape
        torch.Size([30, 4])
    """
    if rgba.dim() != 3 or rgba.size(0) != 4:
        raise ValueError(f"Expected a picture of shape [4, H, W] (got {list(rgba.shape)})")
    check_choice("kernels", kernels, OF_PIXELS)
    data = PixelKernels(OF_PIXELS[kernels])(ImageToGraph()(rgba))
    data.color = data.x
    del data.x
    return data


def check_target(data: Data) -> Data:
    """Return a target whose ``color`` has four channels, or raise what is missing.

    Three channels are opaque colours: alpha is one on every node.

    Raises:
        ValueError: If the graph has no positions, kernel weights, or colours in [0, 1].
    """
    n = data.num_nodes
    weight, color = data.edge_attr, data.get("color")
    if data.pos is None or data.pos.dim() != 2 or data.pos.size(0) != n:
        raise ValueError("Expected positions 'pos' of shape [num_nodes, dims] in the target graph")
    if weight is None or weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(
            "Expected kernel weights 'edge_attr' of shape [num_edges, num_kernels] in the target "
            f"graph (got {None if weight is None else list(weight.shape)}). "
            "gncadeq.transforms.PixelKernels and MeshToGraph write them"
        )
    if color is None or color.dim() != 2 or color.size(0) != n or color.size(1) not in (3, 4):
        raise ValueError(
            f"Expected colours 'color' of shape [{n}, 3] or [{n}, 4] in the target graph (got "
            f"{None if color is None else list(color.shape)})"
        )
    if not bool(((color >= 0) & (color <= 1)).all()):
        raise ValueError("Expected colours in [0, 1] (got others, or NaN). Divide 8 bits by 255")
    if color.size(1) == 4:
        return data
    out = data.clone()
    out.color = torch.cat([color, color.new_ones(n, 1)], 1)
    return out


def load_target(
    target: str,
    on: str = "grid",
    size: int | None = 40,
    kernels: Kernels = "tangent",
    scale: float | None = None,
    up: Up = "y",
    projection: Projection = "auto",
    padding: int = 0,
) -> Data:
    """Read a target: colours on a pixel grid, on a surface, or those that a file carries.

    Args:
        target: A picture; a pattern (:data:`gncadeq.training.surfaces.PATTERNS`); or ``"color"``,
            the colours of the mesh or graph file.
        on: ``"grid"``; a surface, by name or from a mesh file
            (:func:`gncadeq.training.surfaces.read_surface`); or a graph file (:func:`save_target`).
        size: Side of the square in pixels into which a picture is shrunk; ``None`` keeps its size.
            Around a sphere the picture becomes twice as wide as high. The side of a pattern's grid.
        kernels: What nodes sense (:class:`gncadeq.transforms.MeshToGraph`,
            :func:`picture_target`).
        scale: Length of these kernels in the units of the mesh.
        up: The axis of the mesh that points up.
        projection: How a picture gets onto a surface
            (:func:`gncadeq.training.surfaces.project_picture`).
        padding: Transparent pixels around a picture on the grid.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If target and graph don't go together.

    Example:
        >>> load_target("stripes", on="icosphere:1")
        Data(edge_index=[2, 282], edge_attr=[282, 3], pos=[42, 3], face=[3, 80], color=[42, 4],
             seed_node=[1])
    """
    if is_surface(on):
        surface = read_surface(on)
        color = _surface_color(target, surface, on, size, up, projection)
        return surface_target(surface, color, kernels, scale, up)
    if on == "grid":
        if target in PATTERNS:
            side = 40 if size is None else size
            data = picture_target(torch.ones(4, side, side), kernels)
            right, down = data.pos.unbind(1)
            data.color = pattern_color(target, torch.stack([right, -down, 0 * down], 1))
            return data
        rgba = F.pad(read_rgba(_picture(target), size), (padding,) * 4)
        return picture_target(rgba, kernels)
    if not Path(on).suffix:
        hint = did_you_mean(on.partition(":")[0], ["grid", *SURFACES])
        raise ValueError(
            f"Expected 'on' to be 'grid', one of {list(SURFACES)}, a mesh file or a graph file "
            f"(got {on!r}){hint}"
        )
    if target != "color":
        raise ValueError(
            f"Expected the target 'color', the graph file's own colours, with on={on!r} (got "
            f"{target!r}). Pictures are grown on='grid' and on meshes"
        )
    return read_graph(on)


def _surface_color(
    target: str, surface: Data, on: str, size: int | None, up: Up, projection: Projection
) -> Tensor:
    if target == "color":
        color = surface.get("color")
        if color is None:
            raise ValueError(
                f"Expected vertex colours in {on} (got none). Name a picture or one of "
                f"{list(PATTERNS)} as the target"
            )
        return torch.cat([color, color.new_ones(len(color), 1)], 1)
    if target in PATTERNS:
        return pattern_color(target, surface.pos, up)
    if projection == "auto":
        projection = projection_of(surface.pos, up)
    if projection != "sphere":
        rgba = read_rgba(_picture(target), size)
    else:  # all of it goes around, whatever its sides
        rgba = read_rgba(_picture(target))
        if size is not None:
            rgba = F.interpolate(rgba[None], (size, 2 * size), mode="area")[0]
    return project_picture(rgba, surface.pos, projection, up)


def _picture(target: str) -> str:
    if not Path(target).is_file():
        hint = did_you_mean(target, PATTERNS)
        raise FileNotFoundError(
            f"Expected a picture, or one of {list(PATTERNS)} (got {target}, which is no file){hint}"
        )
    return target


def save_target(data: Data, path: str | Path) -> None:
    """Write a target graph as a safetensors file (reading it runs no code)."""
    data = check_target(data)
    write_tensors(path, {k: data[k] for k in _FIELDS if data.get(k) is not None})


def read_graph(path: str | Path) -> Data:
    """Read a target graph that :func:`save_target` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such graph.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a graph file (got {path}, which does not exist)")
    expected = f"a graph file with {', '.join(_FIELDS[:4])} in safetensors format"
    tensors = read_tensors(path, expected).tensors
    return check_target(Data(**tensors))


def seed_state(data: Data, channels: int, node: int | None = None) -> Tensor:
    r"""The state from which a target grows: one or several living nodes, all others zero.

    .. math::
        z_{ic} = [i = s \wedge c \ge 3]

    Of several, :math:`s_0, \dots, s_{n - 1}`, all have alpha, and the :math:`k`-th those of the
    hidden channels whose number is :math:`k` modulo :math:`n`.

    Args:
        data: The target graph.
        channels: Channels of the state, at least 4.
        node: The node :math:`s`; by default the graph's own ``seed_node``, or else the one nearest
            to the middle of the box around all.

    Example:
        >>> seed_state(picture_target(torch.rand(4, 3, 3)), channels=5)[4]
        tensor([0., 0., 0., 1., 1.])
    """
    check_type("data", data, Data)
    channels = check_count(
        "channels", channels, 4, hint="They begin with red, green, blue and alpha"
    )
    z: Tensor = data.pos.new_zeros(data.num_nodes, channels)
    nodes = seed_nodes(data, node)
    for k, s in enumerate(nodes):
        z[s, 3] = 1.0
        z[s, 4 + k :: len(nodes)] = 1.0
    return z


def anchor(data: Data, node: int | None = None, channels: int = 1) -> Tensor:
    r"""An injection that marks the seed node for ever: :math:`x_i = [i = s]`.

    A rule that senses only differences does the same wherever it is. All translates of its pattern
    on a large grid are then as good, nothing holds it in place, and in thousands of steps it drifts
    off. One marked node is enough to tell where it belongs.

    Args:
        data: The target graph.
        node: The node :math:`s`; by default as :func:`seed_state` takes it.
        channels: 1, 0 for an injection that says nothing, or the number of seed nodes, each of
            which has a mark of its own then.

    Example:
        >>> anchor(picture_target(torch.rand(4, 1, 3))).flatten()
        tensor([0., 1., 0.])
    """
    x: Tensor = data.pos.new_zeros(data.num_nodes, channels)
    for k, s in enumerate(seed_nodes(data, node) if channels else []):
        x[s, k % channels] = 1.0
    return x


def seed_nodes(data: Data, node: int | None = None) -> list[int]:
    """The numbers of the nodes that live at first; see :func:`seed_state`."""
    if node is None and data.get("seed_node") is not None:
        return [seed_node(data, int(s)) for s in data.seed_node.view(-1)]
    return [seed_node(data, node)]


def seed_node(data: Data, node: int | None = None) -> int:
    """The number of the node that lives at first: ``node``, or as :func:`seed_state` takes it."""
    if node is None and data.get("seed_node") is not None:
        node = int(data.seed_node.view(-1)[0])
    if node is None:
        middle = (data.pos.amin(0) + data.pos.amax(0)) / 2
        return int((data.pos - middle).norm(dim=1).argmin())
    return check_count("node", node, 0, int(data.num_nodes) - 1)
