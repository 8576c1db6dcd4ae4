"""Surfaces to grow on, and how pictures and patterns get onto them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.choices import AXES, UPRIGHT, Kernels, Projection, Up
from gncadeq.datasets import MeshWarning, graph_files, mesh_files, primitives
from gncadeq.files.content import suffix_of
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.training.clouds import point_graph
from gncadeq.transforms import GraphLaplacian, MeshToGraph

_LIVES = 0.1  # alpha of a living node: GrowingCell's own threshold

SURFACES: dict[str, tuple[Callable[..., Data], tuple[int, ...]]] = {
    "icosphere": (primitives.icosphere, (3,)),
    "torus": (primitives.torus, (64, 32)),
    "cylinder": (primitives.cylinder, (32, 16)),
    "moebius": (primitives.moebius, (64, 9)),
    "plane": (primitives.plane, (40, 40)),
    "delaunay_blob": (primitives.delaunay_blob, (1200,)),
}
"""Surfaces by formula, and the whole numbers that each takes first."""


def is_surface(on: str) -> bool:
    """Whether ``on`` names a surface by formula, or a file of a mesh, of points or of a graph."""
    known = (*mesh_files.SHAPES, *graph_files.READABLE)
    return on.partition(":")[0] in SURFACES or suffix_of(on) in known


def is_graph(on: str) -> bool:
    """Whether ``on`` names a file that :func:`gncadeq.load_graph` reads: edges without faces."""
    return suffix_of(on) in graph_files.READABLE and not graph_files.holds_points(on)


def read_surface(on: str) -> Data:
    """A mesh by name: ``"icosphere"``, ``"torus:96,48"``, or a file.

    Vertices of a file that lie at the same place become one: a seam is no border to grow around.

    Args:
        on: A name of :data:`SURFACES`, perhaps with its whole numbers after a colon (as the
            functions of :mod:`gncadeq.datasets.primitives` take them); or a file of a mesh or of
            points; or a graph file, whose nodes are laid out where it gives them no places.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the numbers don't fit, or the file can't be read.

    Example:
        >>> read_surface("icosphere:2")
        Data(pos=[162, 3], face=[3, 320])
    """
    name, _, sizes = on.partition(":")
    if is_graph(on):
        return graph_files.place_nodes(graph_files.load_graph(on))
    if name not in SURFACES:
        return mesh_files.load_shape(on, merge=True)
    make, numbers = SURFACES[name]
    if sizes:
        try:
            given = tuple(int(n) for n in sizes.split(","))
        except ValueError:
            given = ()
        if len(given) != len(numbers):
            count = "a whole number" if len(numbers) == 1 else f"{len(numbers)} whole numbers"
            usual = ",".join(map(str, numbers))
            raise ValueError(
                f"Expected a surface {name!r}, or with its size, {count}, '{name}:{usual}' "
                f"(got {on!r})"
            )
        numbers = given
    return make(*numbers)


def _stripes(place: Tensor) -> Tensor:
    return _two_colors(6 * torch.sin(3 * math.pi * place[:, 1]))


def _spots(place: Tensor) -> Tensor:
    x, y, z = torch.cos(2 * math.pi * place).unbind(1)
    return _two_colors(6 * (x * y + y * z + z * x - 0.6))


def _gradient(place: Tensor) -> Tensor:
    return (place + 1) / 2


def _two_colors(level: Tensor) -> Tensor:
    warm, cold = level.new_tensor([0.95, 0.55, 0.1]), level.new_tensor([0.1, 0.25, 0.5])
    return cold + torch.sigmoid(level)[:, None] * (warm - cold)


PATTERNS: dict[str, Callable[[Tensor], Tensor]] = {
    "stripes": _stripes,  # s(6 sin 3πy), s the sigmoid between two colours
    "spots": _spots,  # s(6 (ab + bc + ca - 0.6)), a = cos 2πx, b = cos 2πy, c = cos 2πz: round
    "gradient": _gradient,  # red, green, blue = (x, y, z)
}
"""Colours ``[N, 3]`` of places ``[N, 3]`` in [-1, 1]: right, up, towards the viewer."""


def pattern_color(name: str, pos: Tensor, up: Up = "y") -> Tensor:
    """Opaque colours ``[num_nodes, 4]`` of a pattern, over the box around all nodes.

    Args:
        name: A name of :data:`PATTERNS`.
        pos: ``[num_nodes, 3]``; the longest side of the box becomes [-1, 1].
        up: The axis that points up.

    Example:
        >>> pattern_color("gradient", torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
        tensor([[0., 0., 0., 1.],
                [1., 1., 1., 1.]])
    """
    place, side = _upright(pos, up)
    rgb = PATTERNS[name](place * (2 / side.max().clamp_min(1e-30)))
    return torch.cat([rgb.clamp(0, 1), rgb.new_ones(len(rgb), 1)], 1)


def projection_of(pos: Tensor, up: Up = "y") -> Projection:
    """How a picture is best put on a surface.

    ``"sphere"`` where the sides of the box around it are alike to a twentieth, and otherwise along
    its shortest side.

    Example:
        >>> projection_of(primitives.icosphere(2).pos), projection_of(primitives.plane(3, 4).pos)
        ('sphere', 'front')
    """
    side = _upright(pos, up)[1]
    if side.min() >= 0.95 * side.max():
        return "sphere"
    names: tuple[Projection, ...] = ("side", "top", "front")
    return names[int(side.argmin())]


def project_picture(
    rgba: Tensor, pos: Tensor, projection: Projection = "auto", up: Up = "y"
) -> Tensor:
    r"""Colours ``[num_nodes, 4]`` of a picture on a surface, interpolated linearly.

    Planar projections hold the picture before the surface, as large as the box around it allows,
    and mark every vertex behind a pixel, those of the far side as well. ``"sphere"`` wraps it
    around the middle of that box, 360° wide and 180° high, its centre to the front:

    .. math::
        (u, v) = \Big( \frac{1}{\pi} \operatorname{atan2}(d_\text{right}, d_\text{front}), \;
        \frac{2}{\pi} \arcsin d_\text{up} \Big), \qquad
        \mathbf{d} = \frac{\mathbf{p} - \mathbf{m}}{\lVert \mathbf{p} - \mathbf{m} \rVert}

    Args:
        rgba: ``[4, H, W]`` in [0, 1], colours multiplied by alpha.
        pos: ``[num_nodes, 3]``.
        projection: ``"front"``, ``"side"`` (from the right), ``"top"``, ``"sphere"``, or
            ``"auto"`` as :func:`projection_of` says.
        up: The axis that points up; the front is the next one (*z*, if *y* is up).

    Raises:
        ValueError: If the surface is a line in this projection.

    Example:
        >>> rgba = torch.ones(4, 1, 2)
        >>> rgba[0, 0, 0] = 0.0  # no red on the left
        >>> project_picture(rgba, primitives.plane(3, 3).pos)[3:6, 0]  # the middle row
        tensor([0.0000, 0.5000, 1.0000])
    """
    place, side = _upright(pos, up)
    if projection == "auto":
        projection = projection_of(pos, up)
    right, above, front = place.unbind(1)
    if projection == "sphere":
        d = F.normalize(place, dim=1)
        u = torch.atan2(d[:, 0], d[:, 2]) / math.pi
        v = d[:, 1].clamp(-1, 1).arcsin() * (2 / math.pi)
    else:
        u, v = {"front": (right, above), "side": (-front, above), "top": (right, -front)}[
            projection
        ]
        across, along = {"front": (0, 1), "side": (2, 1), "top": (0, 2)}[projection]
        height, width = rgba.shape[1:]
        pixel = torch.minimum(side[across] / width, side[along] / height)
        if not pixel > 0:
            raise ValueError(
                f"Expected a surface to put a picture on (got a line as seen in {projection!r}). "
                "Choose another projection"
            )
        u, v = u / (pixel * width / 2), v / (pixel * height / 2)
    at = torch.stack([u, -v], 1).view(1, 1, -1, 2).to(rgba)
    found = F.grid_sample(rgba[None], at, padding_mode="border", align_corners=False)
    inside = (u.abs() <= 1 + 1e-4) & (v.abs() <= 1 + 1e-4)
    color: Tensor = found[0, :, 0].T.to(pos) * inside[:, None]
    return color.clamp(0, 1)


def surface_target(
    surface: Data,
    color: Tensor,
    kernels: Kernels = "tangent",
    scale: float | None = None,
    up: Up = "y",
) -> Data:
    """A coloured mesh as the target of a growing automaton.

    Args:
        surface: ``pos`` ``[N, 3]`` and ``face`` ``[3, F]``; or without faces ``edge_index``, and
            maybe weights ``edge_attr`` ``[E]``: the one kernel is then
            :class:`gncadeq.transforms.GraphLaplacian`'s; or points with neither
            (:func:`gncadeq.training.clouds.point_graph`).
        color: ``[N, 4]`` in [0, 1], colours multiplied by alpha.
        kernels: As of :class:`gncadeq.transforms.MeshToGraph`, and so is ``scale``.
        scale: The kernels' length in the units of ``pos``; by default they are those of one ring.
        up: The axis that points up, to which tangent kernels have their north.

    Returns:
        ``Data`` with ``pos``, ``face``, ``edge_index``, ``edge_attr``, ``color`` and ``seed_node``
        ``[1]``: of the visible vertices in the largest part, that nearest to the middle of the
        front of the box around all.

    Warns:
        MeshWarning: If visible vertices are in other parts than the seed, out of its reach.

    Example:
        >>> sphere = primitives.icosphere(1)
        >>> data = surface_target(sphere, pattern_color("spots", sphere.pos))
        >>> data.edge_attr.shape, data.color.shape
        (torch.Size([282, 3]), torch.Size([42, 4]))
        >>> data.pos[data.seed_node]
        tensor([[0., 0., 1.]])
    """
    axis = AXES[up]
    if surface.face is None and surface.edge_index is None:
        if scale is not None:
            raise ValueError(
                f"Expected no 'scale' for points without faces (got {scale}): they sense their "
                "nearest. Leave it out, or mesh the points"
            )
        graph = point_graph(surface, kernels, axis)
    elif surface.face is None:
        graph = Data(pos=surface.pos, edge_index=surface.edge_index, edge_weight=surface.edge_attr)
        graph = GraphLaplacian()(graph)
    else:
        mesh = Data(pos=surface.pos, face=surface.face)
        graph = MeshToGraph(kernels, scale=scale, up=axis)(mesh)
    visible = color[:, 3] > _LIVES
    if not bool(visible.any()):
        raise ValueError(
            "Expected a target that is visible on the surface (got only transparent vertices). "
            "Enlarge the picture, or choose another projection"
        )
    part, _ = WeightedAdjacency(graph.edge_index, None, graph.num_nodes).components()
    largest = part == part[visible].bincount().argmax()
    lost = int((visible & ~largest).sum())
    if lost:
        warnings.warn(
            f"Expected a connected surface (got {lost} visible vertices in other parts than the "
            "seed). Nothing grows there; connect the parts, or enlarge the scale",
            MeshWarning, stacklevel=3,
        )  # fmt: skip
    return Data(
        pos=graph.pos, face=graph.face, edge_index=graph.edge_index, edge_attr=graph.edge_attr,
        color=color, seed_node=_front(graph.pos, up, visible & largest),
        origin=surface.get("origin"),
    )  # fmt: skip


def _front(pos: Tensor, up: Up, among: Tensor) -> Tensor:
    place, side = _upright(pos, up)
    middle = torch.stack([0 * side[2], 0 * side[2], side[2] / 2])
    distance = (place - middle).norm(dim=1).masked_fill(~among, math.inf)
    # The first of equals: rounding must not choose, or other resolutions have other seeds.
    first: Tensor = (distance <= distance.min() + 1e-4 * side.max()).nonzero()[0]
    return first


def _upright(pos: Tensor, up: Up) -> tuple[Tensor, Tensor]:
    """Places (right, up, front) around the middle of the box, and its sides."""
    place = pos[:, list(UPRIGHT[up])]
    low, high = place.amin(0), place.amax(0)
    return place - (low + high) / 2, high - low
