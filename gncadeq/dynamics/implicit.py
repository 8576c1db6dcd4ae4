r"""The implicit function theorem as an autograd node, differentiable as often as one likes.

For :math:`\mathbf{z}^\star = F(\mathbf{z}^\star; \theta)` and an incoming :math:`\mathbf{v}`,

.. math::
    \mathbf{u} = \mathbf{v} + \mathbf{J}^\top \mathbf{u}, \qquad
    \frac{\partial \mathcal{L}}{\partial \theta} =
    \mathbf{u}^\top \frac{\partial F}{\partial \theta}, \qquad
    \mathbf{J} = \frac{\partial F}{\partial \mathbf{z}}(\mathbf{z}^\star; \theta)

(Bai et al. 2019, eq. 3). The second equation's derivative needs that of :math:`\mathbf{u}`, which
is itself the fixed point of :math:`\mathbf{u} \mapsto \mathbf{v} + \mathbf{J}^\top \mathbf{u}`: the
same node serves again, once for each order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gncadeq.dynamics.fixed_point import solve_by
from gncadeq.dynamics.implicit_checks import (
    Gates,
    OptGrad,
    check_captured,
    check_unchanged,
    check_versions,
)
from gncadeq.dynamics.options import SolveOptions
from gncadeq.dynamics.solution import Solution
from gncadeq.graph.partition import Partition
from gncadeq.typing import AdjointStep, OrderedStep, RestrictableStep, Step


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off, where it is on: half precision cannot resolve a tolerance of 1e-3."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@dataclass(frozen=True)
class LinearSolver:
    """How the linear systems of the gradients are solved.

    Args:
        options: By which options.
        writer: Called with each solution.
    """

    options: SolveOptions
    writer: Callable[[Solution], None] | None = None

    def __call__(self, step: Step, cotangent: Tensor, partition: Partition) -> Tensor:
        """Solve ``u = step(u)`` from the start ``u = cotangent``."""
        with full_precision(cotangent.device):
            solution = solve_by(self.options, step, cotangent, partition)
        if self.writer is not None:
            self.writer(solution)
        on_failure = self.options.on_failure
        if on_failure != "ignore" and not bool(solution.converged.all()):
            # An overflown loss (a gradient scaler probes for it) says so itself: it stays NaN.
            overflown = partition.sum(cotangent.isfinite().all(1).logical_not().long()) > 0
            solution.report(on_failure, gradient=True, excuse=overflown)
        return solution.state


def implicit(
    step: Step,
    z: Tensor,
    partition: Partition,
    inputs: Sequence[Tensor],
    linear: LinearSolver,
    gates: Gates,
) -> Tensor:
    """Give a fixed point its gradient.

    Args:
        step: The map :math:`F`.
        z: The solution of ``z = step(z)``, without a gradient.
        partition: The nodes of each graph.
        inputs: All that ``step`` depends on. Gradients of first order reach whatever it depends
            on; those of higher order raise if it isn't here.
        linear: Solves the gradient's system.
        gates: Through which those ``inputs`` came that aren't leaves.

    Returns:
        The value of ``z``.
    """
    # F(h) always requires a gradient where h does, so that frozen parameters are looked for first.
    if not inputs and not step(z).requires_grad:
        return z
    # Only automatic differentiation needs to know how F depends on the state.
    h = z.detach().requires_grad_(not isinstance(step, AdjointStep | OrderedStep))
    fh = step(h)
    if not fh.requires_grad:
        return z
    equation = _Equation(step, h, fh, partition, linear, gates)
    equation.leaves = [(t, t._version) for t in inputs if t.is_leaf]
    out: Tensor = _Implicit.apply(equation, z, fh, *inputs)
    return out


class _AdjointStep:
    """``u ↦ v + Jᵀ u`` at the fixed point."""

    def __init__(self, product: Step, cotangent: Tensor) -> None:
        self.product, self.cotangent = product, cotangent

    @staticmethod
    def of(product: Step, cotangent: Tensor) -> _AdjointStep:
        """With the method ``restrict`` if the product has one."""
        if isinstance(product, RestrictableStep):
            return _RestrictableAdjointStep(product, cotangent)
        return _AdjointStep(product, cotangent)

    def __call__(self, u: Tensor) -> Tensor:
        return self.cotangent + self.product(u)


class _RestrictableAdjointStep(_AdjointStep):
    product: RestrictableStep

    def restrict(self, nodes: Tensor) -> _RestrictableAdjointStep:
        """The same on ``nodes``, the ascending indices of whole graphs."""
        return _RestrictableAdjointStep(self.product.restrict(nodes), self.cotangent[nodes])


class _Product:
    """``u ↦ Jᵀ u`` by automatic differentiation, for a step that has no ``adjoint``."""

    def __init__(self, h: Tensor, fh: Tensor, step: Step) -> None:
        self.h, self.fh, self.step = h, fh, step

    @staticmethod
    def of(h: Tensor, fh: Tensor, step: Step) -> _Product:
        """With the method ``restrict`` if the step has one."""
        kind = _RestrictableProduct if isinstance(step, RestrictableStep) else _Product
        return kind(h, fh, step)

    def __call__(self, u: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(
            self.fh, self.h, u.to(self.fh.dtype), retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(u) if product is None else product


class _RestrictableProduct(_Product):
    step: RestrictableStep

    def restrict(self, nodes: Tensor) -> _RestrictableProduct:
        """The same on ``nodes``, the ascending indices of whole graphs."""
        step = self.step.restrict(nodes)
        with torch.enable_grad():
            h = self.h.detach()[nodes].requires_grad_()
            fh = step(h)
        check_unchanged(fh, self.fh.detach()[nodes])
        return _RestrictableProduct(h, fh, step)


class _Equation:
    """``z = F(z)`` at its solution ``h``, and the vector-Jacobian products of that solution."""

    def __init__(
        self,
        step: Step,
        h: Tensor,
        fh: Tensor,
        partition: Partition,
        linear: LinearSolver,
        gates: Gates,
    ) -> None:
        self.step, self.h, self.fh, self.partition = step, h, fh, partition
        self.linear, self.gates = linear, gates
        self.unpacks = _saved_tensors_are_packed()
        self.leaves: Sequence[tuple[Tensor, int]] = ()  # and their versions

    def adjoint(self, cotangent: Tensor) -> Tensor:
        """Solve ``u = v + Jᵀ u``."""
        if isinstance(self.step, AdjointStep | OrderedStep):  # else autograd has saved its own
            check_versions(self.leaves)
        if isinstance(self.step, OrderedStep):
            return self.step.substitute_adjoint(self.h.detach(), cotangent)
        if isinstance(self.step, AdjointStep):
            with torch.no_grad():
                product = self.step.adjoint(self.h.detach(), self.fh.detach())
        else:
            h, fh = self.h, self.fh
            if self.unpacks:  # every product would: a checkpoint solves anew for each of them
                with torch.enable_grad():
                    h = self.h.detach().requires_grad_()
                    fh = self.step(h)
                check_unchanged(fh, self.fh)
            product = _Product.of(h, fh, self.step)
        return self.linear(_AdjointStep.of(product, cotangent), cotangent, self.partition)

    def gradient(
        self, cotangent: Tensor, z: Tensor, inputs: Sequence[Tensor]
    ) -> tuple[OptGrad, ...]:
        """``uᵀ ∂F/∂inputs`` as a differentiable function of ``v``, ``z`` and the inputs."""
        value = self.adjoint(cotangent.detach())
        with full_precision(z.device):
            v, z = self.gates(cotangent), self.gates(z)
            fz = self.step(z)
            check_unchanged(fz, self.fh)
            check_captured(fz, [z, *inputs])

            def transposed(u: Tensor) -> Tensor:
                with self.gates:
                    (product,) = torch.autograd.grad(
                        fz, z, u.to(fz.dtype), create_graph=True, allow_unused=True
                    )
                return v if product is None else v + product

            depends = [t for t in (v, z) if t.requires_grad] + list(inputs)
            u = implicit(transposed, value, self.partition, depends, self.linear, self.gates)
            with self.gates:
                return torch.autograd.grad(
                    fz, inputs, u.to(fz.dtype), create_graph=True, allow_unused=True
                )


class _Implicit(torch.autograd.Function):
    """Passes ``z`` on; its gradient reaches ``F(z)`` through the adjoint system."""

    @staticmethod
    def forward(ctx: Any, equation: _Equation, z: Tensor, fh: Tensor, *inputs: Tensor) -> Tensor:
        out = z.clone()
        ctx.set_materialize_grads(False)
        ctx.equation, ctx.dtype = equation, fh.dtype
        ctx.save_for_backward(out, *inputs)
        return out

    @staticmethod
    def backward(ctx: Any, grad: OptGrad) -> tuple[OptGrad, ...]:  # type: ignore[override]
        count = len(ctx.needs_input_grad) - 3
        if grad is None:  # behind a shut gate
            return (None,) * (count + 3)
        if not torch.is_grad_enabled():
            # First order: autograd goes on from F(z), to whatever it was computed from.
            return None, None, ctx.equation.adjoint(grad).to(ctx.dtype), *(None,) * count
        # A gradient that will be differentiated: F is evaluated again at the node's own output,
        # which carries the dependence of z on everything.
        out, *inputs = ctx.saved_tensors
        return None, None, None, *ctx.equation.gradient(grad, out, inputs)


def _saved_tensors_are_packed() -> bool:
    """Whether hooks such as those of ``torch.utils.checkpoint`` take what autograd saves."""
    top: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is not None and top(True) is not None
