"""The largest value of a graph, spread from neighbour to neighbour."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import Certificate
from gncadeq.check import check_count, check_number
from gncadeq.graph.adjacency import plain_edges
from gncadeq.typing import Adj, OptTensor, Step

if TYPE_CHECKING:
    from torch_geometric.data import Data


class MaxPropagationStep:
    """One step of a :class:`MaxPropagationCell` with graph and injection bound."""

    def __init__(self, edge_index: Tensor, x: Tensor, decay: float) -> None:
        self.edge_index, self.x, self.decay = edge_index, x, decay

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # max(x_i, (1 - α) max_j z_j)
        sent = self.decay * z[self.edge_index[0]]
        target = self.edge_index[1].unsqueeze(1).expand_as(sent)
        return self.x.scatter_reduce(0, target, sent, "amax")

    @property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps from the injection each node is at rest."""
        _, settled = self._solution
        return settled

    @torch.no_grad()
    def substitute(self) -> Tensor:
        """The equilibrium: from the injection states only rise, and rest after the longest way."""
        z, _ = self._solution
        return z.clone()

    def substitute_adjoint(self, z: Tensor, cotangent: Tensor) -> Tensor:
        """The solution of ``u = v + J(z)ᵀ u``: what each node is owed goes to where its value came
        from."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            fz = self(z)
        u, _ = rest(
            lambda u: cotangent + torch.autograd.grad(fz, z, u, retain_graph=True)[0], cotangent
        )
        return u

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return rest(self, self.x.detach())


def rest(step: Step, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where steps lead, and after how many each node ``[num_nodes]`` is at rest."""
    settled = torch.ones(z.size(0), dtype=torch.long, device=z.device)
    number, eps = 0, torch.finfo(z.dtype).eps
    while True:
        number += 1
        after = step(z)
        moved = (after != z) & ~(after.isnan() & z.isnan())
        settled[moved.any(1)] = number + 1
        # Exactly at rest after the longest way; what shrinks for ever is so to rounding.
        if number > z.size(0) > 0:
            moved &= ~((after - z).abs() <= eps * z.abs().nan_to_num().amax())
        done = not bool(moved.any())
        z = after
        if done:
            return z, settled


class MaxPropagationCell(Cell):
    r"""The largest injection of a graph, which fades with the distance from where it is.

    .. math::
        \mathbf{z}_i' = \max \Big( \mathbf{x}_i, \; (1 - \alpha) \max_{j \in \mathcal{N}(i)}
        \mathbf{z}_j \Big) , \qquad
        \mathbf{z}_i^\star = \max_j \, (1 - \alpha)^{d(j, i)} \, \mathbf{x}_j
        \quad (\mathbf{x} \ge 0)

    with :math:`d(j, i)` the number of edges from :math:`j` to :math:`i`. It is max-consensus
    (`Olfati-Saber, Fax & Murray 2007 <https://doi.org/10.1109/JPROC.2006.887293>`_), made to forget
    what is no longer injected: a contraction in the largest entry on every graph, so that every
    start and every order of updates reaches the one equilibrium. There are no parameters.

    Args:
        channels: Channels of the injection ``x`` and of the state ``z``.
        alpha: How much fades with an edge, :math:`\alpha` in (0, 1).

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, C)`, edge
          indices :math:`(2, |\mathcal{E}|)`
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> x = torch.tensor([[1.0], [0.0], [0.5]])
        >>> GraphDEQ(MaxPropagationCell(1, alpha=0.1))(x, path).flatten()
        tensor([1.0000, 0.9000, 0.8100])
    """

    def __init__(self, channels: int, alpha: float = 0.01) -> None:
        super().__init__()
        self.in_channels = self.channels = check_count("channels", channels, 1)
        self.alpha = check_number("alpha", alpha, above=0.0, below=1.0)

    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""The Lipschitz constant of one step in the largest entry, :math:`1 - \alpha`."""
        return torch.tensor(1.0 - self.alpha)

    def injection_bound(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int
    ) -> float:
        """One: a maximum stretches no distance."""
        return 1.0

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate:
        r"""The contraction by :math:`1 - \alpha` in the largest entry."""
        return Certificate(1.0 - self.alpha, "max", self.channels)

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None
    ) -> MaxPropagationStep:
        """Bind graph and injection; see :class:`Cell`. What edges carry isn't looked at."""
        check_graph(x, edge_index, self.in_channels)
        return self.driven(x.size(0), edge_index)(x)

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], MaxPropagationStep]:
        """Bind the graph; see :class:`Cell`."""
        edges = plain_edges(edge_index, num_nodes)
        return lambda x: MaxPropagationStep(edges, x, 1.0 - self.alpha)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.channels}, alpha={self.alpha:g}"
