r"""How much a linear conv can stretch distances, proven.

The proofs are about undirected graphs with weights that aren't negative. There the matrices

- :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}`, with self-loops or without, and
- :math:`\mathbf{D}^{-1} \mathbf{A}`, a mean over neighbours, which is similar to the former,

have eigenvalues in [−1, 1] and shrink distances: in the Euclidean norm the first, and the second in
that norm with every node weighted by its degree. (A conv that only ever uses one of the two is
bounded in that one's norm.) A conv that takes the weights of edges as they come
(``normalize=False``) is bounded on every graph, with weights of any sign: with
:math:`|\mathbf{A}| \mathbf{v} \le \lambda \mathbf{v}` for a positive :math:`\mathbf{v}`,
:math:`\mathbf{A}` stretches :math:`\max_i \lVert \mathbf{z}_i \rVert / v_i` by
:math:`\lambda` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as parameter_is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _Orthogonal, _WeightNorm
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation

from gncadeq.typing import OptTensor

NON_EXPANSIVE = (nn.ReLU, nn.Tanh, nn.Identity, nn.Sigmoid, nn.Hardtanh, nn.Softsign)
LINEAR = (nn.Linear, nn.LazyLinear, pyg.Linear)
_PARTS = (*LINEAR, nn.ModuleList, SumAggregation, MeanAggregation)
_RECOMPUTED = (_WeightNorm, _Orthogonal)
EXPLAINER = ("explain_message", "propagate")
"""The methods that PyG's explainers set on a conv."""


def is_exact(module: nn.Module, kinds: Iterable[type]) -> bool:
    """Whether what a module computes follows from its class, its submodules and its hooks.

    It has exactly one of the given classes (subclasses are others), no method that was replaced,
    and no parametrisation but ``weight_norm`` and ``orthogonal`` of
    :mod:`torch.nn.utils.parametrizations`, which are computed anew wherever the weight is read. The
    older ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune`` compute it when the module
    is called, so that what is read before is the weight of the last call.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> is_exact(linear, LINEAR), is_exact(torch.nn.utils.spectral_norm(linear), LINEAR)
        (True, False)
    """
    kind: Any = parametrize.type_before_parametrizations(module)
    if kind not in kinds:
        return False
    if not _methods(kind).isdisjoint(vars(module)):
        return False
    if any(type(h).__module__.startswith("torch.nn.utils") for h in _hooks(module)):
        return False
    if not parametrize.is_parametrized(module):
        return True
    lists: Any = module.parametrizations
    return all(type(p) in _RECOMPUTED for several in lists.values() for p in several)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody's hooks see, and may change, what a module or one within it computes.

    Example:
        >>> conv = pyg.GCNConv(4, 4)
        >>> _ = conv.lin.register_forward_hook(lambda module, inputs, output: 2 * output)
        >>> is_hooked(conv)
        True
    """
    return any(map(has_hooks, module.modules()))


def has_hooks(module: nn.Module) -> bool:
    """Whether a module itself has hooks; those that make the weights of a lazy one don't count.

    Example:
        >>> has_hooks(pyg.Linear(-1, 4)), has_hooks(nn.Identity())
        (False, False)
    """
    if not _hooks(module):
        return False
    return not any(map(parameter_is_lazy, module.parameters(recurse=False)))


@lru_cache
def _methods(kind: type) -> frozenset[str]:
    """What a class can call, an explainer's methods aside."""
    return frozenset(n for n in dir(kind) if n not in EXPLAINER and callable(getattr(kind, n)))


def _hooks(module: nn.Module) -> list[Any]:
    # Those of torch, and those of PyG's message passing.
    found, kind = vars(module), type(module)
    if kind not in _HOOKS:
        _HOOKS[kind] = [n for n in found if n.endswith(("forward_hooks", "forward_pre_hooks"))]
    return [hook for name in _HOOKS[kind] for hook in found[name].values()]


_HOOKS: MutableMapping[type, list[str]] = WeakKeyDictionary()  # where modules of a class keep them


def is_known(module: nn.Module, kinds: Iterable[type], parts: Iterable[type] = _PARTS) -> bool:
    """Whether a module is exact, and its submodules likewise, of the classes ``parts``.

    A bound is claimed for known modules without hooks alone.

    Example:
        >>> conv = pyg.GCNConv(4, 4)
        >>> is_known(conv, [pyg.GCNConv])
        True
        >>> conv.lin = nn.Sequential(conv.lin)
        >>> is_known(conv, [pyg.GCNConv])
        False
    """
    parts = tuple(parts)
    return is_exact(module, kinds) and all(
        is_known(child, parts, parts)
        for name, child in module.named_children()
        if name != "parametrizations"
    )


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of a matrix, or of many; half precision is widened for it.

    Example:
        >>> round(spectral_norm(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).item(), 3)
        2.0
    """
    weight = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    norm: Tensor = torch.linalg.matrix_norm(weight, 2)
    return norm


def _norm(linear: Any) -> Tensor:
    return spectral_norm(linear.weight)


def _is_sum(conv: Any) -> bool:
    return type(conv.aggr_module) is SumAggregation


def _gcn(conv: Any, growth: Tensor) -> Tensor | None:
    return growth * _norm(conv.lin) if _is_sum(conv) else None


def _ssg(conv: Any, growth: Tensor) -> Tensor | None:
    # α z + (1 - α) / K Σ_k Â^k z, then W
    share = float(conv.alpha)
    return (abs(share) + abs(1 - share)) * _norm(conv.lin) if _is_sum(conv) else None


def _sage(conv: Any, growth: Tensor) -> Tensor | None:
    mean = type(conv.aggr_module) is MeanAggregation
    if not mean or conv.normalize or getattr(conv, "project", False):
        return None
    return _norm(conv.lin_l) + (_norm(conv.lin_r) if conv.root_weight else 0.0)


def _tag(conv: Any, growth: Tensor) -> Tensor | None:
    terms = [growth**k * _norm(linear) for k, linear in enumerate(conv.lins)]
    return torch.stack(terms).sum(0) if _is_sum(conv) else None


def _cheb(conv: Any, growth: Tensor) -> Tensor | None:
    # L̂ = L - I = -Â with λ_max = 2, and |T_k| ≤ 1 on [-1, 1]
    if conv.normalization != "sym" or not _is_sum(conv):
        return None
    return torch.stack([_norm(linear) for linear in conv.lins]).sum()


def _gcn2(conv: Any, growth: Tensor) -> Tensor | None:
    # (1 - α) Â z ((1 - β) I + β W), and without α where W₂ acts on the initial residual
    if not _is_sum(conv):
        return None
    weight: Tensor = conv.weight1
    eye = torch.eye(weight.size(0), dtype=weight.dtype, device=weight.device)
    alpha, beta = float(conv.alpha), float(conv.beta)
    return growth * abs(1 - alpha) * spectral_norm((1 - beta) * eye + beta * weight)


def _lg(conv: Any, growth: Tensor) -> Tensor | None:
    return growth if _is_sum(conv) else None


def _appnp(conv: Any, growth: Tensor) -> Tensor | None:
    # z ← (1 - α) Â z + α h, K times from z = h
    if not _is_sum(conv):
        return None
    share = float(conv.alpha)
    bound = torch.ones_like(growth)
    for _ in range(conv.K):
        bound = abs(1 - share) * growth * bound + abs(share)
    return bound


_BOUNDS: dict[type, Callable[[Any, Tensor], Tensor | None]] = {
    pyg.GCNConv: _gcn,
    pyg.SGConv: _gcn,
    pyg.SSGConv: _ssg,
    pyg.SAGEConv: _sage,
    pyg.TAGConv: _tag,
    pyg.ChebConv: _cheb,
    pyg.GCN2Conv: _gcn2,
    pyg.LGConv: _lg,
    pyg.APPNP: _appnp,
}


def takes_weights_as_they_are(conv: nn.Module) -> bool:
    """Whether a conv of :func:`proven_bound` doesn't normalise its edges: ``normalize=False``.

    Example:
        >>> takes_weights_as_they_are(pyg.GCNConv(4, 4, normalize=False))
        True
    """
    kind: Any = parametrize.type_before_parametrizations(conv)
    return kind in _BOUNDS and kind is not pyg.SAGEConv and not getattr(conv, "normalize", True)


def proven_bound(conv: nn.Module, growth: Tensor | None = None) -> Tensor | None:
    r"""A Lipschitz constant of a linear conv, read off its weights.

    Args:
        conv: The conv. Dropout of edges (:class:`~torch_geometric.nn.APPNP`) is left out: the
            bound is that of evaluation.
        growth: For a conv that takes the weights of edges as they are (``normalize=False``), a
            bound on the spectral radius of :math:`|\mathbf{A}|`, the matrix of their absolute
            values (:meth:`~gncadeq.cells.WeightedAdjacency.perron`).

    Returns:
        The bound, differentiable to the conv's parameters, in the norm of this module on undirected
        graphs; of the shape of ``growth``, in its norm on every graph, for a conv that needs it.
        ``None`` where nothing is proven: for subclasses, which are other convs, and for convs with
        replaced parts or forward hooks.

    Example:
        >>> from torch_geometric.nn import GATConv, GCNConv
        >>> conv = GCNConv(4, 4)
        >>> torch.allclose(proven_bound(conv), torch.linalg.matrix_norm(conv.lin.weight, 2))
        True
        >>> proven_bound(GATConv(4, 4)) is None
        True
    """
    return None if is_hooked(conv) else weight_bound(conv, growth)


def weight_bound(conv: nn.Module, growth: Tensor | None = None) -> Tensor | None:
    """The :func:`proven_bound` that a conv has without its hooks.

    Example:
        >>> float(weight_bound(pyg.LGConv()))
        1.0
    """
    if not is_known(conv, _BOUNDS):
        return None
    if not takes_weights_as_they_are(conv):
        like = next(conv.parameters(), torch.ones(()))
        growth = like.new_ones((), dtype=torch.promote_types(like.dtype, torch.float))
    elif growth is None:
        return None
    kind: Any = parametrize.type_before_parametrizations(conv)
    return _BOUNDS[kind](conv, growth)


def proofs_hold(edge_index: Tensor, weight: OptTensor, batch: OptTensor = None) -> Tensor:
    """Which graphs of a batch are such that the proofs are about them: undirected, without negative
    weights.

    Args:
        edge_index: Edge indices.
        weight: Edge weights, or attributes that must be the same both ways.
        batch: The graph of every node; ``None`` for a single graph.

    Returns:
        ``[num_graphs]`` booleans.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [1, 0, 3]])
        >>> proofs_hold(edges, None), proofs_hold(edges, None, torch.tensor([0, 0, 1, 1]))
        (tensor([False]), tensor([ True, False]))
    """
    # By sender and by receiver, equal edges in their order. Both put the graphs one after another.
    there, back = (_lexsort(edge_index[k], edge_index[1 - k]) for k in (0, 1))
    wrong = (edge_index[:, there] != edge_index[:, back].flip(0)).any(0)
    if weight is not None:
        rows = weight.reshape(weight.size(0), -1)
        wrong = wrong | ((rows[there] != rows[back]) | (rows[there] < 0)).any(1)
    graph = torch.zeros_like(there) if batch is None else batch[edge_index[0, there]]
    count = 1 if batch is None else int(batch.max()) + 1 if batch.numel() else 0
    return wrong.new_zeros(count).index_put((graph,), wrong, accumulate=True).logical_not()


def _lexsort(first: Tensor, second: Tensor) -> Tensor:
    order = second.argsort(stable=True)
    return order[first[order].argsort(stable=True)]
