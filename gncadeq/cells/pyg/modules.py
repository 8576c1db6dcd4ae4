"""Activations and norms by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver

from gncadeq.check import check_type

Activation = str | nn.Module | Callable[[Tensor], Tensor] | None
"""An activation: its name, a module, one of the functions below, or ``None`` for the identity."""

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, torch.relu: nn.ReLU, F.relu: nn.ReLU,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, F.elu: nn.ELU, F.gelu: nn.GELU,
    F.leaky_relu: nn.LeakyReLU, F.silu: nn.SiLU,
}  # fmt: skip


def activation_of(activation: Activation) -> nn.Module:
    """The module of an activation; the identity for ``None``.

    Raises:
        TypeError: If it is neither a name, a module nor a known function.
        ValueError: If PyTorch Geometric knows no activation of the name.

    Example:
        >>> activation_of("relu"), activation_of(torch.tanh)
        (ReLU(), Tanh())
    """
    if activation is None:
        return nn.Identity()
    if not isinstance(activation, str | nn.Module):
        kind = next((m for known, m in _FUNCTIONS.items() if known is activation), None)
        if kind is None:
            raise TypeError(
                "Expected 'activation' to be a name such as 'tanh', a module such as nn.Tanh(), "
                "None, or one of the functions tanh, relu and sigmoid of torch, and elu, gelu, "
                f"leaky_relu and silu of torch.nn.functional (got {activation!r})"
            )
        return kind()
    try:
        found: nn.Module = activation_resolver(activation)
    except ValueError:
        raise ValueError(
            "Expected 'activation' to be the name of one in torch.nn, such as 'relu' or 'tanh' "
            f"(got {activation!r})"
        ) from None
    return found


def norm_of(norm: str | nn.Module | None, channels: int) -> nn.Module | None:
    """The module of a norm over ``channels``.

    Raises:
        TypeError: If it is neither a name nor a module.
        ValueError: If PyTorch Geometric knows no norm of the name.

    Example:
        >>> norm_of("LayerNorm", 8)
        LayerNorm(8, affine=True, mode=graph)
    """
    if norm is None:
        return None
    check_type("norm", norm, (str, nn.Module), "Or use None")
    try:
        found: nn.Module = normalization_resolver(norm, channels)
    except ValueError:
        raise ValueError(
            "Expected 'norm' to be the name of one in torch_geometric.nn, such as 'LayerNorm' (got "
            f"{norm!r})"
        ) from None
    return found
