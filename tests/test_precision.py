"""Half precision: solves are of float32, and say what they can't do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import SOLVERS, conv_cell

from gncadeq import ConvCell, GraphDEQ, GraphNCA
from gncadeq.dynamics import Partition, solve
from gncadeq.testing import (
    assert_gradients_close,
    gradients,
    graph_of,
)

# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", [*SOLVERS, "torchdeq:anderson"])
def test_autocast_solves_in_float32(dtype, solver, small):
    cell = ConvCell(2, 3, contraction=0.8)
    small.x = small.x.float()
    deq = GraphDEQ(cell, solver, tol=1e-3, backward_tol=1e-5, max_steps=100)
    encoder = torch.nn.Linear(2, 2)

    def run(enabled):
        x = small.x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            injection = encoder(x)
            assert injection.dtype == (dtype if enabled else torch.float32)
            z, solution = deq(
                injection, small.edge_index, small.edge_attr, small.batch, return_solution=True
            )
            (z.pow(2).sum()).backward()  # within autocast: the adjoint must not care
        assert z.dtype == torch.float32
        assert bool(solution.converged.all())
        grads = [p.grad for p in deq.parameters()] + [x.grad]
        deq.zero_grad()
        return z.detach(), grads

    z, grads = run(True)
    expected, expected_grads = run(False)
    torch.testing.assert_close(z, expected, atol=2e-2, rtol=0)
    assert_gradients_close(grads, expected_grads, rtol=3e-2)


def test_autocast_second_order(small):
    deq = GraphDEQ(ConvCell(2, 3, contraction=0.6), tol=1e-5, max_steps=100)
    small.x = small.x.float()
    expected = gradients(deq, small, order=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(deq, small, order=2)
    assert_gradients_close(found, expected, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.5}, {"fire_rate": 0.5}])
def test_autocast_leaves_the_automaton_alone(dtype, options, small):
    small.x = small.x.float()
    nca = GraphNCA(ConvCell(2, 3, contraction=0.8), steps=4, checkpoint_every=2, **options)
    with torch.autocast("cpu", dtype=dtype):
        z, solution = nca(*graph_of(small), small.batch, return_solution=True)
    assert z.dtype == torch.float32
    z.sum().backward()
    assert bool(solution.residual.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in nca.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outside_autocast(dtype, small):
    deq = GraphDEQ(ConvCell(2, 3, contraction=0.8), tol=1e-3)
    x = small.x.to(dtype).requires_grad_()
    z = deq(x, small.edge_index, small.edge_attr, small.batch)
    assert z.dtype == torch.float32
    z.sum().backward()
    assert x.grad.dtype == dtype
    with pytest.raises(TypeError, match=r"float32 or float64 \(got torch.*cell.float\(\)"):
        deq.to(dtype)(x, small.edge_index, small.edge_attr, small.batch)
    start = torch.zeros(4, 2, dtype=dtype)
    solution = solve(lambda z: 0.5 * z + 1, start, Partition(None, 4), tol=1e-4)
    assert solution.state.dtype == torch.float32
    assert bool(solution.converged.all())


def test_an_overflown_loss_stays_overflown_and_says_nothing(small):
    """A gradient scaler probes for overflow; it needs to see it, and no warning."""
    deq = GraphDEQ(conv_cell(), tol=1e-8, on_failure="raise")
    x = small.x.clone().requires_grad_()
    z = deq(x, small.edge_index, small.edge_attr, small.batch)
    weight = torch.ones_like(z)
    weight[0, 0] = float("inf")
    (grad,) = torch.autograd.grad(z, x, weight)
    assert not bool(grad[small.batch == 0].isfinite().all())
    assert bool(grad[small.batch == 1].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_every_graph_are_read_at_once(dtype):
    """Zeros, and squares beyond the range of the type, included."""
    p = Partition(torch.tensor([0, 0, 1, 3]), 4, 4)
    ones = torch.ones(4, 2, dtype=dtype)
    expected = np.array([2.0, 2.0**0.5, 0.0, 2.0**0.5])
    huge = 1e30 if dtype == torch.float32 else 1e200
    for sizes in ((1.0, 3.0), (1.0, 0.0), (1.0, huge), (1 / huge, 1.0)):
        states = [size * ones for size in sizes]
        for found in (p.norms(*states), p.norms(states[0], start=states[1])):
            assert found.dtype == (np.float32 if dtype == torch.float32 else np.float64)
            for size, row in zip(sizes, found, strict=True):
                np.testing.assert_allclose(row, size * expected, rtol=1e-6)
    bad = ones.clone()
    bad[2] = float("nan")
    found = p.norms(bad, huge * bad)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[0, [0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6)
    assert p.restrict(np.array([True, False, True, True]))[1].count.tolist() == [2, 0, 1]
