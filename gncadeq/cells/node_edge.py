"""A gated rule with states on nodes and on edges, a contraction on every graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cells.typed import TypedCell
from gncadeq.check import check_number, check_type
from gncadeq.graph.layout import FlatGraph, StateLayout, check_names
from gncadeq.graph.neighborhood import check_range
from gncadeq.typing import Adj, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

_SENDS = ("node", "sends", "edge")
_RECEIVES = ("node", "receives", "edge")
_GATES = ("edge", "gates", "node")
_REACHES = ("node", "reaches", "node")
_STEEPNESS = 4.0  # rows of the gate's matrix have an l1 norm of at most that
_GATED = (1 + _STEEPNESS) ** 2 / (4 * _STEEPNESS)  # max of s + 4 s (1 - s)


class NodeEdgeStep:
    """One step of a :class:`NodeEdgeCell` with graph and injection bound."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        layout: StateLayout,
        source: Tensor,
        target: Tensor,
        drive: Tensor,
    ) -> None:
        self.weights, self.layout = weights, layout
        self.source, self.target, self.drive = source, target, drive
        ones = drive.new_ones(target.numel())
        degree = drive.new_zeros(layout.sizes[0]).index_add(0, target, ones)
        self.share = degree.clamp(min=1.0).reciprocal().unsqueeze(1)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # z_i' = tanh(A z_i + mean_j σ(G z_ij) ⊙ B z_j + d_i)
        # z_ij' = tanh(S z_j + T z_i + E z_ij + d_ij)
        w, states = self.weights, self.layout.unpack(z)
        node, edge = states["node"], states["edge"]
        message = F.linear(edge, w["gate"]).sigmoid() * F.linear(node, w["message"])[self.source]
        heard = message.new_zeros(node.shape).index_add(0, self.target, message) * self.share
        ends = F.linear(node, w["source"])[self.source] + F.linear(node, w["target"])[self.target]
        y = {"node": F.linear(node, w["node"]) + heard, "edge": F.linear(edge, w["edge"]) + ends}
        return (self.layout.pack(y) + self.drive).tanh()

    def restrict(self, nodes: Tensor) -> NodeEdgeStep:
        """The same step on ``nodes``, the ascending indices of whole graphs (rows of edges too)."""
        layout, place = self.layout.restrict(nodes), self.layout.positions()[nodes]
        rows = layout.rows()
        new = torch.zeros(self.layout.sizes[0], dtype=torch.long, device=nodes.device)
        new[place[rows["node"]]] = torch.arange(layout.sizes[0], device=nodes.device)
        kept = place[rows["edge"]]
        return NodeEdgeStep(
            self.weights, layout, new[self.source[kept]], new[self.target[kept]], self.drive[nodes]
        )


class NodeEdgeCell(TypedCell):
    r"""A gated rule with a state on every node and a state on every edge.

    .. math::
        \mathbf{z}_i' &= \tanh \Big( \mathbf{A} \mathbf{z}_i + \frac{1}{|\mathcal{N}(i)|}
        \sum_{j \to i} \mathrm{sigmoid}(\mathbf{G} \mathbf{z}_{ij}) \odot \mathbf{B} \mathbf{z}_j +
        \mathbf{U} \mathbf{x}_i + \mathbf{b} \Big) \\
        \mathbf{z}_{ij}' &= \tanh \big( \mathbf{S} \mathbf{z}_j + \mathbf{T} \mathbf{z}_i +
        \mathbf{E} \mathbf{z}_{ij} + \mathbf{V} \mathbf{e}_{ij} + \mathbf{c} \big)

    It is the gated graph convnet of `"Residual Gated Graph ConvNets"
    <https://arxiv.org/abs/1711.07553>`_ (Bresson & Laurent 2017, eq. 11) with edge states as in
    `"Benchmarking Graph Neural Networks" <https://arxiv.org/abs/2003.00982>`_ (Dwivedi et al. 2020,
    eq. 20–22), a mean in the place of the sum, and both updates from the old states.

    States are in :math:`[-1, 1]` from the first step on. There, with
    :math:`\lVert \mathbf{g}_c \rVert_1 \le 4`, the step is a contraction by :math:`\kappa` in the
    maximum norm over nodes, edges and channels, on every graph, directed or not:

    .. math::
        \lVert \mathbf{a}_c \rVert_1 + \tfrac{25}{16} \lVert \mathbf{b}_c \rVert_1 \le \kappa ,
        \qquad \lVert \mathbf{s}_c \rVert_1 + \lVert \mathbf{t}_c \rVert_1 +
        \lVert \mathbf{e}_c \rVert_1 \le \kappa

    for every row, since a gate :math:`s` passes :math:`s` of a change of :math:`\mathbf{z}_j` and
    :math:`4 s (1 - s)` of one of :math:`\mathbf{z}_{ij}` at most, and :math:`s + 4 s (1 - s) \le
    25/16`. Rows of the free parameters are scaled into these bounds wherever they are used.

    Dynamics take the injections of nodes and edges, the edge indices and the nodes' batch vector,
    and return both states: ``deq({"node": x, "edge": edge_attr}, edge_index, batch=batch)``.

    Args:
        in_channels: Channels of the injections, ``{"node": F, "edge": D}``.
        channels: Channels of the states, ``{"node": C, "edge": K}`` or one number for both.
        kappa: The bound :math:`\kappa` in (0, 1).
        bias: Whether to add :math:`\mathbf{b}` and :math:`\mathbf{c}`.

    Shapes:
        - **input:** states :math:`(|\mathcal{V}|, C)` and :math:`(|\mathcal{E}|, K)`, injections
          :math:`(|\mathcal{V}|, F)` and :math:`(|\mathcal{E}|, D)`, edge indices
          :math:`(2, |\mathcal{E}|)`
        - **output:** states :math:`(|\mathcal{V}|, C)` and :math:`(|\mathcal{E}|, K)`

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> deq = GraphDEQ(NodeEdgeCell({"node": 3, "edge": 1}, {"node": 8, "edge": 4}), tol=1e-5)
        >>> x = {"node": torch.rand(4, 3), "edge": torch.rand(5, 1)}
        >>> z = deq(x, torch.tensor([[0, 1, 2, 3, 3], [1, 2, 3, 0, 1]]))
        >>> z["node"].shape, z["edge"].shape
        (torch.Size([4, 8]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int | Mapping[str, int],
        kappa: float = 0.9,
        bias: bool = True,
    ) -> None:
        check_type("in_channels", in_channels, Mapping)
        check_names("in_channels", list(in_channels), ["node", "edge"])
        super().__init__(
            {name: in_channels[name] for name in ("node", "edge")}, channels,
            [_SENDS, _RECEIVES, _GATES, _REACHES], bias=bias,
        )  # fmt: skip
        hint = "An equilibrium is certain there"
        kappa = check_number("kappa", kappa, above=0.0, below=1.0, hint=hint)
        self.kappa = kappa
        c, k = self.state_channels["node"], self.state_channels["edge"]
        shapes = {
            "node": (c, c), "message": (c, c), "gate": (c, k),
            "source": (k, c), "target": (k, c), "edge": (k, k),
        }  # fmt: skip
        self.weight = nn.ParameterDict({n: nn.Parameter(torch.empty(s)) for n, s in shapes.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        super().reset_parameters()
        for name, weight in self.weight.items():
            nn.init.uniform_(weight, -1.0, 1.0)
            # Rows start around half their bound; gates need no small ones.
            weight.data *= (_STEEPNESS if name == "gate" else 1.0) / weight.size(1)

    def _weights(self) -> dict[str, Tensor]:
        """The matrices, within their bounds."""
        w = dict(self.weight.items())
        node, message, source, target, edge = (
            w[n].abs().sum(1, keepdim=True) for n in ("node", "message", "source", "target", "edge")
        )
        of_node = self.kappa / (node + _GATED * message).clamp(min=self.kappa)
        of_edge = self.kappa / (source + target + edge).clamp(min=self.kappa)
        steep = w["gate"].abs().sum(1, keepdim=True).clamp(min=_STEEPNESS)
        scale = dict.fromkeys(("node", "message"), of_node)
        scale |= dict.fromkeys(("source", "target", "edge"), of_edge)
        scale["gate"] = _STEEPNESS / steep
        return {name: weight * scale[name] for name, weight in w.items()}

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        """An upper bound on the Lipschitz constant of one step in the maximum norm, for states
        within [-1, 1], which every step returns, on every ``graph``.
        """
        w = {name: weight.abs().sum(1) for name, weight in self._weights().items()}
        of_node = (w["node"] + _GATED * w["message"]).max()
        return torch.maximum(of_node, (w["source"] + w["target"] + w["edge"]).max())

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The rows of nodes and edges, and the edges between them.

        Args:
            x: The injections, ``{"node": x, "edge": edge_attr}``.
            edge_index: Edge indices ``[2, num_edges]``.
            edge_attr: ``None``: attributes of edges are an injection here.
            batch: Graph indices of the nodes; ``None`` for a single graph.
            context: Nothing else.
        """
        if isinstance(x, Tensor) and "node_type" in context:
            return super().flatten(x, edge_index, edge_attr, batch, context)
        if not isinstance(x, Mapping):
            raise TypeError(
                "Expected the injections of nodes and edges, x={'node': x, 'edge': edge_attr} "
                f"(got {type(x).__name__})"
            )
        check_names("x", list(x), ["node", "edge"])
        if edge_attr is not None:
            raise ValueError(
                "Expected edge_attr=None (got one). Attributes of edges are an injection here: "
                "x={'node': x, 'edge': edge_attr}"
            )
        count = x["edge"].size(0)
        if not isinstance(edge_index, Tensor) or list(edge_index.shape) != [2, count]:
            raise ValueError(
                f"Expected 'edge_index' of shape [2, {count}], an edge for each row of x['edge'] "
                f"(got {list(getattr(edge_index, 'shape', []))})"
            )
        if edge_index.dtype not in (torch.long, torch.int):
            raise TypeError(f"Expected integer 'edge_index' (got {edge_index.dtype})")
        num_nodes = x["node"].size(0)
        check_range("edge_index", edge_index, num_nodes, "num_nodes")
        source, target = edge_index.long()
        edge = torch.arange(count, device=source.device)
        relations = {
            _SENDS: torch.stack([source, edge]), _RECEIVES: torch.stack([target, edge]),
            _GATES: torch.stack([edge, target]), _REACHES: torch.stack([source, target]),
        }  # fmt: skip
        if batch is not None:
            if not isinstance(batch, Tensor) or batch.shape != (num_nodes,):
                raise ValueError(
                    f"Expected 'batch' of shape [num_nodes] = [{num_nodes}] "
                    f"(got {list(getattr(batch, 'shape', []))})"
                )
            batch = {"node": batch, "edge": batch[target]}
        return super().flatten(x, relations, None, batch, context)

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> NodeEdgeStep:
        """Bind graph and injection, as rows; see :class:`gncadeq.TypedCell`."""
        typed = self.typed(x, edge_index, **context)
        ends: list[Tensor] = []
        for relation in (_SENDS, _RECEIVES):
            node, edge = typed.edge_index[relation]
            if edge.numel() != typed.layout.sizes[1]:
                raise ValueError(
                    f"Expected one edge {relation} for each of {typed.layout.sizes[1]} rows of "
                    f"edges (got {edge.numel()})"
                )
            ends.append(torch.empty_like(node).index_copy(0, edge, node))
        return NodeEdgeStep(self._weights(), typed.layout, ends[0], ends[1], x)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.state_channels}, kappa={self.kappa:g}"
