r"""How much a PyG conv can stretch distances: proven for linear convs, measured for any.

The proofs are about undirected graphs with weights that aren't negative. There the matrices

- :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}`, with self-loops or without, and
- :math:`\mathbf{D}^{-1} \mathbf{A}`, a mean over neighbours, which is similar to the former,

have eigenvalues in [−1, 1] and shrink distances: in the Euclidean norm the first, and the second in
that norm with every node weighted by its degree. (A conv that only ever uses one of the two is
bounded in that one's norm.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.utils import is_undirected

NON_EXPANSIVE = (nn.ReLU, nn.Tanh, nn.Identity, nn.Sigmoid, nn.Hardtanh, nn.Softsign)
_SETTLING = 3
_TINY = 1e-30


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of a matrix, or of many; half precision is widened for it.

    Example:
        >>> spectral_norm(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        tensor(2.)
    """
    weight = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    norm: Tensor = torch.linalg.matrix_norm(weight, 2)
    return norm


def _norm(linear: Any) -> Tensor:
    return spectral_norm(linear.weight)


def _sum(linears: Any) -> Tensor:
    return torch.stack([_norm(linear) for linear in linears]).sum()


def _is_mean(conv: Any) -> bool:
    return isinstance(conv.aggr_module, MeanAggregation)


def _is_normalized(conv: Any) -> bool:
    return bool(getattr(conv, "normalize", True)) and isinstance(conv.aggr_module, SumAggregation)


def _gcn(conv: Any) -> Tensor | None:
    return _norm(conv.lin) if _is_normalized(conv) else None


def _sage(conv: Any) -> Tensor | None:
    if not _is_mean(conv) or conv.normalize or getattr(conv, "project", False):
        return None
    return _norm(conv.lin_l) + (_norm(conv.lin_r) if conv.root_weight else 0.0)


def _tag(conv: Any) -> Tensor | None:
    return _sum(conv.lins) if _is_normalized(conv) else None


def _cheb(conv: Any) -> Tensor | None:
    # L̂ = L - I = -Â with λ_max = 2, and |T_k| ≤ 1 on [-1, 1]
    return _sum(conv.lins) if conv.normalization == "sym" and _is_normalized(conv) else None


def _gcn2(conv: Any) -> Tensor | None:
    # (1 - α) Â z ((1 - β) I + β W), and without α where W₂ acts on the initial residual
    if not _is_normalized(conv):
        return None
    weight: Tensor = conv.weight1
    eye = torch.eye(weight.size(0), dtype=weight.dtype, device=weight.device)
    alpha, beta = float(conv.alpha), float(conv.beta)
    return (1 - alpha) * spectral_norm((1 - beta) * eye + beta * weight)


def _one(conv: Any) -> Tensor | None:
    return torch.ones(()) if _is_normalized(conv) else None


def _appnp(conv: Any) -> Tensor | None:
    return torch.ones(()) if _is_normalized(conv) and conv.dropout == 0 else None


_BOUNDS: dict[type, Callable[[Any], Tensor | None]] = {
    pyg.GCNConv: _gcn,
    pyg.SGConv: _gcn,
    pyg.SSGConv: _gcn,
    pyg.SAGEConv: _sage,
    pyg.TAGConv: _tag,
    pyg.ChebConv: _cheb,
    pyg.GCN2Conv: _gcn2,
    pyg.LGConv: _one,
    pyg.APPNP: _appnp,
}


def proven_bound(conv: nn.Module) -> Tensor | None:
    r"""A Lipschitz constant of a linear conv on undirected graphs, read off its weights.

    Args:
        conv: The conv.

    Returns:
        A scalar, differentiable to the conv's parameters, in the norm of this module; ``None``
        where nothing is proven. Subclasses are other convs: they have no proof.

    Example:
        >>> from torch_geometric.nn import GATConv, GCNConv
        >>> conv = GCNConv(4, 4)
        >>> torch.allclose(proven_bound(conv), torch.linalg.matrix_norm(conv.lin.weight, 2))
        True
        >>> proven_bound(GATConv(4, 4)) is None
        True
    """
    find = _BOUNDS.get(type(conv))
    return None if find is None else find(conv)


def proofs_hold(edge_index: Tensor, weight: Tensor | None) -> bool:
    """Whether a graph is one that the proofs are about: undirected, without negative weights."""
    if weight is not None and bool((weight < 0).any()):
        return False
    return bool(is_undirected(edge_index, weight))


def settled_growth(
    image: Callable[[Tensor], Tensor],
    activation: Callable[[Tensor], Tensor],
    drive: Tensor,
    component: Tensor,
    count: int,
    steps: int,
    add_drive: bool = True,
) -> Tensor:
    r"""The :func:`growth_rate` near the equilibrium that a map will have once it is scaled.

    It is measured three steps after :math:`\sigma(\mathbf{d})`, in which the map's output is scaled
    to the size of its input.

    Args:
        image: The map of states.
        activation: :math:`\sigma`.
        drive: :math:`\mathbf{d}` ``[num_nodes, channels]``.
        component: ``[num_nodes]``, the component of every node.
        count: Number of components.
        steps: Number of vector-Jacobian products, at least 2.
        add_drive: Whether a step adds the drive to the map's output.

    Returns:
        ``[num_nodes, 1]``, the rate of every node's component, differentiable.

    Example:
        >>> label = torch.tensor([0, 0, 1])
        >>> settled_growth(lambda z: 3 * z, torch.tanh, torch.ones(3, 2), label, 2, 4).flatten()
        tensor([3., 3., 3.])
    """

    def size(z: Tensor) -> Tensor:
        square = z.new_zeros(count).index_add(0, component, z.square().sum(1))
        return square.clamp(min=_TINY).sqrt()

    z = activation(drive)
    for _ in range(_SETTLING):
        y = image(z)
        y = y * (size(z) / size(y))[component].unsqueeze(1)
        z = activation(y + drive if add_drive else y)
    # Any vector would do but one without the growing direction: not the same in all channels.
    ramp = torch.arange(1, z.size(1) + 1, dtype=z.dtype, device=z.device).cos()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels differentiate only once
        rate = growth_rate(image, z, z + ramp, component, count, steps)
    return rate[component].unsqueeze(1)


def growth_rate(
    image: Callable[[Tensor], Tensor],
    z: Tensor,
    start: Tensor,
    component: Tensor,
    count: int,
    steps: int,
) -> Tensor:
    r"""The rate at which the Jacobian of a map at ``z`` makes vectors grow: nearly its spectral
    radius.

    .. math::
        \rho \approx \Big( \frac{\lVert (\mathbf{J}^\top)^{s} \mathbf{w} \rVert}
        {\lVert (\mathbf{J}^\top)^{s/2} \mathbf{w} \rVert} \Big)^{2/s} , \qquad s = \text{steps}

    on every component alone. It is an estimate, from one point and one vector, and no bound; it is
    computed from the vector in differentiable steps, so its gradient is exactly that of the number
    returned.

    Args:
        image: The map of states.
        z: The state ``[num_nodes, channels]`` at which to differentiate.
        start: The vector :math:`\mathbf{w}` ``[num_nodes, channels]``.
        component: ``[num_nodes]``, the component of every node.
        count: Number of components.
        steps: Number of vector-Jacobian products, at least 2.

    Returns:
        ``[count]``, differentiable to whatever ``image`` depends on.

    Example:
        >>> z = torch.zeros(3, 2)
        >>> label = torch.tensor([0, 0, 1])
        >>> growth_rate(lambda z: 0.5 * z, z, torch.ones(3, 2), label, 2, steps=4)
        tensor([0.5000, 0.5000])
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        y = image(z)
        if not y.requires_grad:
            return z.new_zeros(count)
        w, grown = start, z.new_zeros(count)
        tiny = torch.finfo(z.dtype).tiny
        for t in range(steps):
            (w_next,) = torch.autograd.grad(
                y, z, w, retain_graph=True, create_graph=differentiable, allow_unused=True
            )
            if w_next is None:
                return z.new_zeros(count)
            square = z.new_zeros(count).index_add(0, component, w_next.square().sum(1))
            size = square.clamp(min=tiny).sqrt()
            w = w_next / size[component].unsqueeze(1)
            if t >= steps // 2:
                grown = grown + size.log()
        rate = (grown / (steps - steps // 2)).exp()
        return rate if differentiable else rate.detach()


__all__ = [
    "NON_EXPANSIVE",
    "growth_rate",
    "proofs_hold",
    "proven_bound",
    "settled_growth",
    "spectral_norm",
]
