"""The Laplacian of any graph as the kernel of its edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import remove_self_loops

from gncadeq.transforms.surface_operators import normalized_rows, with_self_loops


class GraphLaplacian(BaseTransform):  # type: ignore[misc]
    r"""Write the Laplacian of any graph as the one kernel that its edges carry.

    .. math::
        y_i = \sum_{(j \to i) \in \mathcal{E}} \frac{w_{ij}}{\sum_k w_{ik}} \, (z_j - z_i)

    Its spectrum is in [-2, 0] on undirected graphs. Where neighbours lie evenly around every node
    of a graph in the plane, at a root mean square distance :math:`h`, it is
    :math:`\tfrac{h^2}{4} \Delta z`, whatever the lattice.

    Returns (when called with ``Data`` that has ``edge_index``):
        The same with ``edge_index`` ``[2, E]`` sorted by target, with a loop at every node (its own
        are dropped first), and ``edge_attr`` ``[E, 1]``. Weights :math:`w` are the graph's
        non-negative ``edge_weight`` ``[E]`` if it has one, which is taken away, and one otherwise.
        A node without neighbours has weights of zero.

    Raises:
        ValueError: If there is no ``edge_index``, or weights are of a wrong shape, negative or not
            finite.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 2, 1], [1, 1, 0]]), num_nodes=3)
        >>> GraphLaplacian()(data).edge_attr.flatten()
        tensor([-1.0000,  1.0000,  0.5000, -1.0000,  0.5000,  0.0000])
    """

    def forward(self, data: Data) -> Data:
        """Replace ``edge_index`` and ``edge_attr``."""
        if data.edge_index is None:
            raise ValueError(f"Expected a graph with 'edge_index' (got {data})")
        n, weight = int(data.num_nodes), data.get("edge_weight")
        if weight is not None:
            _check_weight(weight, data.num_edges)
        edges, weight = remove_self_loops(data.edge_index.long(), weight)
        if weight is None:
            weight = torch.ones(edges.size(1), device=edges.device)
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        row = normalized_rows(weight.double(), edges[1], n)[:, None]
        data.edge_index, data.edge_attr = with_self_loops(edges, row, n, dtype)
        data.edge_weight = None
        return data


def _check_weight(weight: Tensor, num_edges: int) -> None:
    if list(weight.shape) != [num_edges]:
        raise ValueError(
            f"Expected 'edge_weight' of shape [{num_edges}] (got {list(weight.shape)})"
        )
    bad = ~((weight >= 0) & weight.isfinite())
    if bool(bad.any()):
        raise ValueError(
            "Expected finite, non-negative 'edge_weight' (got "
            f"{[float(w) for w in weight[bad][:3]]})"
        )
