"""Automata by the density of living neighbours, exactly; and the rounding of a learned rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from gncadeq.cell import Cell, check_graph
from gncadeq.cells.living import ALIVE, LivingNeighbors, binary_state
from gncadeq.check import check_choice, check_count, check_number
from gncadeq.graph.layout import FlatGraph
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor, Step

ThresholdUpdate = Literal["flip", "set"]


@dataclass(eq=False)
class ThresholdStep(Restrictable):
    """One step of a :class:`ThresholdCell` with its graph bound."""

    neighbors: LivingNeighbors
    most: Tensor
    flip: bool
    per_node = ("most",)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        alive = z > ALIVE
        above = self.neighbors(alive) > self.most
        return binary_state(alive ^ above if self.flip else above, z)


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
        check_number("threshold", threshold, least=0, most=1)
        check_choice("update", update, ("flip", "set"))
        self.threshold = Fraction(str(threshold))  # 0.42 is 21/50, and not the nearest binary one
        self.update: ThresholdUpdate = update
        self.in_channels, self.channels = 0, check_count("channels", channels, 1)

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


class BinaryCell(Cell):
    r"""Another cell's rule, with every new state rounded to zero or one.

    .. math::
        \mathbf{z}' = \big[ f(\mathbf{z}, \mathbf{x}; \mathcal{G}) > 1/2 \big]

    A rule trained on pairs of binary states is right as an automaton where its image is on the
    right side of ½: errors below that don't add up from step to step. NaN stays NaN. Train ``cell``
    itself: rounding has no gradient.

    Args:
        cell: The rule :math:`f`; shared, never copied.

    Shapes:
        - **input:** those of the cell
        - **output:** state :math:`(|\mathcal{V}|, C)` of zeros and ones

    Example:
        >>> import torch
        >>> from gncadeq import GraphNCA
        >>> from gncadeq.cells import TotalisticCell
        >>> from gncadeq.transforms import ImageToGraph, NeighborKernels
        >>> data = NeighborKernels(("sum",))(ImageToGraph()(torch.rand(1, 8, 8).round()))
        >>> nca = GraphNCA(BinaryCell(TotalisticCell().to_growing()), steps=10)
        >>> z = nca(data.x[:, :0], data.edge_index, data.edge_attr, z0=data.x)
        >>> life = GraphNCA(TotalisticCell(), steps=10)
        >>> torch.equal(z, life(data.x[:, :0], data.edge_index, z0=data.x))
        True
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.in_channels, self.channels = cell.in_channels, cell.channels
        self.context, self.hypergraph = cell.context, cell.hypergraph

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph as the cell sees it."""
        return self.cell.flatten(x, edge_index, edge_attr, batch, context)

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> Step:
        """Bind graph and injection; see :class:`gncadeq.Cell`."""
        inner = self.cell.bind(x, edge_index, edge_attr, **context)

        def step(z: Tensor) -> Tensor:
            image = inner(z)
            return binary_state(image > ALIVE, image).to(z.dtype)

        return step
