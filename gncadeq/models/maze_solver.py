"""A classifier of the nodes of a maze: which lie on a shortest way from start to goal."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from gncadeq.cell import check_graph
from gncadeq.cells import CascadeCell, DistanceCell, Part, SweepCell
from gncadeq.check import check_count, check_options
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition
from gncadeq.models.classifier import Classifier
from gncadeq.typing import Adj, OptTensor


class _Marks(nn.Module):
    """The marks of start and goal, without the channel of what is open."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


class MazeSolver(Classifier):
    r"""Two distances, to start and goal, and four groups of channels that they order.

    A cascade of a :class:`gncadeq.cells.DistanceCell` and a :class:`gncadeq.SweepCell` with
    ``distances=2``, and an MLP on every node's own state. For each distance one group reads nodes
    that are farther away, and one those that are nearer. So a maze may have loops, and the
    equilibrium has a proof by structure on every graph.

    Args:
        channels: Channels of a group.
        hidden_channels: Width of the readout's hidden layer.
        deq: Arguments of :class:`GraphDEQ`.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, 3)`: open, start and goal; edge indices
          :math:`(2, |\mathcal{E}|)`, batch vector :math:`(|\mathcal{V}|)`; edge attributes are
          not read
        - **output:** logits :math:`(|\mathcal{V}|, 2)`; the second is of nodes on the way

    Raises:
        ValueError: If a size isn't positive, or a graph has no node that is the start or the goal.

    Example:
        >>> from gncadeq.datasets import maze
        >>> data = maze(25, torch.Generator().manual_seed(0), loops=0.1)
        >>> model = MazeSolver.from_pretrained("mazes")
        >>> logits = model(data.x, data.edge_index)
        >>> torch.equal(logits.argmax(1).bool(), data.y)
        True
    """

    def __init__(
        self, channels: int = 8, hidden_channels: int = 16, deq: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        channels = check_count("channels", channels, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        deq = check_options("deq", deq, GraphDEQ)
        self.config = {"channels": channels, "hidden_channels": hidden_channels, "deq": deq}
        self.card: dict[str, Any] = {}
        sweeps = SweepCell(5, channels, distances=2, gain=1.5, noise=0.3)
        parts = [Part(DistanceCell(2), _Marks(), ["x"]), Part(sweeps, reads=[0, "x"])]
        self._spread_drive(sweeps)
        self.dynamics: GraphDEQ | GraphNCA = GraphDEQ(CascadeCell(parts, in_channels=3), **deq)
        self.readout = nn.Sequential(
            nn.Linear(4 * channels + 3, hidden_channels), nn.Tanh(), nn.Linear(hidden_channels, 2)
        )

    @staticmethod
    def _spread_drive(sweeps: Any) -> None:
        nn.init.normal_(sweeps.weight_x, std=3**-0.5)

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        self.dynamics.reset_parameters()
        cell: Any = self.dynamics.cell
        self._spread_drive(cell.parts[1].cell)
        reset(self.readout)

    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """Check the marks; see :class:`gncadeq.models.classifier.Classifier`."""
        check_graph(x, edge_index, 3, self.readout[0].weight.dtype)  # type: ignore[arg-type]
        if not bool((x[:, 1:] > 0.5).any(0).all()):
            raise ValueError(
                "Expected a start and a goal, 1 in the second and third channel of 'x' (got "
                f"{(x[:, 1:] > 0.5).sum(0).tolist()} of them). Mark a node as each"
            )
        return x, edge_index, None

    def read(self, u: Tensor, z: Tensor, edges: Adj, partition: Partition) -> Tensor:
        """Logits ``[num_nodes, 2]``."""
        found = partition.sum(torch.cat([u[:, 1:] > 0.5, u[:, :1].isfinite()], 1).long())
        lacking = ((found[:, :2] == 0).any(1) & (found[:, 2] > 0)).nonzero().flatten().tolist()
        if lacking:
            raise ValueError(
                f"Expected a start and a goal in every graph (got none in graphs {lacking[:5]}, of "
                f"{partition.num_graphs}). Mark a node as each"
            )
        logits: Tensor = self.readout(torch.cat([z[:, 2:], u], 1))
        return logits

    @classmethod
    def from_pretrained(cls, name: str = "mazes") -> Self:
        """Load the shipped weights, or a file written by
        :func:`gncadeq.files.weights.save_pretrained`.

        Raises:
            FileNotFoundError: If there is neither such a name nor such a file.
            ValueError: If the file is corrupt, or of another architecture.
        """
        from gncadeq.files.weights import load_pretrained

        return load_pretrained(cls, name)
