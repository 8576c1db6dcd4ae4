"""Loss terms that act on the rule itself."""

from __future__ import annotations

import torch
from torch import Tensor

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
    if probes < 1:
        raise ValueError(f"Expected 'probes' of at least 1 (got {probes})")
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


__all__ = ["jacobian_penalty"]
