"""One graph held by several processes: who holds which nodes, and what they tell each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_type
from gncadeq.graph.partition import Partition
from gncadeq.graph.precision import widest

FIELDS = ("part", "num_parts", "hops", "halo_from", "send_to", "send_row")
"""What :func:`gncadeq.transforms.split_graph` writes into a part for a :class:`Halo`."""


class Halo:
    r"""The nodes around one process's part of a graph, whose states other processes hold.

    A process holds the rows of its own nodes :math:`\mathcal{V}_p`. A step of a local rule also
    reads those of the halo :math:`\mathcal{H}_p`, the nodes from which messages reach
    :math:`\mathcal{V}_p` within so many hops. :meth:`fill` gets them from the processes that hold
    them, and :meth:`collect` is its adjoint, which sends what belongs to the halo back, where it is
    added. Both are differentiable.

    Args:
        part: One of the parts of :func:`gncadeq.transforms.split_graph`, on the device on which it
            is computed.
        group: The process group; by default that of all processes.

    Raises:
        TypeError: If ``part`` is no ``Data``.
        ValueError: If it wasn't made by ``split_graph``, or isn't this process's.

    Example:
        >>> from gncadeq.transforms import split_graph
        >>> data = Data(x=torch.rand(3, 1), edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]))
        >>> halo = Halo(split_graph(data, num_parts=1)[0])  # one process alone has no halo
        >>> halo.num_nodes, halo.num_rows
        (3, 4)
    """

    def __init__(self, part: Data, group: Any = None) -> None:
        check_type("part", part, Data)
        missing = [name for name in FIELDS if name not in part]
        if missing:
            raise ValueError(
                f"Expected one of the parts that split_graph(data, num_parts) makes (got a Data "
                f"without {missing})"
            )
        self.group, self.count, self.hops = group, int(part.num_parts), int(part.hops)
        together = dist.is_available() and dist.is_initialized()
        size, rank = (dist.get_world_size(group), dist.get_rank(group)) if together else (1, 0)
        if (rank, size) != (int(part.part), self.count):
            raise ValueError(
                f"Expected part {rank} of {size} in process {rank} of {size} (got part "
                f"{int(part.part)} of {self.count}). Start as many processes as there are parts, "
                f"torchrun --nproc-per-node {self.count}, and give each its own"
            )
        self.num_nodes = int(part.num_nodes)
        self.num_halo: int = part.halo_from.numel()
        self.send_row = part.send_row
        self._out: list[int] = torch.bincount(part.send_to, minlength=size).tolist()
        self._into: list[int] = torch.bincount(part.halo_from, minlength=size).tolist()

    @property
    def num_rows(self) -> int:
        """Own nodes, halo, and one that stands for all nodes beyond."""
        return self.num_nodes + self.num_halo + 1

    def fill(self, z: Tensor) -> Tensor:
        """Rows of own nodes ``[num_nodes, ...]``, followed by the halo's and a row of zeros."""
        return _Exchange.apply(z, self, False)  # type: ignore[no-any-return]

    def collect(self, u: Tensor) -> Tensor:
        """The adjoint of :meth:`fill`: the halo's rows, added to those of their owners."""
        return _Exchange.apply(u, self, True)  # type: ignore[no-any-return]

    def own(self, z: Tensor) -> Tensor:
        """The rows of own nodes."""
        return z[: self.num_nodes]

    def padded(self, z: Tensor) -> Tensor:
        """Rows of own nodes, followed by zeros."""
        return F.pad(z, (0, 0) * (z.dim() - 1) + (0, self.num_halo + 1))

    def gathered(self, value: Tensor) -> Tensor:
        """The values of all processes, ``[num_parts, *value.shape]``, equal in all of them."""
        if self.count == 1:
            return value.unsqueeze(0)
        parts = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(parts, value.contiguous(), group=self.group)
        return torch.stack(parts)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, whose losses are those of their own nodes.

        Call it between ``backward()`` and the optimiser's step. A process where a parameter has no
        gradient counts as zero there.

        Args:
            parameters: ``model.parameters()``, in the same order everywhere.
        """
        if self.count == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        for p in held:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if not held:
            return
        flat = torch.cat([p.grad.flatten() for p in held if p.grad is not None])
        dist.all_reduce(flat, group=self.group)
        parts = torch.split(flat, [p.numel() for p in held])
        for p, total in zip(held, parts, strict=True):
            assert p.grad is not None
            p.grad.copy_(total.view_as(p))

    def _filled(self, z: Tensor) -> Tensor:
        got = self._swap(z.index_select(0, self.send_row), self._out, self._into)
        return torch.cat([z, got, z.new_zeros(1, *z.shape[1:])])

    def _collected(self, u: Tensor) -> Tensor:
        own, halo, _ = torch.split(u, [self.num_nodes, self.num_halo, 1])
        got = self._swap(halo.contiguous(), self._into, self._out)
        return own.index_add(0, self.send_row, got)

    def _swap(self, rows: Tensor, out: list[int], into: list[int]) -> Tensor:
        """Send ``rows``, so many to each process, and return so many from each."""
        got = rows.new_empty(sum(into), *rows.shape[1:])
        if not (rows.numel() or got.numel()):
            return got
        work = []
        pairs = zip(torch.split(rows, out), torch.split(got, into), strict=True)
        for peer, (mine, theirs) in enumerate(pairs):
            other = peer if self.group is None else dist.get_global_rank(self.group, peer)
            for what, value in ((dist.isend, mine), (dist.irecv, theirs)):
                if value.numel():
                    work.append(dist.P2POp(what, value, other, self.group))
        for each in dist.batch_isend_irecv(work):
            each.wait()
        return got

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(num_nodes={self.num_nodes}, num_halo={self.num_halo}, "
            f"num_parts={self.count}, hops={self.hops})"
        )


class _Exchange(torch.autograd.Function):
    """Filling a halo, or its adjoint, which collects."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, halo: Halo, adjoint: bool) -> Tensor:
        ctx.halo, ctx.adjoint = halo, adjoint
        return halo._collected(rows) if adjoint else halo._filled(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Exchange.apply(grad, ctx.halo, not ctx.adjoint), None, None


class SharedPartition(Partition):
    """The nodes of one graph that several processes hold: what runs over all of them is the same
    number in each, to the last bit, so that all of them decide alike.

    Args:
        halo: The nodes of this process, and the others.
        like: A tensor on the device of the state.
    """

    def __init__(self, halo: Halo, like: Tensor) -> None:
        super().__init__(None, halo.num_nodes, like=like)
        self.halo, self.mine = halo, Partition(None, halo.num_nodes, like=like)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all nodes: ``[1, ...]``."""
        return self.halo.gathered(self.mine.sum(value)).sum(0)

    def largest(self, value: Tensor) -> Tensor:
        """The largest of non-negative values ``[num_nodes]`` of all nodes: ``[1]``."""
        return self.halo.gathered(self.mine.largest(value)).amax(0)

    @cached_property
    def count(self) -> NDArray[Any]:
        """``[1]``, the number of all nodes."""
        mine = torch.tensor([self.num_nodes], device=self.batch.device)
        return self.halo.gathered(mine).sum(0).cpu().numpy()

    def _squares(self, values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        return self.halo.gathered(self.mine._squares(values, dtype)).sum(0)

    def norm(self, value: Tensor) -> Tensor:
        """Euclidean norm over all nodes and channels: ``[1]``."""
        return self._joined(self.mine.norm(value))

    def channel_norm(self, value: Tensor) -> Tensor:
        """Euclidean norm over all nodes: ``[1, channels]``."""
        return self._joined(self.mine.channel_norm(value))

    def _joined(self, length: Tensor) -> Tensor:
        wide = widest(length.device)
        size: Tensor = torch.linalg.vector_norm(self.halo.gathered(length), dim=0, dtype=wide)
        return size.to(length.dtype)
