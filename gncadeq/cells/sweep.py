"""Sweeps: rules that read along acyclic edges, with weights of any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell, check_graph
from gncadeq.certificate import StructuralCertificate
from gncadeq.check import check_choice, check_count, check_flag, check_number
from gncadeq.choices import Injection
from gncadeq.graph.neighborhood import checked_edges
from gncadeq.graph.order import Layers
from gncadeq.typing import Adj, OptTensor

SweepInit = Literal["orthogonal", "identity"]


class _Edges:
    """The edges along which the groups of channels read, as one graph.

    Node :math:`i` of group :math:`p` is its row :math:`p \\, |\\mathcal{V}| + i`.

    Args:
        edge_index: ``[2, num_edges]``.
        weight: ``[num_edges, num_groups, num_kernels]``.
        num_nodes: Number of nodes.
    """

    def __init__(self, edge_index: Tensor, weight: Tensor, num_nodes: int) -> None:
        used, group = weight.detach().ne(0).any(2).nonzero().unbind(1)
        self.source, self.target = edge_index[:, used] + num_nodes * group
        self.weight, self.groups, self.num_nodes = weight[used, group], weight.size(1), num_nodes

    @cached_property
    def layers(self) -> Layers:
        """The order of the rows, of which only substitution knows."""
        ends = torch.stack([self.source, self.target])
        return Layers(ends, self.groups * self.num_nodes, self.groups)

    @cached_property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps each node is at rest."""
        return self.layers.layer.view(self.groups, self.num_nodes).amax(0) + 1

    def rows(self, z: Tensor) -> Tensor:
        """A state ``[num_nodes, num_groups * channels]`` by rows, ``[num_rows, channels]``."""
        channels = z.size(1) // self.groups
        return z.view(-1, self.groups, channels).transpose(0, 1).reshape(-1, channels)

    def joined(self, rows: Tensor) -> Tensor:
        """The state whose rows these are."""
        channels = rows.size(1)
        parts = rows.view(self.groups, self.num_nodes, channels).transpose(0, 1)
        return parts.reshape(self.num_nodes, self.groups * channels)

    def sense(self, z: Tensor) -> Tensor:
        """What each row reads, ``[num_rows, num_kernels * channels]``."""
        sent = self.weight.to(z.dtype).unsqueeze(2) * z[self.source].unsqueeze(1)
        return z.new_zeros(z.size(0), *sent.shape[1:]).index_add(0, self.target, sent).flatten(1)


def _product(y: Tensor, weight: Tensor, shares: list[int]) -> Tensor:
    """Each row of ``y`` times the matrix of its group, which are so many of them, in order."""
    if len(shares) == 1:
        return y @ weight[0]
    if min(shares) == max(shares):
        return torch.bmm(y.view(len(shares), shares[0], y.size(1)), weight).flatten(0, 1)
    parts = zip(torch.split(y, shares), weight, strict=True)
    return torch.cat([own @ matrix for own, matrix in parts])


class SweepStep:
    """One step of a :class:`SweepCell` with graph and injection bound.

    Args:
        edges: Where the groups of channels read.
        weight: ``[num_groups, num_kernels, channels, channels]``.
        drive: ``[num_nodes, num_groups * channels]``.
    """

    def __init__(self, edges: _Edges, weight: Tensor, drive: Tensor) -> None:
        self.edges, self.weight, self.drive = edges, weight.flatten(1, 2), drive
        self.kernels = weight.size(1)
        # A snapshot, so that in-place updates before backward() cannot change the equation.
        self._bound = self.weight.detach().clone()

    @property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps each node is at rest."""
        return self.edges.depth

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # tanh(Σ_k W_kᵀ Σ_j a^k_ij z_j + d_i), group by group
        e = self.edges
        sensed = _product(e.sense(e.rows(z)), self.weight, [e.num_nodes] * e.groups)
        return (e.joined(sensed) + self.drive).tanh()

    def _weights(self, z: Tensor) -> Tensor:
        """Those of the edges in the order of the layers."""
        e = self.edges
        return e.weight[e.layers.order].detach().to(z.dtype).unsqueeze(2)

    @torch.no_grad()
    def substitute(self) -> Tensor:
        """The equilibrium, layer by layer: every edge is used once."""
        drive, layers = self.edges.rows(self.drive.detach()), self.edges.layers
        z, edge_weight = torch.empty_like(drive), self._weights(drive)
        for nodes, shares, edges, place in layers:
            y = drive[nodes]
            if edges.stop > edges.start:
                sent = edge_weight[edges] * z[layers.source[edges]].unsqueeze(1)
                read = sent.new_zeros(nodes.numel(), *sent.shape[1:]).index_add_(0, place, sent)
                y += _product(read.flatten(1), self._bound, shares)
            z[nodes] = y.tanh_()
        return self.edges.joined(z)

    @torch.no_grad()
    def substitute_adjoint(self, z: Tensor, cotangent: Tensor) -> Tensor:
        """The solution of ``u = v + Jᵀ u`` at the equilibrium ``z``, from the last layer back."""
        layers, weight = self.edges.layers, self._bound.transpose(1, 2)
        slope, u = self.edges.rows(1 - z.square()), self.edges.rows(cotangent).clone()
        edge_weight = self._weights(z)
        for k in reversed(range(len(layers))):
            nodes, shares, edges, place = layers[k]
            if edges.stop > edges.start:
                back = _product(u[nodes] * slope[nodes], weight, shares)
                back = back.view(nodes.numel(), self.kernels, -1)
                sent = (back[place] * edge_weight[edges]).sum(1)
                u.index_add_(0, layers.source[edges], sent)
        return self.edges.joined(u)


class SweepCell(Cell):
    r"""A rule that reads along acyclic edges: one equilibrium whatever its weights.

    .. math::
        \mathbf{z}_{p,i}' = \tanh \Big( \sum_k \mathbf{W}_{p,k}^\top \sum_{e = (j \to i)}
        a_{e}^{p,k} \, \mathbf{z}_{p,j} + \mathbf{U}_p \mathbf{x}_i + \mathbf{b}_p \Big)

    Each group :math:`p` of channels reads along the edges of which its own weights are not zero.
    If these have no cycle, the Jacobian of a step is nilpotent: from every start and in every
    order of updates, the state is exactly at rest after as many steps as the longest path has
    nodes. Nothing bounds the matrices, so signals need not fade on their way. The four groups of
    :class:`gncadeq.transforms.Sweeps` read from the four diagonal directions of a grid, as the
    2-D recurrences of `Graves et al. 2007 <https://arxiv.org/abs/0705.2011>`_ do; with one group
    on a directed acyclic graph it is a recurrence along the graph.

    :class:`gncadeq.GraphDEQ` solves it by substitution, layer after layer, and its gradient by
    substitution back.

    Args:
        in_channels: Channels of the injection ``x``.
        channels: Channels of a group; the state has ``groups`` times as many.
        groups: Number of groups.
        kernels: Number of weights that each edge has for a group, ``edge_attr`` being
            ``[num_edges, groups * kernels]``, group by group; without ``edge_attr`` all are one.
        injection: ``"superposed"`` learns :math:`\mathbf{U}`; ``"additive"`` adds ``x`` itself,
            and needs as many channels as the state has.
        gain: Size :math:`g` of the matrices at the start.
        init: ``"orthogonal"`` matrices times :math:`g`, those of all kernels but the first divided
            by :math:`\sqrt{3}`; or ``"identity"``, :math:`g \mathbf{I}` and Gaussian noise of 0.05,
            which keeps what tells signals apart over hundreds of nodes.
        bias: Whether to add :math:`\mathbf{b}`; without it, nodes that no signal reaches stay zero.
        noise: Standard deviation of Gaussian noise on the drive :math:`\mathbf{U} \mathbf{x} +
            \mathbf{b}` in training, drawn once a solve: signals are learned that survive it.
        distances: The first so many channels of ``x`` are distances :math:`D_p` to marked nodes, as
            of a :class:`DistanceCell`, and order the nodes of any graph: for each there are two
            groups, with the weights :math:`a_e = \mathrm{clamp}(D_{p,j} - D_{p,i}, 0, 1)` and
            :math:`\mathrm{clamp}(D_{p,i} - D_{p,j}, 0, 1)`, which read farther and nearer
            neighbours. Nodes at the same distance, as those at infinity that no mark reaches, don't
            read each other; the state of a node whose distance is NaN is NaN.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, P C)`, injection :math:`(|\mathcal{V}|, F)`, edge
          indices :math:`(2, |\mathcal{E}|)`, edge weights :math:`(|\mathcal{E}|, P K)`
        - **output:** state :math:`(|\mathcal{V}|, P C)`

    Raises:
        ValueError: If an argument is out of range, or the edges of a group have a cycle.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> chain = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> deq = GraphDEQ(SweepCell(2, channels=8, init="identity", gain=2.0))
        >>> z, solution = deq(torch.rand(4, 2), chain, return_solution=True)
        >>> z.shape, bool(solution.residual < 1e-6), int(solution.num_steps)
        (torch.Size([4, 8]), True, 4)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        groups: int = 1,
        kernels: int = 1,
        injection: Injection = "superposed",
        gain: float = 1.0,
        init: SweepInit = "orthogonal",
        bias: bool = True,
        noise: float = 0.0,
        distances: int = 0,
    ) -> None:
        super().__init__()
        self.distances = check_count("distances", distances)
        if distances and (kernels, injection) != (1, "superposed"):
            raise ValueError(
                "Expected kernels=1 and injection='superposed' with 'distances' (got "
                f"{kernels} and {injection!r})"
            )
        groups = 2 * distances if distances else groups
        self.in_channels = check_count("in_channels", in_channels, 1 + distances)
        self.group_channels = check_count("channels", channels, 1)
        self.groups = check_count("groups", groups, 1)
        self.kernels = check_count("kernels", kernels, 1)
        self.channels = groups * channels
        self.gain = check_number("gain", gain, above=0.0)
        self.init: SweepInit = check_choice("init", init, get_args(SweepInit))
        self.noise = check_number("noise", noise, least=0.0)
        self.injection: Injection = check_choice("injection", injection, get_args(Injection))
        if injection == "additive" and in_channels != self.channels:
            raise ValueError(
                "Expected 'in_channels' equal to 'groups' times 'channels' with "
                f"injection='additive' (got {in_channels} and {self.channels})"
            )
        self.weight = nn.Parameter(torch.empty(groups, kernels, channels, channels))
        superposed = injection == "superposed"
        self.weight_x = (
            nn.Parameter(torch.empty(in_channels - distances, self.channels))
            if superposed
            else None
        )
        self.bias = nn.Parameter(torch.empty(self.channels)) if check_flag("bias", bias) else None
        self.reset_parameters()

    @property
    def draws_randomness(self) -> bool:
        """Whether an evaluation in training mode draws noise."""
        return self.noise > 0.0

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        for group in self.weight.data:
            for k, matrix in enumerate(group):
                if self.init == "orthogonal":
                    nn.init.orthogonal_(matrix, self.gain / (1.0 if k == 0 else 3.0**0.5))
                else:
                    nn.init.normal_(matrix, std=0.05)
                    if k == 0:
                        matrix += self.gain * torch.eye(matrix.size(0))
        if self.weight_x is not None:
            nn.init.normal_(self.weight_x)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> SweepStep:
        """Bind graph and injection; see :class:`Cell`."""
        check_graph(x, edge_index, self.in_channels, self.weight.dtype)
        return self.driven(x.size(0), edge_index, edge_attr)(x)

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], SweepStep]:
        """Bind the graph; see :class:`Cell`."""
        edge_index = checked_edges(edge_index, num_nodes)
        fixed = None if self.distances else self._orient(edge_index, edge_attr, num_nodes)

        def bind(x: Tensor) -> SweepStep:
            edges = fixed
            if edges is None:
                far, x = x[:, : self.distances], x[:, self.distances :]
                edges = self._downhill(edge_index, far)
                x = x.masked_fill(far.isnan().any(1, keepdim=True), float("nan"))
            drive = x if self.weight_x is None else x @ self.weight_x
            drive = drive if self.bias is None else drive + self.bias
            if self.noise and self.training:
                drive = drive + self.noise * torch.randn_like(drive)
            return SweepStep(edges, self.weight, drive)

        return bind

    def _downhill(self, edge_index: Tensor, far: Tensor) -> _Edges:
        """For each distance, a group that reads farther neighbours, and one that reads nearer."""
        rise = far[edge_index[0]] - far[edge_index[1]]
        gates = torch.stack([rise, -rise], 2).clamp(0, 1).nan_to_num(0.0)  # no order, no reading
        return _Edges(edge_index, gates.flatten(1).unsqueeze(2), far.size(0))

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> StructuralCertificate | None:
        """At rest after as many steps as the longest path has nodes."""
        edge_index = checked_edges(edge_index, num_nodes)
        if self.distances:  # whatever they are, they order the nodes
            return StructuralCertificate(0.0)
        depth = self._orient(edge_index, edge_attr, num_nodes).depth
        batch = context.get("batch", torch.zeros_like(depth))
        graphs = int(batch.max()) + 1 if batch.numel() else 0
        steps = depth.new_zeros(graphs).scatter_reduce(0, batch, depth, "amax")
        return StructuralCertificate(torch.zeros(graphs, dtype=torch.double), steps)

    def _orient(self, edge_index: Tensor, edge_attr: OptTensor, num_nodes: int) -> _Edges:
        """Where the groups read.

        Raises:
            ValueError: If the weights are of another shape, or the edges of a group have a cycle.
        """
        width = self.groups * self.kernels
        if edge_attr is None:
            edge_attr = self.weight.new_ones(edge_index.size(1), width)
        if edge_attr.shape != (edge_index.size(1), width) or not edge_attr.is_floating_point():
            raise ValueError(
                f"Expected weights 'edge_attr' of shape [num_edges, groups * kernels] = "
                f"[{edge_index.size(1)}, {width}] (got {edge_attr.dtype} {list(edge_attr.shape)})"
            )
        edges = _Edges(edge_index, edge_attr.view(-1, self.groups, self.kernels), num_nodes)
        _ = edges.layers  # refuses a cycle
        return edges

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        text = f"{self.in_channels}, {self.group_channels}"
        if self.groups > 1 or self.kernels > 1:
            text += f", groups={self.groups}, kernels={self.kernels}"
        return text + (f", noise={self.noise:g}" if self.noise else "")
