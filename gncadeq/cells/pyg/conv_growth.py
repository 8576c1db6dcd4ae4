r"""How much a map of states stretches them: measured at a state, or for all if it is linear."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gncadeq.typing import OptTensor

_SETTLING = 3


def settled_growth(
    image: Callable[[Tensor], Tensor],
    activation: Callable[[Tensor], Tensor],
    drive: Tensor,
    degree: OptTensor,
    component: Tensor,
    count: int,
    steps: int,
    add_drive: bool = True,
) -> Tensor:
    r"""How much a map of states stretches them, the largest number of all components.

    A map that is linear in its state has an operator norm (:func:`stretch`), which holds for every
    state and every activation that doesn't expand: the smaller one of two norms, that with all
    nodes alike and that with every node weighted by its degree, which suits means. Of any other map
    it is the :func:`growth_rate` near the equilibrium that it will have once it is scaled: three
    steps after :math:`\sigma(\mathbf{d})`, in which its output is scaled to the size of its input.

    Args:
        image: The map of states.
        activation: :math:`\sigma`.
        drive: :math:`\mathbf{d}` ``[num_nodes, channels]``.
        degree: ``[num_nodes]``, the number of edges into every node; ``None`` measures the growth
            rate of linear maps, too, which isn't above any norm.
        component: ``[num_nodes]``, the component of every node.
        count: Number of components.
        steps: Number of vector-Jacobian products, at least 2; for each of the two norms.
        add_drive: Whether a step adds the drive to the map's output.

    Returns:
        A scalar without gradient, from the components that are finite; NaN if none is.

    Example:
        >>> label, degree = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])
        >>> drive = torch.ones(3, 2)
        >>> rate = settled_growth(lambda z: 3 * z, torch.tanh, drive, degree, label, 2, 4)
        >>> round(rate.item(), 3)
        3.0
    """
    tiny = torch.finfo(drive.dtype).tiny

    def size(z: Tensor) -> Tensor:
        return _sizes(z, component, count).clamp(min=tiny)

    with torch.no_grad():
        z = activation(drive)
        linear = degree is not None and is_linear(image, z)
        for _ in range(0 if linear else _SETTLING):
            y = image(z)
            y = y * (size(z) / size(y))[component].unsqueeze(1)
            z = activation(y + drive if add_drive else y)
    # Any vector would do but one without the growing direction: not the same in all channels.
    start = z + torch.arange(1, z.size(1) + 1, dtype=z.dtype, device=z.device).cos()
    if degree is not None and linear:
        weights = (torch.ones_like(degree), degree.clamp(min=1))
        norms = [
            stretch(image, start, weight.to(z.dtype).sqrt(), component, count, steps)
            for weight in weights
        ]
        rate = torch.minimum(*norms)
    else:
        rate = growth_rate(image, z, start, component, count, steps)
    finite = rate[rate.isfinite()]
    return finite.max() if finite.numel() else rate.new_tensor(float("nan"))


def _sizes(z: Tensor, component: Tensor, count: int) -> Tensor:
    return z.new_zeros(count).index_add(0, component, z.square().sum(1)).sqrt()


@torch.no_grad()
def is_linear(image: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    """Whether a map is linear up to a constant, as far as three states tell.

    Args:
        image: The map of states.
        z: One of them ``[num_nodes, channels]``.

    Example:
        >>> z = torch.ones(3, 2)
        >>> is_linear(lambda z: 2 * z + 1, z), is_linear(torch.relu, z), is_linear(torch.tanh, z)
        (True, False, False)
    """
    other = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    parts = image(z), image(other), image(torch.zeros_like(z))
    found = image(z + other)
    error = found - parts[0] - parts[1] + parts[2]
    finite = error.isfinite().all(1)
    size = sum(float(part[finite].norm()) for part in (found, *parts))
    tolerance: float = torch.finfo(z.dtype).eps ** 0.5
    return float(error[finite].norm()) <= tolerance * size


@torch.no_grad()
def stretch(
    image: Callable[[Tensor], Tensor],
    start: Tensor,
    weight: Tensor,
    component: Tensor,
    count: int,
    steps: int,
) -> Tensor:
    r"""The operator norm of a linear map, by power steps, on every component alone.

    .. math::
        \lVert \mathbf{J} \rVert = \max_{\mathbf{v}} \frac{\lVert \mathbf{J} \mathbf{v}
        \rVert}{\lVert \mathbf{v} \rVert} , \qquad
        \lVert \mathbf{v} \rVert^2 = \sum_i p_i^2 \lVert \mathbf{v}_i \rVert^2 ,

    approached from below.

    Args:
        image: The map of states, linear up to a constant.
        start: The first vector ``[num_nodes, channels]``.
        weight: :math:`\mathbf{p}` ``[num_nodes]``.
        component: ``[num_nodes]``, the component of every node.
        count: Number of components.
        steps: Number of power steps.

    Returns:
        ``[count]``.

    Example:
        >>> matrix = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
        >>> label = torch.zeros(3, dtype=torch.long)
        >>> norm = stretch(lambda z: z @ matrix, torch.rand(3, 2), torch.ones(3), label, 1, 4)
        >>> round(norm.item(), 3)
        2.0
    """
    p, tiny = weight.unsqueeze(1), torch.finfo(start.dtype).tiny
    with torch.enable_grad():
        zero = torch.zeros_like(start).requires_grad_()
        constant = image(zero)
    if not constant.requires_grad:
        return start.new_zeros(count)
    v, norm = start, start.new_zeros(count)
    for _ in range(steps):
        v = v / _sizes(v, component, count).clamp(min=tiny)[component].unsqueeze(1)
        u = p * (image(v / p) - constant.detach())
        norm = _sizes(u, component, count)
        (v,) = torch.autograd.grad(constant, zero, u * p, retain_graph=True, materialize_grads=True)
        v = v / p
    return norm


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

    on every component alone. It is an estimate, from one point and one vector, and no bound.

    Args:
        image: The map of states.
        z: The state ``[num_nodes, channels]`` at which to differentiate.
        start: The vector :math:`\mathbf{w}` ``[num_nodes, channels]``.
        component: ``[num_nodes]``, the component of every node.
        count: Number of components.
        steps: Number of vector-Jacobian products, at least 2.

    Returns:
        ``[count]`` without gradient.

    Example:
        >>> z = torch.zeros(3, 2)
        >>> label = torch.tensor([0, 0, 1])
        >>> growth_rate(lambda z: 0.5 * z, z, torch.ones(3, 2), label, 2, steps=4)
        tensor([0.5000, 0.5000])
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        y = image(z)
    if not y.requires_grad:
        return z.new_zeros(count)
    w, grown = start, z.new_zeros(count)
    tiny = torch.finfo(z.dtype).tiny
    for t in range(steps):
        (w_next,) = torch.autograd.grad(y, z, w, retain_graph=True, allow_unused=True)
        if w_next is None:
            return z.new_zeros(count)
        size = _sizes(w_next, component, count).clamp(min=tiny)
        w = w_next / size[component].unsqueeze(1)
        if t >= steps // 2:
            grown = grown + size.log()
    return (grown / (steps - steps // 2)).exp()
