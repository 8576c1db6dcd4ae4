"""Directions for edges: what a :class:`gncadeq.SweepCell` follows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.graph.neighborhood import check_edge_index


class Sweeps(BaseTransform):  # type: ignore[misc]
    r"""Let four groups of channels sweep a pixel graph from its four corners.

    For a group with the direction :math:`(s_y, s_x)`, both :math:`\pm 1`, an edge has three
    weights, of which one is 1 where the source stands one pixel away along the rows, along the
    columns, or along both, in that direction; so a group reads one quadrant, and its edges have no
    cycle. ``edge_attr`` becomes ``[E, 12]``, for ``SweepCell(groups=4, kernels=3)``.

    Raises:
        ValueError: If the data have no relations of a pixel graph.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> Sweeps()(ImageToGraph()(torch.rand(1, 4, 4))).edge_attr.shape
        torch.Size([84, 12])
    """

    def forward(self, data: Data) -> Data:
        """Return the data with the weights in ``edge_attr``."""
        relation = data.edge_attr
        if relation is None or relation.dim() != 1 or relation.is_floating_point():
            raise ValueError(
                "Expected a pixel graph with relations in 'edge_attr' (got none). "
                "gncadeq.transforms.ImageToGraph writes them"
            )
        down, right = relation // 3 - 1, relation % 3 - 1
        columns = [
            (down == y * (k != 1)) & (right == x * (k != 0))
            for y, x in ((1, 1), (1, -1), (-1, 1), (-1, -1))
            for k in range(3)
        ]
        data.edge_attr = torch.stack(columns, 1).to(data.x.dtype)
        return data


class NonBacktracking(BaseTransform):  # type: ignore[misc]
    r"""The graph of the directed edges: messages, each of which reads those that lead to its source.

    The message along :math:`i \to j` reads those along :math:`k \to i`, :math:`k \ne j`: it never
    turns back. On a tree this graph has no cycle, and its equilibrium is belief propagation's
    (`Pearl 1982 <https://ojs.aaai.org/index.php/AAAI/article/view/8082>`_); it is the line graph of
    `Chen et al. 2019 <https://arxiv.org/abs/1705.08415>`_.

    Returns (when called with ``Data``):
        ``Data`` whose nodes are the edges, with ``x`` that of their sources, ``edge_index`` between
        messages, ``node_x`` and ``y`` as they were, and ``target_index`` ``[E]``, the node to which
        each message leads: read states out by sums over it.

    Example:
        >>> path = Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> messages = NonBacktracking()(path)
        >>> messages.edge_index
        tensor([[0, 3],
                [2, 1]])
    """

    def forward(self, data: Data) -> Data:
        """Return the graph of messages."""
        check_edge_index(data.edge_index)
        source, target = data.edge_index
        count, n = source.numel(), int(data.num_nodes)
        # Each message meets all that leave its target, but the one that turns back.
        by_source = source.argsort(stable=True)
        out = torch.bincount(source, minlength=n)
        first = out.cumsum(0) - out
        number = out[target]
        sender = torch.arange(count).repeat_interleave(number)
        start = (first[target] - (number.cumsum(0) - number)).repeat_interleave(number)
        receiver = by_source[start + torch.arange(sender.numel())]
        onward = target[receiver] != source[sender]
        made = Messages(
            x=data.x[source], edge_index=torch.stack([sender[onward], receiver[onward]]),
            target_index=target, node_x=data.x, y=data.y,
        )  # fmt: skip
        made.num_nodes = count
        return made


class Messages(Data):  # type: ignore[misc]
    """Messages along the edges of a graph, with the nodes to which they lead."""

    def __inc__(self, key: str, value: Tensor, *args: object) -> int:
        """How much indices grow by a graph of a batch."""
        if key == "target_index":
            return int(self.node_x.size(0))
        return int(super().__inc__(key, value, *args))
