"""Steps of convs that are linear in the state, as products with one sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.conv import gcn_conv

from gncadeq.cells.pyg.conv_bounds import EXPLAINER, is_hooked, is_known
from gncadeq.cells.pyg.conv_signature import is_lazy
from gncadeq.cells.pyg.conv_step import (
    RestrictableConvStep,
    WrappedConvStep,
    knows_slope,
    remembered,
)
from gncadeq.graph.recording import recorded
from gncadeq.graph.rows import Restrictable
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import OptTensor

Terms = dict[int, Tensor | float]
"""What the powers of a matrix, by their exponents, are multiplied by: ``Σ_k A^k z W_k``, with
matrices ``W_k`` or numbers. Of ``ChebConv`` they are Chebyshev's polynomials instead."""


def _matrices(*lins: Any) -> Terms:
    return {k: lin.weight.t() for k, lin in enumerate(lins) if lin is not None}


def _teleports(conv: Any) -> Terms:
    # z_K = (1 - α)^K A^K z + Σ_k α (1 - α)^k A^k z
    stay = 1 - float(conv.alpha)
    terms: Terms = {k: float(conv.alpha) * stay**k for k in range(conv.K)}
    return {**terms, conv.K: stay**conv.K}


_FORMS: dict[type, Callable[[Any], tuple[Terms, OptTensor]]] = {
    pyg.GCNConv: lambda c: (_matrices(None, c.lin), c.bias),
    pyg.SAGEConv: lambda c: (
        _matrices(c.lin_r if c.root_weight else None, c.lin_l), c.lin_l.bias
    ),
    pyg.GraphConv: lambda c: (_matrices(c.lin_root, c.lin_rel), c.lin_rel.bias),
    pyg.SGConv: lambda c: (_matrices(*[None] * c.K, c.lin), c.lin.bias),
    pyg.TAGConv: lambda c: (_matrices(*c.lins), c.bias),
    pyg.ChebConv: lambda c: (_matrices(*c.lins), c.bias),
    pyg.LGConv: lambda c: ({1: 1.0}, None),
    pyg.APPNP: lambda c: (_teleports(c), None),
}  # fmt: skip

_IN_PLACE: dict[type, Callable[[Tensor], Tensor]] = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_}


@dataclass(eq=False)
class _Polynomial(Restrictable):
    """``z ↦ y + Σ_k T_k(A) z W_k``, with powers or Chebyshev's polynomials of a matrix."""

    matrix: SparseMatrix
    chebyshev: bool

    def __call__(self, z: Tensor, terms: Terms, added: OptTensor) -> Tensor:
        before, now, keep = z, z, recorded()
        y: OptTensor = None
        for k in range(max(terms) + 1):
            if k:
                after = self.matrix(now)
                if self.chebyshev and k > 1:
                    after = 2.0 * after - before
                before, now = now, after
            factor = terms.get(k)
            if factor is None:
                continue
            if not isinstance(factor, Tensor) or factor.dim() == 0:
                y = factor * now if y is None else y + factor * now
            elif y is None:
                y = now @ factor
            else:  # in place, where nothing is recorded: fresh memory takes as long as a product
                y = torch.addmm(y, now, factor, out=None if keep else y)
        assert y is not None
        if added is None:
            return y
        return y + added if keep else y.add_(added)


@dataclass(eq=False)
class _LinearAdjoint(Restrictable):
    """The transposed Jacobian of a :class:`LinearAdjointStep` at a state."""

    polynomial: _Polynomial
    terms: Terms
    slope: Tensor
    per_node = ("slope",)

    def __call__(self, u: Tensor) -> Tensor:
        """Multiply ``u`` ``[num_nodes, channels]``."""
        # Jᵀ u = Σ_k T_k(Aᵀ) (s σ' u) W_kᵀ
        return self.polynomial(self.slope * u, self.terms, None)


class LinearConvStep(RestrictableConvStep):
    """A step of a conv whose messages are summed by one sparse matrix.

    PyG gathers a message for every edge and scatters them; the matrix, made once a solve, needs no
    memory for messages, and its adjoint is the product with the reversed edges.
    """

    polynomial: _Polynomial
    _bound: tuple[Terms, Tensor] | None = None

    @classmethod
    def of_step(cls, step: WrappedConvStep) -> WrappedConvStep:
        """The same step in this form, if its conv is one that is known and nobody has changed.

        Subclasses, replaced or parametrised parts, hooks, explainers and dropout keep PyG's form,
        and so does what is compiled.
        """
        if type(step) is not RestrictableConvStep or not _is_known(step.conv):
            return step
        weight = step.arguments.get("edge_weight")
        if not step.arguments.keys() <= {"edge_weight", "batch"} or step.cell.signature.initial:
            return step
        if weight is not None and weight.dtype != step.drive.dtype:
            return step
        if not step.drive.size(0):  # of which no Laplacian has a largest entry
            return step
        kind = LinearAdjointStep if knows_slope(step.cell) else LinearConvStep
        new = kind(step.cell, step.edge_index, step.drive, step.arguments)
        matrix = _remembered(step.conv, step.edge_index, weight, step.drive)
        new.polynomial = _Polynomial(matrix, type(step.conv) is pyg.ChebConv)
        return new

    def output(self, z: Tensor) -> Tensor:
        """The conv of a state."""
        if not self._fits(z):
            return super().output(z)
        return self.check(z, self.polynomial(z, *_FORMS[type(self.conv)](self.conv)))

    def _fits(self, z: Tensor) -> bool:
        narrow = torch.is_autocast_enabled(z.device.type)
        return z.dtype == self.polynomial.matrix.weight.dtype and not narrow

    def restrict(self, nodes: Tensor) -> LinearConvStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        new: Any = super().restrict(nodes)
        new.polynomial = self.polynomial.restrict(nodes)
        if self._bound is not None:
            new._bound = self._bound[0], self._bound[1][nodes]
        return new  # type: ignore[no-any-return]


class LinearAdjointStep(LinearConvStep):
    """A :class:`LinearConvStep` with an activation whose slope is known."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        node_by_node = self.scale is not None and self.scale.dim() > 0
        if recorded() or node_by_node or not self._fits(z):
            return super().__call__(z)
        # σ(Σ_k A^k z (s W_k) + (d + s b)), whose products are computed once
        if self._bound is None:
            terms, bias = _FORMS[type(self.conv)](self.conv)
            scale = self.drive.new_ones(()) if self.scale is None else self.scale
            drive = self.drive if bias is None else self.drive + scale * bias
            self._bound = {k: scale * factor for k, factor in terms.items()}, drive
        y = self.check(z, self.polynomial(z, *self._bound))
        act = _IN_PLACE.get(type(self.cell.activation))
        return y if act is None else act(y)

    def adjoint(self, z: Tensor, fz: Tensor) -> _LinearAdjoint:
        """The transposed Jacobian of the step at ``z``, given its value ``fz`` there."""
        terms, _ = _FORMS[type(self.conv)](self.conv)
        back = {k: f.t() if isinstance(f, Tensor) else f for k, f in terms.items()}
        matrix = self.polynomial.matrix.transposed()
        return _LinearAdjoint(_Polynomial(matrix, self.polynomial.chebyshev), back, self.slope(fz))


def _is_known(conv: Any) -> bool:
    if torch.compiler.is_compiling() or not is_known(conv, _FORMS) or is_lazy(conv):
        return False
    hooks = torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks
    if (
        hooks
        or getattr(conv, "explain", None)
        or _is_replaced(conv)
        or is_hooked(conv)
        or any(map(parametrize.is_parametrized, conv.modules()))
    ):
        return False
    if getattr(conv, "project", False) or (type(conv) is pyg.SAGEConv and conv.normalize):
        return False  # which is not linear
    drops = conv.training and getattr(conv, "dropout", 0.0) > 0
    terms, bias = _FORMS[type(conv)](conv)
    matrices = sum(isinstance(factor, Tensor) for factor in terms.values())
    if len(list(conv.parameters())) != matrices + (bias is not None):
        return False  # a part that was replaced has a bias of its own
    sums = type(conv.aggr_module) in (SumAggregation, MeanAggregation)
    return sums and not drops and conv.node_dim == -2


def _is_replaced(conv: Any) -> bool:
    """Whether an explainer's methods take the place of the class's own; it leaves those behind."""
    found = {name: vars(conv)[name] for name in EXPLAINER if name in vars(conv)}
    return any(
        getattr(method, "__func__", None) is not getattr(type(conv), name)
        for name, method in found.items()
    )


def _remembered(
    conv: nn.Module, edge_index: Tensor, weight: OptTensor, like: Tensor
) -> SparseMatrix:
    """The :func:`_matrix` of a conv, made once for the graph that it was called on last."""

    def make() -> SparseMatrix:
        return _matrix(conv, edge_index, weight, like)

    if weight is not None and weight.requires_grad:
        return make()
    names = ("normalize", "normalization", "improved", "add_self_loops", "flow", "aggr_module")
    options = (like.size(0), like.dtype, *(getattr(conv, name, None) for name in names))
    return remembered(conv, options, (edge_index, weight), make)


def _matrix(conv: Any, edge_index: Tensor, weight: OptTensor, like: Tensor) -> SparseMatrix:
    """``[num_nodes, num_nodes]``, what a node sums of the others."""
    kind, n = type(conv), like.size(0)
    if kind is pyg.ChebConv:
        edge_index, weight = conv.__norm__(
            edge_index, n, weight, conv.normalization, None, like.dtype
        )
    elif kind is pyg.SGConv or (kind is not pyg.SAGEConv and getattr(conv, "normalize", False)):
        loops = kind not in (pyg.TAGConv, pyg.LGConv) and conv.add_self_loops
        improved = kind is pyg.GCNConv and conv.improved
        edge_index, weight = gcn_conv.gcn_norm(
            edge_index, weight, n, improved, loops, conv.flow, like.dtype
        )  # fmt: skip
    to = 1 if conv.flow == "source_to_target" else 0
    rows, order = SparseRows.sort(edge_index[to], edge_index[1 - to], n, n)
    entries = like.new_ones(order.numel()) if weight is None else weight.view(-1)[order]
    if type(conv.aggr_module) is MeanAggregation:
        count = (rows.ptr[1:] - rows.ptr[:-1]).clamp(min=1)
        entries = entries / count[rows.row.long()]
    return SparseMatrix(rows, entries)
