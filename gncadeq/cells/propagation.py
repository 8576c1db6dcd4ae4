"""Personalised PageRank as a rule: the input smoothed over the graph, without parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count, check_number
from gncadeq.graph.adjacency import Normalization, WeightedAdjacency
from gncadeq.graph.rows import Restrictable
from gncadeq.typing import Adj, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(eq=False)
class PropagationStep(Restrictable):
    """One step of a :class:`PropagationCell` with graph and injection bound."""

    adjacency: Any
    decay: float
    drive: OptTensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # (1 - α) Â z + d,  d = α x
        y = self.adjacency(z)
        return self.decay * y if self.drive is None else torch.add(self.drive, y, alpha=self.decay)

    def adjoint(self, z: Tensor, fz: Tensor) -> PropagationStep:
        """The transposed Jacobian of the step, the same at every state ``z``."""
        return PropagationStep(self.adjacency.transposed(), self.decay, None)


class PropagationCell(Cell):
    r"""Propagation by personalised PageRank, from `"Predict then Propagate"
    <https://arxiv.org/abs/1810.05997>`_ (Gasteiger et al. 2019), eq. (5), as a rule.

    .. math::
        \mathbf{z}' = (1 - \alpha) \hat{\mathbf{A}} \mathbf{z} + \alpha \mathbf{x} , \qquad
        \mathbf{z}^\star = \alpha \big( \mathbf{I} - (1 - \alpha) \hat{\mathbf{A}} \big)^{-1}
        \mathbf{x}

    Its equilibrium is the paper's eq. (3), PPNP, without a dense matrix; its rollout of K steps
    from ``z0 = x`` is :class:`torch_geometric.nn.APPNP`. There are no parameters.

    :math:`\hat{\mathbf{A}} = \mathbf{D}^{-1/2} (\mathbf{A} + \mathbf{I}) \mathbf{D}^{-1/2}`
    (``"sym"``), :math:`\mathbf{D}^{-1} (\mathbf{A} + \mathbf{I})` (``"row"``), or

    .. math::
        \hat{A}_{ij} = \frac{A_{ij}}{\max(d_i, d_j)} , \qquad \hat{A}_{ii} = 1 - \sum_{j \ne i}
        |\hat{A}_{ij}|

    (``"metropolis"``, `Xiao, Boyd & Lall 2005 <https://doi.org/10.1109/IPSN.2005.1440896>`_),
    where :math:`A_{ij}` is the weight of the edge :math:`j \to i`, of any sign, :math:`d_i` the sum
    of absolute weights into :math:`i`, and nodes that have no loop get one.

    With Metropolis weights, undirected edges and positive weights the rule is *consensus*: the mean
    of the state over a connected graph is that of the injection, and as :math:`\alpha \to 0` every
    node has it. So a :class:`gncadeq.CascadeCell` of any cell and this one lets every node know
    the mean state of its graph, and a readout of means decides at every node.

    Args:
        channels: Channels of the injection ``x`` and of the state ``z``.
        alpha: The teleport probability :math:`\alpha` in (0, 1): the smaller, the farther a node
            sees.
        normalization: ``"sym"``, ``"row"`` or ``"metropolis"``.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, C)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge weights :math:`(|\mathcal{E}|)` or none
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> ppnp = GraphDEQ(PropagationCell(channels=1, alpha=0.5), tol=1e-6)
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> ppnp(torch.tensor([[1.0], [0.0]]), edge_index)
        tensor([[0.7500],
                [0.2500]])
    """

    hops = 1

    def __init__(
        self, channels: int, alpha: float = 0.1, normalization: Normalization = "sym"
    ) -> None:
        super().__init__()
        channels = check_count("channels", channels, 1)
        alpha = check_number("alpha", alpha, above=0.0, below=1.0)
        check_choice("normalization", normalization, get_args(Normalization))
        self.in_channels = self.channels = channels
        self.alpha = alpha
        self.normalization: Normalization = normalization

    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""The Lipschitz constant of one step, :math:`1 - \alpha`, on every ``graph``.

        It holds in the norm :math:`\max_{i,c} |z_{ic}| / v_i` with :math:`v_i = \sqrt{d_i}` for
        ``"sym"`` and one for the others; on undirected graphs also in the Euclidean norm, but for
        ``"row"``.
        """
        return torch.tensor(1.0 - self.alpha)

    def injection_bound(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int
    ) -> float:
        r""":math:`\alpha`, the share of the injection in the next state."""
        return self.alpha

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        r"""The contraction by :math:`1 - \alpha` in the norm of :meth:`lipschitz_bound`."""
        adjacency = WeightedAdjacency(edge_index, edge_attr, num_nodes)
        _, v = adjacency.with_self_loops().normalized(self.normalization)
        weight = 1.0 / v if self.normalization == "sym" else None
        return Certificate(1.0 - self.alpha, "max", self.channels, weight)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> PropagationStep:
        """Bind graph and injection; see :class:`Cell`. ``edge_attr`` holds the edge weights."""
        check_graph(x, edge_index, self.in_channels)
        return self.driven(x.size(0), edge_index, edge_attr)(x)

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], PropagationStep]:
        """Bind the graph; see :class:`Cell`."""

        # Weights that are given may need a gradient: their matrix is made here, not within a step
        # that runs without gradients or is run again by a checkpoint.
        weighted = None if edge_attr is None else self._matrix(num_nodes, edge_index, edge_attr)
        made: dict[torch.dtype, WeightedAdjacency] = {}

        def bind(x: Tensor) -> PropagationStep:
            if weighted is None and x.dtype not in made:
                made[x.dtype] = self._matrix(num_nodes, edge_index, like=x.detach())
            matrix = made[x.dtype] if weighted is None else weighted
            return PropagationStep(matrix, 1.0 - self.alpha, self.alpha * x)

        return bind

    def _matrix(
        self, num_nodes: int, edge_index: Adj, weight: OptTensor = None, like: OptTensor = None
    ) -> WeightedAdjacency:
        adjacency = WeightedAdjacency(edge_index, weight, num_nodes, like)
        return adjacency.with_self_loops().normalized(self.normalization)[0]

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.channels}, alpha={self.alpha:g}, normalization={self.normalization!r}"
