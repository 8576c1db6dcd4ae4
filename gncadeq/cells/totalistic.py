"""Classical automata on any graph, exactly: a node counts its living neighbours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.cells.base import Cell, check_graph
from gncadeq.cells.growing import GrowingCell
from gncadeq.neighborhood import Neighborhood, check_range
from gncadeq.sparse import SparseRows
from gncadeq.typing import Adj, OptTensor

ThresholdUpdate = Literal["flip", "set"]

_ALIVE = 0.5


class LivingNeighbors:
    r"""The number of living neighbours of every node, :math:`k_i = |\{j \to i : z_j > 1/2\}|`.

    An edge counts as often as it occurs; a loop makes no node its own neighbour.

    Args:
        edge_index: ``[2, num_edges]``, or a :class:`~gncadeq.neighborhood.Neighborhood`.
        num_nodes: Number of nodes.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 1, 1]])
        >>> LivingNeighbors(edge_index, num_nodes=3)(torch.tensor([[True], [False], [True]]))
        tensor([[0],
                [2],
                [0]])
    """

    def __init__(self, edge_index: Adj, num_nodes: int) -> None:
        if isinstance(edge_index, Neighborhood):
            e = edge_index.incoming
            edge_index = torch.stack([e.sender, e.receiver])
        check_range("edge_index", edge_index, num_nodes, "num_nodes")
        source, target = edge_index[:, edge_index[0] != edge_index[1]].long()
        self.rows, _ = SparseRows.sort(target, source, num_nodes, num_nodes)

    @property
    def degree(self) -> Tensor:
        """``[num_nodes]``, the number of neighbours."""
        return (self.rows.ptr[1:] - self.rows.ptr[:-1]).long()

    def __call__(self, alive: Tensor) -> Tensor:
        """Count where ``alive`` ``[num_nodes, channels]`` is true."""
        if not self.rows.col.numel():
            return torch.zeros_like(alive, dtype=torch.long)
        # Single precision counts up to 2 ** 24 without rounding, whatever the type of the state.
        count = F.embedding_bag(
            self.rows.col, alive.float(), self.rows.ptr, mode="sum", include_last_offset=True
        )
        return count.long()

    def restrict(self, nodes: Tensor) -> LivingNeighbors:
        """The same on ``nodes``, the ascending indices of whole graphs."""
        new = object.__new__(LivingNeighbors)
        new.rows, _ = self.rows.restrict(nodes, nodes)
        return new


class TotalisticStep:
    """One step of a :class:`TotalisticCell` with its graph bound."""

    def __init__(self, neighbors: LivingNeighbors, table: Tensor) -> None:
        self.neighbors, self.table = neighbors, table

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        alive = z > _ALIVE
        count = self.neighbors(alive).clamp_(max=self.table.size(1) - 1)
        return self.table[alive.long(), count].to(z.dtype)

    def restrict(self, nodes: Tensor) -> TotalisticStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        return TotalisticStep(self.neighbors.restrict(nodes), self.table)


class TotalisticCell(Cell):
    r"""An outer-totalistic automaton on any graph: birth and survival by the number of living
    neighbours.

    .. math::
        z_i' = \begin{cases}
        [k_i \in B] & z_i = 0 \\ [k_i \in S] & z_i = 1
        \end{cases}, \qquad k_i = \sum_{j \in \mathcal{N}(i)} z_j

    With :math:`B = \{3\}, S = \{2, 3\}` and the eight neighbours of a pixel it is the Game of Life
    (Conway; `Gardner 1970 <https://doi.org/10.1038/scientificamerican1070-120>`_). Counts are
    integers: nothing is rounded, on no graph and after any number of steps. Neighbours are the
    sources of incoming edges, without the node itself; beyond the border of an image all is dead,
    unless :class:`gncadeq.transforms.ImageToGraph` makes it periodic. The cell
    has no parameters, and no gradient.

    Args:
        birth: The counts :math:`B` at which a dead node comes to life.
        survive: The counts :math:`S` at which a living node stays alive.
        channels: Number of automata side by side on the same graph, each with its own state.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, where above ½ a node lives; injection
          :math:`(|\mathcal{V}|, 0)`; edge indices :math:`(2, |\mathcal{E}|)`; edge attributes are
          not looked at
        - **output:** state :math:`(|\mathcal{V}|, C)` of zeros and ones

    Raises:
        ValueError: If a count is no non-negative integer, or ``channels`` isn't positive.

    Example:
        >>> from gncadeq import GraphNCA
        >>> from gncadeq.transforms import ImageToGraph
        >>> blinker = torch.zeros(1, 5, 5)
        >>> blinker[0, 2, 1:4] = 1.0
        >>> data = ImageToGraph()(blinker)
        >>> z = GraphNCA(TotalisticCell(), steps=1)(data.x[:, :0], data.edge_index, z0=data.x)
        >>> z.view(5, 5)[:, 2]
        tensor([0., 1., 1., 1., 0.])
    """

    table: Tensor

    def __init__(
        self, birth: Iterable[int] = (3,), survive: Iterable[int] = (2, 3), channels: int = 1
    ) -> None:
        super().__init__()
        self.birth, self.survive = _counts("birth", birth), _counts("survive", survive)
        self.in_channels, self.channels = 0, _positive(channels)
        most = max([*self.birth, *self.survive, -1])
        table = torch.zeros(2, most + 2, dtype=torch.bool)  # the last column is for all above
        table[0, list(self.birth)] = True
        table[1, list(self.survive)] = True
        self.register_buffer("table", table, persistent=False)

    @classmethod
    def from_rulestring(cls, rule: str, channels: int = 1) -> TotalisticCell:
        """The automaton of a rulestring such as ``"B3/S23"``, of counts from 0 to 9.

        Raises:
            ValueError: If it has another form.

        Example:
            >>> TotalisticCell.from_rulestring("B36/S23")  # HighLife
            TotalisticCell(birth=(3, 6), survive=(2, 3))
        """
        found = re.fullmatch(r"B(\d*)/S(\d*)", rule.strip().upper())
        if found is None:
            raise ValueError(
                f"Expected a rulestring such as 'B3/S23' (got {rule!r}). Counts above 9 are given "
                "as TotalisticCell(birth=..., survive=...)"
            )
        birth, survive = ([int(digit) for digit in group] for group in found.groups())
        return cls(birth, survive, channels)

    def reset_parameters(self) -> None:
        """Nothing: the rule is fixed."""

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> TotalisticStep:
        """Bind the graph; see :class:`gncadeq.Cell`."""
        check_graph(x, edge_index, self.in_channels)
        return TotalisticStep(LivingNeighbors(edge_index, x.size(0)), self.table)

    def to_growing(self, max_degree: int = 8) -> GrowingCell:
        r"""The same rule as a message-passing network, on graphs of at most ``max_degree``.

        .. math::
            z_i' = z_i + \sum_m a_m \, \mathrm{ReLU} (u_i - m + 1), \qquad
            u_i = k_i + (D + 1) z_i

        The number :math:`u_i` from 0 to :math:`2D + 1` tells state and count apart, and the
        :math:`a_m` are the second differences of the change that the rule makes at :math:`u_i`
        (after `Gilpin 2019 <https://doi.org/10.1103/PhysRevE.100.032402>`_, who writes an automaton
        as a convolution and 1 × 1 convolutions). Weights and states are integers: it is exact, too.
        Its graph has one kernel, :class:`gncadeq.transforms.NeighborKernels` ``(("sum",))``.

        Args:
            max_degree: The degree :math:`D`, 8 for pixels.

        Example:
            >>> network = TotalisticCell().to_growing()
            >>> sum(p.numel() for p in network.parameters())
            36
        """
        if self.channels != 1:
            raise ValueError(f"Expected channels=1 for a network (got {self.channels})")
        counts = torch.arange(max_degree + 1).clamp(max=self.table.size(1) - 1)
        after = self.table.cpu()[:, counts].double()
        change = torch.cat([after[0], after[1] - 1.0])
        bend = torch.diff(F.pad(change, (2, 0)), n=2)  # 0, 0, change: nothing happens below u = 0
        used = bend.nonzero().flatten()
        cell = GrowingCell(1, 1, max(1, used.numel()), alive_channel=None)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.zero_()
            if used.numel():
                cell.weight_z.copy_(torch.tensor([[max_degree + 1.0, 1.0]]).expand(len(used), 2))
                cell.bias.copy_(1.0 - used)
                cell.weight_out.copy_(bend[used][None])
        return cell

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"birth={self.birth}, survive={self.survive}"
        return text if self.channels == 1 else f"{text}, channels={self.channels}"


class ThresholdStep:
    """One step of a :class:`ThresholdCell` with its graph bound."""

    def __init__(self, neighbors: LivingNeighbors, most: Tensor, flip: bool) -> None:
        self.neighbors, self.most, self.flip = neighbors, most, flip

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        alive = z > _ALIVE
        above = self.neighbors(alive) > self.most
        return (alive ^ above if self.flip else above).to(z.dtype)

    def restrict(self, nodes: Tensor) -> ThresholdStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        return ThresholdStep(self.neighbors.restrict(nodes), self.most[nodes], self.flip)


class ThresholdCell(Cell):
    r"""An automaton on any graph that goes by the density of living neighbours.

    .. math::
        z_i' = \begin{cases}
        z_i & \rho_i \le \kappa \\ 1 - z_i & \rho_i > \kappa
        \end{cases} \quad \text{flip}, \qquad
        z_i' = [\rho_i > \kappa] \quad \text{set}, \qquad
        \rho_i = \frac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)} z_j

    ``"flip"`` is the rule of `"Learning Graph Cellular Automata" <https://arxiv.org/abs/2110.14237>`_
    (Grattarola et al. 2021, eq. 5; :math:`\kappa = 0.42` in their experiment) on Delaunay graphs,
    where Voronoi cells are neighbours; ``"set"`` with :math:`\kappa = 1/2` is the strict majority.
    The comparison is one of integers, :math:`k_i > \lfloor \kappa |\mathcal{N}(i)| \rfloor`, with
    the decimal number that was written: nothing is rounded. A node without neighbours has density
    zero. The cell has no parameters, and no gradient.

    Args:
        threshold: The density :math:`\kappa` in [0, 1].
        update: ``"flip"`` or ``"set"``.
        channels: Number of automata side by side on the same graph, each with its own state.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, where above ½ a node lives; injection
          :math:`(|\mathcal{V}|, 0)`; edge indices :math:`(2, |\mathcal{E}|)`; edge attributes are
          not looked at
        - **output:** state :math:`(|\mathcal{V}|, C)` of zeros and ones

    Raises:
        ValueError: If an argument is out of range or unknown.

    Example:
        >>> from gncadeq import GraphNCA
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> nca = GraphNCA(ThresholdCell(0.42), steps=1)
        >>> nca(torch.zeros(3, 0), path, z0=torch.tensor([[1.0], [0.0], [0.0]])).flatten()
        tensor([1., 1., 0.])
    """

    def __init__(
        self,
        threshold: float | Fraction = 0.42,
        update: ThresholdUpdate = "flip",
        channels: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"Expected 'threshold' in [0, 1] (got {threshold})")
        if update not in ("flip", "set"):
            raise ValueError(f"Expected 'update' to be 'flip' or 'set' (got {update!r})")
        self.threshold = Fraction(str(threshold))  # 0.42 is 21/50, and not the nearest binary one
        self.update: ThresholdUpdate = update
        self.in_channels, self.channels = 0, _positive(channels)

    def reset_parameters(self) -> None:
        """Nothing: the rule is fixed."""

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> ThresholdStep:
        """Bind the graph; see :class:`gncadeq.Cell`."""
        check_graph(x, edge_index, self.in_channels)
        neighbors = LivingNeighbors(edge_index, x.size(0))
        degrees, place = torch.unique(neighbors.degree, return_inverse=True)
        most = [math.floor(self.threshold * d) for d in degrees.tolist()]
        most_of = torch.tensor(most, dtype=torch.long, device=x.device)[place].unsqueeze(1)
        return ThresholdStep(neighbors, most_of, self.update == "flip")

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"threshold={float(self.threshold):g}, update={self.update!r}"
        return text if self.channels == 1 else f"{text}, channels={self.channels}"


def _counts(name: str, counts: Iterable[int]) -> tuple[int, ...]:
    counts = tuple(counts)
    if not all(isinstance(k, int) and k >= 0 for k in counts):
        raise ValueError(f"Expected non-negative integers in {name!r} (got {counts})")
    return tuple(sorted(set(counts)))


def _positive(channels: int) -> int:
    if channels < 1:
        raise ValueError(f"Expected positive 'channels' (got {channels})")
    return channels


__all__ = ["LivingNeighbors", "ThresholdCell", "ThresholdStep", "TotalisticCell", "TotalisticStep"]
