"""Stencils of few parameters: a window for every channel, then one matrix."""

from __future__ import annotations

from typing import Any

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

    Args:
        unit_center: Whether the middle of each window is one and no parameter: the same stencils,
            but for those of which it is zero, with :math:`F` parameters less.
    """

    def __init__(self, unit_center: bool = False) -> None:
        super().__init__()
        self.unit_center = unit_center

    def forward(self, window: Tensor, matrix: Tensor) -> Tensor:
        """The stencil ``[R, F, C]`` of windows ``[R, F]`` and a matrix ``[F, C]``."""
        if self.unit_center:
            before, after = window.tensor_split(2)
            window = torch.cat([before, window.new_ones(1, window.size(1)), after])
        return window[:, :, None] * matrix

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Windows and matrix of the separable stencil nearest to ``weight`` ``[R, F, C]``.

        It is ``weight`` itself, up to rounding, if that is separable.
        """
        wide = weight.transpose(0, 1).to(torch.promote_types(weight.dtype, torch.float32))
        left, size, right = torch.linalg.svd(wide, full_matrices=False)
        root = size[:, :1].sqrt()
        # Of a stencil of zeros one factor isn't zero: else neither would have a gradient.
        window = (left[:, :, 0] * torch.where(root > 0, root, 1.0)).t()
        matrix = right[:, 0] * root
        if self.unit_center:
            middle = window.size(0) // 2
            center = window[middle]
            least = 1e-6 * window.abs().amax(0)
            center = torch.where(center.abs() < least, least, center)
            others = torch.cat([window[:middle], window[middle + 1 :]])
            window, matrix = others / center, matrix * center[:, None]
        return window.contiguous().to(weight.dtype), matrix.to(weight.dtype)


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a parameter of a module, or the factors of a separable stencil, other values."""
    with torch.no_grad():
        if parametrize.is_parametrized(module, name):
            setattr(module, name, value)
        else:
            getattr(module, name).copy_(value)


def separate(module: nn.Module, name: str = "weight", unit_center: bool = False) -> None:
    """Make a stencil of a module separable, from the nearest separable one on.

    The module is used as before; its state dict holds the two factors. It is a
    :mod:`torch.nn.utils.parametrize` parametrisation.

    Args:
        module: A :class:`gncadeq.StencilConv`, or a cell with a stencil.
        name: Of the stencil ``[R, F, C]``: ``"weight"``, or ``"weight_z"`` of a
            :class:`gncadeq.ConvCell`.
        unit_center: Whether the middle of each window is one and no parameter, which is for
            trained stencils: no scale is left to learn a window's middle with.

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
    parametrize.register_parametrization(module, name, Separable(unit_center))


def fix_centers(module: nn.Module, name: str = "weight") -> None:
    """Make the middles of the windows of a separable stencil one; the stencil stays the same.

    Example:
        >>> from gncadeq.cells import StencilConv
        >>> conv = StencilConv(4, 6, bias=False)
        >>> separate(conv)
        >>> before = conv.weight.detach()
        >>> fix_centers(conv)
        >>> torch.allclose(conv.weight, before, rtol=1e-3, atol=1e-5)
        True
        >>> sum(p.numel() for p in conv.parameters())  # 60 before
        56
    """
    factor: Any = getattr(module.parametrizations, name)
    stencil = nn.Parameter(getattr(module, name).detach(), factor.original0.requires_grad)
    parametrize.remove_parametrizations(module, name)
    delattr(module, name)  # a buffer now, where no gradient is wanted
    setattr(module, name, stencil)
    separate(module, name, unit_center=True)
