"""Any conv of PyTorch Geometric as the rule of a cell."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from gncadeq.cell import check_graph
from gncadeq.cells.pyg.conv_certificate import conv_certificate
from gncadeq.cells.pyg.conv_scale import ScaledConvCell
from gncadeq.cells.pyg.conv_signature import (
    check_width,
    conv_arguments,
    is_lazy,
    read_signature,
)
from gncadeq.cells.pyg.conv_step import WrappedConvStep
from gncadeq.cells.pyg.conv_width import state_width
from gncadeq.cells.pyg.modules import Activation, activation_of, norm_of
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count, check_flag, check_value
from gncadeq.graph.adjacency import written_edges
from gncadeq.graph.layout import FlatGraph
from gncadeq.graph.neighborhood import check_range
from gncadeq.graph.rows import Rows, declared_rows
from gncadeq.typing import Adj, OptTensor

_SLOW = 10.0  # Adam's steps have a fixed size: they turn larger matrices more slowly


class WrappedConvCell(ScaledConvCell):
    r"""Any conv of PyTorch Geometric that maps :math:`[N, C]` to :math:`[N, C]`, as a cell.

    .. math::
        \mathbf{z}' = \sigma \big( s \; \mathrm{norm}(\mathrm{conv}(\mathbf{z}; \mathcal{G})) +
        \mathbf{U} \mathbf{x} + \mathbf{b} \big) , \qquad
        s = \min \big( 1, \, \kappa / L \big)

    For a conv with an initial residual (``x_0``: :class:`~torch_geometric.nn.GCN2Conv`,
    :class:`~torch_geometric.nn.FAConv`), :math:`\mathbf{U} \mathbf{x} + \mathbf{b}` is that, and
    isn't added again.

    :math:`L` is what keeps a stack of convs from having an equilibrium, and :math:`s` takes it
    away:

    - **Proven.** For linear convs with a normalised adjacency (GCN, SAGE with means, TAG, Cheb, SG,
      SSG, LG, GCN2, APPNP) :math:`L` is a Lipschitz constant on every undirected graph, from the
      spectral norms of the weights (:func:`~gncadeq.cells.proven_bound`): the cell is a
      contraction by :math:`\kappa`, and :meth:`lipschitz_bound` says so. With ``normalize=False``
      (edges normalised beforehand, or weighted as one likes) it holds on every graph, by the
      spectral radius of the absolute weights.
      Attention is held: what one node thinks of another (``GATConv``, ``GATv2Conv``,
      ``TransformerConv``) is computed once, at :math:`\sigma(\mathbf{U} \mathbf{x} + \mathbf{b})`,
      and the solve averages with that. The conv is then linear, and :math:`L` holds on directed
      graphs, too (:func:`~gncadeq.cells.held_bound`).
      Sums and averages of neighbours between networks of ReLUs (``GINConv``, ``GINEConv``,
      ``GraphConv``) are scaled node by node, by degree, on every graph, too: a hub doesn't silence
      the others (:func:`~gncadeq.cells.node_bound`).
      A proof is about PyG's own classes, made of PyG's own parts: not about subclasses, adapters,
      hooks, or the older ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune``. (Its
      ``parametrizations.weight_norm`` and ``orthogonal`` keep it.)
    - **Measured.** For any other, :math:`L` is the rate at which the conv's Jacobian makes vectors
      grow on a connected component, three steps after :math:`\sigma(\mathbf{U} \mathbf{x} +
      \mathbf{b})` (:func:`~gncadeq.cells.growth_rate`), the largest of all components; or, if the
      conv is linear in its state, its operator norm by power steps, which holds at every state. It
      makes most solves converge and promises nothing; the solution's status tells.
      It is one number for the conv, and part of the model as a batch norm's statistics are
      (:class:`~gncadeq.cells.MeasuredGrowth`): the first call measures it, and in training every
      call after the parameters have changed. In evaluation it is a constant, whatever the graph and
      its batch-mates; :meth:`measure` measures it anew.

    The gradient of a solve is that of the map with :math:`s` in it, where :math:`s` is a function
    of the weights if it is proven, and a constant if it is measured.

    What the conv calls ``edge_weight``, ``edge_attr`` or ``edge_type`` is the dynamics'
    ``edge_attr``, or can be given by its own name; whatever else its forward takes (``pos``,
    ``node_type``) by name. A normalisation of the edges that the conv would repeat in every step
    (``ChebConv``, ``GCNConv`` and all that have ``cached``) is computed once a solve. The conv's
    own cache is never used, so graphs may change.

    ``GCNConv``, ``SAGEConv`` (means and sums), ``GraphConv``, ``ChebConv``, ``SGConv``,
    ``TAGConv``, ``LGConv`` and ``APPNP`` run as products with one sparse matrix, to the same
    results; it is made once for one and the same graph. A subclass, or a conv with hooks, replaced
    or parametrised parts, an explainer or dropout, runs as it is.

    Args:
        conv: The conv.
        in_channels: Channels of the injection ``x``.
        channels: Channels :math:`C` of the state; by default the conv's ``in_channels``, what a
            lazy conv (``GCNConv(-1, 64)``) returns, or the one width for which a conv that doesn't
            say (``GINConv``, one's own) maps states to states. A lazy conv gets its weights in the
            first call: make it before the optimiser.
        activation: :math:`\sigma`, by name, as a module or as a function such as ``torch.tanh``;
            ``None`` for the identity. ``"tanh"`` keeps signs, which embeddings need, and bounds the
            state; choose ``"relu"`` for states that count or weigh something, ``None`` where sizes
            far above one must be told apart.
        norm: A norm over the conv's output, by name or as a module, as PyG's models take it;
            nothing is then proven.
        contraction: The :math:`\kappa > 0`; ``None`` leaves the conv as it is (:math:`s = 1`).
        bias: Whether to add :math:`\mathbf{b}`.
        attention: Where the weights of an attention conv come from: the ``"injection"``, held for
            a solve, or the ``"state"``, anew in every step, of which nothing is proven. It is of no
            importance to convs of which :func:`~gncadeq.cells.can_hold_attention` is false.
        init: ``"conv"`` leaves the conv's weights as they come; ``"identity"`` overwrites its
            square matrices ``[C, C]`` by identities, here and in :meth:`reset_parameters`: the
            state then starts as the injection smoothed over the graph, which trains better than a
            random mixture of it. ``"ranges"`` lets the channels see from no neighbour to as far as
            :math:`\kappa` allows, :math:`s \mathbf{W} = \kappa \, \mathrm{diag}(0, \dots, 1)`,
            where the scale of a conv's matrices is free: in linear convs of which a bound is
            proven, without an initial residual. There :math:`\mathbf{W}` is ten times as large as
            its direction needs, which :math:`s` undoes: an optimiser turns it the more slowly.
            Others start as by ``"identity"``.
        power_steps: Vector-Jacobian products in a measurement of :math:`L`.
        rows: What the rows of tensors that the conv takes by name belong to, where PyG gives their
            name no meaning: ``{"dist": "edge"}``, see :data:`gncadeq.graph.rows.Rows`. Without it,
            their size tells in the call, and graphs of a batch are solved until the last has
            converged.

    Shapes:
        - **input:** state :math:`(|\mathcal{V}|, C)`, injection :math:`(|\mathcal{V}|, F)`, dense
          or sparse, edge indices :math:`(2, |\mathcal{E}|)`, what the conv wants of edges
        - **output:** state :math:`(|\mathcal{V}|, C)`

    Raises:
        ValueError: If the conv takes no edge indices, its width can't be read off it, or an option
            is out of range.

    Example:
        >>> from torch_geometric.nn import GATConv
        >>> from gncadeq import GraphDEQ
        >>> deq = GraphDEQ(WrappedConvCell(GATConv(8, 4, heads=2), in_channels=3))
        >>> deq(torch.rand(4, 3), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        conv: nn.Module,
        in_channels: int,
        channels: int | None = None,
        activation: Activation = "tanh",
        norm: str | nn.Module | None = None,
        contraction: float | None = 0.9,
        bias: bool = True,
        attention: Literal["injection", "state"] = "injection",
        init: Literal["conv", "identity", "ranges"] = "conv",
        power_steps: int = 8,
        rows: Mapping[str, Rows] | None = None,
    ) -> None:
        super().__init__()
        self.signature = read_signature(conv)
        self.hypergraph = self.signature.graph == "hyperedge_index"
        if init != "conv" and is_lazy(conv):
            raise ValueError(
                f"Expected a conv with weights to overwrite by init={init!r} (got a lazy "
                f"{type(conv).__name__}). Say its widths instead of -1"
            )
        channels = state_width(conv, self.signature) if channels is None else channels
        hint = "U is made before the first call: use the width of 'x', data.num_features"
        in_channels = check_count("in_channels", in_channels, 1, hint=hint)
        channels = check_count("channels", channels, 1)
        check_width(conv, channels)
        contraction = check_value("contraction", contraction, float | None, above=0.0)
        check_choice("init", init, ("conv", "identity", "ranges"))
        check_choice("attention", attention, ("injection", "state"))
        check_flag("bias", bias)
        power_steps = check_count("power_steps", power_steps, 2)
        self.in_channels, self.channels = in_channels, channels
        self.contraction, self.power_steps = contraction, power_steps
        self.conv = conv
        self.inject = nn.Linear(in_channels, channels, bias=bias)
        self.activation = activation_of(activation)
        self.norm = norm_of(norm, channels)
        self.norm_batch = (
            self.norm is not None and "batch" in inspect.signature(self.norm.forward).parameters
        )
        edge = self.signature.edge
        self.conv_names = (*self.signature.context, *([edge] if edge else []))
        extra = ["batch"] if self.norm_batch else []
        extra += [edge] if edge and edge != "edge_attr" else []
        names = {**self.signature.context, **dict.fromkeys(extra)}
        self.context = declared_rows(names, rows)
        self.rows: dict[str, Rows | None] = {**self.context, "edge_attr": "edge"}
        self.init: Literal["conv", "identity", "ranges"] = init
        self.attention: Literal["injection", "state"] = attention
        self._reset_own()

    def _reset_own(self) -> None:
        if self.init != "conv":
            diagonal = torch.ones(self.channels)
            if self.init == "ranges" and self._takes_any_scale:
                diagonal = _SLOW * torch.linspace(1, 0, self.channels).flip(0)
            for parameter in self.conv.parameters():
                if parameter.shape == (self.channels, self.channels):
                    with torch.no_grad():
                        parameter.copy_(diagonal.diag())
        nn.init.xavier_uniform_(self.inject.weight)
        if self.inject.bias is not None:
            nn.init.zeros_(self.inject.bias)

    @property
    def required(self) -> tuple[str, ...]:
        """What the conv takes without a default, and what tells graphs of a batch apart."""
        return tuple({*self.signature.required, *({"batch"} & set(self.context))})

    @property
    def _takes_any_scale(self) -> bool:
        """Whether the scale of the conv's matrices is undone by that of the conv, exactly."""
        other = self.holds_attention or self.sums_neighbors or self.signature.initial
        return self.contraction is not None and self.proven and not other

    def reset_parameters(self) -> None:
        """Draw fresh parameters, the conv's and the norm's included."""
        for module in (self.conv, self.activation, self.norm):
            reset(module)
        self.growth.reset()
        self._reset_own()

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph as dynamics see it, where a sparse ``x`` has become what it injects."""
        if not isinstance(x, Tensor) or x.layout == torch.strided:
            return super().flatten(x, edge_index, edge_attr, batch, context)
        check_graph(x, edge_index, self.in_channels, self.inject.weight.dtype)
        if x.dense_dim():
            raise ValueError(
                f"Expected a sparse 'x' without dense dimensions (got {x.dense_dim()}). Use "
                "x.to_dense()"
            )
        # Half precision is widened, as that of a dense 'x' is.
        drive = torch.sparse.mm(x.to(self.inject.weight.dtype), self.inject.weight.t())
        drive = drive if self.inject.bias is None else drive + self.inject.bias
        flat = super().flatten(drive, edge_index, edge_attr, batch, context)
        rows: dict[str, Rows] = {**flat.rows, "drive": "node"}
        return replace(flat, context={**flat.context, "drive": drive}, rows=rows)

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> WrappedConvStep:
        r"""Bind graph and injection; see :class:`gncadeq.Cell`.

        Args:
            x: The injection ``[num_nodes, in_channels]``.
            edge_index: Edge indices ``[2, num_edges]``.
            edge_attr: What the conv calls ``edge_attr``, ``edge_weight`` or ``edge_type``.
            context: What else the conv's forward takes, by its name; and ``drive``, which takes the
                place of :math:`\mathbf{U} \mathbf{x} + \mathbf{b}` where it was computed before.

        Raises:
            ValueError: On shapes, indices or devices that don't fit, or where the conv needs what
                it wasn't given.
            TypeError: On a wrong dtype.
        """
        drive = context.pop("drive", None)
        width = self.in_channels if drive is None else self.channels
        check_graph(x, edge_index, width, self.inject.weight.dtype)
        edge_index = written_edges(edge_index, edge_attr)
        nodes = edge_index[:1] if self.hypergraph else edge_index
        check_range("edge_index", nodes, x.size(0), "num_nodes")
        arguments = conv_arguments(self.conv, self.signature, x, edge_index, edge_attr, context)
        drive = self.inject(x) if drive is None else drive
        step = WrappedConvStep.of(self, edge_index.long(), drive, arguments)
        if is_lazy(self.conv):
            with torch.inference_mode(False), torch.no_grad():  # whose weights can't be trained
                step.recorded().image(step.drive)
        step = self._held(step)
        if self.contraction is not None:
            bound = self._bound(step)
            step.scale = (self.contraction / bound.clamp(min=self.contraction)).to(x.dtype)
        if step.cache.filled and any(v.requires_grad for v in arguments.values()):
            step.image(step.drive.new_zeros(x.size(0), self.channels))  # the cache, with gradients
        return step

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | None:
        """The contraction by :meth:`lipschitz_bound`, in the norm in which it holds."""
        return conv_certificate(self, edge_index, edge_attr, num_nodes, context)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return (
            f"{self.in_channels}, {self.channels}, contraction={self.contraction}, "
            f"init={self.init!r}"
        )
