"""Voronoi cells of points in the plane, coloured by the state of their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

DEAD = "#f1efe9"
ALIVE = "#20405f"


def voronoi_polygons(
    pos: Tensor, low: tuple[float, float] = (0.0, 0.0), high: tuple[float, float] = (1.0, 1.0)
) -> list[np.ndarray]:
    """The Voronoi cell of every point within a rectangle, as the corners of a convex polygon.

    The points are mirrored at the four sides: the cells of the points themselves then end there.

    Args:
        pos: ``[num_nodes, 2]``, all different and inside the rectangle.
        low: The rectangle's least x and y.
        high: Its greatest.

    Returns:
        For every point an array ``[num_corners, 2]``, in order around it.

    Raises:
        ValueError: If ``pos`` has another shape, points coincide, or one is not in the rectangle.

    Example:
        >>> import torch
        >>> [len(corners) for corners in voronoi_polygons(torch.tensor([[0.2, 0.5], [0.8, 0.5]]))]
        [4, 4]
    """
    from scipy.spatial import Voronoi

    if pos.dim() != 2 or pos.size(1) != 2 or not pos.size(0):
        raise ValueError(f"Expected 'pos' of shape [num_nodes, 2] (got {list(pos.shape)})")
    place = pos.detach().double().cpu().numpy()
    least, most = np.array(low), np.array(high)
    if not bool(((place > least) & (place < most)).all()):
        raise ValueError(
            f"Expected points inside {low} to {high} (got {place.min(0)} to {place.max(0)}). "
            "Pass a larger rectangle as 'low' and 'high'"
        )
    if len(np.unique(place, axis=0)) < len(place):
        raise ValueError("Expected points that are all different (got some at the same place)")
    mirrored = [place]
    for axis in (0, 1):
        for side in (least, most):
            image = place.copy()
            image[:, axis] = 2 * side[axis] - image[:, axis]
            mirrored.append(image)
    diagram = Voronoi(np.concatenate(mirrored))
    regions = (diagram.regions[r] for r in diagram.point_region[: len(place)])
    return [diagram.vertices[corners] for corners in regions]


def draw_voronoi(
    axes: Axes, pos: Tensor, state: Tensor, dead: str = DEAD, alive: str = ALIVE
) -> PolyCollection:
    """Draw the Voronoi cells of points in the unit square, dark where a node lives.

    Args:
        axes: Where to draw, of matplotlib.
        pos: ``[num_nodes, 2]`` in (0, 1).
        state: ``[num_nodes]`` or ``[num_nodes, 1]``; a node lives above ½.
        dead: Colour of the others.
        alive: Colour of the living.

    Raises:
        ValueError: If there isn't one state a point.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> pos = torch.rand(20, 2)
        >>> len(draw_voronoi(Figure().subplots(), pos, pos[:, 0]).get_paths())
        20
    """
    from matplotlib.collections import PolyCollection

    if state.numel() != pos.size(0):
        raise ValueError(
            f"Expected one state for each of {pos.size(0)} points (got {list(state.shape)})"
        )
    colors = np.where(state.detach().cpu().flatten().numpy() > 0.5, alive, dead)
    width = min(0.6, 12 / pos.size(0) ** 0.5)
    cells = PolyCollection(
        voronoi_polygons(pos), facecolors=colors, edgecolors="#b9b4a8", linewidths=width
    )
    axes.add_collection(cells)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    return cells


__all__ = ["ALIVE", "DEAD", "draw_voronoi", "voronoi_polygons"]
