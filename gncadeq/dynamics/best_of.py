"""Several starts of every graph, of which the one that comes closest to rest counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gncadeq.check import check_count, check_type
from gncadeq.dynamics.of_cell import Dynamics
from gncadeq.dynamics.solution import Solution
from gncadeq.graph.partition import Partition

_OF_GRAPHS = (
    "residual", "residual_abs", "image_norm", "num_steps", "num_evaluations", "status"
)  # fmt: skip


def best_of(
    dynamics: Dynamics, x: Tensor, *graph: Any, starts: int = 8, **options: Any
) -> tuple[Tensor, Solution]:
    """Run dynamics from several random starts; keep, of every graph, the one of least residual.

    A rule with several equilibria may end in a wrong one, or in none. Where a small residual goes
    with a right answer, more starts find it (*breadth* in `"Equilibrium Reasoners"
    <https://arxiv.org/abs/2605.21488>`_, Huang et al. 2026). Only one start is held at a time.
    Back-propagation through a :class:`gncadeq.GraphNCA` passes all starts: one that isn't finite
    makes the gradient NaN, though another is kept. Bound the rule, or train a
    :class:`gncadeq.GraphDEQ`.

    Args:
        dynamics: A :class:`gncadeq.GraphDEQ` or :class:`gncadeq.GraphNCA` with ``start="normal"``.
        x: The injection.
        graph: Edge indices, edge attributes and batch vector, as the dynamics take them.
        starts: How many.
        options: More that the dynamics take, such as ``steps`` or ``generator``.

    Shapes:
        - **input:** injection :math:`(|\\mathcal{V}|, F)`
        - **output:** state :math:`(|\\mathcal{V}|, C)`, and the solution, whose numbers are those
          of the starts that were kept

    Raises:
        TypeError: If ``dynamics`` are none, or ``x`` is no tensor.
        ValueError: If all starts would be the same, or more than the solution is asked for.

    Example:
        >>> from gncadeq import ConvCell, GraphNCA
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> nca = GraphNCA(ConvCell(1, 4, contraction=0.9), steps=8, start="normal")
        >>> z, found = best_of(nca, data.x, data.edge_index, data.edge_attr, starts=3)
        >>> z.shape, found.residual.shape
        (torch.Size([25, 4]), torch.Size([1]))
    """
    check_type("dynamics", dynamics, Dynamics)
    check_type("x", x, Tensor)
    asked = sorted({"return_solution", "return_trajectory", "trace"} & options.keys())
    if asked:
        raise ValueError(
            f"Expected no {asked[0]!r} (got one): the state and its solution are returned, and no "
            "more. Leave it out"
        )
    starts = check_count("starts", starts, 1)
    if dynamics.start != "normal" or "z0" in options:
        raise ValueError(
            "Expected dynamics that start from noise (got "
            f"start={dynamics.start!r}{' and z0' if 'z0' in options else ''}). Make them with "
            "start='normal'"
        )
    z, best = dynamics(x, *graph, **options, return_solution=True)
    batch = graph[2] if len(graph) > 2 else options.get("batch")
    if not isinstance(batch, Partition):
        batch = Partition(batch, x.size(0), best.num_graphs, like=x)
    nodes = batch.batch
    for _ in range(starts - 1):
        new, found = dynamics(x, *graph, **options, return_solution=True)
        better = found.residual < best.residual.nan_to_num(torch.inf)
        z = torch.where(better[nodes, None], new, z)
        each = {n: torch.where(better, getattr(found, n), getattr(best, n)) for n in _OF_GRAPHS}
        best = replace(best, state=z.detach(), trace=None, evidence=None, **each)
    return z, best
