"""Which node belongs to which graph, and sums over the nodes of each graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gncadeq.check import check_count
from gncadeq.graph.layout import StateLayout
from gncadeq.graph.precision import widened, widest
from gncadeq.typing import Adj

_PIECE = 1024
_SMALL = 10_000  # numbers, of which double precision is the faster on a CPU, measured


class Partition:
    """The nodes of a batch, divided into graphs; nothing is padded.

    Args:
        batch: ``[num_nodes]`` ascending graph indices, or ``None`` for a single graph.
        num_nodes: Number of nodes.
        num_graphs: Number of graphs; by default the largest index plus one (a device
            synchronisation), one graph without ``batch``.
        like: A tensor on the device of the state.

    Raises:
        ValueError: If ``batch`` has another length than the state, or is not ascending.
        TypeError: If it isn't a tensor.

    Example:
        >>> p = Partition(torch.tensor([0, 0, 1]), num_nodes=3)
        >>> p.sum(torch.tensor([1.0, 2.0, 5.0]))
        tensor([3., 5.])
    """

    _rows: Tensor | None = None

    def __init__(
        self,
        batch: Tensor | None,
        num_nodes: int,
        num_graphs: int | None = None,
        like: Tensor | None = None,
    ) -> None:
        if not torch.compiler.is_compiling():  # where sizes are symbols
            num_nodes = check_count("num_nodes", num_nodes)
            if num_graphs is not None:
                num_graphs = check_count("num_graphs", num_graphs)
        given = batch
        if batch is None:
            device = like.device if like is not None else None
            batch = torch.zeros(num_nodes, dtype=torch.long, device=device)
            num_graphs = 1 if num_graphs is None else num_graphs
        if not isinstance(batch, Tensor):
            raise TypeError(f"Expected a tensor 'batch' (got {type(batch).__name__})")
        if like is not None and batch.device != like.device:
            raise ValueError(
                f"Expected 'batch' on the device of 'x', {like.device} (got {batch.device})"
            )
        if batch.dim() != 1 or batch.numel() != num_nodes:
            raise ValueError(
                f"Expected 'batch' of shape [num_nodes] = [{num_nodes}] (got {list(batch.shape)})"
            )
        if batch.is_floating_point() or batch.dtype == torch.bool:
            raise ValueError(f"Expected integer 'batch' (got {batch.dtype})")
        batch = batch.long().contiguous()
        self.batch, self.num_graphs = batch, 1 if num_graphs is None else num_graphs
        if (given is None and self.num_graphs) or (
            torch.compiler.is_compiling() and num_graphs is not None
        ):
            return  # nothing to check, or no values to see
        if num_graphs is None:
            num_graphs = max(int(batch[-1]) + 1, 0) if num_nodes else 0
        first, last, descents = 0, -1, 0
        if num_nodes:  # one question to a device
            descent = (batch[1:] < batch[:-1]).sum()
            until = torch.searchsorted(
                batch, torch.arange(num_graphs, device=batch.device), right=True
            )
            asked = torch.cat([until, torch.stack([batch[0], batch[-1], descent])])
            *ends, first, last, descents = asked.tolist()
            self.count = np.diff(ends, prepend=0)
        if descents:
            raise ValueError(
                "Expected 'batch' in ascending order (got an unsorted one). Sort the nodes by "
                "graph, as torch_geometric.data.Batch does"
            )
        if not (first >= 0 and last < num_graphs):
            raise ValueError(
                f"Expected 'batch' entries in [0, {num_graphs}) (got {first} to {last})"
            )
        self.num_graphs = num_graphs

    @classmethod
    def of(
        cls, given: object, batch: Tensor | None, like: Tensor, num_graphs: int | None
    ) -> Partition:
        """What was ``given`` where that is a partition, checked when it was made; else a new one.

        Raises:
            ValueError: If it is one of another number of nodes or graphs, or on another device.
        """
        if not isinstance(given, Partition):
            return cls(batch, like.size(0), num_graphs, like)
        if given.batch.device != like.device:
            raise ValueError(
                f"Expected a partition on the device of 'x', {like.device} (got one on "
                f"{given.batch.device}). Make it of a 'batch' there"
            )
        if num_graphs not in (None, given.num_graphs):
            raise ValueError(
                f"Expected batch_size={given.num_graphs}, as the partition has graphs (got "
                f"{num_graphs}). Leave it out"
            )
        if given.num_nodes != like.size(0):
            raise ValueError(
                f"Expected a partition of {like.size(0)} nodes, as many as 'x' has (got one of "
                f"{given.num_nodes})"
            )
        return given

    @cached_property
    def count(self) -> NDArray[Any]:
        """``[num_graphs]``, the number of nodes of every graph, on the host."""
        if self.num_graphs == 1:
            return np.array([self.num_nodes])
        count: NDArray[Any] = torch.bincount(self.batch, minlength=self.num_graphs).cpu().numpy()
        return count

    def check_edges(self, edge_index: Adj, layout: StateLayout | None = None) -> None:
        """Raise a ValueError if an edge joins two graphs, with rows as ``layout`` names them."""
        if self.num_graphs <= 1 or torch.compiler.is_compiling():
            return
        if isinstance(edge_index, Tensor):
            source, target = edge_index[0], edge_index[1]
        else:
            source, target = edge_index.ends()
        crossing = self.batch[source] != self.batch[target]
        if bool(crossing.any()):
            edge = int(crossing.nonzero()[0])
            i, j = int(source[edge]), int(target[edge])
            names = (str(i), str(j)) if layout is None else (layout.name(i), layout.name(j))
            raise ValueError(
                f"Expected edges within the graphs of 'batch' (got {int(crossing.sum())} edges "
                f"between graphs, such as {names[0]} → {names[1]} from graph {int(self.batch[i])} "
                f"to {int(self.batch[j])}). Is 'batch' that of another Batch?"
            )

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.batch.numel()

    def part(self, nodes: Tensor) -> Partition:
        """Some nodes of every graph, given their ascending indices."""
        return self._made(self.batch[nodes], self.num_graphs)

    def sum(self, value: Tensor) -> Tensor:
        """Sum ``[num_nodes, ...]`` over the nodes of each graph: ``[num_graphs, ...]``."""
        if self.num_graphs == 1:
            return value.sum(0, keepdim=True)
        out = value.new_zeros(self.num_graphs, *value.shape[1:])
        return out.index_add_(0, self.batch, value)

    def mean(self, value: Tensor) -> Tensor:
        """Average over the nodes of each graph; zeros for a graph without nodes."""
        ones = value.new_ones(self.num_nodes)
        count = self.sum(ones).clamp(min=1).view(-1, *[1] * (value.dim() - 1))
        return self.sum(value) / count

    def largest(self, value: Tensor) -> Tensor:
        """The largest of non-negative values ``[num_nodes]`` in each graph: ``[num_graphs]``."""
        out = value.new_zeros(self.num_graphs)
        return out.scatter_reduce_(0, self.batch, value, "amax")

    def norm(self, value: Tensor) -> Tensor:
        """Euclidean norm over the nodes and channels of each graph: ``[num_graphs]``.

        Squares that overflow or underflow don't spoil it: such values are scaled first.
        """
        if torch.is_grad_enabled() or not self.num_nodes:
            return self.sum(value.square().sum(dim=-1)).sqrt()
        wide = widest(value.device)
        small = value.numel() <= _SMALL or value.size(1) > _PIECE or not value.is_cpu
        if value.dtype == wide or not small:
            square = self.sum(torch.linalg.vector_norm(value, dim=1).to(wide).square())
            if _in_range(square, value.dtype):
                return square.sqrt().to(value.dtype)
        if value.dtype != wide:  # squares in double precision stay in range, without a look at them
            size = torch.linalg.vector_norm(value, dim=1, dtype=wide)
            return self.sum(size.square()).sqrt().to(value.dtype)
        channels = widened(self.channel_norm(value))
        largest = channels.amax(1, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        norm: Tensor = scale.squeeze(1) * torch.linalg.vector_norm(channels / scale, dim=1)
        return norm.to(value.dtype)

    @torch.no_grad()
    def norms(self, *values: Tensor, start: Tensor | None = None) -> NDArray[Any]:
        """Do what :meth:`norm` does for several states, and read all of it of the device at once.

        Args:
            values: States of one type.
            start: One more, of which it is enough to know that it is nearly zero beside the others.

        Returns:
            ``[len(values), num_graphs]``, with a row for the start if there is one, on the host.
        """
        states = values if start is None else (*values, start)
        own, wide = states[0].dtype, widest(states[0].device)
        square = self._squares(states, own).cpu().numpy()
        limit, asked = torch.finfo(own), square[: len(values)]
        small, large = asked <= limit.tiny / limit.eps, square >= limit.max * limit.eps
        if small.any() or large.any():
            if own == wide:
                return torch.stack([self.norm(value) for value in states]).cpu().numpy()
            square = self._squares(states, wide).cpu().numpy()
        norms: NDArray[Any] = np.sqrt(square)
        return norms.astype(np.float32 if own == torch.float32 else np.float64)

    def _squares(self, values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """``[len(values), num_graphs]`` squared norms of states, of nodes in ``dtype``, of graphs
        in the widest type."""
        size = values[0].new_empty(len(values), self.num_nodes, dtype=dtype)
        for value, row in zip(values, size, strict=True):
            torch.linalg.vector_norm(value, dim=1, dtype=dtype, out=row)
        square = torch.empty_like(size, dtype=widest(size.device))
        torch.mul(size, size, out=square)
        if self.num_graphs == 1:
            return square.sum(1, keepdim=True)
        if self._rows is None or self._rows.numel() != square.numel():
            number = torch.arange(len(values), device=size.device) * self.num_graphs
            self._rows = (self.batch + number[:, None]).flatten()
        total = square.new_zeros(len(values) * self.num_graphs)
        return total.index_add_(0, self._rows, square.flatten()).view(len(values), -1)

    def channel_norm(self, value: Tensor) -> Tensor:
        """Euclidean norm over the nodes of each graph: ``[num_graphs, channels]``."""
        square = self._square_sums(value)
        if _in_range(square, value.dtype):
            return square.sqrt().to(value.dtype)
        largest = value.new_zeros(self.num_graphs, value.size(1))
        index = self.batch.unsqueeze(1).expand_as(value)
        largest.scatter_reduce_(0, index, value.abs(), "amax")
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        square = self._square_sums(value / scale[self.batch])
        return (widened(scale) * square.sqrt()).to(value.dtype)

    def dots(self, left: Sequence[Tensor] | Tensor, right: Tensor) -> Tensor:
        """Inner products of a state with several over the nodes and channels of each graph:
        ``[num_graphs, len(left)]``, summed over nodes in double precision.

        Several in one tensor ``[count, num_nodes, channels]`` take about half as long.
        """
        if isinstance(left, Tensor):
            products = torch.bmm(left.transpose(0, 1), right.unsqueeze(2)).squeeze(2)
        else:
            products = torch.stack([torch.linalg.vecdot(a, right) for a in left], 1)
        return self.sum(widened(products))

    def _square_sums(self, value: Tensor) -> Tensor:
        """``[num_graphs, channels]`` sums of squares, in double precision."""
        # A pass over the nodes, all channels at a time, several times faster than index_add; then
        # the pieces of each graph in double precision: a million small terms add up as well.
        ptr, graph = self._pieces
        piece = F.embedding_bag(
            self._node, value.square(), ptr, mode="sum", include_last_offset=True
        )
        total = piece.new_zeros(self.num_graphs, value.size(1), dtype=widest(piece.device))
        return total.index_add_(0, graph, piece.to(total.dtype))

    @cached_property
    def _pieces(self) -> tuple[Tensor, Tensor]:
        """Where every thousand nodes of a graph begin, and whose they are."""
        count = torch.from_numpy(self.count).to(self.batch.device)
        pieces = (count + _PIECE - 1) // _PIECE
        graph = torch.arange(self.num_graphs, device=count.device).repeat_interleave(pieces)
        first = F.pad(pieces.cumsum(0), (1, 0))[graph]
        start = F.pad(count.cumsum(0), (1, 0))[graph]
        begin = start + _PIECE * (torch.arange(graph.numel(), device=count.device) - first)
        return F.pad(begin, (0, 1), value=self.num_nodes), graph

    @cached_property
    def _node(self) -> Tensor:
        return torch.arange(self.num_nodes, device=self.batch.device)

    def restrict(self, graphs: NDArray[Any]) -> tuple[Tensor, Partition]:
        """Keep the graphs marked in ``graphs`` ``[num_graphs]``, a mask on the host.

        Returns:
            The ascending indices of the kept nodes, and their partition.
        """
        place = torch.from_numpy(np.where(graphs, graphs.cumsum() - 1, -1)).to(self.batch.device)
        place = place[self.batch]
        nodes = (place >= 0).nonzero().flatten()
        new = self._made(place[nodes], int(graphs.sum()))
        new.count = self.count[graphs]
        return nodes, new

    @staticmethod
    def _made(batch: Tensor, num_graphs: int) -> Partition:
        new = object.__new__(Partition)
        new.batch, new.num_graphs = batch, num_graphs
        return new

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(num_nodes={self.num_nodes}, num_graphs={self.num_graphs})"
        )


def index_of(batch: Any) -> Any:
    """The graph index of every node, where a partition was given; else what was given."""
    return batch.batch if isinstance(batch, Partition) else batch


def _in_range(square: Tensor, dtype: torch.dtype) -> bool:
    """Whether no sum of squares is near overflow or underflow; zero may have underflown."""
    kind = torch.finfo(dtype)
    if not square.numel():
        return True
    least, most = torch.stack(torch.aminmax(square)).tolist()  # one question to a device
    return bool(kind.tiny / kind.eps < least and most < kind.max * kind.eps)
