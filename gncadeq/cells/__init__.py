"""Cells: one local rule a file."""

from gncadeq.cells.base import Cell
from gncadeq.cells.conv import ConvCell
from gncadeq.cells.stencil import (
    StencilConv,
    stencil_bound,
    stencil_norm,
    stencil_to_conv2d,
)

__all__ = ["Cell", "ConvCell", "StencilConv", "stencil_bound", "stencil_norm", "stencil_to_conv2d"]
