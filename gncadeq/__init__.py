"""gncadeq: train a local rule on a graph as an equilibrium, run it as a cellular automaton.

Importing the package loads neither Lightning, torchvision nor matplotlib.
"""

from gncadeq.cells import Cell, ConvCell, StencilConv
from gncadeq.dynamics import (
    ConvergenceError,
    ConvergenceWarning,
    GraphDEQ,
    GraphNCA,
    Solution,
    Status,
)
from gncadeq.models import PixelGraphClassifier

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "ConvCell",
    "ConvergenceError",
    "ConvergenceWarning",
    "GraphDEQ",
    "GraphNCA",
    "PixelGraphClassifier",
    "Solution",
    "Status",
    "StencilConv",
]
