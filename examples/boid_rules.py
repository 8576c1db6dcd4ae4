"""Flocking on a torus: who is near, the rule by hand, and a rule to learn; measures of series."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from gncadeq import Cell


class WithinRadius:
    """Edges between agents of a graph less than a radius apart on the torus [0, 1)², both ways.

    Edges carry the way from the target to the source, ``[num_edges, 2]``, around the torus.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def __call__(self, z: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Edge indices and ways, for positions in the first two channels."""
        place = torch.cat([z[:, :2].detach() % 1.0, batch[:, None].to(z)], 1).double().numpy()
        place[:, :2] %= 1.0
        tree = cKDTree(place, boxsize=[1.0, 1.0, 0.0])  # other graphs are a whole unit away
        pairs = torch.from_numpy(tree.query_pairs(self.radius, output_type="ndarray")).t()
        edge_index = torch.cat([pairs, pairs.flip(0)], 1)
        way = z[edge_index[0], :2] - z[edge_index[1], :2]
        return edge_index, (way + 0.5) % 1.0 - 0.5


def moved(z: Tensor, push: Tensor) -> Tensor:
    """Add to velocities, keep their size in [0.005, 0.015], and go a step."""
    velocity = z[:, 2:] + push
    size = velocity.norm(dim=1, keepdim=True).clamp_min(1e-9)
    velocity = velocity * size.clamp(0.005, 0.015) / size
    return torch.cat([(z[:, :2] + velocity) % 1.0, velocity], 1)


class Flock(Cell):
    """The rule by hand (Reynolds 1987): cohesion, alignment, separation.

    ``v' = v + 0.02 mean(d_ij) + 0.15 mean(v_j − v_i) − 0.004 Σ max(0, 1 − |d_ij| / 0.03) d_ij /
    |d_ij|`` for near ones.
    """

    in_channels, channels = 0, 4

    def prepare(self, x, edge_index, edge_attr=None):
        """Bind the ways between neighbours."""
        source, target = edge_index
        n = x.size(0)
        degree = torch.bincount(target, minlength=n).clamp(min=1).to(edge_attr)[:, None]
        far = edge_attr.norm(dim=1, keepdim=True).clamp_min(1e-9)

        def step(z: Tensor) -> Tensor:
            other = z[source, 2:] - z[target, 2:]
            pull = (0.02 * edge_attr + 0.15 * other) / degree[target]
            push = -0.004 * edge_attr / far * (1 - far / 0.03).clamp_min(0.0)
            return moved(z, torch.zeros_like(z[:, :2]).index_add(0, target, pull + push))

        return step


class LearnedFlock(Cell):
    r"""A message-passing network that pushes velocities.

    ``v' = v + 0.01 φ(Σ_j m_ij, mean_j m_ij, v_i)``, ``m_ij = ψ(d_ij, d_ij / |d_ij|, |d_ij|, v_j −
    v_i)`` with two perceptrons; ways and velocities are scaled to about one.
    """

    in_channels, channels = 0, 4

    def __init__(self, radius: float, hidden: int = 64) -> None:
        super().__init__()
        self.radius = radius
        self.message = nn.Sequential(
            nn.Linear(7, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.push = nn.Sequential(
            nn.Linear(2 * hidden + 2, hidden), nn.SiLU(), nn.Linear(hidden, 2)
        )

    def pushes(self, z: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """What is added to the velocities ``[num_nodes, 2]``."""
        source, target = edge_index
        far = edge_attr.norm(dim=1, keepdim=True).clamp_min(1e-9)
        other = 100 * (z[source, 2:] - z[target, 2:])
        seen = [edge_attr / self.radius, edge_attr / far, 2 * far / self.radius - 1, other]
        m = self.message(torch.cat(seen, 1))
        heard = m.new_zeros(z.size(0), m.size(1)).index_add(0, target, m)
        degree = torch.bincount(target, minlength=z.size(0)).clamp(min=1).to(m)[:, None]
        return 0.01 * self.push(torch.cat([heard / 8, heard / degree, 100 * z[:, 2:]], 1))

    def prepare(self, x, edge_index, edge_attr=None):
        """Bind the ways between neighbours."""
        return lambda z: moved(z, self.pushes(z, edge_index, edge_attr))


def order(velocity: Tensor) -> Tensor:
    """``|Σ v| / Σ |v|`` of velocities ``[..., agents, 2]``."""
    return velocity.sum(-2).norm(dim=-1) / velocity.norm(dim=-1).sum(-1)


def sample_entropy(series: np.ndarray, length: int = 2, within: float = 0.2) -> float:
    """``−ln(A / B)``: A and B pairs of windows of ``length + 1`` and ``length`` values that agree
    to ``within`` standard deviations (Richman & Moorman 2000)."""
    radius, count = within * series.std(), len(series) - length

    def pairs(size: int) -> int:
        windows = np.lib.stride_tricks.sliding_window_view(series, size)[:count]
        apart = np.abs(windows[:, None] - windows[None]).max(2)
        return int((apart <= radius).sum()) - count

    a, b = pairs(length + 1), pairs(length)
    return float(-np.log(a / b)) if a and b else float("nan")


def correlation_dimension(series: np.ndarray, embedding: int = 5) -> float:
    """The slope of the log share of pairs nearer than r over log r (Grassberger & Procaccia 1983),
    between the 5th and the 50th percentile of distances."""
    windows = np.lib.stride_tricks.sliding_window_view(series, embedding)
    apart = np.sqrt(((windows[:, None] - windows[None]) ** 2).sum(2))
    apart = apart[np.triu_indices(len(apart), embedding)]
    low, high = np.percentile(apart, [5, 50])
    if not 0 < low < high:
        return float("nan")
    radii = np.geomspace(low, high, 12)
    share = [(apart < r).mean() for r in radii]
    return float(np.polyfit(np.log(radii), np.log(share), 1)[0])
