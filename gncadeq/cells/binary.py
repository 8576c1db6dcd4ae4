"""A cell whose state is rounded to zeros and ones: from a learned rule to an automaton."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gncadeq.cell import Cell
from gncadeq.cells.living import ALIVE, binary_state
from gncadeq.graph.layout import FlatGraph
from gncadeq.typing import Adj, OptTensor, Step


class BinaryCell(Cell):
    r"""Another cell's rule, with every new state rounded to zero or one.

    .. math::
        \mathbf{z}' = \big[ f(\mathbf{z}, \mathbf{x}; \mathcal{G}) > 1/2 \big]

    A rule trained on pairs of binary states is right as an automaton where its image is on the
    right side of ½: errors below that don't add up from step to step. NaN stays NaN. Train ``cell``
    itself: rounding has no gradient.

    Args:
        cell: The rule :math:`f`; shared, never copied.

    Shapes:
        - **input:** those of the cell
        - **output:** state :math:`(|\mathcal{V}|, C)` of zeros and ones

    Example:
        >>> import torch
        >>> from gncadeq import GraphNCA
        >>> from gncadeq.cells import TotalisticCell
        >>> from gncadeq.transforms import ImageToGraph, NeighborKernels
        >>> data = NeighborKernels(("sum",))(ImageToGraph()(torch.rand(1, 8, 8).round()))
        >>> nca = GraphNCA(BinaryCell(TotalisticCell().to_growing()), steps=10)
        >>> z = nca(data.x[:, :0], data.edge_index, data.edge_attr, z0=data.x)
        >>> life = GraphNCA(TotalisticCell(), steps=10)
        >>> torch.equal(z, life(data.x[:, :0], data.edge_index, z0=data.x))
        True
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.in_channels, self.channels = cell.in_channels, cell.channels
        self.context, self.hypergraph = cell.context, cell.hypergraph

    def reset_parameters(self) -> None:
        """Draw fresh parameters of the cell."""
        self.cell.reset_parameters()

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph as the cell sees it."""
        return self.cell.flatten(x, edge_index, edge_attr, batch, context)

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> Step:
        """Bind graph and injection; see :class:`gncadeq.Cell`."""
        inner = self.cell.bind(x, edge_index, edge_attr, **context)

        def step(z: Tensor) -> Tensor:
            image = inner(z)
            return binary_state(image > ALIVE, image).to(z.dtype)

        return step


__all__ = ["BinaryCell"]
