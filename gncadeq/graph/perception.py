"""Perception by weighted edges: what a node senses of its neighbours, one sum a kernel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.check import check_type
from gncadeq.graph.neighborhood import check_range
from gncadeq.graph.recording import recorded
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import Adj, OptTensor


class Perception(SparseMatrix):
    r"""Weighted sums over the incoming edges, one for each kernel,

    .. math::
        \mathbf{y}_i^k = \sum_{e = (j \to i)} w_{ek} \, \mathbf{z}_j .

    The weights come with the graph (``edge_attr``), usually by a transform: Sobel filters on
    pixels, the gradient and the Laplacian on a mesh. A node that senses itself has a loop.

    Args:
        edge_index: ``[2, num_edges]``, sources in row 0 and targets in row 1.
        weight: ``[num_edges, num_kernels]`` floating-point weights.
        num_nodes: Number of nodes.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`
        - **output:** perceived state :math:`(|\mathcal{V}|, K, C)`

    Raises:
        ValueError: If there isn't one row of weights an edge, or an index is out of range.
        TypeError: If the weights aren't floating-point.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1], [1, 0, 1]])
        >>> weight = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.0]])
        >>> Perception(edge_index, weight, num_nodes=2)(torch.tensor([[2.0], [4.0]])).squeeze(2)
        tensor([[ 4., -2.],
                [-2.,  1.]])
    """

    def __init__(self, edge_index: Adj, weight: Tensor, num_nodes: int) -> None:
        if not isinstance(edge_index, Tensor):
            raise TypeError(
                "Expected edge indices [2, num_edges] for a perception with weights (got a "
                f"{type(edge_index).__name__}, whose edges have another order)"
            )
        if weight.dim() != 2 or weight.size(0) != edge_index.size(1):
            raise ValueError(
                "Expected 'edge_attr' of shape [num_edges, num_kernels] = "
                f"[{edge_index.size(1)}, *] (got {list(weight.shape)})"
            )
        if not weight.is_floating_point():
            raise TypeError(
                f"Expected floating-point kernel weights in 'edge_attr' (got {weight.dtype}). "
                "gncadeq.transforms.PixelKernels turns the relations of a pixel graph into them"
            )
        check_range("edge_index", edge_index, num_nodes, "num_nodes")
        kinds = self.num_kernels = weight.size(1)
        kernel = torch.arange(kinds, device=weight.device).repeat(edge_index.size(1))
        source, target = edge_index.long().repeat_interleave(kinds, dim=1)
        rows, order = SparseRows.sort(
            target * kinds + kernel, source, num_nodes * kinds, num_nodes, kinds
        )
        super().__init__(rows, weight.reshape(-1)[order])

    def __call__(self, z: Tensor) -> Tensor:
        """Perceive ``z``."""
        return super().__call__(z).view(self.num_nodes, self.num_kernels, z.size(1))

    def in_blocks(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some receivers at a time where that is faster, and all of them under autograd.

        Each node processes what it perceives without the others. So this can be done block by
        block, which keeps all intermediate values in the cache.

        Yields:
            Rows of the nodes, and what they perceive ``[num_rows, num_kernels, channels]``.
        """
        if recorded() or torch.compiler.is_compiling():
            yield slice(0, self.num_nodes), self(z)
            return
        yield from self.rows.product_blocks(z, self.weight.to(z.dtype), _BLOCK)

    def count(self, mark: Tensor) -> Tensor:
        """``[num_nodes, C]``, above zero where a node senses one that is marked."""
        return F.embedding_bag(
            self.rows.col, mark, self.rows.node_ptr, mode="sum", include_last_offset=True
        )

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(num_nodes={self.num_nodes}, "
            f"num_edges={self.weight.numel() // max(1, self.num_kernels)}, "
            f"num_kernels={self.num_kernels})"
        )


_BLOCK = 4096  # nodes


def check_kernels(edge_attr: OptTensor, num_kernels: int) -> Tensor:
    """The kernel weights ``[num_edges, num_kernels]``; else a ValueError says who writes them."""
    if edge_attr is not None:
        check_type("edge_attr", edge_attr, Tensor)
    if edge_attr is None or edge_attr.dim() != 2 or edge_attr.size(1) != num_kernels:
        found = None if edge_attr is None else list(edge_attr.shape)
        raise ValueError(
            "Expected kernel weights 'edge_attr' of shape [num_edges, num_kernels] = "
            f"[*, {num_kernels}] (got {found}). gncadeq.transforms.PixelKernels and "
            "MeshToGraph write them"
        )
    return edge_attr
