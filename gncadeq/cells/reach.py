"""A monotone rule: marks spread along the edges, and never turn back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import OrderCertificate
from gncadeq.check import check_count
from gncadeq.graph.adjacency import plain_edges
from gncadeq.typing import Adj, OptTensor


class ReachStep:
    """One step of a :class:`ReachCell` with graph and injection bound."""

    def __init__(self, edge_index: Tensor, weight: Tensor, drive: Tensor) -> None:
        self.edge_index, self.weight, self.drive = edge_index, weight, drive

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # tanh(ReLU(max_j W z_j + d_i)), where a node without neighbours hears zero
        sent = (z @ self.weight)[self.edge_index[0]]
        target = self.edge_index[1].unsqueeze(1).expand_as(sent)
        heard = sent.new_zeros(z.shape).scatter_reduce(0, target, sent, "amax", include_self=False)
        return (heard + self.drive).relu().tanh()


class ReachCell(Cell):
    r"""A rule by which marks spread along edges, as far as they reach.

    .. math::
        \mathbf{z}_i' = \tanh \Big( \mathrm{ReLU} \big( \max_{j \in \mathcal{N}(i)} \mathbf{W}
        \mathbf{z}_j + \mathbf{U} \mathbf{x}_i + \mathbf{b} \big) \Big) , \qquad
        \mathbf{W} = \mathrm{softplus}(\mathbf{V}) \ge 0

    A step is increasing in the state, and states stay in [0, 1). So from zeros states only rise,
    and end in the least equilibrium, in every order of updates, on every graph and for weights of
    any size (`Tarski 1955 <https://doi.org/10.2140/pjm.1955.5.285>`_; `Bertsekas 1983
    <https://doi.org/10.1007/BF01581967>`_). It is no contraction: what fires can stay
    for ever, so a signal reaches as far as the graph does, and other starts may end in other
    equilibria, above the least. Solve with plain steps from zeros, ``GraphDEQ(cell, "picard")``;
    other solvers may overshoot it.

    It starts as a rule by which nothing fires that isn't told to, and what fires goes on.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Example:
        >>> from gncadeq import GraphDEQ
        >>> cell = ReachCell(in_channels=1, channels=2)
        >>> two_pairs = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
        >>> mark = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
        >>> GraphDEQ(cell, "picard")(mark, two_pairs)[:, 0] > 0.5
        tensor([ True,  True, False, False])
    """

    def __init__(self, in_channels: int, channels: int = 4) -> None:
        super().__init__()
        self.in_channels = check_count("in_channels", in_channels, 1)
        self.channels = check_count("channels", channels, 1)
        self.state = nn.Parameter(torch.empty(channels, channels))
        self.input = nn.Linear(in_channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        with torch.no_grad():
            self.state.normal_(-3.0, 0.3).add_(5.0 * torch.eye(self.channels))
            self.input.weight.normal_(2.0, 0.1)
            self.input.bias.fill_(-0.5)

    def state_weight(self) -> Tensor:
        """The matrix :math:`W` ``[channels, channels]``, no entry of which is negative."""
        return F.softplus(self.state)

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> OrderCertificate:
        """From zeros to the least equilibrium, on every graph."""
        return OrderCertificate(bottom=0.0)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> ReachStep:
        """Bind graph and injection; see :class:`Cell`. What edges carry isn't looked at."""
        check_graph(x, edge_index, self.in_channels, self.state.dtype)
        edges = plain_edges(edge_index, x.size(0))
        return ReachStep(edges, self.state_weight().T, self.input(x))

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.in_channels}, {self.channels}"
