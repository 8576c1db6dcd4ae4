"""For rules that sense no directions: seeds that show them, and targets in every orientation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from gncadeq.check import check_count
from gncadeq.choices import UPRIGHT, Up
from gncadeq.training.targets import seed_nodes
from gncadeq.typing import OptTensor

_NEAREST = 4  # nodes that a colour is interpolated between


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
        raise ValueError(f"Expected a graph wide enough for {count} seeds (got nodes {nodes})")
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
    from scipy.spatial import cKDTree

    turns = check_count("turns", turns, 1)
    flat, reach, found = _flat(data), _mean_edge(data), []
    tree = cKDTree(flat.numpy())
    for side in (1.0, -1.0) if mirror else (1.0,):
        for k in range(turns):
            mirrored = flat * flat.new_tensor([side, 1.0, 1.0][: flat.size(1)])
            distance, near = tree.query(_turned(mirrored, -k / turns).numpy(), k=_NEAREST)
            weight = 1 / (torch.from_numpy(distance).square() + 1e-12)
            weight = weight / weight.sum(1, keepdim=True)
            weight[torch.from_numpy(distance)[:, 0] > reach] = 0.0
            color = data.color[torch.from_numpy(near)]
            found.append((weight.unsqueeze(2).to(color) * color).sum(1))
    return torch.stack(found, 1)


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
        one.color = colors[:, k].clamp(0, 1)
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
