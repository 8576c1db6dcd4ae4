"""Derivatives that would be wrong are refused by the checks of this module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

OptGrad = Tensor | None


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


def check_unchanged(now: Tensor, then: Tensor) -> None:
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


def check_versions(leaves: Iterable[tuple[Tensor, int]]) -> None:
    """Raise if parameters that a step reads in the backward pass were changed since the solve."""
    for tensor, version in leaves:
        if tensor._version != version:
            raise RuntimeError(
                "Expected the parameters that were solved with (got one of shape "
                f"{list(tensor.shape)} that was modified by an inplace operation since). Take the "
                "optimizer's step after the last backward pass, or solve again"
            )


def check_captured(fz: Tensor, inputs: Sequence[Tensor]) -> None:
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
            "this gradient make it a parameter, or train by back-propagation through deq.as_nca()"
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
                f"{list(t.shape)} that is). For this gradient give the cell "
                "independent parameters, or train by back-propagation through deq.as_nca()"
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
