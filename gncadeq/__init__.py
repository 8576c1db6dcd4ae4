"""gncadeq: train a local rule on a graph as an equilibrium, run it as a cellular automaton.

Importing the package loads neither Lightning, torchvision, trimesh nor matplotlib.
"""

import warnings

with warnings.catch_warnings():  # torch_geometric scripts a function, of which torch warns
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    import torch_geometric  # noqa: F401

from gncadeq.cells import (
    BinaryCell,
    Cell,
    ConvCell,
    ElasticCell,
    EquivariantCell,
    GrowingCell,
    HeteroConvCell,
    IGNNCell,
    MicroCell,
    MonotoneCell,
    NodeEdgeCell,
    PropagationCell,
    RelationCell,
    StencilConv,
    ThresholdCell,
    TotalisticCell,
    TypedCell,
    WrappedConvCell,
)
from gncadeq.datasets.graph_files import load_graph
from gncadeq.datasets.mesh_files import load_mesh
from gncadeq.dynamics import (
    ConvergenceError,
    ConvergenceWarning,
    GraphDEQ,
    GraphNCA,
    Solution,
    Status,
)
from gncadeq.models import NodeClassifier, PixelGraphClassifier
from gncadeq.training.pool import SamplePool

__version__ = "0.1.0"

__all__ = [
    "BinaryCell",
    "Cell",
    "ConvCell",
    "ConvergenceError",
    "ConvergenceWarning",
    "ElasticCell",
    "EquivariantCell",
    "GraphDEQ",
    "GraphNCA",
    "GrowingCell",
    "HeteroConvCell",
    "IGNNCell",
    "MicroCell",
    "MonotoneCell",
    "NodeClassifier",
    "NodeEdgeCell",
    "PixelGraphClassifier",
    "PropagationCell",
    "RelationCell",
    "SamplePool",
    "Solution",
    "Status",
    "StencilConv",
    "ThresholdCell",
    "TotalisticCell",
    "TypedCell",
    "WrappedConvCell",
    "load_graph",
    "load_mesh",
]
