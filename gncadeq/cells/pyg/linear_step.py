"""Steps of convs that are linear in the state, as products with one sparse matrix."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.conv import gcn_conv

from gncadeq.cells.pyg.conv_bounds import EXPLAINER, is_hooked, is_known
from gncadeq.cells.pyg.conv_signature import is_lazy
from gncadeq.cells.pyg.conv_step import RestrictableConvStep, WrappedConvStep
from gncadeq.graph.recording import transforms_active
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.typing import OptTensor

Multiply = Callable[[Tensor], Tensor]


def _gcn(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    y = a(conv.lin(z))
    return y if conv.bias is None else y + conv.bias


def _sage(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    y: Tensor = conv.lin_l(a(z))
    return y + conv.lin_r(z) if conv.root_weight else y


def _graph(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    y: Tensor = conv.lin_rel(a(z)) + conv.lin_root(z)
    return y


def _sg(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    for _ in range(conv.K):
        z = a(z)
    y: Tensor = conv.lin(z)
    return y


def _tag(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    y: Tensor = conv.lins[0](z)
    for lin in conv.lins[1:]:
        z = a(z)
        y = y + lin(z)
    return y if conv.bias is None else y + conv.bias


def _cheb(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    y: Tensor = conv.lins[0](z)
    before, now = z, z
    for k, lin in enumerate(conv.lins[1:]):
        before, now = now, a(now) if k == 0 else 2.0 * a(now) - before
        y = y + lin(now)
    return y if conv.bias is None else y + conv.bias


def _lg(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    return a(z)


def _appnp(conv: Any, a: Multiply, z: Tensor) -> Tensor:
    h = z
    for _ in range(conv.K):
        z = a(z) * (1 - conv.alpha) + conv.alpha * h
    return z


_FORMS: dict[type, Callable[[Any, Multiply, Tensor], Tensor]] = {
    pyg.GCNConv: _gcn,
    pyg.SAGEConv: _sage,
    pyg.GraphConv: _graph,
    pyg.SGConv: _sg,
    pyg.TAGConv: _tag,
    pyg.ChebConv: _cheb,
    pyg.LGConv: _lg,
    pyg.APPNP: _appnp,
}


class LinearConvStep(RestrictableConvStep):
    """A step of a conv whose messages are summed by one sparse matrix.

    PyG gathers a message for every edge and scatters them; the matrix, made once a solve, needs no
    memory for messages, and its adjoint is the product with the reversed edges.
    """

    matrix: SparseMatrix

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
        new = cls(step.cell, step.edge_index, step.drive, step.arguments)
        new.matrix = _remembered(step.conv, step.edge_index, weight, step.drive)
        return new

    def output(self, z: Tensor) -> Tensor:
        """The conv of a state."""
        if z.dtype != self.matrix.weight.dtype or torch.is_autocast_enabled(z.device.type):
            return super().output(z)
        return self.check(z, _FORMS[type(self.conv)](self.conv, self.matrix, z))

    def restrict(self, nodes: Tensor) -> LinearConvStep:
        """The same step on ``nodes``, the ascending indices of whole graphs."""
        new: Any = super().restrict(nodes)
        new.matrix = self.matrix.restrict(nodes)
        return new  # type: ignore[no-any-return]


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
    if (weight is not None and weight.requires_grad) or transforms_active():
        return _matrix(conv, edge_index, weight, like)
    names = ("normalize", "normalization", "improved", "add_self_loops", "flow", "aggr_module")
    options = (like.size(0), like.dtype, *(getattr(conv, name, None) for name in names))
    known = _LAST.get(conv)
    if known is not None and known[0] == options and _same(known[1], (edge_index, weight)):
        return known[2]
    matrix = _matrix(conv, edge_index, weight, like)
    if not matrix.weight.is_inference():  # whose tensors autograd may not save
        given = edge_index.clone(), None if weight is None else weight.clone()
        _LAST[conv] = options, given, matrix
    return matrix


# Of convs: their options, edges and weights, compared because versions don't tell of all changes,
# and the matrix that was made of them.
_LAST: MutableMapping[nn.Module, tuple[Any, tuple[Tensor, OptTensor], SparseMatrix]] = (
    WeakKeyDictionary()
)


def _same(known: tuple[OptTensor, ...], given: tuple[OptTensor, ...]) -> bool:
    return all(
        a is b or (a is not None and b is not None and a.device == b.device and torch.equal(a, b))
        for a, b in zip(known, given, strict=True)
    )


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
