"""Stencils of few parameters: a window for every channel, then one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gncadeq.check import check_type


class Separable(nn.Module):
    r"""The parametrisation of a depthwise separable stencil (`Chollet 2017
    <https://arxiv.org/abs/1610.02357>`_, after Sifre 2014).

    .. math::
        \mathbf{K}_r = \mathrm{diag}(\mathbf{s}_r) \, \mathbf{P}

    Every channel is weighed by a window :math:`\mathbf{s}` of its own, and the matrix
    :math:`\mathbf{P}`, the same for all offsets, mixes the channels: :math:`F (R + C)` parameters
    instead of :math:`R F C`. See :func:`separate`.
    """

    def forward(self, window: Tensor, matrix: Tensor) -> Tensor:
        """The stencil ``[R, F, C]`` of windows ``[R, F]`` and a matrix ``[F, C]``."""
        return window[:, :, None] * matrix

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Windows and matrix of the separable stencil nearest to ``weight`` ``[R, F, C]``.

        It is ``weight`` itself, up to rounding, if that is separable.
        """
        wide = weight.transpose(0, 1).to(torch.promote_types(weight.dtype, torch.float32))
        left, size, right = torch.linalg.svd(wide, full_matrices=False)
        root = size[:, :1].sqrt()
        # Of a stencil of zeros one factor isn't zero: else neither would have a gradient.
        window = left[:, :, 0] * torch.where(root > 0, root, 1.0)
        return window.t().contiguous().to(weight.dtype), (right[:, 0] * root).to(weight.dtype)


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a parameter of a module, or the factors of a separable stencil, other values."""
    with torch.no_grad():
        if parametrize.is_parametrized(module, name):
            setattr(module, name, value)
        else:
            getattr(module, name).copy_(value)


def separate(module: nn.Module, name: str = "weight") -> None:
    """Make a stencil of a module separable, from the nearest separable one on.

    The module is used as before; its state dict holds the two factors. It is a
    :mod:`torch.nn.utils.parametrize` parametrisation.

    Args:
        module: A :class:`gncadeq.StencilConv`, or a cell with a stencil.
        name: Of the stencil ``[R, F, C]``: ``"weight"``, or ``"weight_z"`` of a
            :class:`gncadeq.ConvCell`.

    Raises:
        ValueError: If there is no such stencil.

    Example:
        >>> from gncadeq import ConvCell
        >>> cell = ConvCell(8, 8, injection="additive", contraction=0.9, bias=False)
        >>> sum(p.numel() for p in cell.parameters())
        576
        >>> separate(cell, "weight_z")
        >>> sum(p.numel() for p in cell.parameters()), cell.state_weight().shape
        (136, torch.Size([9, 8, 8]))
    """
    check_type("module", module, nn.Module)
    weight = getattr(module, name, None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 3:
        raise ValueError(
            f"Expected a module with a stencil {name!r} of shape [R, F, C] (got "
            f"{type(module).__name__} with {None if weight is None else list(weight.shape)})"
        )
    parametrize.register_parametrization(module, name, Separable())
