"""A tissue of springs: nodes that move until every edge has its rest length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.check import check_count, check_type
from gncadeq.graph.neighborhood import check_range
from gncadeq.graph.sparse import SparseRows, segment_sum
from gncadeq.typing import Adj, OptTensor

_TINY = 1e-12  # coincident nodes neither push nor pull


class ElasticStep:
    """One step of an :class:`ElasticCell` with graph, rest lengths and injection bound."""

    def __init__(
        self,
        sizes: tuple[int, int],
        weight: dict[str, Tensor],
        edges: SparseRows,
        rest: Tensor,
        share: Tensor,
        drive: OptTensor,
    ) -> None:
        self.dim, self.space = sizes
        self.weight, self.edges, self.drive = weight, edges, drive
        self.rest, self.share = rest, share  # [num_edges, 1], in the order of ``edges``
        self.target, self.source = edges.row.long(), edges.col.long()
        self.keeps = torch.arange(self.space, device=rest.device) < self.dim

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        w, n = self.weight, self.space
        pos, velocity, youth, h = torch.split(z, [n, n, 1, z.size(1) - 2 * n - 1], 1)
        offset = pos.index_select(0, self.target) - pos.index_select(0, self.source)
        length = offset.square().sum(1, keepdim=True).add(_TINY).sqrt()
        strain = (length - self.rest) / (length + self.rest)
        heard = h.index_select(0, self.source)
        sent = [strain.relu(), (-strain).relu(), heard, offset, offset * (self.rest / length)]
        sums = segment_sum(torch.cat(sent, 1) * self.share, self.target, self.edges.ptr.long())
        pull, push = sums[:, -2 * n : -n], sums[:, -n:]
        felt = torch.cat([h, sums[:, : -2 * n]], dim=1)
        senses = F.linear(felt, w["sense.weight"], w["sense.bias"])
        if self.drive is not None:
            senses = senses + self.drive
        # Under autocast the perceptron is in half precision, and places are not
        out = F.linear(F.silu(senses), w["act.weight"], w["act.bias"]).to(z.dtype)
        gates = (out[:, -4:] + F.linear(felt, w["reflex.weight"])).sigmoid()
        gain, damping, ripen, flatten = torch.split(gates, 1, 1)
        tiny = torch.finfo(z.dtype).tiny ** 0.5  # what fades, ends: denormal numbers are slow
        youth = F.hardshrink(youth * (1 - ripen), tiny)
        velocity = damping * velocity + _MOST_GAIN * gain * ((1 - youth) * push - pull)
        # Room beyond the target's space is given up with the years
        stays = torch.where(self.keeps, 1.0, 1 - flatten * (1 - youth))
        h = torch.lerp(h, out[:, :-4].tanh(), w["pace"].sigmoid())
        moved = torch.cat([(pos + velocity) * stays, velocity * stays], dim=1)
        return torch.cat([F.hardshrink(moved, tiny), youth, h], dim=1)

    def restrict(self, nodes: Tensor) -> ElasticStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        edges, kept = self.edges.cut(nodes)
        drive = None if self.drive is None else self.drive[nodes]
        sizes = self.dim, self.space
        return ElasticStep(sizes, self.weight, edges, self.rest[kept], self.share[kept], drive)


_MOST_GAIN = 2.0  # longer strides overshoot, whatever the damping is


class ElasticCell(Cell):
    r"""A rule that moves nodes until their edges have their rest lengths: a shape is grown from
    the lengths of its edges, out of noise, and mended.

    The state holds coordinates with some dimensions to spare, velocities, youth and features,
    :math:`\mathbf{z}_i = [\mathbf{p}_i \Vert \mathbf{v}_i \Vert y_i \Vert \mathbf{h}_i]`. With the
    rest lengths :math:`\ell_{ij}`, :math:`\mathbf{d}_{ij} = \mathbf{p}_i - \mathbf{p}_j` and the
    strain :math:`\epsilon_{ij} = (d_{ij} - \ell_{ij}) / (d_{ij} + \ell_{ij})`:

    .. math::
        [\tilde{\mathbf{h}}_i, \alpha_i, \beta_i, \gamma_i, \kappa_i] = \phi \Big( \mathbf{h}_i,
        \sum_j a_{ij} \, [\mathbf{h}_j, \max(\epsilon_{ij}, 0), \max(-\epsilon_{ij}, 0)],
        \mathbf{x}_i \Big), \quad y_i' = (1 - \gamma_i) \, y_i

    .. math::
        \mathbf{v}_i' = \beta_i \mathbf{v}_i + 2 \alpha_i \sum_j a_{ij} \, \mathbf{d}_{ij} \Big(
        (1 - y_i') \frac{\ell_{ij}}{d_{ij}} - 1 \Big), \quad
        \mathbf{p}_i' = \mathbf{p}_i + \mathbf{v}_i', \quad
        \mathbf{h}_i' = \mathbf{h}_i + \boldsymbol\tau \odot (\tanh \tilde{\mathbf{h}}_i -
        \mathbf{h}_i)

    with a two-layer perceptron :math:`\phi` (its gates, in (0, 1), have a linear layer besides),
    and weights :math:`a_{ij}, \sum_j a_{ij} = 1`, a softmax over what a perceptron makes of a
    neighbour's rest length. Old nodes (:math:`y = 0`) descend the stress of multidimensional
    scaling (Kruskal 1964) by the heavy ball (Polyak 1964; the velocity is that of `EGNN
    <https://arxiv.org/abs/2102.09844>`_, eq. 7). Young ones (:math:`y = 1`) draw together: noise
    is smoothed to the slow modes of the graph, from which it can be unfolded. What is folded in the
    target's space can unfold in the ``lift`` dimensions beyond it, which then fade,
    :math:`\mathbf{p}_{i, > D}' \leftarrow (1 - \kappa_i (1 - y_i')) \, \mathbf{p}_{i, > D}'`, and
    so do their velocities.

    The features know only ratios of lengths: rotating, reflecting, moving or scaling the start (and
    the rest lengths with it) does the same to every step. Old nodes whose edges have their rest
    lengths are at rest, whatever the parameters.

    Args:
        dim: Number of coordinates of the target.
        lift: Coordinates beyond them.
        features: Number of features; the state has ``2 * (dim + lift) + 1 + features``
            channels.
        hidden_channels: Width of the perceptron.
        in_channels: Channels of the injection ``x``; often 0.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, 2 (D + L) + 1 + F)`, injection
          :math:`(|\mathcal{V}|, F_x)`, edge indices :math:`(2, |\mathcal{E}|)`, rest lengths
          :math:`(|\mathcal{E}|, 1)`, positive
        - **output:** state :math:`(|\mathcal{V}|, 2 (D + L) + 1 + F)`

    Raises:
        ValueError: If an argument is out of range, or rest lengths are missing, not positive or
            not finite.
        TypeError: If rest lengths are integers.

    Example:
        >>> from gncadeq import GraphNCA
        >>> _ = torch.manual_seed(1)  # untrained, it finds the way from some starts only
        >>> cell = ElasticCell(dim=2, lift=1, features=4)
        >>> edge_index = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])  # a triangle
        >>> nca = GraphNCA(cell, steps=200)
        >>> z0 = cell.start(10 * torch.randn(3, 3))
        >>> z = nca(torch.zeros(3, 0), edge_index, torch.ones(6, 1), z0=z0)
        >>> [round(side, 3) for side in torch.pdist(cell.coordinates(z)).tolist()]
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        dim: int = 3,
        lift: int = 2,
        features: int = 8,
        hidden_channels: int = 32,
        in_channels: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("dim", dim, 1), ("lift", lift, 0), ("features", features, 1),
            ("hidden_channels", hidden_channels, 1), ("in_channels", in_channels, 0),
        ):  # fmt: skip
            check_count(name, value, least)
        self.dim, self.lift, self.features, self.in_channels = dim, lift, features, in_channels
        self.space = dim + lift
        self.channels, width = 2 * self.space + 1 + features, hidden_channels
        self.sense = nn.Linear(2 * features + 2, width)
        self.act = nn.Linear(width, features + 4)
        self.reflex = nn.Linear(2 * features + 2, 4, bias=False)
        self.pace = nn.Parameter(torch.empty(features))
        self.near_in = nn.Linear(1, 8)
        self.near_out = nn.Linear(8, 1, bias=False)
        self.inject = nn.Linear(in_channels, width, bias=False) if in_channels else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters, of a rule that smooths for a while, and then is of springs."""
        self.sense.reset_parameters()
        if self.inject is not None:
            self.inject.reset_parameters()
        nn.init.xavier_uniform_(self.act.weight, gain=0.1)
        nn.init.zeros_(self.act.bias)
        nn.init.zeros_(self.reflex.weight)
        with torch.no_grad():  # gain, damping, ripening, flattening: at rest, and when stretched
            self.act.bias[-4:] = torch.tensor([0.5, 0.85, 0.9999, 0.15]).logit()
            self.reflex.weight[:, self.features] = torch.tensor([0.0, -4.0, -14.0, 0.0])
            self.pace.copy_(torch.linspace(0.05, 0.5, self.features).logit())
        self.near_in.reset_parameters()
        nn.init.zeros_(self.near_out.weight)  # all neighbours alike

    def start(self, pos: Tensor) -> Tensor:
        """The state of nodes at ``pos`` ``[num_nodes, dim + lift]``, young and without motion.

        Coordinates of ``dim`` columns are given zeros for the others.
        """
        if pos.dim() != 2 or pos.size(1) not in (self.dim, self.space):
            raise ValueError(
                f"Expected 'pos' of shape [num_nodes, {self.space}], or [num_nodes, {self.dim}] to "
                f"leave the other dimensions at zero (got {list(pos.shape)})"
            )
        pos = F.pad(pos, (0, self.space - pos.size(1)))
        young = pos.new_ones(pos.size(0), 1 + self.features)
        return torch.cat([F.pad(pos, (0, self.space)), young], dim=1)

    def coordinates(self, z: Tensor) -> Tensor:
        """The coordinates ``[num_nodes, dim]`` in the space of the target."""
        return z[:, : self.dim]

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> ElasticStep:
        """Bind graph, rest lengths and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels, self.pace.dtype)
        if not isinstance(edge_index, Tensor):
            raise TypeError("Expected edge indices, whose order is that of the rest lengths "
                            "(got a neighborhood)")  # fmt: skip
        n, count = x.size(0), edge_index.size(1)
        check_range("edge_index", edge_index, n, "num_nodes")
        if edge_attr is not None:
            check_type("edge_attr", edge_attr, Tensor)
        if edge_attr is None or list(edge_attr.shape) != [count, 1]:
            raise ValueError(
                f"Expected rest lengths 'edge_attr' of shape [num_edges, 1] = [{count}, 1] "
                f"(got {None if edge_attr is None else list(edge_attr.shape)}). "
                "torch_geometric.transforms.Distance(norm=False, cat=False) takes them from 'pos'"
            )
        if not edge_attr.is_floating_point():
            raise TypeError(
                f"Expected floating-point rest lengths 'edge_attr' (got {edge_attr.dtype}). Use "
                "edge_attr.float()"
            )
        bad = ~((edge_attr > 0) & edge_attr.isfinite())
        if bool(bad.any()):
            raise ValueError(
                "Expected finite, positive rest lengths 'edge_attr' (got "
                f"{float(edge_attr[bad][0]):g}). Remove loops and coincident nodes"
            )
        edges, order = SparseRows.sort(edge_index[1].long(), edge_index[0].long(), n, n)
        rest, target, ptr = edge_attr[order].to(self.pace.dtype), edges.row.long(), edges.ptr.long()
        degree = (edges.ptr[1:] - edges.ptr[:-1]).clamp(min=1).unsqueeze(1)
        typical = (segment_sum(rest, target, ptr) / degree)[target]
        share = (3 * self.near_out(self.near_in(rest / typical).tanh()).tanh()).to(rest.dtype).exp()
        share = share / segment_sum(share, target, ptr)[target]
        drive = None if self.inject is None else self.inject(x)
        weight: dict[str, Tensor] = dict(self.named_parameters())
        return ElasticStep((self.dim, self.space), weight, edges, rest, share, drive)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"dim={self.dim}, lift={self.lift}, features={self.features}"


def distance_loss(pos: Tensor, target: Tensor, pairs: OptTensor = None) -> Tensor:
    r"""How far the distances between nodes are from those of a target, whatever its place and turn.

    .. math::
        \frac{1}{|\mathcal{P}|} \sum_{(i, j) \in \mathcal{P}} \big( \lVert \mathbf{p}_i -
        \mathbf{p}_j \rVert - \lVert \mathbf{q}_i - \mathbf{q}_j \rVert \big)^2

    The loss of `"E(n)-equivariant Graph Neural Cellular Automata"
    <https://arxiv.org/abs/2301.10497>`_ (Gala et al. 2023) for fixed targets.

    Args:
        pos: Positions ``[num_graphs * num_nodes, dims]`` of one or several graphs like the target.
        target: The target's positions ``[num_nodes, dims]``.
        pairs: The pairs :math:`\mathcal{P}` ``[2, num_pairs]``; all of them by default.

    Returns:
        ``[num_graphs]``, in squared units of length.

    Raises:
        ValueError: If the shapes don't fit.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> distance_loss(torch.cat([square + 5, square * 2]), square)
        tensor([0.0000, 1.3333])
    """
    n = target.size(0)
    if pos.dim() != 2 or n < 2 or pos.size(0) % n or pos.size(1) != target.size(1):
        raise ValueError(
            f"Expected 'pos' of shape [num_graphs * {n}, {target.size(1)}], of at least 2 nodes "
            f"a graph (got {list(pos.shape)})"
        )
    i, j = torch.triu_indices(n, n, 1, device=pos.device) if pairs is None else pairs
    wanted: Tensor = (target[i] - target[j]).norm(dim=1)
    pos = pos.view(-1, n, pos.size(1))
    found: Tensor = (pos[:, i] - pos[:, j]).norm(dim=2)
    return (found - wanted).square().mean(dim=1)
