"""Mazes: pixel graphs of their open pixels, and the way through them."""

from __future__ import annotations

import scipy  # its parts load when they are used
import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_scipy_sparse_matrix

from gncadeq.check import check_count, check_number
from gncadeq.transforms import ImageToGraph

_NEIGHBORS = ((-2, 0), (2, 0), (0, -2), (0, 2))
_TO_GRAPH = ImageToGraph("von_neumann", living_threshold=0.5)


def maze(size: int, generator: torch.Generator | None = None, loops: float = 0.0) -> Data:
    r"""A maze, in which a random start has one way to a random goal; or more, with loops.

    Rooms lie at the even rows and columns of a picture; a random depth-first search from the start
    opens the walls between them. Open pixels are nodes. (Task and sizes are those of `"End-to-end
    Algorithm Synthesis with Recurrent Networks" <https://arxiv.org/abs/2202.05826>`_, Bansal et al.
    2022; the mazes are drawn anew.)

    Args:
        size: Height and width of the picture, odd and at least 3; there is no outer wall.
        generator: Source of randomness.
        loops: Probability that a wall between two rooms is opened as well. The way is then all
            nodes on any of the shortest ways.

    Returns:
        ``Data`` with ``x`` ``[N, 3]`` (open, start, goal), ``y`` ``[N]`` booleans (on the way,
        both ends included), and the von Neumann neighbourhood of
        :class:`~gncadeq.transforms.ImageToGraph`: ``edge_index``, relations ``edge_attr``, ``pos``,
        ``image_size``. With :math:`k = (\texttt{size} + 1) / 2`, :math:`N = 2 k^2 - 1`.

    Raises:
        ValueError: If the size is even, or below 3.

    Example:
        >>> data = maze(9)
        >>> data
        Data(x=[49, 3], edge_index=[2, 96], edge_attr=[96], pos=[49, 2], image_size=[1, 2], y=[49])
        >>> data.x.sum(0)
        tensor([49.,  1.,  1.])
    """
    size = check_count("size", size, 3, odd=True)
    loops = check_number("loops", loops, least=0.0, most=1.0)
    rooms = (size + 1) // 2
    ends = torch.randperm(rooms * rooms, generator=generator)[:2]
    start, goal = ((2 * (i // rooms), 2 * (i % rooms)) for i in ends.tolist())
    parent = _depth_first(size, start, generator)
    image = torch.zeros(3, size, size)  # open, start, goal
    for (row, column), (up, left) in parent.items():
        image[0, row, column] = image[0, (row + up) // 2, (column + left) // 2] = 1
    image[1][start] = image[2][goal] = 1
    if loops > 0.0:
        wall = torch.zeros(size, size, dtype=torch.bool)
        wall[::2, 1::2] = wall[1::2, ::2] = True
        image[0][wall & (torch.rand(size, size, generator=generator) < loops)] = 1
    data = _TO_GRAPH(image)
    first, last = data.x[:, 1:].argmax(0).tolist()
    far = scipy.sparse.csgraph.shortest_path(
        to_scipy_sparse_matrix(data.edge_index), unweighted=True, indices=[first, last]
    )  # fmt: skip
    data.y = torch.from_numpy(far.sum(0) == far[0, last])  # on a shortest way
    return data


def _depth_first(
    size: int, start: tuple[int, int], generator: torch.Generator | None
) -> dict[tuple[int, int], tuple[int, int]]:
    """From which room each room was entered first; the start from itself."""
    draws = iter(torch.rand(size * size, generator=generator).tolist())
    parent, stack = {start: start}, [start]
    while stack:
        row, column = stack[-1]
        around = [(row + a, column + b) for a, b in _NEIGHBORS]
        free = [r for r in around if r not in parent and min(r) >= 0 and max(r) < size]
        if not free:
            stack.pop()
            continue
        room = free[int(next(draws) * len(free))]
        parent[room] = stack[-1]
        stack.append(room)
    return parent
