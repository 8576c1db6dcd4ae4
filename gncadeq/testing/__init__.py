r"""The laws of cells and dynamics, as assertions for any cell and any graph.

Each raises ``AssertionError`` where its law is broken. Use them in the tests of your own cells, in
float64, where rounding hides nothing:

>>> import torch
>>> from gncadeq import ConvCell, GraphDEQ
>>> from gncadeq.testing import assert_gradients_exact, assert_permutation_equivariant
>>> from gncadeq.transforms import ImageToGraph
>>> data = ImageToGraph()(torch.rand(1, 4, 5, dtype=torch.double))
>>> cell = ConvCell(1, 3, contraction=0.5).double()
>>> assert_permutation_equivariant(cell, data)
>>> assert_gradients_exact(GraphDEQ(cell, tol=1e-11), data, steps=80)
"""

from __future__ import annotations

from gncadeq.testing.derivatives import (
    assert_gradients_close,
    assert_gradients_exact,
    gradients,
)
from gncadeq.testing.graphs import (
    context_of,
    graph_of,
    graphs_of,
)
from gncadeq.testing.laws import (
    assert_batch_independent,
    assert_bounded_perception,
    assert_deterministic,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
)

__all__ = [
    "assert_batch_independent",
    "assert_bounded_perception",
    "assert_deterministic",
    "assert_gradients_close",
    "assert_gradients_exact",
    "assert_honest_residual",
    "assert_local",
    "assert_one_rule",
    "assert_permutation_equivariant",
    "context_of",
    "gradients",
    "graph_of",
    "graphs_of",
]
