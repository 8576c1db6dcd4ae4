"""The cell of vision transformer cellular automata: attention among neighbours, then an MLP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import softmax

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_count
from gncadeq.graph.adjacency import plain_edges
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class AttentionStep:
    """One step of an :class:`AttentionCell` with graph and injection bound."""

    cell: AttentionCell
    drive: Tensor
    edges: SparseMatrix  # a row for every node and head, of the biases of edges

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        cell, rows = self.cell, self.edges.rows
        h = F.linear(z, cell.embed_z.weight) + self.drive
        q, k, v = cell.qkv(cell.norm_attention(h)).chunk(3, dim=1)
        width = cell.embed_channels // cell.heads
        q, k, v = (y.reshape(-1, width) for y in (q, k, v))  # a row for every node and head
        score = (q.index_select(0, rows.row) * k.index_select(0, rows.col)).sum(
            1
        ) * width**-0.5 + self.edges.weight
        weight = softmax(score, rows.row.long(), num_nodes=rows.num_rows)
        heard: Tensor = rows.matmul(v, weight.to(v.dtype))
        h = h + cell.join(heard.view(h.shape))
        h = h + cell.mlp(h)
        return z + cell.update(h)  # type: ignore[no-any-return]

    def restrict(self, nodes: Tensor) -> AttentionStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        rows = by_head(nodes, self.cell.heads)
        return replace(self, drive=self.drive[nodes], edges=self.edges.restrict(rows))


def by_head(index: Tensor, heads: int) -> Tensor:
    """The rows of every head of nodes ``[..., n]``, where node and head count as one number."""
    return (index.unsqueeze(-1) * heads + torch.arange(heads, device=index.device)).flatten(-2)


class AttentionCell(Cell):
    r"""The cell of `"Attention-based Neural Cellular Automata" <https://arxiv.org/abs/2211.01233>`_
    (Tesfaldet et al. 2022), one transformer block with normalised inputs, on any graph.

    .. math::
        \mathbf{h}_i &= \mathbf{E} \mathbf{z}_i + \mathbf{F} \mathbf{x}_i + \mathbf{e} , \qquad
        a_{ij}^h = \mathop{\mathrm{softmax}}_{j \in \mathcal{N}(i)} \Big( \frac{\mathbf{q}_i^h
        \cdot \mathbf{k}_j^h}{\sqrt{d}} + \mathbf{b}^h \cdot \mathbf{e}_{ij} \Big)

        \mathbf{h}_i' &= \mathbf{h}_i + \mathbf{O} \, \big\Vert_h \sum_{j \in \mathcal{N}(i)}
        a_{ij}^h \mathbf{v}_j^h , \qquad
        \mathbf{h}_i'' = \mathbf{h}_i' + \mathrm{MLP}(\mathrm{LN}(\mathbf{h}_i')) , \qquad
        \mathbf{z}_i' = \mathbf{z}_i + \mathbf{P} \, \mathrm{LN}(\mathbf{h}_i'')

    Queries, keys and values are linear maps of :math:`\mathrm{LN}(\mathbf{h})`. On a pixel grid
    with edges from the eight neighbours and from the pixel itself this is the paper's localised
    attention; where the paper encodes places, an edge's attributes :math:`\mathbf{e}_{ij}`, such as
    the offset of its ends, raise or lower its score here. Nodes that no edge leads to hear nothing.
    :math:`\mathbf{P}` is zero at the start, so the rule starts as the identity.

    Convergence is not proven for this rule. Attention that is computed once, from the injection,
    makes a contraction: :class:`gncadeq.WrappedConvCell` of
    :class:`torch_geometric.nn.TransformerConv`.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels :math:`C` of the state ``z``.
        heads: Heads, which share ``embed_channels``.
        embed_channels: Width :math:`D` of :math:`\mathbf{h}`.
        hidden_channels: Width of the MLP.
        edge_dim: Attributes of an edge; without, an edge has none.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge attributes :math:`(|\mathcal{E}|, K)` or none
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range, or attributes of edges don't fit.
        TypeError: If attributes of edges are of another floating-point type than ``x``.

    Example:
        >>> from gncadeq import GraphNCA
        >>> nca = GraphNCA(AttentionCell(1, 8, embed_channels=16, edge_dim=2), fire_rate=0.5)
        >>> edge_index = torch.tensor([[0, 1, 1, 2, 0, 1, 2], [1, 0, 2, 1, 0, 1, 2]])
        >>> offset = torch.randn(7, 2)
        >>> nca(torch.rand(3, 1), edge_index, offset, steps=8).shape
        torch.Size([3, 8])
    """

    hops = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        heads: int = 4,
        embed_channels: int = 64,
        hidden_channels: int = 64,
        edge_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_count("in_channels", in_channels)
        self.channels = check_count("channels", channels, 1)
        self.heads = check_count("heads", heads, 1)
        self.embed_channels = d = check_count("embed_channels", embed_channels, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        if d % heads:
            raise ValueError(f"Expected 'embed_channels' that {heads} heads divide (got {d})")
        self.edge_dim = None if edge_dim is None else check_count("edge_dim", edge_dim, 1)
        self.embed_z = nn.Linear(channels, d, bias=False)
        self.embed_x = nn.Linear(in_channels, d)
        self.norm_attention = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.edge_bias = None if edge_dim is None else nn.Linear(edge_dim, heads, bias=False)
        self.join = nn.Linear(d, d)
        self.mlp = nn.Sequential(
            nn.LayerNorm(d), nn.Linear(d, hidden_channels), nn.GELU(), nn.Linear(hidden_channels, d)
        )
        self.update = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, channels, bias=False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters; the last layer is zero, the rule the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        last: Any = self.update[1]
        nn.init.zeros_(last.weight)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> AttentionStep:
        """Bind graph and injection; see :class:`Cell`. ``edge_attr`` says what edges are like."""
        check_graph(x, edge_index, self.in_channels, self.qkv.weight.dtype)
        edge_index = plain_edges(edge_index, x.size(0), edge_attr)
        bias = self._bias(edge_index, edge_attr, x)
        source, target = by_head(edge_index, self.heads)
        size = x.size(0) * self.heads
        rows, order = SparseRows.sort(target, source, size, size)
        return AttentionStep(self, self.embed_x(x), SparseMatrix(rows, bias.flatten()[order]))

    def _bias(self, edge_index: Tensor, edge_attr: OptTensor, x: Tensor) -> Tensor:
        """What is added to the scores of every edge, ``[num_edges, heads]``."""
        size = edge_index.size(1)
        if self.edge_bias is None:
            if edge_attr is not None:
                raise ValueError(
                    f"Expected no 'edge_attr' (got {list(edge_attr.shape)}). Use AttentionCell("
                    "edge_dim=...) for edges with attributes"
                )
            return x.new_zeros(size, self.heads)
        expected = [size, self.edge_dim]
        if edge_attr is None or not edge_attr.is_floating_point():
            got = "None" if edge_attr is None else str(edge_attr.dtype)
            raise ValueError(
                f"Expected floating-point 'edge_attr' [num_edges, edge_dim] = {expected} (got "
                f"{got}). Write relations as torch.nn.functional.one_hot(...).float()"
            )
        if list(edge_attr.shape) != expected:
            raise ValueError(
                f"Expected 'edge_attr' of shape [num_edges, edge_dim] = {expected} (got "
                f"{list(edge_attr.shape)})"
            )
        exact = (torch.float32, torch.float64)
        if edge_attr.dtype != x.dtype and edge_attr.dtype in exact and x.dtype in exact:
            raise TypeError(
                f"Expected 'edge_attr' in the type of 'x', {x.dtype} (got {edge_attr.dtype}). Use "
                "edge_attr.to(x.dtype)"
            )
        return self.edge_bias(edge_attr)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"{self.in_channels}, {self.channels}, heads={self.heads}, "
            f"embed_channels={self.embed_channels}, edge_dim={self.edge_dim}"
        )
