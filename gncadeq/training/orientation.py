"""For rules that sense no directions: seeds that show them, and targets in every orientation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from gncadeq.check import check_count, check_number, check_seed
from gncadeq.choices import UPRIGHT, Up
from gncadeq.training.targets import seed_nodes
from gncadeq.transforms import GraphLaplacian
from gncadeq.typing import OptTensor

_NEAREST = 4  # nodes that a colour is interpolated between
_SPACING = 1.5**0.5  # of hexagons, in pixels


def place_seeds(data: Data, count: int, node: int | None = None, up: Up = "y") -> Data:
    """Let a target grow from several nodes, which tell the rule where right and up are.

    The second one is four mean lengths of edges to the right of the first, the third as far above.

    Args:
        data: The target graph, with ``pos``.
        count: Number of nodes, 1, 2 or 3.
        node: The first of them; by default as :func:`seed_state` takes it.
        up: The axis of positions in space that points up.

    Returns:
        ``Data`` with ``seed_node`` ``[count]``.

    Raises:
        ValueError: If two of them are the same node.

    Example:
        >>> from gncadeq.training.targets import picture_target
        >>> data = picture_target(torch.rand(4, 11, 11))
        >>> data.pos[place_seeds(data, 3).seed_node].tolist()
        [[5.0, 5.0], [10.0, 5.0], [5.0, 0.0]]
    """
    count = check_count("count", count, 1, 3)
    pos, first = data.pos, seed_nodes(data, node)[0]
    reach = 4 * _mean_edge(data)
    axes = torch.eye(pos.size(1)).to(pos)
    right, above = (axes[0], -axes[1]) if pos.size(1) == 2 else axes[list(UPRIGHT[up][:2])]
    nodes = [first]
    for way in (right, above)[: count - 1]:
        nodes.append(int((pos - pos[first] - reach * way).norm(dim=1).argmin()))
    if len(set(nodes)) < count:
        raise ValueError(
            f"Expected a graph wide enough for {count} seeds (got nodes {nodes}). Use fewer seeds, "
            "a larger 'size', or another 'seed_node'"
        )
    out = data.clone()
    out.seed_node = torch.tensor(nodes)
    return out


def turned_colors(data: Data, turns: int, mirror: bool = True) -> Tensor:
    r"""The colours of a target, turned around its seed by equal angles, and those mirrored.

    .. math::
        \mathbf{t}_i^k = \mathbf{t} \big( \mathbf{p}_s + \mathbf{R}_k^{-1}
        (\mathbf{p}_i - \mathbf{p}_s) \big)

    interpolated between the four nearest nodes, by inverse squares of the distances. Beyond the
    graph there is nothing. In space the axis runs from the middle of all nodes to the seed, as on a
    sphere.

    Args:
        data: The target, with ``pos`` ``[num_nodes, 2 or 3]``, ``edge_index`` and ``color``.
        turns: Number of angles.
        mirror: Whether to add the mirror images: a Laplacian can't tell left from right.

    Returns:
        ``[num_nodes, turns, 4]``, or twice as many turns.

    Example:
        >>> from gncadeq.training.targets import picture_target
        >>> data = picture_target(torch.rand(4, 5, 5))
        >>> turned_colors(data, 8).shape
        torch.Size([25, 16, 4])
    """
    turns = check_count("turns", turns, 1)
    flat, reach, found = _flat(data), _mean_edge(data), []
    for side in (1.0, -1.0) if mirror else (1.0,):
        mirrored = flat * flat.new_tensor([side, 1.0, 1.0][: flat.size(1)])
        for k in range(turns):
            found.append(_sampled(data.color, flat, _turned(mirrored, -k / turns), reach))
    return torch.stack(found, 1)


def _sampled(color: Tensor, pos: Tensor, at: Tensor, reach: float) -> Tensor:
    """Colours at places, between those of the nearest nodes, and zero beyond the reach of all."""
    from scipy.spatial import cKDTree

    found = cKDTree(pos.numpy()).query(at.numpy(), k=_NEAREST)
    distance, near = (torch.from_numpy(part) for part in found)
    weight = 1 / (distance.square() + 1e-12)
    weight = weight / weight.sum(1, keepdim=True)
    weight[distance[:, 0] > reach] = 0.0
    return (weight.unsqueeze(2).to(color) * color[near]).sum(1).clamp(0, 1)


def lattice(height: int, width: int, jitter: float = 0.25, seed: int = 0) -> Data:
    r"""Hexagons over a rectangle of pixels, their middles moved at random, with the pixels'
    Laplacian.

    At the distance :math:`d = \sqrt{3/2}` of six neighbours,

    .. math::
        y_i = \tfrac{2}{3} \Big( \tfrac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)} z_j - z_i
        \Big) \approx \tfrac{2}{3} \, \tfrac{d^2}{4} \, \Delta z = \tfrac{1}{4} \Delta z

    as the nine-point Laplacian of :class:`gncadeq.transforms.PixelKernels`. On hexagons its
    spectrum is that one's too, [-1, 0].

    Args:
        height: Of the rectangle, in pixels, and so ``width``.
        jitter: How far, in pixels, a middle is moved along each axis at most; neighbours are then
            those of the Delaunay triangulation. Zero keeps the hexagons.
        seed: Of the random moves.

    Returns:
        ``Data`` with ``pos`` (column, row), ``edge_index`` with loops, and ``edge_attr``
        ``[E, 1]``.

    Example:
        >>> lattice(8, 8, jitter=0.0)
        Data(edge_index=[2, 334], pos=[56, 2], edge_attr=[334, 1])
    """
    from scipy.spatial import Delaunay, cKDTree

    height, width = check_count("height", height, 1), check_count("width", width, 1)
    jitter = check_number("jitter", jitter, least=0.0, most=0.5)
    rows, columns = math.ceil(height / _SPACING / 0.75**0.5), math.ceil(width / _SPACING)
    row, column = np.divmod(np.arange(rows * columns), columns)
    place = _SPACING * np.stack([column + row % 2 / 2, row * 0.75**0.5], 1)
    place += [width / 2, height / 2] - (place.min(0) + place.max(0)) / 2 - 0.5
    if jitter:
        place += np.random.default_rng(check_seed(seed)).uniform(-jitter, jitter, place.shape)
        face = Delaunay(place).simplices
        pairs = np.concatenate([face[:, [0, 1]], face[:, [1, 2]], face[:, [2, 0]]])
        a, b = place[pairs.T]
        pairs = pairs[np.linalg.norm(a - b, axis=1) < 2 * _SPACING]
    else:
        pairs = cKDTree(place).query_pairs(1.01 * _SPACING, output_type="ndarray")
    edges = torch.from_numpy(np.unique(np.sort(pairs, 1), axis=0).astype(np.int64).T)
    pos, both = torch.from_numpy(place).float(), torch.cat([edges, edges.flip(0)], 1)
    data = GraphLaplacian()(Data(pos=pos, edge_index=both))
    data.edge_attr = data.edge_attr * (2 / 3)
    return data


def on_lattice(data: Data, seed: int = 0) -> Data:
    """A target of pixels on an uneven :func:`lattice`, its seeds at the nearest nodes."""
    height, width = (int(side) for side in data.image_size.view(-1))
    out = lattice(height, width, seed=seed)
    out.image_size = data.image_size  # of the rectangle: a batch has graphs of both kinds
    out.color = _sampled(data.color, data.pos, out.pos, 1.0)
    out.seed_node = torch.cdist(data.pos[seed_nodes(data)], out.pos).argmin(1)
    return out


def turned_targets(data: Data, turns: int) -> list[Data]:
    """A target turned around its first seed, with all its seeds, by equal angles but zero.

    Args:
        data: The target, as of :func:`turned_colors`.
        turns: Number of angles.

    Example:
        >>> from gncadeq.training.targets import picture_target
        >>> data = place_seeds(picture_target(torch.rand(4, 11, 11)), 3)
        >>> [one.pos[one.seed_node].tolist() for one in turned_targets(data, 2)]  # half a turn
        [[[5.0, 5.0], [0.0, 5.0], [5.0, 10.0]]]
    """
    colors, flat, found = turned_colors(data, turns, mirror=False), _flat(data), []
    for k in range(1, turns):
        one = data.clone()
        one.color = colors[:, k]
        at = _turned(flat[seed_nodes(data)], k / turns)
        one.seed_node = torch.cdist(at, flat).argmin(1)
        found.append(one)
    return found


def _turned(flat: Tensor, share: float) -> Tensor:
    """Places turned about the seed by a share of a whole turn."""
    cos, sin = math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
    x, y, *rest = flat.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, *rest], 1)


def _flat(data: Data) -> Tensor:
    """Places relative to the seed: two coordinates that turn, and in space that along the axis."""
    pos = data.pos.double()
    center = pos[seed_nodes(data)[0]]
    axis = center - (pos.amin(0) + pos.amax(0)) / 2
    flat: Tensor = (pos - center) @ _frame(axis, pos.size(1))
    return flat


def _mean_edge(data: Data) -> float:
    ends = data.pos[data.edge_index]
    length = (ends[0] - ends[1]).norm(dim=1)
    return float(length[length > 0].mean())


def _frame(axis: Tensor, dims: int) -> Tensor:
    """Columns that span the plane of the turns, and then the axis."""
    eye = torch.eye(dims, dtype=axis.dtype)
    if dims == 2 or not bool(axis.norm() > 0):
        return eye
    axis = axis / axis.norm()
    first = torch.linalg.cross(axis, eye[int(axis.abs().argmin())])
    first = first / first.norm()
    return torch.stack([first, torch.linalg.cross(axis, first), axis], 1)


def turned_error(z: Tensor, turned: Tensor, batch: OptTensor = None) -> Tensor:
    r"""The least error over all orientations of the target, for each graph.

    .. math::
        \min_k \frac{1}{4 |\mathcal{V}|} \sum_{i \in \mathcal{V}} \sum_{c < 4}
        (z_{ic} - t_{ic}^k)^2

    The rotation-invariant loss of `"Growing Isotropic Neural Cellular Automata"
    <https://arxiv.org/abs/2205.01681>`_ (Mordvintsev et al. 2022) on any graph, where they compare
    sharpened pictures on a polar grid.

    Args:
        z: States ``[num_nodes, channels]``.
        turned: ``[num_nodes, turns, 4]`` of :func:`turned_colors`.
        batch: The graph of every node, ascending; ``None`` for a single graph.

    Returns:
        ``[num_graphs]``.

    Example:
        >>> turned = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1).expand(3, 3, 4)
        >>> turned_error(torch.ones(3, 6), turned)
        tensor([0.])
    """
    error = (z[:, None, :4] - turned).square().mean(2)
    if batch is None:
        return error.mean(0).amin(0, keepdim=True)
    mean: Tensor = scatter(error, batch, reduce="mean")
    return mean.amin(1)
