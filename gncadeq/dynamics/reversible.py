r"""A rollout that can be undone: exact gradients, and no state kept for most steps.

Two states take turns, each a step of size :math:`\beta` towards the rule of the other
(`McCallum et al. 2025 <https://arxiv.org/abs/2509.12917>`_):

.. math::
    \mathbf{y}' = \mathbf{y} + \beta \mathbf{m} \odot (f(\mathbf{z}) - \mathbf{y}), \qquad
    \mathbf{z}' = \mathbf{z} + \beta \mathbf{m} \odot (f(\mathbf{y}') - \mathbf{z})

The backward pass solves these for :math:`\mathbf{z}` and then for :math:`\mathbf{y}`. This divides
rounding errors by up to :math:`(1 - \beta)^2` in a step of a rule that stretches no distance. Both
states are held in double precision, so that errors are those of the rule's own precision; once in
so many steps that errors grow to no more than its square root, they are rounded to it and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log1p
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.dynamics.frozen import Frozen
from gncadeq.dynamics.implicit_checks import Gates, OptGrad, check_captured
from gncadeq.typing import OptTensor, PartialStep, Step


def kept_every(step_size: float, dtype: torch.dtype) -> int:
    """After how many steps a pair of states is kept.

    Example:
        >>> kept_every(0.5, torch.float32), kept_every(0.1, torch.float32)
        (5, 37)
    """
    return max(1, int(log(torch.finfo(dtype).eps) / log1p(-step_size) / 4))


def check_can_be_undone(cell: nn.Module, device: torch.device, last_alone: bool) -> None:
    """Raise if the steps of a cell can't be undone, or more than the last state is asked for.

    Args:
        cell: The cell.
        device: Where it runs.
        last_alone: Whether the last state of a graph of one process alone is asked for.
    """
    for wrong, expected, got in (
        (not last_alone, "neither 'halo' nor 'return_trajectory'", "one"),
        (torch.is_autocast_enabled(device.type), "no autocast", "half precision"),
        (Frozen.concerns(cell), "a cell that draws nothing and keeps no statistics of batches",
         "dropout or batch normalisation in training mode"),
    ):  # fmt: skip
        if wrong:
            raise ValueError(
                f"Expected {expected} with gradient='reversible' (got {got}). Use gradient='bptt' "
                "with checkpoint_every='sqrt'"
            )


@dataclass
class Reversible:
    r"""The iteration, forwards and backwards.

    Args:
        step: The rule.
        steps: How many steps, of two evaluations each.
        step_size: The step :math:`\beta`, below 1.
        mask: The nodes that update in step ``t``, the same whenever it is asked.
        inputs: What the rule depends on.
        gates: Through which those ``inputs`` came that aren't leaves.
    """

    step: Step
    steps: int
    step_size: float
    mask: Callable[[int], OptTensor]
    inputs: Sequence[Tensor]
    gates: Gates

    def __post_init__(self) -> None:
        if isinstance(self.step, PartialStep):
            raise ValueError(
                "Expected a rule without dying cells for gradient='reversible' (got one with a "
                "step of its own). Use gradient='bptt' with checkpoint_every='sqrt'"
            )

    def __call__(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """The last state, with its gradient, and the state after half of the steps."""
        differentiable = torch.is_grad_enabled()
        kept: list[Tensor] = []
        every = kept_every(self.step_size, z0.dtype)

        def image(state: Tensor) -> Tensor:
            # As in the backward pass: other kernels without autograd would round differently.
            with torch.set_grad_enabled(differentiable):
                h = state.to(z0.dtype).requires_grad_(differentiable)
                return self.step(h).detach().double()

        with torch.no_grad():
            y = z = middle = z0.detach().double()
            for t in range(self.steps):
                if t % every == 0:
                    pair = [y.to(z0.dtype), z.to(z0.dtype)]
                    kept += pair if differentiable else []
                    y, z = pair[0].double(), pair[1].double()
                rate = self._rate(t, z)
                y = torch.lerp(y, image(z), rate)
                z = torch.lerp(z, image(y), rate)
                middle = z if t + 1 == self.steps // 2 else middle
        out: Tensor = _Undone.apply(self, z0, [*kept, y, z], *self.inputs)
        return out, middle.to(z0.dtype)

    def _rate(self, t: int, z: Tensor) -> Tensor:
        mask = self.mask(t)
        rate = torch.ones_like(z[:, :1]) if mask is None else mask.to(z)
        return rate * self.step_size

    def gradients(
        self, cotangent: Tensor, states: Sequence[Tensor], dtype: torch.dtype
    ) -> list[OptGrad]:
        """The gradients of ``z0`` and of every input.

        Args:
            cotangent: The gradient of the last state.
            states: The pairs of states that were kept, the last pair included.
            dtype: The type that the rule computes in.
        """
        *kept, y, z = states
        every = kept_every(self.step_size, dtype)
        of_y, of_z = torch.zeros_like(y), cotangent.double()
        found: list[OptGrad] = [None] * len(self.inputs)

        def pulled(state: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            """The image of ``state``, and ``weight`` pulled back to it; and to the inputs."""
            with torch.enable_grad(), self.gates:
                h = state.to(dtype).requires_grad_()
                fh = self.step(h)
                check_captured(fh, [h, *self.inputs])
                back, *more = torch.autograd.grad(
                    fh, [h, *self.inputs], weight.to(fh.dtype), retain_graph=True, allow_unused=True
                )
            for k, new in enumerate(more):
                old = found[k]
                found[k] = old if new is None else new if old is None else old + new
            return fh.detach().double(), torch.zeros_like(z) if back is None else back.double()

        for t in reversed(range(self.steps)):
            rate = self._rate(t, z)
            image, back = pulled(y, rate * of_z)
            z, of_z, of_y = (z - rate * image) / (1 - rate), (1 - rate) * of_z, of_y + back
            image, back = pulled(z, rate * of_y)
            y, of_y, of_z = (y - rate * image) / (1 - rate), (1 - rate) * of_y, of_z + back
            if t % every == 0:
                k = 2 * (t // every)
                _check(y, kept[k], 30 * torch.finfo(dtype).eps ** 0.5)
                y, z = kept[k].double(), kept[k + 1].double()
        return [(of_y + of_z).to(dtype), *found]


class _Undone(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, way: Reversible, z0: Tensor, states: list[Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.way, ctx.dtype, ctx.count = way, z0.dtype, len(inputs)
        ctx.save_for_backward(*inputs, *states)  # autograd notices if an input is changed
        return states[-1].to(z0.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[OptGrad, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Expected gradients of first order with gradient='reversible' (got create_graph="
                "True). Use gradient='bptt'"
            )
        first, *found = ctx.way.gradients(grad, ctx.saved_tensors[ctx.count :], ctx.dtype)
        return None, first, None, *found


def _check(now: Tensor, then: Tensor, within: float) -> None:
    if bool((now - then).norm() > within * (1 + then.norm())):
        raise RuntimeError(
            "Expected the backward pass to reconstruct the states of the forward pass (got "
            "others). Don't change parameters between the passes, lower 'step_size', or use "
            "gradient='bptt'"
        )
