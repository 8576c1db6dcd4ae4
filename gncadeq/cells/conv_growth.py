r"""How much a conv stretches distances, where nothing is proven: measured, and kept by the model.

A measured growth is a statistic of the model, as the running mean of a batch norm is: two buffers
in its state dict, estimated in training, constant in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cells.base import Cell
from gncadeq.stateful import scratch_buffers
from gncadeq.typing import OptTensor

_SETTLING = 3
_MOMENTUM = 0.1


class MeasuredGrowth(nn.Module):
    r"""The growth :math:`L` of a conv, as measured so far.

    The first call of the cell measures it, in training or evaluation mode. In training mode it is
    measured again whenever the parameters have changed: a larger value counts at once, a smaller
    one with the share 0.1, as in a batch norm. In evaluation mode it is a constant. A compiled call
    measures nothing. Each process of a data-parallel training measures its own graphs, and goes on
    from the first process's growth in the next step, as with a batch norm.

    It is ``total / weight``. Both are buffers, and ``weight`` is one, or zero if nothing has been
    measured: so that averages of models, over time or over processes, average what was.

    Example:
        >>> growth = MeasuredGrowth()
        >>> for rate in (2.0, 4.0, 3.0):
        ...     growth.update(torch.tensor(rate))
        >>> growth.value
        tensor(3.9000)
    """

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))
        self._measured_at: Any = None

    @property
    def value(self) -> Tensor:
        """The growth, a scalar; NaN before the first measurement."""
        return self.total / self.weight

    def beyond(self, bound: OptTensor) -> Tensor:
        """What a conv is scaled by: the growth; or, where it was measured in units of a ``bound``
        that may not hold, the bound times what goes beyond it.

        Forward hooks are why it may not hold. A hook that only looks on changes nothing.
        """
        value = self.value
        return value if bound is None else bound * value.to(bound).clamp(min=1.0)

    def reset(self) -> None:
        """Forget what was measured."""
        self.total.zero_()
        self.weight.zero_()
        self._measured_at = None

    def is_due(self, cell: nn.Module) -> bool:
        """Whether ``cell`` is to be measured now."""
        if torch.compiler.is_compiling():
            return False
        now = tuple(
            0 if parameter.is_inference() else parameter._version for parameter in cell.parameters()
        )
        if not (cell.training and now != self._measured_at) and bool(self.weight > 0):
            return False
        self._measured_at = now
        return True

    @torch.no_grad()
    def update(self, rate: Tensor) -> None:
        """Take a new measurement into account, unless it is NaN or infinite."""
        if not bool(rate.isfinite()):
            return
        rate, held = rate.to(self.total), self.value
        self.total.copy_(torch.where(rate < held, held.lerp(rate, _MOMENTUM), rate))
        self.weight.fill_(1.0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        # Weights saved before growth was part of the model have none: it is measured.
        for name in ("total", "weight"):
            state_dict.setdefault(prefix + name, torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)  # type: ignore[no-untyped-call]
        self._measured_at = None


class MeasuredCell(Cell):
    """A cell whose scale follows from a growth that is measured, and may be measured anew."""

    growth: MeasuredGrowth

    @torch.no_grad()
    def measure(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Any = None,
        batch: Any = None,
        **context: Tensor,
    ) -> Tensor:
        """Measure the growth on a graph, or a batch, and forget what was measured before.

        Use it after weights were loaded or set by hand, and where graphs are others than those of
        training. The arguments are those of a call of the dynamics.

        Returns:
            The growth, a scalar. The cell scales its conv by ``min(1, contraction / growth)``.

        Raises:
            ValueError: If the scale is proven on this graph, or there is none.

        Example:
            >>> from torch_geometric.nn import AGNNConv
            >>> from gncadeq import WrappedConvCell
            >>> cell = WrappedConvCell(AGNNConv(), in_channels=2, channels=4)
            >>> cell.measure(torch.rand(3, 2), torch.tensor([[0, 1, 2], [1, 2, 0]])).shape
            torch.Size([])
        """
        self.growth.reset()
        graph = self.flatten(x, edge_index, edge_attr, batch, context)
        if "batch" in self.context:
            single = torch.zeros(graph.x.size(0), dtype=torch.long, device=graph.x.device)
            graph.context.setdefault("batch", single if batch is None else batch)
        self.bind(graph.x, graph.edge_index, graph.edge_attr, **graph.context)
        if not bool(self.growth.weight > 0):
            raise ValueError(
                f"Expected a conv whose growth is measured, on a graph where it is finite (got "
                f"{type(self).__name__}, which measured nothing). A proven scale needs no "
                "measurement, contraction=None has none"
            )
        return self.growth.value


@contextmanager
def measuring(cell: nn.Module) -> Iterator[None]:
    """Evaluate a cell to measure it: inference mode, which has no derivatives, is left, and batch
    norms don't count the evaluations."""
    with torch.inference_mode(False), torch.no_grad(), scratch_buffers(cell.modules()):
        yield


def recorded(value: Tensor) -> Tensor:
    """A tensor apart from what it was computed from, which autograd may save for derivatives.

    Example:
        >>> with torch.inference_mode():
        ...     value = torch.ones(1)
        >>> recorded(value).is_inference()
        False
    """
    return value.clone() if value.is_inference() else value.detach()


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
        A scalar without gradient, from the components that are finite; zero without nodes, NaN if
        all components fail.

    Example:
        >>> label, degree = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])
        >>> settled_growth(lambda z: 3 * z, torch.tanh, torch.ones(3, 2), degree, label, 2, 4)
        tensor(3.)
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
    if finite.numel():
        return finite.max()
    return rate.new_tensor(float("nan") if count else 0.0)


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
        >>> stretch(lambda z: z @ matrix, torch.rand(3, 2), torch.ones(3), label, 1, 4)
        tensor([2.])
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


__all__ = [
    "MeasuredCell",
    "MeasuredGrowth",
    "growth_rate",
    "is_linear",
    "measuring",
    "recorded",
    "settled_growth",
    "stretch",
]
