"""Dropout is held for a solve, batch norms count a solve once."""

from __future__ import annotations

import pytest
import torch
from toys import SOLVERS, NoisyCell, conv_cell

from gncadeq import GraphDEQ
from gncadeq.testing import (
    assert_deterministic,
    assert_gradients_exact,
    graph_of,
)

# Randomness


@pytest.mark.parametrize("solver", [*SOLVERS, "torchdeq:anderson"])
def test_dropout_is_frozen_within_a_solve_and_drawn_anew_for_the_next(solver, small):
    cell = NoisyCell(2, dropout=0.5).double()
    deq = GraphDEQ(cell, solver, tol=1e-10, max_steps=200)
    with torch.no_grad():
        z, solution = deq(*graph_of(small), small.batch, return_solution=True)
        assert bool(solution.converged.all())
        assert not torch.equal(deq(*graph_of(small), small.batch), z)
        assert_deterministic(deq, small)
        torch.manual_seed(5)
        again = [deq(*graph_of(small), small.batch)]
        torch.manual_seed(5)
        again.append(deq(*graph_of(small), small.batch))
    assert torch.equal(*again)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("nan", [False, True])
def test_gradients_under_frozen_dropout(order, nan):
    """Finite differences with one seed; a NaN graph beside changes no mask."""
    cell = NoisyCell(2, dropout=0.4).double()
    deq = GraphDEQ(cell, tol=1e-12, max_steps=200, on_failure="ignore")
    x = torch.rand(6, 2, dtype=torch.double)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    if nan:
        x[1] = float("nan")
    mine = slice(3, None) if nan else slice(None)
    empty = torch.empty(2, 0, dtype=torch.long)

    def loss(weight):
        value = torch.func.functional_call(
            deq, {"cell.linear.weight": weight}, (x, empty, None, batch),
            {"generator": torch.Generator().manual_seed(3)},
        )  # fmt: skip
        return value[mine].pow(2).sum()

    weight = cell.linear.weight.detach().clone().requires_grad_()
    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    assert check(loss, (weight,))


def test_dropout_modules_are_the_only_ones_that_pay(small):
    from gncadeq.dynamics.frozen import Frozen

    assert Frozen.of(conv_cell()) is None
    cell = NoisyCell(2, dropout=0.5, norm=True)
    assert Frozen.of(cell) is not None
    assert Frozen.of(cell.eval()) is None
    cell.drop.train()  # dropout at test time, for uncertainty
    assert Frozen.of(cell) is not None
    plain = NoisyCell(2)
    plain.draws_randomness = True
    assert Frozen.of(plain) is not None
    plain.draws_randomness = False
    plain.dropout = 0.0
    assert Frozen.of(plain) is None
    plain.dropout = 0.6  # as attention modules have it
    assert Frozen.of(plain) is not None


@pytest.mark.parametrize("options", [{}, {"gradient": "phantom"}, {"solver": "torchdeq:broyden"}])
@pytest.mark.parametrize("grad", [True, False])
def test_batch_norm_counts_a_solve_once(options, grad, small):
    cell = NoisyCell(2, norm=True).double()
    deq = GraphDEQ(cell, tol=1e-9, max_steps=200, **options)
    x = small.x.clone().requires_grad_()
    with torch.set_grad_enabled(grad):
        z, solution = deq(x, small.edge_index, small.edge_attr, small.batch, return_solution=True)
        assert bool(solution.converged.all())
        assert cell.evaluations > 3
        assert int(cell.norm.num_batches_tracked) == 1
        sensed = (cell.linear(z) + x).detach()
    torch.testing.assert_close(cell.norm.running_mean, 0.1 * sensed.mean(0), atol=1e-8, rtol=0)
    if grad:
        z.sum().backward()
        deq(x, small.edge_index, small.edge_attr, small.batch).sum().backward()
        assert int(cell.norm.num_batches_tracked) == 2
    deq.eval()
    deq(x, small.edge_index, small.edge_attr, small.batch)
    assert int(cell.norm.num_batches_tracked) == (2 if grad else 1)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_through_batch_norm(order, small):
    deq = GraphDEQ(NoisyCell(2, norm=True).double(), tol=1e-11, max_steps=200)
    assert_gradients_exact(deq, small, order=order, steps=80)
