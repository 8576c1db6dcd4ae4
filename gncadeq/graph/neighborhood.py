"""The prepared graph: who senses whom through which matrix, in the form that runs fastest.

A stencil convolution on a graph whose edges carry a *relation* ``r`` (on pixels: the relative
offset) is

.. math::
    y_i = \\sum_{(j \\to i,\\, r) \\in \\mathcal{E}} \\mathbf{W}_r \\, z_j .

:class:`Neighborhood` sorts the edges once and then evaluates it as ``conv2d`` where the graph is
a batch of equal full grids (``kind="grid"``), and as one matrix product and one sparse sum
anywhere else (``kind="csr"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.check import check_choice
from gncadeq.graph.relations import Convolve, RelationEdges, convolve

Kind = Literal["grid", "csr"]


@dataclass(frozen=True)
class GridShape:
    """A batch of ``num_graphs`` equal full pixel grids, numbered row by row."""

    num_graphs: int
    height: int
    width: int
    periodic: bool


class Neighborhood:
    r"""The edges of a batch of graphs, prepared for stencil convolutions.

    Args:
        edge_index: ``[2, num_edges]``, sources in row 0 and targets in row 1 (PyG's
            ``source_to_target``).
        relation: ``[num_edges]`` integers in ``[0, num_relations)``.
        num_nodes: Number of nodes.
        num_relations: Number of relations :math:`R`.
        kind: ``"auto"`` picks ``"grid"`` where the graph is one, else ``"csr"``; naming a form
            forces it.
        num_sources: Number of sources, where those are other nodes than the targets: the edges
            from one level of a pyramid to the next.

    Raises:
        ValueError: If an index or a relation is out of range, or ``kind="grid"`` is asked of a
            graph that is none.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])
        >>> relation = torch.tensor([0, 0, 1, 1])
        >>> neighborhood = Neighborhood(edge_index, relation, num_nodes=2, num_relations=2)
        >>> neighborhood.kind
        'csr'
        >>> weight = torch.tensor([[[2.0]], [[10.0]]])
        >>> neighborhood.stencil(weight)(torch.tensor([[1.0], [3.0]]))
        tensor([[16.],
                [32.]])
    """

    def __init__(
        self,
        edge_index: Tensor,
        relation: Tensor,
        num_nodes: int,
        num_relations: int,
        kind: Literal["auto", "grid", "csr"] = "auto",
        num_sources: int | None = None,
    ) -> None:
        check_choice("kind", kind, ("auto", "grid", "csr"))
        if num_sources is None:
            check_range("edge_index", edge_index, num_nodes, "num_nodes")
        else:
            check_range("edge_index[0]", edge_index[0], num_sources, "num_sources")
            check_range("edge_index[1]", edge_index[1], num_nodes, "num_nodes")
        check_range("edge_attr", relation, num_relations, "num_relations")
        self.num_nodes, self.num_relations = num_nodes, num_relations
        self.incoming = RelationEdges(
            edge_index[1], edge_index[0], relation, num_nodes, num_relations, num_sources
        )
        square = num_sources is None and kind != "csr"
        self.grid = _detect_grid(self.incoming) if square else None
        if kind == "grid" and self.grid is None:
            raise ValueError(
                "Expected a batch of equal full pixel grids for kind='grid' (got another graph). "
                "Use kind='auto'"
            )

    @property
    def kind(self) -> Kind:
        """The form in which stencils run: ``"grid"`` (conv2d) or ``"csr"``."""
        return "csr" if self.grid is None else "grid"

    def stencil(self, weight: Tensor) -> Stencil:
        """Bind ``weight`` ``[num_relations, in_channels, out_channels]`` to the graph."""
        return Stencil(self, weight)

    def reversed(self) -> Neighborhood:
        """Every edge turned round, with the relation that it had; never in ``"grid"`` form."""
        new = object.__new__(Neighborhood)
        new.num_nodes, new.num_relations = self.incoming.num_senders, self.num_relations
        new.incoming = self.incoming.reversed
        new.grid = None
        return new

    def restrict(self, nodes: Tensor) -> Neighborhood:
        """The neighbourhood of ``nodes``, the ascending indices of whole graphs."""
        new = object.__new__(Neighborhood)
        new.num_nodes, new.num_relations = nodes.numel(), self.num_relations
        keep = torch.zeros(self.num_nodes, dtype=torch.bool, device=nodes.device)
        keep[nodes] = True
        position = keep.cumsum(0) - 1
        e = self.incoming
        edges = keep[e.receiver]
        receiver, sender = position[e.receiver[edges]], position[e.sender[edges]]
        new.incoming = RelationEdges(
            receiver, sender, e.relation[edges], new.num_nodes, self.num_relations
        )
        new.grid = None
        if self.grid is not None:
            g = self.grid
            count = nodes.numel() // (g.height * g.width)
            new.grid = GridShape(count, g.height, g.width, g.periodic)
        return new

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(kind={self.kind!r}, num_nodes={self.num_nodes}, "
            f"num_edges={self.incoming.num_edges}, num_relations={self.num_relations})"
        )


class Stencil:
    """A stencil convolution with its weight packed for the neighbourhood's form.

    Calling it maps ``[num_nodes, in_channels]`` to ``[num_nodes, out_channels]``.
    """

    def __init__(self, neighborhood: Neighborhood, weight: Tensor) -> None:
        r, self.in_channels, self.out_channels = weight.shape
        if r != neighborhood.num_relations:
            raise ValueError(
                f"Expected a weight for {neighborhood.num_relations} relations (got {r})"
            )
        self.neighborhood, self.weight = neighborhood, weight
        # What is solved with is a copy: whoever changes a parameter before the backward pass must
        # not change the equation.
        self._bound = weight.detach().clone()
        if neighborhood.grid is not None:
            k = isqrt(r)
            packed = weight.view(k, k, self.in_channels, self.out_channels).permute(3, 2, 0, 1)
            self._packed = packed.clone(memory_format=torch.channels_last)

    def __call__(self, z: Tensor) -> Tensor:
        """Convolve ``z``."""
        n = self.neighborhood
        if n.grid is not None:
            return self._conv2d(z, n.grid)
        dtype = torch.promote_types(z.dtype, self.weight.dtype)
        z = z.to(dtype)
        if torch.compiler.is_compiling():  # in operations that the compiler knows
            packed = self.weight.to(dtype).transpose(0, 1).reshape(self.in_channels, -1)
            messages = (z @ packed).view(-1, self.out_channels)[n.incoming.slot]
            return messages.new_zeros(n.num_nodes, self.out_channels).index_add(
                0, n.incoming.receiver, messages
            )
        if recorded():
            weight = self.weight.to(dtype)
            return Convolve.apply(z, weight, n.incoming)  # type: ignore[no-any-return]
        return convolve(z, self._bound.to(dtype), n.incoming)

    def transposed(self, differentiable: bool = True) -> Stencil:
        """The transposed operator: the transposed matrices on the reversed edges.

        Args:
            differentiable: Whether to the weight; else with its values as they were when the
                stencil was made.
        """
        n = self.neighborhood
        weight = (self.weight if differentiable else self._bound).transpose(1, 2)
        if n.grid is not None:  # the reversed edges are those of the opposite offsets
            return Stencil(n, weight.flip(0))
        return Stencil(n.reversed(), weight)

    def _conv2d(self, z: Tensor, g: GridShape) -> Tensor:
        image = z.view(g.num_graphs, g.height, g.width, self.in_channels).permute(0, 3, 1, 2)
        pad = self._packed.size(-1) // 2
        if g.periodic:
            image = F.pad(image, (pad,) * 4, mode="circular")
            image = image.contiguous(memory_format=torch.channels_last)
        out = F.conv2d(image, self._packed, padding=0 if g.periodic else pad)
        return out.permute(0, 2, 3, 1).reshape(-1, self.out_channels)

    def restrict(self, nodes: Tensor) -> Stencil:
        """The same stencil on ``nodes``, the ascending indices of whole graphs."""
        new = object.__new__(Stencil)
        new.__dict__.update(self.__dict__)
        new.neighborhood = self.neighborhood.restrict(nodes)
        return new


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is under way."""
    active: bool = torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined]
    return active or torch.autograd.forward_ad._current_level >= 0


def recorded() -> bool:
    """Whether what is computed may be differentiated, and memory must not be used again."""
    return torch.is_grad_enabled() or transforms_active()


def check_edge_index(edge_index: object) -> None:
    """Raise unless ``edge_index`` is a dense tensor of integers ``[2, num_edges]``.

    Raises:
        TypeError: If it is no tensor, a sparse one, or not of integers.
        ValueError: If it has another shape.
    """
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"Expected a tensor 'edge_index' (got {type(edge_index).__name__})")
    if edge_index.layout != torch.strided:
        raise TypeError(
            f"Expected edge indices [2, num_edges] (got a {edge_index.layout} matrix). Use "
            "row_col, edge_weight = torch_geometric.utils.to_edge_index(adj_t) and row_col.flip(0)"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"Expected 'edge_index' of shape [2, num_edges] (got {list(edge_index.shape)})"
        )
    if edge_index.dtype not in (torch.long, torch.int):
        raise TypeError(f"Expected integer 'edge_index' (got {edge_index.dtype})")


def plain_edges(edge_index: Tensor | Neighborhood, num_nodes: int) -> Tensor:
    """Edge indices ``[2, num_edges]`` of 64 bits, in range; of a neighbourhood those within."""
    if isinstance(edge_index, Neighborhood):
        e = edge_index.incoming
        edge_index = torch.stack([e.sender, e.receiver])
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    return edge_index.long()


def check_range(name: str, index: Tensor, size: int, size_name: str) -> None:
    """Raise a ValueError if ``index`` has entries outside ``[0, size)``.

    Within a compiled graph, which sees no values, nothing is checked.
    """
    if torch.compiler.is_compiling():
        return
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < size):
        raise ValueError(
            f"Expected the entries of '{name}' in [0, {size}) with {size_name}={size} "
            f"(got {int(index.min())} to {int(index.max())})"
        )


def _detect_grid(e: RelationEdges) -> GridShape | None:
    """Recognise a batch of equal full ``H x W`` grids, all ``k x k`` relations present."""
    n, r = e.num_nodes, e.num_relations
    k = isqrt(r)
    if n == 0 or k * k != r or k % 2 == 0 or k == 1:
        return None
    table = e.sender.new_full((n * r,), -1, dtype=torch.long)
    table[e.receiver.long() * r + e.relation] = e.sender.long()
    table = table.view(n, r)
    node = torch.arange(n, device=table.device)
    center = r // 2
    width = _first_break(table[:, center + 1], node + 1) + 1
    down = table[::width, center + k]
    height = _first_break(down, node[::width] + width) + 1
    if n % (height * width) != 0:
        return None
    for periodic in (False, True):
        expected = _grid_table(n, height, width, k, periodic, table.device)
        if e.num_edges == int((expected >= 0).sum()) and torch.equal(table, expected):
            return GridShape(n // (height * width), height, width, periodic)
    return None


def _first_break(found: Tensor, expected: Tensor) -> int:
    differs = (found != expected).nonzero()
    return int(differs[0]) if differs.numel() else found.numel() - 1


def _grid_table(n: int, h: int, w: int, k: int, periodic: bool, device: torch.device) -> Tensor:
    offset = torch.arange(k, device=device) - k // 2
    row = torch.arange(h, device=device)[:, None] + offset  # [H, k]
    col = torch.arange(w, device=device)[:, None] + offset  # [W, k]
    inside = ((row >= 0) & (row < h))[:, None, :, None] & ((col >= 0) & (col < w))[None, :, None]
    index = (row % h)[:, None, :, None] * w + (col % w)[None, :, None]
    index = index.reshape(h * w, k * k)
    first = torch.arange(0, n, h * w, device=device)[:, None, None]
    table = (index + first).reshape(n, k * k)
    if periodic:
        return table
    outside = ~inside.reshape(h * w, k * k).repeat(n // (h * w), 1)
    return table.masked_fill(outside, -1)
