"""A contraction on any typed graph: one matrix a relation, one state a node type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq.cells.typed import Typed, TypedCell
from gncadeq.certificate import Certificate, CertifiedPart, StructuralCertificate
from gncadeq.check import check_choice, check_number
from gncadeq.graph.layout import StateLayout
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import Adj, EdgeType, OptTensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

Activation = Literal["relu", "tanh", "identity"]
Bound = Literal["all", "cycles"]
Start = Literal["orthogonal", "identity"]


@dataclass(eq=False)
class RelationStep:
    """One step of a :class:`RelationCell` with graph and injection bound."""

    layout: StateLayout
    relations: dict[EdgeType, tuple[SparseMatrix, Tensor]]
    own: dict[str, Tensor]
    drive: Tensor
    activation: Activation

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        # φ(Σ_r Â_r z_s W_rᵀ + z_t W_tᵀ + d_t)
        states = self.layout.unpack(z)
        out = {name: F.linear(states[name], weight) for name, weight in self.own.items()}
        for (source, _, target), (matrix, weight) in self.relations.items():
            sent = F.linear(states[source], weight).to(matrix.weight.dtype)  # half under autocast
            out[target] = out[target] + matrix(sent)
        y = self.layout.pack(out) + self.drive
        if self.activation == "identity":
            return y
        return y.relu() if self.activation == "relu" else y.tanh()

    def restrict(self, nodes: Tensor) -> RelationStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        layout = self.layout.restrict(nodes)
        place = self.layout.positions()[nodes]
        kept = {name: place[rows] for name, rows in layout.rows().items()}
        relations = {
            relation: (matrix.restrict(kept[relation[2]], kept[relation[0]]), weight)
            for relation, (matrix, weight) in self.relations.items()
        }
        return RelationStep(layout, relations, self.own, self.drive[nodes], self.activation)


class RelationCell(TypedCell):
    r"""A linear map a relation, one a node type, and an activation; a contraction on every graph.

    .. math::
        \mathbf{z}_t' = \phi \Big( \sum_{r : s \to t} \hat{\mathbf{A}}_r \, \mathbf{z}_s
        \mathbf{W}_r^\top + \mathbf{z}_t \mathbf{W}_t^\top + \mathbf{x}_t \mathbf{U}_t^\top +
        \mathbf{b}_t \Big), \qquad
        \hat{\mathbf{A}}_r = \mathbf{D}_t^{-1/2} \mathbf{A}_r \mathbf{D}_s^{-1/2}

    is the relational convolution of `"Modeling Relational Data with Graph Convolutional Networks"
    <https://arxiv.org/abs/1703.06103>`_ (Schlichtkrull et al. 2018, eq. 2) with one state for every
    node type, its injection in every step as in Gu et al. (2020, eq. 2a), and degrees of a
    relation's own edges: row sums in :math:`\mathbf{D}_t`, column sums in :math:`\mathbf{D}_s`. So
    :math:`\lVert \hat{\mathbf{A}}_r \rVert_2 \le 1` on directed graphs too (Schur's test). With

    .. math::
        M_{ts} = \sum_{r : s \to t} \lVert \mathbf{W}_r \rVert_2 + [s = t]
        \lVert \mathbf{W}_t \rVert_2 ,

    a step stretches Euclidean distances by :math:`\lVert \mathbf{M} \rVert_2` at most. All matrices
    are scaled by :math:`\min(1, \kappa / \lVert \mathbf{M} \rVert_2)` wherever they are used, so
    no training step leaves the bound. On the levels of :class:`~gncadeq.transforms.Coarsen` it is
    a multi-scale equilibrium (`Bai et al. 2020 <https://arxiv.org/abs/2006.08656>`_).

    What a relation passes on therefore fades, all the more the more relations share the bound. With
    ``bound="cycles"`` only those share it that lie on a cycle of node types: the blocks of
    :math:`\mathbf{M}` between types that read each other, each bounded by itself. A relation from
    one block to a later one keeps its matrix as it is. The Jacobian of a step is then
    block-triangular: there is still one equilibrium, which every start reaches, but a single step
    may stretch distances.

    Args:
        in_channels: Channels of the injection of every node type.
        channels: Channels of every node type's state, or one number for all.
        edge_types: The relations, ``(source type, name, target type)``: ``data.edge_types``.
        kappa: The bound :math:`\kappa` in (0, 1).
        activation: ``"relu"``, ``"tanh"`` or ``"identity"``, all non-expansive entry by entry.
        weighted: Those relations whose edges have weights, of any sign, given as ``edge_attr``.
        bias: Whether to add :math:`\mathbf{b}_t`.
        bound: Which relations share :math:`\kappa`: ``"all"``, or those on ``"cycles"`` of types.
        init: ``"orthogonal"`` matrices at the start, or the ``"identity"``, which keeps apart over
            many relations what it is given; a node's own are a tenth of that.

    Shapes:
        - **input:** states :math:`(|\mathcal{V}_t|, C_t)`, injections :math:`(|\mathcal{V}_t|,
          F_t)`, edge indices :math:`(2, |\mathcal{E}_r|)`, edge weights :math:`(|\mathcal{E}_r|)`
        - **output:** states :math:`(|\mathcal{V}_t|, C_t)`

    Raises:
        ValueError: If an argument is out of range, or names don't fit.

    Example:
        >>> from gncadeq import GraphDEQ
        >>> x = {"paper": torch.rand(3, 4), "word": torch.ones(2, 1)}
        >>> has, of = ("paper", "has", "word"), ("word", "of", "paper")
        >>> edge_index = {has: torch.tensor([[0, 1, 2], [0, 0, 1]])}
        >>> edge_index[of] = edge_index[has].flip(0)
        >>> deq = GraphDEQ(RelationCell({"paper": 4, "word": 1}, 8, [has, of]))
        >>> {name: list(z.shape) for name, z in deq(x, edge_index).items()}
        {'paper': [3, 8], 'word': [2, 8]}
        >>> bool(deq.cell.lipschitz_bound() <= 0.95 + 1e-6)
        True
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int | Mapping[str, int],
        edge_types: Sequence[EdgeType],
        kappa: float = 0.95,
        activation: Activation = "relu",
        weighted: Sequence[EdgeType] = (),
        bias: bool = True,
        bound: Bound = "all",
        init: Start = "orthogonal",
    ) -> None:
        super().__init__(in_channels, channels, edge_types, dict.fromkeys(weighted, 1), bias)
        hint = "An equilibrium is certain there"
        kappa = check_number("kappa", kappa, above=0.0, below=1.0, hint=hint)
        check_choice("activation", activation, ("relu", "tanh", "identity"))
        self.bound: Bound = check_choice("bound", bound, get_args(Bound))
        self.init: Start = check_choice("init", init, get_args(Start))
        self.kappa, self.activation = kappa, activation
        c = self.state_channels
        self.weight = nn.ParameterList(
            nn.Parameter(torch.empty(c[t], c[s])) for s, _, t in self.edge_types
        )
        self.weight_own = nn.ParameterList(nn.Parameter(torch.empty(n, n)) for n in c.values())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters; matrices of a node's own state are a tenth of the others."""
        super().reset_parameters()
        start = nn.init.orthogonal_ if self.init == "orthogonal" else nn.init.eye_
        for weight in (*self.weight, *self.weight_own):
            start(weight)
        for weight in self.weight_own:
            weight.data *= 0.1

    def _norms(self) -> Tensor:
        """**M** of the free parameters."""
        place = {name: k for k, name in enumerate(self.state_channels)}
        ends = [(t, s) for s, _, t in self.edge_types] + [(name, name) for name in place]
        weights = (*self.weight, *self.weight_own)
        norms = torch.stack([torch.linalg.matrix_norm(weight, 2) for weight in weights])
        n = len(place)
        index = torch.tensor([place[t] * n + place[s] for t, s in ends], device=norms.device)
        return norms.new_zeros(n * n).index_add(0, index, norms).view(n, n)

    def _blocks(self) -> list[list[int]]:
        """The types that share a bound, by number; each block reads itself and earlier ones."""
        names = list(self.state_channels)
        if self.bound == "all":
            return [list(range(len(names)))]
        reads = torch.eye(len(names), dtype=torch.bool)
        for source, _, target in self.edge_types:
            reads[names.index(target), names.index(source)] = True
        for k in range(len(names)):  # all that a type reads, over any number of relations
            reads |= reads[:, k, None] & reads[k]
        together = reads & reads.t()
        blocks = {int(row.nonzero()[0]): row.nonzero().flatten().tolist() for row in together}
        return [blocks[first] for first in sorted(blocks, key=lambda k: int(reads[k].sum()))]

    def _scales(self, norms: Tensor) -> Tensor:
        """What the matrices of each pair of types are multiplied by, in the shape of **M**."""
        scales = torch.ones_like(norms)
        for block in self._blocks():
            stretch = torch.linalg.matrix_norm(norms[block][:, block], 2)
            inside = norms.new_zeros(norms.shape, dtype=torch.bool)
            inside[torch.tensor(block)[:, None], torch.tensor(block)] = True
            scales = torch.where(inside, self.kappa / stretch.clamp(min=self.kappa), scales)
        return scales

    @torch.no_grad()
    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound on the Lipschitz constant of one step in the Euclidean norm of all states
        together, on every ``graph``: :math:`\lVert \mathbf{M} \rVert_2` of the matrices as they
        are used, at most :math:`\kappa` unless ``bound="cycles"`` leaves some free.
        """
        norms = self._norms()
        bound: Tensor = torch.linalg.matrix_norm(norms * self._scales(norms), 2)
        return bound

    @torch.no_grad()
    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate | StructuralCertificate | None:
        """The contraction by :meth:`lipschitz_bound`, in the Euclidean norm of all states; or the
        contractions of all blocks of types, each driven by earlier ones."""
        blocks = self._blocks()
        if len(blocks) == 1:
            return Certificate(float(self.lipschitz_bound()))
        free = self._norms()
        norms = free * self._scales(free)
        parts: list[CertifiedPart] = []
        for p, block in enumerate(blocks):
            rate = float(torch.linalg.matrix_norm(norms[block][:, block], 2))
            rows = torch.isin(context["node_type"], context["node_type"].new_tensor(block))
            rows = rows.nonzero().flatten()
            gains = {
                q: float(torch.linalg.matrix_norm(norms[block][:, blocks[q]], 2)) for q in range(p)
            }
            drives = {q: gain for q, gain in gains.items() if gain}
            take = partial(torch.index_select, dim=0, index=rows)
            parts.append(CertifiedPart(Certificate(rate), take, rows, drives))
        rate = max(float(part.certificate.rate) for part in parts)
        return StructuralCertificate(rate, parts=tuple(parts))

    def prepare(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> RelationStep:
        """Bind graph and injection, as rows; see :class:`gncadeq.TypedCell`."""
        typed = self.typed(x, edge_index, **context)
        scales = self._scales(self._norms())
        place = {name: k for k, name in enumerate(self.state_channels)}
        sizes = dict(zip(self.state_channels, typed.layout.sizes, strict=True))
        relations = {}
        for relation, weight in zip(self.edge_types, self.weight, strict=True):
            source, _, target = relation
            entries = x.new_ones(typed.edges[relation].numel())
            if relation in self.edge_channels:
                entries = _weights(edge_attr, typed, relation)
            edges = typed.edge_index[relation]
            matrix = _normalized(edges, entries, sizes[target], sizes[source])
            relations[relation] = matrix, weight * scales[place[target], place[source]]
        own = {
            name: weight * scales[place[name], place[name]]
            for name, weight in zip(self.state_channels, self.weight_own, strict=True)
        }
        return RelationStep(typed.layout, relations, own, x, self.activation)

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{super().extra_repr()}, kappa={self.kappa:g}, activation={self.activation!r}"


def _weights(edge_attr: OptTensor, typed: Typed, relation: EdgeType) -> Tensor:
    if edge_attr is None:
        raise ValueError(f"Expected 'edge_attr', the weights of {relation} (got None)")
    return edge_attr[typed.edges[relation], 0]


def _normalized(edge_index: Tensor, entries: Tensor, num_rows: int, num_cols: int) -> SparseMatrix:
    """``D_t^{-1/2} A D_s^{-1/2}`` of a relation."""
    rows, order = SparseRows.sort(edge_index[1], edge_index[0], num_rows, num_cols)
    entries = entries[order]
    row, col = rows.row.long(), rows.col.long()
    into = entries.new_zeros(num_rows).index_add(0, row, entries.abs())
    out = entries.new_zeros(num_cols).index_add(0, col, entries.abs())
    # One root after the other: a product of small degrees would be zero.
    into, out = (torch.where(d > 0, d, 1.0).rsqrt() for d in (into, out))
    return SparseMatrix(rows, entries * into[row] * out[col])
