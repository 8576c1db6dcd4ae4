"""Loss terms that act on states and on the rule itself, and a normaliser of gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gncadeq.check import check_count, check_number, check_type
from gncadeq.typing import Step


def jacobian_penalty(
    step: Step, z: Tensor, probes: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    r"""The mean squared entry-wise pull of a step's Jacobian, estimated without forming it.

    `Jacobian regularisation <https://arxiv.org/abs/2106.14342>`_ (Bai et al. 2021) with
    Hutchinson's estimator,

    .. math::
        \frac{1}{|\mathcal{V}| \, C} \Big\lVert \frac{\partial f}{\partial \mathbf{z}}
        \Big\rVert_F^2 = \frac{1}{|\mathcal{V}| \, C} \, \mathbb{E}_\varepsilon \,
        \Big\lVert \varepsilon^\top \frac{\partial f}{\partial \mathbf{z}} \Big\rVert_2^2 , \qquad
        \varepsilon_{ic} = \pm 1 ,

    for one evaluation of the step and one vector-Jacobian product a probe, and no solve. It is a
    pressure towards fast convergence, not a certificate (see ``cell.lipschitz_bound``). Being a
    mean, it doesn't depend on the size of the batch.

    Args:
        step: The step, ``cell.prepare(x, edge_index, edge_attr)``.
        z: The state ``[num_nodes, channels]`` at which the Jacobian is taken, most usefully the
            equilibrium. It is detached: the penalty shapes the rule at this state, and doesn't
            differentiate the solve that found it.
        probes: Number of random signs :math:`\varepsilon` that are averaged, at least 1.
        generator: The source of randomness for the signs.

    Returns:
        A scalar, differentiable with respect to all that ``step`` depends on.

    Raises:
        ValueError: If ``probes`` is less than one.

    Example:
        >>> from gncadeq import ConvCell, GraphDEQ
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> deq = GraphDEQ(ConvCell(1, 4, contraction=0.9))
        >>> z = deq(data.x, data.edge_index, data.edge_attr)
        >>> step = deq.cell.prepare(data.x, data.edge_index, data.edge_attr)
        >>> loss = z.square().mean() + 0.5 * jacobian_penalty(step, z)
        >>> loss.backward()
    """
    probes = check_count("probes", probes, 1)
    if z.numel() == 0:
        return z.new_zeros(())
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        h = z.detach().requires_grad_()
        fh = step(h)
        if not fh.requires_grad:
            return z.new_zeros(())
        total = h.new_zeros(())
        for _ in range(probes):
            sign = torch.randint(0, 2, fh.shape, device=fh.device, generator=generator)
            (pull,) = torch.autograd.grad(
                fh, h, (2 * sign - 1).to(fh.dtype), create_graph=differentiable,
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
            if pull is not None:
                total = total + pull.square().sum()
        return total / (probes * z.numel())


def overflow_loss(z: Tensor, bound: float = 2.0) -> Tensor:
    r"""How far states are outside ``[-bound, bound]``, on average.

    .. math::
        \frac{1}{|\mathcal{V}| \, C} \sum_{i,c} \max(0, |z_{ic}| - k)

    The loss of `"Self-Organising Textures" <https://doi.org/10.23915/distill.00027.003>`_
    (Niklasson et al. 2021): nothing else keeps hidden channels from growing for ever.

    Args:
        z: States of any shape.
        bound: The bound :math:`k`, positive.

    Raises:
        ValueError: If the bound isn't positive.

    Example:
        >>> overflow_loss(torch.tensor([[0.5, -3.0]]), bound=2.0)
        tensor(0.5000)
    """
    check_type("z", z, Tensor)
    bound = check_number("bound", bound, above=0.0)
    return z.abs().sub(bound).relu().sum() / max(1, z.numel())


def rest_loss(step: Step, z: Tensor, squared: bool = True) -> Tensor:
    r"""How much one more step changes the state: the squared residual, as a pressure to be still.

    .. math::
        \frac{1}{|\mathcal{V}| \, C} \lVert f(\mathbf{z}) - \mathbf{z} \rVert^2
        \quad\text{ or }\quad
        \frac{1}{|\mathcal{V}|} \sum_i \lVert f(\mathbf{z})_i - \mathbf{z}_i \rVert

    Zero exactly at a fixed point. Differentiable in the state as well as in the rule. The square
    hardly presses on small changes; the other one does, on every node that moves at all.

    Args:
        step: The step, ``cell.prepare(x, edge_index, edge_attr)``.
        z: The state ``[num_nodes, channels]``.
        squared: Whether the squares of changes count, or their lengths.

    Example:
        >>> rest_loss(lambda z: z / 2, torch.tensor([[2.0]]))
        tensor(1.)
    """
    change = step(z) - z
    if squared:
        return change.square().sum() / max(1, z.numel())
    lengths: Tensor = change.norm(dim=1)
    return lengths.sum() / max(1, z.size(0))


def start_loss(z0: Tensor, z: Tensor) -> Tensor:
    r"""How far a predicted start is from the equilibrium: what trains the predictor.

    .. math::
        \frac{\lVert \mathbf{z}_0 - \mathbf{z}^\star \rVert^2}
        {\lVert \mathbf{z}^\star \rVert^2}

    After the loss of `Skip DEQ <https://arxiv.org/abs/2201.12240>`_ (Pal et al. 2023), with the
    equilibrium as a fixed target. Where that is zero, the distance isn't divided. One for a start
    from zeros; add it to the loss of the task. Where the encoder shouldn't learn from it, predict
    from ``x.detach()``.

    Args:
        z0: The prediction ``[num_nodes, channels]``, ``deq.start(x, edge_index, edge_attr)``.
        z: The equilibrium of the same shape; it is detached.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from gncadeq import ConvCell, GraphDEQ, StencilConv
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 5))
        >>> graph = data.x, data.edge_index, data.edge_attr
        >>> deq = GraphDEQ(ConvCell(1, 4, contraction=0.9), start=StencilConv(1, 4))
        >>> z = deq(*graph)
        >>> start_loss(deq.start(*graph), z).backward()
        >>> deq.start.weight.grad.shape, deq.cell.weight_z.grad
        (torch.Size([9, 1, 4]), None)
    """
    if z0.shape != z.shape:
        raise ValueError(
            f"Expected 'z0' of the shape of 'z', {list(z.shape)} (got {list(z0.shape)})"
        )
    target = z.detach()
    size = target.square().sum()
    size = torch.where(size < torch.finfo(size.dtype).tiny, 1.0, size)
    return (z0 - target).square().sum() / size


def normalize_gradients(parameters: Iterable[Tensor], eps: float = 1e-8) -> float:
    r"""Divide the gradient of every parameter tensor by its norm, in place.

    .. math::
        \mathbf{g} \leftarrow \mathbf{g} / (\lVert \mathbf{g} \rVert + \varepsilon)

    What keeps training through many steps of an automaton stable
    (`Mordvintsev et al. 2020 <https://doi.org/10.23915/distill.00023>`_): the gradients explode
    now and then, in size but not in direction.

    Args:
        parameters: Parameters, of which those without gradient are left alone.
        eps: :math:`\varepsilon`, positive.

    Returns:
        The norm of all gradients together, as it was before; NaN or infinity tells a caller that
        the step is lost.

    Example:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> (3 * w[0] + 4 * w[1]).backward()
        >>> normalize_gradients([w]), w.grad
        (5.0, tensor([0.6000, 0.8000]))
    """
    norms = []
    for p in parameters:
        if p.grad is not None:
            norm = p.grad.norm()
            p.grad.div_(norm + eps)
            norms.append(norm)
    return float(torch.stack(norms).norm()) if norms else 0.0


def check_gradients(module: nn.Module, step: int) -> None:
    """Stop a training before an update turns weights into NaN.

    Call it after ``backward()`` and before ``optimizer.step()``. Without it, training goes on with
    weights that answer nothing, and a choice by validation returns the epoch before.

    Args:
        module: What is trained.
        step: The training step or epoch, for the message.

    Raises:
        FloatingPointError: If a gradient holds NaN or infinity.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model(torch.tensor([[float("nan")]])).sum().backward()
        >>> check_gradients(model, step=3)
        Traceback (most recent call last):
        FloatingPointError: Expected finite gradients (got NaN or infinity for 'weight' in step 3).
        Lower the learning rate, or look for a division by zero in the model or its input
    """
    wrong = [
        name
        for name, p in module.named_parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    if wrong:
        raise FloatingPointError(
            f"Expected finite gradients (got NaN or infinity for {', '.join(map(repr, wrong))} in "
            f"step {step}). Lower the learning rate, or look for a division by zero in the model "
            "or its input"
        )
