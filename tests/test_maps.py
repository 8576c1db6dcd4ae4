"""Maps on which other libraries test their solvers: what the solvers here make of them."""

from __future__ import annotations

import pytest
import torch

from benchmarks._maps import MAPS
from gncadeq.dynamics import Partition, Status, solve

NAMES = [m.name for m in MAPS]


def run(m, solver="auto", **options):
    """The solution and the number of evaluations that were really made."""
    calls = 0

    def step(z):
        nonlocal calls
        calls += 1
        return m.f(z.squeeze(1)).unsqueeze(1)

    options = {"tol": 1e-6, "max_steps": 200, **options}
    return solve(
        step, m.z0.unsqueeze(1), Partition(None, len(m.z0)), solver=solver, **options
    ), calls


def assert_honest(m, solution, calls):
    """The residual is that of the state, and nothing is called converged that isn't."""
    z = solution.state.squeeze(1)
    if solution.status.item() == Status.NON_FINITE:  # no state is made up where there is none
        assert bool(z.isnan().all())
        assert bool(solution.residual.isinf().all())
        return
    fz = m.f(z)
    # Squares of what has diverged would overflow.
    scale = max(1.0, float(z.abs().max()), float(fz.abs().max()))
    difference = scale * ((fz - z) / scale).norm()
    torch.testing.assert_close(solution.residual_abs[0], difference, rtol=1e-8, atol=0)
    floor = torch.finfo(z.dtype).eps * m.z0.norm()
    relative = difference / torch.maximum(scale * (fz / scale).norm(), floor)
    torch.testing.assert_close(solution.residual[0], relative, rtol=1e-8, atol=1e-300)
    assert not bool(solution.converged) or bool(relative <= solution.tol)
    assert int(solution.num_evaluations) == calls <= 201


@pytest.mark.parametrize("m", MAPS, ids=NAMES)
def test_the_default_solves_all_maps_but_one(m):
    solution, calls = run(m)
    # One map takes the solve to where its steps are lost in rounding. Whether that is found within
    # the steps depends on the processor's last bits; it is never called converged.
    lost = {Status.DIVERGED, Status.MAX_STEPS}
    expected = lost if m.name == "trigonometric" else {Status.CONVERGED}
    assert Status(solution.status.item()) in expected
    assert_honest(m, solution, calls)


@pytest.mark.parametrize("m", MAPS, ids=NAMES)
@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "newton", "flow"])
def test_no_solver_calls_a_map_solved_that_is_not(m, solver):
    solution, calls = run(m, solver)
    assert_honest(m, solution, calls)


@pytest.mark.parametrize("m", [m for m in MAPS if m.solution], ids=lambda m: m.name)
def test_what_is_found_is_a_fixed_point(m):
    """As near as its residual promises, to first order: ``‖z - z*‖ <= ‖(I - J)^-1‖ ‖f(z) - z‖``.

    The norm is 1e10 for the Jordan block: how near a solve comes there is up to rounding.
    """
    solution, _ = run(m, tol=1e-12)
    z = solution.state.squeeze(1)
    near = min(m.solution, key=lambda exact: float((z - exact).norm()))
    matrix = torch.eye(len(near)).double() - torch.func.jacrev(m.f)(near)
    promised = torch.linalg.pinv(matrix).norm() * solution.residual_abs[0]
    largest = max(1.0, *(float(exact.norm()) for exact in m.solution))
    assert float((z - near).norm()) <= 1e-6 * largest + promised
