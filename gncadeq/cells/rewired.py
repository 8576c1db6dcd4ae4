"""A rule whose graph is made of its state: neighbours are those that are near now."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_type
from gncadeq.typing import Adj, OptTensor, Step

Rewire = Callable[[Tensor, Tensor], tuple[Tensor, OptTensor]]
"""From the state and the graph of every node to edge indices and edge attributes."""


class RewiredCell(Cell):
    r"""A cell on a graph that follows the state, as of agents that move.

    .. math::
        \mathbf{z}' = f \big( \mathbf{z}, \mathbf{x}; \mathcal{G}(\mathbf{z}) \big)

    The graph is made anew in every step, and the cell bound to it. Which edges there are has no
    gradient; what they carry has one, if ``rewire`` computes it from the state. Nothing is proven
    of such a rule. The edges that dynamics are given are not looked at.

    Args:
        cell: The rule :math:`f`, without context.
        rewire: The graph :math:`\mathcal{G}`: called with the state ``[num_nodes, channels]`` and
            the ascending graph index of every node, it returns edge indices ``[2, num_edges]`` that
            stay within graphs, and edge attributes or ``None``. A module is part of the model.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If the rule takes tensors by name, or ``rewire`` returns no such graph.

    Example:
        >>> from gncadeq import GraphNCA, IGNNCell
        >>> def near(z, batch):
        ...     far = torch.cdist(z, z) + (batch[:, None] != batch) + torch.eye(len(z))
        ...     return (far < 0.5).nonzero().t(), None
        >>> nca = GraphNCA(RewiredCell(IGNNCell(1, 2), near), steps=3)
        >>> nca(torch.rand(5, 1), torch.empty(2, 0, dtype=torch.long)).shape
        torch.Size([5, 2])
    """

    context = ("batch",)

    def __init__(self, cell: Cell, rewire: Rewire) -> None:
        super().__init__()
        check_type("cell", cell, Cell)
        if tuple(cell.context):
            raise ValueError(
                f"Expected a rule that knows its graph alone (got one that takes "
                f"{list(cell.context)} by name). Let 'rewire' write them into the edge attributes"
            )
        if not callable(rewire):
            raise TypeError(f"Expected a function or a module 'rewire' (got {rewire!r})")
        self.cell, self.rewire = cell, rewire
        self.in_channels, self.channels = cell.in_channels, cell.channels

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, batch: OptTensor = None
    ) -> Step:
        """Bind the injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels)
        graph = torch.zeros_like(x[:, :0].sum(1), dtype=torch.long) if batch is None else batch

        def step(z: Tensor) -> Tensor:
            made = self.rewire(z, graph)
            if not isinstance(made, tuple) or len(made) != 2:
                raise ValueError(
                    "Expected edge indices and edge attributes of 'rewire' (got "
                    f"{type(made).__name__}). Return a pair, with None for no attributes"
                )
            bound = self.cell.prepare(x, *made)
            if not torch.compiler.is_compiling() and bool((graph[made[0]].diff(dim=0) != 0).any()):
                raise ValueError(
                    "Expected edges of 'rewire' within graphs (got some between two of them). "
                    "Leave out those with batch[source] != batch[target]"
                )
            return bound(z)

        return step

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return "" if isinstance(self.rewire, nn.Module) else getattr(self.rewire, "__name__", "")
