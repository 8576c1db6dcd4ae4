"""Kernel weights for any graph: the number and the share of the neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_type

_KERNELS = ("sum", "mean")


class NeighborKernels(BaseTransform):  # type: ignore[misc]
    r"""Give the edges of any graph the weights of isotropic kernels: sums and means of neighbours.

    .. math::
        y_i^{\text{sum}} = \sum_{j \in \mathcal{N}(i)} z_j, \qquad
        y_i^{\text{mean}} = \frac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)} z_j

    The rule of a :class:`gncadeq.GrowingCell` can be taken from one graph to any other. Loops are
    removed.

    Args:
        kernels: Names among ``"sum"`` and ``"mean"``.

    Returns (when called with ``Data`` that has ``edge_index``):
        ``Data`` without loops, and with ``edge_attr`` ``[num_edges, num_kernels]``.

    Raises:
        ValueError: If a name is unknown, there is none, or the graph has no edges' indices.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> NeighborKernels()(data).edge_attr
        tensor([[1.0000, 0.5000],
                [1.0000, 1.0000],
                [1.0000, 1.0000],
                [1.0000, 0.5000]])
    """

    def __init__(self, kernels: Sequence[str] = ("sum", "mean")) -> None:
        check_type("kernels", kernels, (str, tuple, list))
        if isinstance(kernels, str) or not kernels:
            raise ValueError(
                f"Expected a sequence of kernels of {list(_KERNELS)} (got {kernels!r})"
            )
        for name in kernels:
            check_choice("kernels", name, _KERNELS)
        self.kernels = tuple(kernels)

    def forward(self, data: Data) -> Data:
        """Replace ``edge_attr``; everything else but loops is kept."""
        if data.edge_index is None:
            raise ValueError("Expected a graph with 'edge_index' (got None)")
        data = data.edge_subgraph(data.edge_index[0] != data.edge_index[1])
        target, x = data.edge_index[1], data.x
        dtype = x.dtype if x is not None and x.is_floating_point() else torch.get_default_dtype()
        degree = torch.bincount(target, minlength=int(data.num_nodes)).to(dtype)
        ones = degree.new_ones(target.numel())
        weight = {"sum": ones, "mean": ones / degree[target]}
        data.edge_attr = torch.stack([weight[name] for name in self.kernels], dim=1)
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({', '.join(self.kernels)})"
