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

from gncadeq.choices import Criterion
from gncadeq.dynamics.fixed_point import solve
from gncadeq.dynamics.solution import OnFailure, Solution
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

    The fields are those of ``solve``; ``writer`` is called with each solution.
    """

    solver: str
    options: dict[str, Any]
    tol: float
    criterion: Criterion
    max_steps: int
    check_every: int
    compact: bool
    on_failure: OnFailure
    writer: Callable[[Solution], None] | None = None

    def __call__(self, step: Step, cotangent: Tensor, partition: Partition) -> Tensor:
        """Solve ``u = step(u)`` from the start ``u = cotangent``."""
        with full_precision(cotangent.device):
            solution = solve(
                step, cotangent, partition, solver=self.solver, tol=self.tol,
                criterion=self.criterion, max_steps=self.max_steps, check_every=self.check_every,
                compact=self.compact, options=self.options,
            )  # fmt: skip
        if self.writer is not None:
            self.writer(solution)
        if self.on_failure != "ignore" and not bool(solution.converged.all()):
            # An overflown loss (a gradient scaler probes for it) says so itself: it stays NaN.
            overflown = partition.sum(cotangent.isfinite().all(1).logical_not().long()) > 0
            solution.report(self.on_failure, gradient=True, excuse=overflown)
        return solution.state


class Gates:
    """Tensors cut off from what they were computed from, while the gates are shut.

    ``torch.autograd.grad(F, [x, theta])`` takes total derivatives: where ``x`` itself depends on
    ``theta``, the part through ``x`` is in both results, and would be counted twice.
    """

    def __init__(self) -> None:
        self._shut = 0

    def __call__(self, value: Tensor) -> Tensor:
        """``value``, behind a gate if it was computed from anything."""
        if value.grad_fn is None:
            return value
        out: Tensor = _Gate.apply(value, self)
        return out

    def __enter__(self) -> None:
        self._shut += 1

    def __exit__(self, *_: object) -> None:
        self._shut -= 1

    @property
    def shut(self) -> bool:
        """Whether gradients stop here."""
        return self._shut > 0


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gates: Gates) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gates = gates
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: OptGrad) -> tuple[OptGrad, None]:  # type: ignore[override]
        return (None if ctx.gates.shut else grad), None


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
        _check_unchanged(fh, self.fh.detach()[nodes])
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

    def adjoint(self, cotangent: Tensor) -> Tensor:
        """Solve ``u = v + Jᵀ u``."""
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
                _check_unchanged(fh, self.fh)
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
            _check_unchanged(fz, self.fh)
            _check_captured(fz, [z, *inputs])

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


OptGrad = Tensor | None


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


def first_order(value: Tensor, inputs: Sequence[Tensor], name: str) -> Tensor:
    """``value``, whose gradient refuses to be differentiated with respect to ``inputs``."""
    out: Tensor = _FirstOrder.apply(value, name, *inputs)
    return out


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str, *inputs: Tensor) -> Tensor:
        ctx.name = name
        ctx.save_for_backward(*inputs)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[OptGrad, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            grad = _Refusal.apply(grad, ctx.name, *ctx.saved_tensors)
        return grad, *(None,) * (len(ctx.needs_input_grad) - 1)


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, name: str, *inputs: Tensor) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> None:  # type: ignore[override]
        raise RuntimeError(
            f"Expected gradient='ift' for derivatives of second order (got {ctx.name!r}, an "
            "approximation of first order). Use GraphDEQ(gradient='ift'), or train through the "
            "steps of deq.as_nca()"
        )


def _saved_tensors_are_packed() -> bool:
    """Whether hooks such as those of ``torch.utils.checkpoint`` take what autograd saves."""
    top: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is not None and top(True) is not None


def _check_unchanged(now: Tensor, then: Tensor) -> None:
    """Raise if a step evaluated in the backward pass isn't the step of the forward pass."""
    now, then = now.detach(), then.detach()
    tolerance = torch.finfo(then.dtype).eps ** 0.5
    if bool((now - then).norm() > tolerance * then.norm()):
        raise RuntimeError(
            "Expected the step to be the one that was solved (got other values in the backward "
            "pass, for the same state). Don't change parameters between the passes; with "
            "torch.func.functional_call, let the cell's prepare() look them up, not its step; and "
            "give cells that draw random numbers the attribute draws_randomness = True"
        )


def _check_captured(fz: Tensor, inputs: Sequence[Tensor]) -> None:
    """Raise if ``fz`` depends on a tensor that second order doesn't know, or knows twice."""
    known = {id(t) for t in inputs}
    nodes = {t.grad_fn for t in inputs if t.grad_fn is not None}

    def unknown(node: Any) -> Tensor | None:
        variable: Tensor | None = getattr(node, "variable", None)
        return variable if variable is not None and id(variable) not in known else None

    found = _search(fz.grad_fn, nodes, unknown)
    if found is not None:
        raise RuntimeError(
            "Expected the cell to depend on its injection, its edge attributes and its parameters "
            f"alone (got another tensor of shape {list(found.shape)} that needs a gradient). For "
            "derivatives of second order make it a parameter, or train through deq.as_nca()"
        )
    for t in inputs:
        if t.grad_fn is None or isinstance(t.grad_fn, _Gate._backward_cls):  # type: ignore[attr-defined]
            continue
        leaves = {id(s) for s in inputs if s.grad_fn is None}

        def entangled(node: Any, own: Any = t.grad_fn, leaves: set[int] = leaves) -> Any:
            leaf = getattr(node, "variable", None)
            tied = (node is not own and node in nodes) or (leaf is not None and id(leaf) in leaves)
            return node if tied else None

        if _search(t.grad_fn, set(), entangled) is not None:
            raise RuntimeError(
                "Expected parameters that are not functions of each other (got one of shape "
                f"{list(t.shape)} that is). For derivatives of second order give the cell "
                "independent parameters, or train through deq.as_nca()"
            )


def _search(start: Any, stop: set[Any], match: Callable[[Any], Any]) -> Any:
    """The first match among the autograd nodes before ``start``, not going beyond ``stop``."""
    todo, seen = [start], {start}
    while todo:
        node = todo.pop()
        if node is None or node in stop:
            continue
        found = match(node)
        if found is not None:
            return found
        following = [n for n, _ in node.next_functions if n not in seen]
        seen.update(following)
        todo.extend(following)
    return None


__all__ = ["Gates", "LinearSolver", "first_order", "full_precision", "implicit"]
