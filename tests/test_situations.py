"""The laws in situations that Hypothesis makes: graphs of all kinds, some of which fail."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from toys import SOLVERS, STENCIL_CELLS, EdgeCell, stencil_cell

from gncadeq import GraphDEQ, Status
from gncadeq.testing import (
    assert_batch_independent,
    assert_deterministic,
    assert_gradients_close,
    assert_gradients_exact,
    assert_honest_residual,
    assert_permutation_equivariant,
    gradients,
    graph_of,
    graphs_of,
)


@st.composite
def situations(draw, failing: bool = True):
    """A batch of up to four graphs: pixels, loose, disconnected, none, one, diverging, NaN."""
    kinds = ["pixels", "isolated", "disconnected", "one", "empty"]
    kinds += ["diverging", "nan"] if failing else []
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    graphs = []
    for kind in chosen:
        h, w = draw(st.integers(2, 5)), draw(st.integers(2, 5))
        if kind in ("one", "empty"):
            h, w = 1, int(kind == "one")
        x = 0.1 + torch.rand(h * w, 2, dtype=torch.double, generator=generator)
        row, col = torch.arange(h * w) // max(w, 1), torch.arange(h * w) % max(w, 1)
        dr, dc = row[:, None] - row, col[:, None] - col
        near = (dr.abs() <= 1) & (dc.abs() <= 1) & ((dr != 0) | (dc != 0))
        if kind == "isolated":
            near = near & False
        if kind == "disconnected":
            near = near & ((row < h // 2)[:, None] == (row < h // 2))
        source, target = near.nonzero().T
        relation = (dr[source, target] + 1) * 3 + dc[source, target] + 1
        if kind == "diverging":
            x[:, 0] = 100.0
        if kind == "nan":
            x[0] = float("nan")
        graphs.append(
            Data(x=x, edge_index=torch.stack([source, target]), edge_attr=relation, kind=kind)
        )
    return Batch.from_data_list(graphs)


EXAMPLES = settings(
    max_examples=3, deadline=None, derandomize=True, database=None,
    phases=(Phase.explicit, Phase.generate),  # graphs of 25 nodes need no shrinking
)  # fmt: skip


def situation_cell(name: str, batch: Batch):
    if name in STENCIL_CELLS:
        return stencil_cell(name, contraction=0.6)
    torch.manual_seed(1)
    batch.edge_attr = 0.5 + batch.edge_attr.double() / 9  # weights, not relations
    return EdgeCell(2, 3, bounded=False).double()


@pytest.mark.parametrize("name", [*STENCIL_CELLS, "edges"])
@pytest.mark.parametrize("solver", SOLVERS)
@EXAMPLES
@given(batch=situations())
def test_batch_and_failure_laws_in_every_situation(name, solver, batch):
    cell = situation_cell(name, batch)
    deq = GraphDEQ(cell, solver, tol=1e-9, max_steps=150, on_failure="ignore")
    expansive = [kind == "diverging" for kind in batch.kind]
    assert_batch_independent(deq, batch, atol=1e-7, step_slack=2, expansive=expansive)
    z, solution = deq(
        *graph_of(batch), batch.batch, batch_size=batch.num_graphs, return_solution=True
    )
    gone = solution.status == Status.NON_FINITE
    assert torch.equal(z.isnan().all(1), gone[batch.batch])
    for kind, code, residual in zip(batch.kind, solution.status, solution.residual, strict=True):
        if kind == "diverging":  # what has grown is not at rest, however small its residual
            assert residual <= 1e-9 or code != Status.CONVERGED
        else:
            assert bool(residual <= 1e-9) == (code == Status.CONVERGED)
        if kind == "nan":
            assert code == Status.NON_FINITE
        elif kind == "diverging" and name == "edges" and solver == "picard":
            assert code == Status.DIVERGED
        elif name == "edges" and kind != "diverging":
            assert code == Status.CONVERGED


@pytest.mark.parametrize("name", [*STENCIL_CELLS, "edges"])
@pytest.mark.parametrize("solver", SOLVERS)
@EXAMPLES
@given(batch=situations(failing=False))
def test_residual_gradient_and_determinism_laws_in_every_situation(name, solver, batch):
    cell = situation_cell(name, batch)
    deq = GraphDEQ(cell, solver, tol=1e-10, max_steps=500)
    assert_honest_residual(deq, batch)
    assert_deterministic(deq, batch)
    # Graphs without a loss have no gradient, and those with one have theirs.
    mine = (batch.batch % 2 == 0).nonzero().flatten()
    assert_gradients_exact(deq, batch, nodes=mine, scale=1e-6, steps=80)
    assert_gradients_close(gradients(deq, batch)[:1], [
        torch.cat([gradients(deq, data)[0] for data in graphs_of(batch)])
    ])  # fmt: skip


@pytest.mark.parametrize("name", [*STENCIL_CELLS, "edges"])
@EXAMPLES
@given(batch=situations(failing=False))
def test_permutation_law_in_every_situation(name, batch):
    assert_permutation_equivariant(situation_cell(name, batch), batch)
