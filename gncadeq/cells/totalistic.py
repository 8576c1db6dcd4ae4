"""Classical automata on any graph, exactly: a node counts its living neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.growing import GrowingCell
from gncadeq.cells.living import ALIVE, LivingNeighbors, binary_state
from gncadeq.check import check_count, check_type
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor


@dataclass(eq=False)
class TotalisticStep(Restrictable):
    """One step of a :class:`TotalisticCell` with its graph bound."""

    neighbors: LivingNeighbors
    table: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        alive = z > ALIVE
        count = self.neighbors(alive).clamp_(max=self.table.size(1) - 1)
        return binary_state(self.table[alive.long(), count], z)


class TotalisticCell(Cell):
    r"""An outer-totalistic automaton on any graph: birth and survival by the number of living
    neighbours.

    .. math::
        z_i' = \begin{cases}
        [k_i \in B] & z_i = 0 \\ [k_i \in S] & z_i = 1
        \end{cases}, \qquad k_i = \sum_{j \in \mathcal{N}(i)} z_j

    With :math:`B = \{3\}, S = \{2, 3\}` and the eight neighbours of a pixel it is the Game of Life
    (Conway; `Gardner 1970 <https://doi.org/10.1038/scientificamerican1070-120>`_). Counts are
    integers, and exact. Neighbours are the sources of incoming edges, without the node itself;
    beyond the border of an image all is dead, unless :class:`gncadeq.transforms.ImageToGraph` makes
    it periodic. The cell has no parameters, and no gradient.

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

    hops = 1

    def __init__(
        self, birth: Iterable[int] = (3,), survive: Iterable[int] = (2, 3), channels: int = 1
    ) -> None:
        super().__init__()
        self.birth, self.survive = _counts("birth", birth), _counts("survive", survive)
        self.in_channels, self.channels = 0, check_count("channels", channels, 1)
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
        (after `Gilpin 2019 <https://doi.org/10.1103/PhysRevE.100.032402>`_). Weights and states are
        integers: it is exact, too. Its graph has one kernel,
        :class:`gncadeq.transforms.NeighborKernels` ``(("sum",))``.

        Args:
            max_degree: The degree :math:`D`, 8 for pixels. The network refuses graphs with more.

        Example:
            >>> network = TotalisticCell().to_growing()
            >>> sum(p.numel() for p in network.parameters())
            36
        """
        max_degree = check_count("max_degree", max_degree)
        if self.channels != 1:
            raise ValueError(f"Expected channels=1 for a network (got {self.channels})")
        counts = torch.arange(max_degree + 1).clamp(max=self.table.size(1) - 1)
        after = self.table.cpu()[:, counts].double()
        change = torch.cat([after[0], after[1] - 1.0])
        bend = torch.diff(F.pad(change, (2, 0)), n=2)  # 0, 0, change: nothing happens below u = 0
        used = bend.nonzero().flatten()
        hidden = max(1, used.numel())
        cell = GrowingCell(1, 1, hidden, alive_channel=None, max_degree=max_degree)
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


def _counts(name: str, counts: Iterable[int]) -> tuple[int, ...]:
    check_type(name, counts, (tuple, list, set, frozenset, range))
    return tuple(sorted({check_count(name, count, most=10**7) for count in counts}))
