"""gncadeq: train a local rule on a graph as an equilibrium, run it as a cellular automaton.

The public names, and the subpackages, load when they are first used: ``gncadeq --help`` waits for
no torch. None of them loads Lightning, torchvision, trimesh or matplotlib.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gncadeq.cells import (
        CascadeCell,
        Cell,
        ConvCell,
        EquivariantCell,
        GrowingCell,
        HeteroConvCell,
        HopfieldCell,
        IGNNCell,
        MaxPropagationCell,
        MicroCell,
        MonotoneCell,
        NodeEdgeCell,
        Part,
        PropagationCell,
        ReachCell,
        RelationCell,
        StencilConv,
        SweepCell,
        TotalisticCell,
        TypedCell,
        WrappedConvCell,
    )
    from gncadeq.datasets.graph_files import load_graph
    from gncadeq.datasets.mesh_files import load_mesh, load_points
    from gncadeq.dynamics import (
        ConvergenceError,
        ConvergenceWarning,
        GraphDEQ,
        GraphNCA,
        Halo,
        Solution,
        Status,
    )
    from gncadeq.models import (
        NodeClassifier,
        PixelGraphClassifier,
        PyramidClassifier,
        SelfClassifier,
    )
    from gncadeq.training.pool import SamplePool

# torch_geometric scripts a function when it is loaded, of which torch warns, once a process.
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=FutureWarning)

__version__ = "0.2.0"

__all__ = [
    "CascadeCell",
    "Cell",
    "ConvCell",
    "ConvergenceError",
    "ConvergenceWarning",
    "EquivariantCell",
    "GraphDEQ",
    "GraphNCA",
    "GrowingCell",
    "Halo",
    "HeteroConvCell",
    "HopfieldCell",
    "IGNNCell",
    "MaxPropagationCell",
    "MicroCell",
    "MonotoneCell",
    "NodeClassifier",
    "NodeEdgeCell",
    "Part",
    "PixelGraphClassifier",
    "PropagationCell",
    "PyramidClassifier",
    "ReachCell",
    "RelationCell",
    "SamplePool",
    "SelfClassifier",
    "Solution",
    "Status",
    "StencilConv",
    "SweepCell",
    "TotalisticCell",
    "TypedCell",
    "WrappedConvCell",
    "load_graph",
    "load_mesh",
    "load_points",
]

_PLACES = ("cells", "dynamics", "models", "datasets.graph_files", "datasets.mesh_files",
           "training.pool")  # fmt: skip


def __getattr__(name: str) -> Any:
    """A public name, or a subpackage, loaded now (PEP 562)."""
    if name in __all__:
        modules = (import_module(f"{__name__}.{place}") for place in _PLACES)
        return next(getattr(m, name) for m in modules if hasattr(m, name))
    if not name.startswith("_"):
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":  # it is there, and misses something itself
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
