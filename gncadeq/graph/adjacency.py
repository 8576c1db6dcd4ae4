"""Weighted edges as a sparse matrix on the nodes, and bounds on its spectral radius."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy  # its parts load when they are used
import torch
from torch import Tensor

from gncadeq.graph.neighborhood import Neighborhood, check_range
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import Adj, OptTensor

Normalization = Literal["sym", "row", "metropolis"]


class WeightedAdjacency(SparseMatrix):
    r"""The matrix :math:`\mathbf{A}` with :math:`A_{ij}` the sum of the weights of the edges
    :math:`j \to i`.

    Calling it multiplies a state: :math:`\mathbf{z} \mapsto \mathbf{A} \mathbf{z}`.

    Args:
        edge_index: ``[2, num_edges]``, sources in row 0 and targets in row 1, or a
            :class:`~gncadeq.graph.neighborhood.Neighborhood` whose relations are then ignored.
        weight: ``[num_edges]`` floating-point weights, of any sign; ones by default.
        num_nodes: Number of nodes.
        like: A tensor of the dtype and on the device of the default weights.

    Raises:
        ValueError: If there isn't one weight an edge, if an index is out of range, or if weights
            come with a neighbourhood, which has its edges in another order.
        TypeError: If the weights aren't floating-point.

    Example:
        >>> edge_index = torch.tensor([[0, 1], [1, 2]])
        >>> adjacency = WeightedAdjacency(edge_index, torch.tensor([0.5, 2.0]), num_nodes=3)
        >>> adjacency(torch.tensor([[1.0], [10.0], [100.0]]))
        tensor([[ 0.0000],
                [ 0.5000],
                [20.0000]])
    """

    def __init__(
        self, edge_index: Adj, weight: OptTensor, num_nodes: int, like: OptTensor = None
    ) -> None:
        edge_index = plain_edges(edge_index, num_nodes, weight)
        if like is None:
            like = torch.empty(0, device=edge_index.device)
        weight = _check_weight(weight, edge_index.size(1), like)
        rows, order = SparseRows.sort(edge_index[1], edge_index[0], num_nodes, num_nodes)
        super().__init__(rows, weight[order])

    @property
    def receiver(self) -> Tensor:
        """``[num_edges]``, the row of every entry of ``weight``, ascending."""
        return self.rows.row

    def with_self_loops(self) -> WeightedAdjacency:
        """Give a loop of weight one to every node that has no loop."""
        e = self.rows
        missing = torch.ones(e.num_rows, dtype=torch.bool, device=e.col.device)
        missing[e.col[e.col == e.row]] = False
        node = missing.nonzero().flatten()
        edge_index = torch.stack([torch.cat([e.col, node]), torch.cat([e.row, node])])
        weight = torch.cat([self.weight, self.weight.new_ones(node.numel())])
        return WeightedAdjacency(edge_index, weight, e.num_rows)

    def in_degree(self) -> Tensor:
        """``[num_nodes]``, the sum of the absolute weights into every node."""
        ones = self.weight.new_ones(self.num_nodes, 1)
        return self.rows.matmul(ones, self.weight.abs()).squeeze(1)

    def normalized(self, how: Normalization) -> tuple[WeightedAdjacency, Tensor]:
        r"""Normalise by in-degrees, and return the vector that proves the spectral radius.

        With :math:`d_i = \sum_j |A_{ij}|`, ``"sym"`` gives :math:`\hat{\mathbf{A}} =
        \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}` and ``"row"``
        :math:`\mathbf{D}^{-1} \mathbf{A}`. Both are similar to a matrix whose absolute rows sum to
        one, so :math:`|\hat{\mathbf{A}}| \mathbf{v} \le \mathbf{v}` with :math:`v_i = \sqrt{d_i}`
        and :math:`v_i = 1`: on *any* graph, directed or not. So do the weights of `Metropolis et
        al. 1953 <https://doi.org/10.1063/1.1699114>`_, for averages over a graph (`Xiao, Boyd &
        Lall 2005 <https://doi.org/10.1109/IPSN.2005.1440896>`_),

        .. math::
            \hat{A}_{ij} = \frac{A_{ij}}{\max(d_i, d_j)} \;\; (i \ne j), \qquad
            \hat{A}_{ii} = 1 - \sum_{j \ne i} |\hat{A}_{ij}| .

        With weights that are not negative and the same both ways, rows *and* columns of
        :math:`\hat{\mathbf{A}}` sum to one: the mean over a component is kept.

        Returns:
            The normalised matrix, and :math:`\mathbf{v}` ``[num_nodes]``.
        """
        degree = self.in_degree()
        # A node that hears nobody, or only what underflows, keeps its row as it is.
        degree = torch.where(degree < torch.finfo(degree.dtype).tiny, 1.0, degree)
        e = self.rows
        if how == "metropolis":
            weight = self.weight / torch.maximum(degree[e.row], degree[e.col])
            loop = e.row == e.col
            weight = weight.masked_fill(loop, 0.0)
            heard = degree.new_zeros(e.num_rows).index_add(0, e.row, weight.abs())
            loops = degree.new_zeros(e.num_rows).index_add(0, e.row, loop.to(degree.dtype))
            rest = (1.0 - heard) / loops.clamp(min=1.0)
            weight = torch.where(loop, rest[e.row], weight)
            return self.with_weight(weight), torch.ones_like(degree)
        if how == "row":
            return self.with_weight(self.weight / degree[e.row]), torch.ones_like(degree)
        root = degree.sqrt()
        return self.with_weight(self.weight / (root[e.row] * root[e.col])), root

    def is_symmetric(self) -> bool:
        """Whether the weights along the two directions of every edge are the same, to rounding."""
        n, e = self.num_nodes, self.rows
        there = torch.sparse_coo_tensor(
            torch.stack([e.row, e.col]).long(), self.weight.detach().double(), (n, n),
            check_invariants=False,
        )  # fmt: skip
        gap = (there - there.t()).coalesce().values().abs()
        size = there.coalesce().values().abs()
        largest = float(size.max()) if size.numel() else 0.0
        return not gap.numel() or float(gap.max()) <= torch.finfo(self.weight.dtype).eps * largest

    def components(self) -> tuple[Tensor, int]:
        """``[num_nodes]`` labels of the weakly connected components, and their number."""
        n, e = self.num_nodes, self.rows
        row, col = e.row.cpu().numpy(), e.col.cpu().numpy()
        matrix = scipy.sparse.coo_matrix(
            (np.ones(row.size, dtype=np.int8), (row, col)), shape=(n, n)
        )
        count, label = scipy.sparse.csgraph.connected_components(matrix, directed=False)
        return torch.from_numpy(label).to(e.row.device, torch.long), int(count)

    def perron(self, steps: int = 30) -> tuple[Tensor, Tensor]:
        r"""Bound the spectral radius of :math:`|\mathbf{A}|` on every connected component.

        For any positive :math:`\mathbf{v}` (Collatz 1942; Wielandt 1950)

        .. math::
            \lambda_{PF}(|\mathbf{A}|) \le \lambda(\mathbf{v}) =
            \max_i \frac{(|\mathbf{A}| \mathbf{v})_i}{v_i} ,

        and the power steps :math:`\mathbf{v} \leftarrow \mathbf{v} + |\mathbf{A}| \mathbf{v} /
        \lambda(\mathbf{v})` never raise it: from the largest absolute row sum down to the Perron
        value, a bound however early they stop. A component sees nothing of the others.

        Args:
            steps: Number of power steps.

        Returns:
            :math:`\mathbf{v}` ``[num_nodes]``, and the bound of its component on every node
            ``[num_nodes]``; both are differentiable with respect to the weights.
        """
        label, count = self.components()
        size = self.with_weight(self.weight.abs())
        v = self.weight.new_ones(self.num_nodes)
        tiny = torch.finfo(v.dtype).tiny

        def bound(v: Tensor) -> tuple[Tensor, Tensor]:
            av = size(v.unsqueeze(1)).squeeze(1)
            most = v.new_zeros(count).scatter_reduce(0, label, av / v, "amax")
            return av, most[label]

        for _ in range(steps):
            av, most = bound(v)
            v = v + av / torch.where(most < tiny, 1.0, most)
        return v, bound(v)[1]

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(num_nodes={self.num_nodes}, "
            f"num_edges={self.weight.numel()})"
        )


def _check_weight(weight: OptTensor, num_edges: int, like: Tensor) -> Tensor:
    if weight is None:
        return like.new_ones(num_edges)
    if not weight.is_floating_point():
        raise TypeError(
            f"Expected floating-point edge weights in 'edge_attr' (got {weight.dtype}, as relations"
            " are). Pass edge_attr=None for weights of one, or edge_attr.float()"
        )
    weight = weight.view(-1) if weight.dim() == 2 and weight.size(1) == 1 else weight
    if weight.dim() != 1 or weight.numel() != num_edges:
        raise ValueError(
            f"Expected 'edge_attr' of shape [num_edges] = [{num_edges}] (got {list(weight.shape)})"
        )
    return weight


def written_edges(edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
    """Edge indices as they are; of a neighbourhood those within, whose order is another."""
    if not isinstance(edge_index, Neighborhood):
        return edge_index
    if edge_attr is not None:
        raise ValueError(
            "Expected edge indices [2, num_edges] together with 'edge_attr' (got a "
            "neighborhood, whose edges have another order). Pass the edge indices"
        )
    entries = edge_index.incoming
    return torch.stack([entries.sender, entries.receiver])


def plain_edges(edge_index: Adj, num_nodes: int, edge_attr: OptTensor = None) -> Tensor:
    """Edge indices ``[2, num_edges]`` of 64 bits, in range; as of :func:`written_edges`."""
    edge_index = written_edges(edge_index, edge_attr)
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    return edge_index.long()
