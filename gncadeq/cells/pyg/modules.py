"""Activations and norms by their names."""

from __future__ import annotations

from torch import nn
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver

from gncadeq.check import check_type


def activation_of(activation: str | nn.Module | None) -> nn.Module:
    """The module of an activation; the identity for ``None``.

    Raises:
        TypeError: If it is neither a name nor a module.
        ValueError: If PyTorch Geometric knows no activation of the name.

    Example:
        >>> activation_of("relu")
        ReLU()
    """
    if activation is None:
        return nn.Identity()
    check_type("activation", activation, (str, nn.Module), "Or use None")
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


__all__ = ["activation_of", "norm_of"]
