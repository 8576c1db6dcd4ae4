"""A cell that moves its nodes: equivariant to rotations, reflections and translations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_count
from gncadeq.graph.adjacency import plain_edges
from gncadeq.graph.recording import recorded
from gncadeq.graph.rows import Restrictable
from gncadeq.graph.sparse import SparseRows, segment_sum
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class EquivariantStep(Restrictable):
    """One step of an :class:`EquivariantCell` with graph and injection bound."""

    dim: int
    weight: dict[str, Tensor]
    edges: SparseRows
    degree: Tensor
    drive: OptTensor
    per_node = ("degree", "drive")

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        w = self.weight
        pos, h = z[:, : self.dim], z[:, self.dim :]
        # W [h_i, h_j, d²] = (W_i h_i + b) + W_j h_j + w d²: two small products instead of a large
        here, there, far = torch.split(w["message_in.weight"], [h.size(1), h.size(1), 1], 1)
        own = F.linear(h, here, w["message_in.bias"])
        if self.drive is not None:
            own = own + self.drive
        others = F.linear(h, there)
        moves, heard = [], []
        for nodes, entries, ptr in self.edges.blocks(_BLOCK, whole=recorded()):
            target, source, ptr = self.edges.row[entries], self.edges.col[entries], ptr.long()
            offset = pos.index_select(0, target) - pos.index_select(0, source)
            square = offset.square().sum(1, keepdim=True)
            m = own.index_select(0, target) + others.index_select(0, source)
            m = F.silu(torch.addcmul(m, square, far.t()))
            m = F.silu(self._linear("message_out", m))
            weight = F.linear(F.silu(self._linear("move_in", m)), w["move_out"])
            moves.append(segment_sum(offset * weight, target, ptr) / self.degree[nodes])
            heard.append(segment_sum(m, target, ptr))
        hidden = F.silu(self._linear("update_in", torch.cat([h, torch.cat(heard)], dim=1)))
        update = self._linear("update_out", hidden)
        return torch.cat([pos + torch.cat(moves), h + update], dim=1)

    def _linear(self, name: str, value: Tensor) -> Tensor:
        return F.linear(value, self.weight[f"{name}.weight"], self.weight[f"{name}.bias"])


_BLOCK = 512  # receivers


class EquivariantCell(Cell):
    r"""The cell of `"E(n)-equivariant Graph Neural Cellular Automata"
    <https://arxiv.org/abs/2301.10497>`_ (Gala et al. 2023): an EGNN layer (`Satorras et al. 2021
    <https://arxiv.org/abs/2102.09844>`_, eq. 3-6) with the mean in the coordinates.

    The state holds coordinates and features, :math:`\mathbf{z}_i = [\mathbf{p}_i \Vert
    \mathbf{h}_i]`:

    .. math::
        \mathbf{m}_{ij} = \phi_m (\mathbf{h}_i, \mathbf{h}_j, \lVert \mathbf{p}_i - \mathbf{p}_j
        \rVert^2), \quad
        \mathbf{p}_i' = \mathbf{p}_i + \frac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)}
        (\mathbf{p}_i - \mathbf{p}_j) \, \phi_p(\mathbf{m}_{ij}), \quad
        \mathbf{h}_i' = \mathbf{h}_i + \phi_h \Big( \mathbf{h}_i, \sum_{j \in \mathcal{N}(i)}
        \mathbf{m}_{ij} \Big)

    with two-layer perceptrons :math:`\phi` and SiLU. Rotating, reflecting or moving the coordinates
    of the start does the same to those of every step, and nothing to the features. With the
    defaults it has the 5,328 parameters of the paper. A loop adds a message and no move.

    Args:
        dim: Number of coordinates.
        features: Number of features; the state has ``dim + features`` channels.
        hidden_channels: Width of messages and perceptrons.
        in_channels: Channels of the injection ``x``, which joins the messages of its node; often 0.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, D + F)`, injection :math:`(|\mathcal{V}|, F_x)`,
          edge indices :math:`(2, |\mathcal{E}|)`; edge attributes are not looked at
        - **output:** state :math:`(|\mathcal{V}|, D + F)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphNCA
        >>> nca = GraphNCA(EquivariantCell(dim=2, features=4, hidden_channels=8), steps=5)
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> nca(torch.zeros(3, 0), edge_index, z0=torch.randn(3, 6)).shape
        torch.Size([3, 6])
    """

    def __init__(
        self, dim: int = 3, features: int = 16, hidden_channels: int = 32, in_channels: int = 0
    ) -> None:
        super().__init__()
        dim = check_count("dim", dim, 1)
        features = check_count("features", features, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        in_channels = check_count("in_channels", in_channels)
        self.dim, self.features, self.in_channels = dim, features, in_channels
        self.channels, width = dim + features, hidden_channels
        self.message_in = nn.Linear(2 * features + 1, width)
        self.message_out = nn.Linear(width, width)
        self.move_in = nn.Linear(width, width)
        self.move_out = nn.Parameter(torch.empty(1, width))
        self.update_in = nn.Linear(features + width, width)
        self.update_out = nn.Linear(width, features)
        self.inject = nn.Linear(in_channels, width, bias=False) if in_channels else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters; the first moves are small, as in the paper's code of EGNN."""
        super().reset_parameters()
        nn.init.xavier_uniform_(self.move_out, gain=1e-3)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> EquivariantStep:
        """Bind graph and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels, self.move_out.dtype)
        n, edges = x.size(0), plain_edges(edge_index, x.size(0))
        rows, _ = SparseRows.sort(edges[1], edges[0], n, n)
        drive = None if self.inject is None else self.inject(x)
        degree = rows.ptr.diff().clamp(min=1).unsqueeze(1)
        return EquivariantStep(self.dim, dict(self.named_parameters()), rows, degree, drive)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"dim={self.dim}, features={self.features}"
