"""The prepared graph: who senses whom through which matrix, in the form that runs fastest.

A stencil convolution on a graph whose edges carry a *relation* ``r`` (on pixels: the relative
offset) is

.. math::
    y_i = \\sum_{(j \\to i,\\, r) \\in \\mathcal{E}} a_{ijr} \\, \\mathbf{W}_r \\, z_j .

The weights :math:`a` are one, unless edges have directions in between, and so several relations.

:class:`Neighborhood` sorts the edges once and then evaluates it as ``conv2d`` where the graph is
a batch of equal full grids (``kind="grid"``), and as one matrix product and one sparse sum
anywhere else (``kind="csr"``).
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.check import check_choice
from gncadeq.graph.grid import GridShape, detect_grid
from gncadeq.graph.recording import recorded, transforms_active
from gncadeq.graph.relations import Convolve, RelationEdges, convolve

Kind = Literal["grid", "canvas", "csr"]


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
        weight: ``[num_edges]``, what each edge counts; ``None`` for ones.
        checked: Whether indices and relations are known to be in range, as those of a part of what
            was checked are.

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
        weight: Tensor | None = None,
        checked: bool = False,
    ) -> None:
        check_choice("kind", kind, ("auto", "grid", "csr"))
        self.num_nodes, self.num_relations = num_nodes, num_relations
        self.num_sources = num_nodes if num_sources is None else num_sources
        kinds = ("edge_attr", relation, num_relations, "num_relations")
        if not checked and num_sources is None:
            check_range("edge_index", edge_index, num_nodes, "num_nodes", kinds)
        elif not checked:
            targets = ("edge_index[1]", edge_index[1], num_nodes, "num_nodes")
            sources = self.num_sources, "num_sources"
            check_range("edge_index[0]", edge_index[0], *sources, targets, kinds)
        self._incoming: RelationEdges | None = RelationEdges(
            edge_index[1], edge_index[0], relation, num_nodes, num_relations, num_sources, weight
        )
        self._below: GridShape | None = None
        square = num_sources is None and weight is None and kind != "csr"
        self.grid = detect_grid(self.incoming) if square else None
        if kind == "grid" and self.grid is None:
            raise ValueError(
                "Expected a batch of equal full pixel grids for kind='grid' (got another graph). "
                "Use kind='auto'"
            )

    @classmethod
    def of_pixels(cls, grid: GridShape, below: GridShape | None = None) -> Neighborhood:
        """The 3 × 3 windows of the pixels of a grid, whose edges are never written down.

        Args:
            grid: The pixels, of which each senses those that are nodes.
            below: A grid twice as fine, of which they sense the windows around their places.

        Example:
            >>> grid = GridShape(1, 2, 2, index=torch.tensor([0, 3]))
            >>> hood = Neighborhood.of_pixels(grid)
            >>> hood.kind, hood.stencil(torch.ones(9, 1, 1))(torch.tensor([[1.0], [2.0]]))
            ('canvas', tensor([[3.],
                    [3.]]))
        """
        source = grid if below is None else below
        new = object.__new__(cls)
        new.num_nodes, new.num_sources, new.num_relations = grid.num_nodes, source.num_nodes, 9
        new._incoming, new.grid, new._below = None, grid, below
        return new

    def ends(self) -> tuple[Tensor, Tensor]:
        """Pairs of nodes that must be of one graph: the ends of all edges, if they are written."""
        if self.grid is not None and self._incoming is None:
            graph = self.grid.graph()
            first = (graph[1:] == graph[:-1]).nonzero().flatten()
            return first, first + 1
        return self.incoming.sender, self.incoming.receiver

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self._incoming is not None and self._incoming.weight is not None

    def row_sums(self) -> Tensor:
        """``[num_nodes, num_relations]``, the sums of the absolute weights of every node's edges.

        Example:
            >>> edge_index = torch.tensor([[0, 1], [1, 1]])
            >>> Neighborhood(edge_index, torch.tensor([0, 0]), 2, 1).row_sums()
            tensor([[0.],
                    [2.]])
        """
        e = self.incoming
        size = e.col.new_ones(e.num_edges).float() if e.weight is None else e.weight.abs()
        sums = size.new_zeros(e.num_rows).index_add_(0, e.row.long(), size)
        return sums.view(self.num_nodes, self.num_relations)

    @property
    def incoming(self) -> RelationEdges:
        """The edges."""
        if self._incoming is None:
            self._incoming = self._written()
        return self._incoming

    def _written(self) -> RelationEdges:
        """The edges between the pixels of a grid."""
        assert self.grid is not None
        g, source = self.grid, self._below or self.grid
        pixel = torch.arange(source.num_nodes, dtype=torch.double) + 1
        numbers = F.pad(source.paint(pixel[:, None]), (1, 1, 1, 1)).squeeze(1).long() - 1
        stride = 1 if self._below is None else 2
        windows = numbers.unfold(1, 3, stride).unfold(2, 3, stride)[:, : g.height, : g.width]
        table = windows.reshape(-1, 9)
        table = table if g.index is None else table[g.index]
        inside = table >= 0
        receiver = torch.arange(self.num_nodes)[:, None].expand_as(table)[inside]
        relation = torch.arange(9).expand_as(table)[inside]
        return RelationEdges(receiver, table[inside], relation, self.num_nodes, 9, self.num_sources)

    @property
    def kind(self) -> Kind:
        """How stencils run, ``"grid"`` or ``"canvas"`` (both by conv2d) or ``"csr"``."""
        if self.grid is None:
            return "csr"
        return "grid" if self.grid.index is None else "canvas"

    def stencil(self, weight: Tensor) -> Stencil:
        """Bind ``weight`` ``[num_relations, in_channels, out_channels]`` to the graph."""
        return Stencil(self, weight)

    def reversed(self) -> Neighborhood:
        """Every edge turned round, with the relation that it had; never in ``"grid"`` form."""
        new = object.__new__(Neighborhood)
        new.num_nodes, new.num_sources = self.num_sources, self.num_nodes
        new.num_relations = self.num_relations
        new._incoming, new.grid, new._below = self.incoming.reversed, None, None
        return new

    def restrict(self, nodes: Tensor, sources: Tensor | None = None) -> Neighborhood:
        """The neighbourhood of ``nodes``, the ascending indices of whole graphs.

        Args:
            nodes: Which nodes are kept.
            sources: Which sources, where those are other nodes.
        """
        if self.kind == "canvas" and self.grid is not None:
            below = self._below
            if below is not None and sources is not None:
                below = below.restrict(sources)
            return Neighborhood.of_pixels(self.grid.restrict(nodes), below)
        new = object.__new__(Neighborhood)
        new.num_nodes = nodes.numel()
        new.num_sources = new.num_nodes if sources is None else sources.numel()
        new.num_relations, new._below = self.num_relations, None
        new._incoming, _ = self.incoming.cut(nodes, sources)
        new.grid = None if self.grid is None else self.grid.restrict(nodes)
        return new

    def __repr__(self) -> str:
        edges = "" if self._incoming is None else f"num_edges={self._incoming.num_edges}, "
        return (
            f"{self.__class__.__name__}(kind={self.kind!r}, num_nodes={self.num_nodes}, "
            f"{edges}num_relations={self.num_relations})"
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
        # Solve with a snapshot of the weights, so that in-place updates before backward() cannot
        # change the equation.
        self._bound = weight.detach().clone()
        if neighborhood.grid is not None:
            k = isqrt(r)
            packed = weight.view(k, k, self.in_channels, self.out_channels).permute(3, 2, 0, 1)
            self._packed = packed.clone(memory_format=torch.channels_last)

    def __call__(self, z: Tensor) -> Tensor:
        """Convolve ``z``."""
        n = self.neighborhood
        if n.grid is not None:
            return self._conv2d(z, n.grid, n._below)
        dtype = torch.promote_types(z.dtype, self.weight.dtype)
        z = z.to(dtype)
        edge = n.incoming.weights(z)
        if torch.compiler.is_compiling() or _varies(edge):  # in operations that torch knows
            packed = self.weight.to(dtype).transpose(0, 1).reshape(self.in_channels, -1)
            messages = (z @ packed).view(-1, self.out_channels)[n.incoming.slot]
            messages = messages if edge is None else messages * edge[:, None]
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
        if (
            n.grid is not None and n._below is None
        ):  # the reversed edges are those of the opposite offsets
            return Stencil(n, weight.flip(0))
        return Stencil(n.reversed(), weight)

    def _conv2d(self, z: Tensor, g: GridShape, below: GridShape | None) -> Tensor:
        image = (below or g).paint(z)
        pad = self._packed.size(-1) // 2
        if g.periodic:
            image = F.pad(image, (pad,) * 4, mode="circular")
            image = image.contiguous(memory_format=torch.channels_last)
        stride = 1 if below is None else 2
        return g.read(F.conv2d(image, self._packed, None, stride, 0 if g.periodic else pad))

    def restrict(self, nodes: Tensor) -> Stencil:
        """The same stencil on ``nodes``, the ascending indices of whole graphs."""
        new = object.__new__(Stencil)
        new.__dict__.update(self.__dict__)
        new.neighborhood = self.neighborhood.restrict(nodes)
        return new


def _varies(weight: Tensor | None) -> bool:
    """Whether there may be a derivative to the weights of edges."""
    return weight is not None and ((weight.requires_grad and recorded()) or transforms_active())


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


def checked_edges(edge_index: object, num_nodes: int) -> Tensor:
    """Edge indices ``[2, num_edges]`` of 64 bits, checked to be those of ``num_nodes`` nodes."""
    check_edge_index(edge_index)
    assert isinstance(edge_index, Tensor)
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    return edge_index.long()


def check_range(
    name: str, index: Tensor, size: int, size_name: str, *more: tuple[str, Tensor, int, str]
) -> None:
    """Raise a ValueError if ``index``, or one of several, has entries outside ``[0, size)``.

    Within a compiled graph, which sees no values, nothing is checked.
    """
    asked = [each for each in ((name, index, size, size_name), *more) if each[1].numel()]
    if torch.compiler.is_compiling() or not asked:
        return
    ends = torch.stack([torch.stack(torch.aminmax(each[1])).long() for each in asked])
    for (name, _, size, size_name), (least, most) in zip(asked, ends.tolist(), strict=True):
        if not (least >= 0 and most < size):
            raise ValueError(
                f"Expected the entries of '{name}' in [0, {size}) with {size_name}={size} "
                f"(got {least} to {most})"
            )
