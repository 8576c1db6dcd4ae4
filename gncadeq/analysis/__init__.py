"""How a trained rule behaves: stability, attractors, path independence, reach, memory.

Every analysis takes any step, a map ``z -> z'`` of states ``[num_nodes, channels]``, such as
``cell.prepare(x, edge_index, edge_attr)``. The pictures are in :mod:`gncadeq.viz.analysis`, and
:mod:`gncadeq.report` makes a page of both.
"""

from gncadeq.analysis.attractors import Attractor, AttractorCensus, classify_attractor
from gncadeq.analysis.basin import BasinMap, basin_map
from gncadeq.analysis.independence import (
    PathIndependence,
    asymptotic_alignment,
    path_independence,
)
from gncadeq.analysis.lyapunov import lyapunov_exponents
from gncadeq.analysis.memory import saved_bytes
from gncadeq.analysis.sensitivity import hop_distance, influence_by_hop, sensitivity
from gncadeq.analysis.spectrum import leading_eigenvalues, operator_norm, spectral_radius

__all__ = [
    "Attractor",
    "AttractorCensus",
    "BasinMap",
    "PathIndependence",
    "asymptotic_alignment",
    "basin_map",
    "classify_attractor",
    "hop_distance",
    "influence_by_hop",
    "leading_eigenvalues",
    "lyapunov_exponents",
    "operator_norm",
    "path_independence",
    "saved_bytes",
    "sensitivity",
    "spectral_radius",
]
