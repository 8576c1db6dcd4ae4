"""A rule for puzzles: a residual MLP of a node's state and of sums over each relation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell
from gncadeq.graph.sparse import SparseMatrix, SparseRows


class PuzzleCell(Cell):
    r"""``z_i' = h_i + W₂ ReLU(W₁ [h_i, x_i, Σ_{j ∈ N_r(i)} h_j for every relation r])``,
    with ``h_i = z_i / √(mean of z_i² over channels)``.

    The rule is the same for every digit and every cell, so digits may change their names.

    Args:
        channels: Channels of the state.
        hidden: Hidden units.
        relations: Relations of edges.
        noise: Standard deviation of noise on the state in every step, in training mode.
    """

    def __init__(self, channels: int, hidden: int, relations: int, noise: float = 0.0) -> None:
        super().__init__()
        self.in_channels, self.channels, self.relations = 1, channels, relations
        self.noise = noise
        self.first = nn.Linear((1 + relations) * channels + 1, hidden)
        self.last = nn.Linear(hidden, channels)
        self._edges: tuple[Tensor, SparseMatrix] | None = None
        self.reset_parameters()

    @property
    def draws_randomness(self) -> bool:
        """Whether a step draws noise."""
        return self.training and self.noise > 0

    def prepare(self, x, edge_index, edge_attr=None):
        """Bind clues and graph; ``edge_attr`` is the relation of every edge."""
        if self._edges is None or self._edges[0] is not edge_index:
            row = edge_index[1] * self.relations + edge_attr
            size = x.size(0) * self.relations
            rows, _ = SparseRows.sort(row, edge_index[0], size, x.size(0), self.relations)
            self._edges = edge_index, SparseMatrix(rows, x.new_ones(row.numel()))
        sums = self._edges[1]

        def step(z: Tensor) -> Tensor:
            h = z * (z.square().mean(1, keepdim=True) + 1e-6).rsqrt()
            if self.draws_randomness:
                h = h + self.noise * torch.randn_like(h)
            heard = sums(h).view(h.size(0), -1)
            return h + self.last(self.first(torch.cat([h, x, heard], 1)).relu())

        return step
