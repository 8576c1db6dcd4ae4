"""The laws of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.dynamics import GraphDEQ
from gncadeq.testing.graphs import Dynamics, solve_on


def gradients(
    dynamics: Dynamics,
    data: Data,
    nodes: Tensor | slice | None = None,
    scale: float = 1.0,
    order: int = 1,
) -> list[Tensor]:
    r"""Gradients of a loss on some nodes, to the injection, edge attributes and parameters.

    .. math::
        \mathcal{L} = s \sum_{i \in \mathcal{S}} \sum_c z_{ic} + z_{ic}^2 ,

    and, for each further order, those of the squared norm of all gradients of the order before.

    Args:
        dynamics: Implicit or explicit.
        data: A graph, or a batch; floating-point edge attributes are differentiated.
        nodes: The nodes :math:`\mathcal{S}`; by default all.
        scale: The scale :math:`s` of the loss, divided out of the result (order 1).
        order: How often to differentiate.

    Returns:
        One gradient each, zeros where nothing depends.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3))
        >>> [list(g.shape) for g in gradients(GraphDEQ(ConvCell(1, 2, contraction=0.5)), data)]
        [[9, 1], [9, 1, 2], [9, 2, 2], [2]]
    """
    data = data.clone()
    data.x = data.x.detach().clone().requires_grad_()
    inputs = [data.x]
    if data.edge_attr is not None and data.edge_attr.is_floating_point():
        data.edge_attr = data.edge_attr.detach().clone().requires_grad_()
        inputs.append(data.edge_attr)
    inputs += [p for p in dynamics.parameters() if p.requires_grad]
    z = solve_on(dynamics, data)
    picked = z if nodes is None else z[nodes]
    value = scale * (picked.pow(2) + picked).sum()
    found: Sequence[Tensor | None] = ()
    for k in range(order):
        more = k + 1 < order
        found = torch.autograd.grad(value, inputs, create_graph=more, allow_unused=True)
        if more:
            value = torch.stack([g.square().sum() for g in found if g is not None]).sum()
    return [
        torch.zeros_like(t) if g is None else g.detach() / scale
        for t, g in zip(inputs, found, strict=True)
    ]


def assert_gradients_close(
    left: Sequence[Tensor], right: Sequence[Tensor], rtol: float = 1e-6, atol: float = 1e-14
) -> None:
    """Two lists of gradients agree, each within a relative error of its norm.

    Args:
        left: One list.
        right: The other, which errors are relative to.
        rtol: Largest relative error.
        atol: Added to it, for gradients that vanish.

    Raises:
        AssertionError: If two gradients differ by more.

    Example:
        >>> assert_gradients_close([torch.ones(2)], [torch.ones(2)])
    """
    assert len(left) == len(right), f"{len(left)} gradients against {len(right)}"
    for k, (a, b) in enumerate(zip(left, right, strict=True)):
        error, size = float((a - b).norm()), float(b.norm())
        assert error <= rtol * size + atol, (
            f"Gradient {k} of shape {list(a.shape)} is off by {error:.3e} of {size:.3e}"
        )


def assert_gradients_exact(
    deq: GraphDEQ,
    data: Data,
    nodes: Tensor | slice | None = None,
    scale: float = 1.0,
    order: int = 1,
    steps: int = 300,
    rtol: float = 1e-6,
) -> None:
    """The implicit gradient is that of the rollout unrolled to convergence.

    Args:
        deq: The dynamics, with tight tolerances.
        data: A graph, or a batch.
        nodes: The nodes with a loss; by default all.
        scale: Scale of the loss.
        order: 1 for gradients, 2 for gradients of their squared norm.
        steps: Steps of the rollout, enough to converge.
        rtol: Largest relative error of each gradient.

    Raises:
        AssertionError: If a gradient differs by more.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3, dtype=torch.double))
        >>> deq = GraphDEQ(ConvCell(1, 2, contraction=0.5).double(), tol=1e-11)
        >>> assert_gradients_exact(deq, data, nodes=torch.tensor([4]), scale=1e-6, steps=60)
        >>> assert_gradients_exact(deq, data, order=2, steps=60, rtol=1e-5)
    """
    unrolled = gradients(deq.as_nca(steps=steps), data, nodes, 1.0, order)
    assert_gradients_close(gradients(deq, data, nodes, scale, order), unrolled, rtol)
