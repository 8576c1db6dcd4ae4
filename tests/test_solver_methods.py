"""The proposals of the solvers are those of their formulas; own solvers, options and TorchDEQ's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import ONE, status

from gncadeq.dynamics import Partition, Solver, register_solver, solve, solver_names
from gncadeq.dynamics.solvers import Anderson, Safeguard, make_solver


def test_a_bad_proposal_is_replaced_by_a_plain_step():
    class Wild(Solver):
        def propose(self, z, fz):
            return fz + 100.0

    guard = Safeguard(Wild())
    guard.partition = Partition(None, 1)
    guard.step = torch.cos
    z = torch.ones(1, 1, dtype=torch.double)
    guard.begin(z, guard.partition)

    def propose(z, fz):
        guard.watch(z, fz, guard.partition.norm(fz - z).numpy())
        return guard.propose(z, fz)

    wild = propose(z, z.cos())
    assert float(wild) == pytest.approx(float(z.cos()) + 100)
    # The first proposal is held like every other: back to the plain step from the start.
    assert float(propose(wild, wild.cos())) == pytest.approx(float(z.cos()))
    # Outside of the domain: a half of the plain step, then a quarter.
    nan = torch.full_like(z, float("nan"))
    plain = z.cos()
    for part in (0.5, 0.25):
        proposal = propose(plain, nan)
        assert float(proposal) == pytest.approx(1 + part * (float(z.cos()) - 1))


# What a solver is


def test_andersons_steps_are_those_of_least_squares():
    """The first steps, with damping, against the formula evaluated by NumPy."""
    torch.manual_seed(0)
    tau, n = 0.6, 6
    a = 0.3 * torch.randn(n, n, dtype=torch.double)
    b = torch.randn(n, 1, dtype=torch.double)
    method = Anderson(history=3, damping=tau)
    method.partition = Partition(None, n)
    z = torch.zeros(n, 1, dtype=torch.double)
    method.begin(z, method.partition)
    zs, gs = [], []
    for k in range(6):
        fz = a @ z + b
        zs.append(z.numpy())
        gs.append((fz - z).numpy())
        expected = zs[-1] + tau * gs[-1]
        first = max(0, k - 3)
        if k:
            dz = np.hstack([zs[i + 1] - zs[i] for i in range(first, k)])
            dg = np.hstack([gs[i + 1] - gs[i] for i in range(first, k)])
            gamma = np.linalg.lstsq(dg, gs[-1], rcond=None)[0]
            expected = expected - (dz + tau * dg) @ gamma
        z = method.propose(z, fz)
        np.testing.assert_allclose(z.numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("history", [4, 20])
def test_newtons_directions_are_those_of_the_jacobian(history):
    """Two Newton steps on a small nonlinear map, against the dense Jacobian; the Krylov space may
    have just as many dimensions as the state."""
    torch.manual_seed(0)
    a = torch.randn(4, 4, dtype=torch.double)
    step = lambda z: (a @ z).sin() + 0.3  # noqa: E731
    exact = torch.zeros(4, 1, dtype=torch.double)
    seen = []

    def watched(z):
        seen.append(z)
        return step(z)

    solve(watched, exact, Partition(None, 4), solver="newton", tol=1e-14, max_steps=5,
          options={"accuracy": 1e-6, "history": history})  # fmt: skip
    jacobian = torch.autograd.functional.jacobian(lambda z: step(z.unsqueeze(1)).squeeze(1) - z,
                                                  exact.squeeze(1))  # fmt: skip
    direction = torch.linalg.solve(jacobian, -(step(exact) - exact))
    trial = seen[5]  # after the start and a product for each dimension
    torch.testing.assert_close(trial, exact + direction, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solver", ["newton", "broyden", "auto"])
def test_a_linear_map_without_contraction(solver):
    torch.manual_seed(0)
    a = torch.randn(8, 8, dtype=torch.double)
    b = torch.randn(8, 1, dtype=torch.double)
    solution = solve(lambda z: a @ z + b, torch.zeros_like(b), Partition(None, 8), solver=solver,
                     tol=1e-10, max_steps=100)  # fmt: skip
    assert status(solution) == ["CONVERGED"]
    exact = torch.linalg.solve(torch.eye(8, dtype=torch.double) - a, b)
    torch.testing.assert_close(solution.state, exact, rtol=1e-7, atol=1e-7)


def test_the_flow_reaches_what_plain_steps_circle():
    """-3 tanh z has its rest at zero; plain steps jump between ±2.98."""
    z0 = torch.full((3, 1), 2.0, dtype=torch.double)
    step = lambda z: -3 * z.tanh() + 0.1  # noqa: E731
    assert status(solve(step, z0, ONE, solver="picard", max_steps=100)) == ["MAX_STEPS"]
    solution = solve(step, z0, ONE, solver="flow", tol=1e-8, max_steps=200)
    assert status(solution) == ["CONVERGED"]
    torch.testing.assert_close(step(solution.state), solution.state, atol=1e-8, rtol=0)


def test_a_longer_history_helps_where_the_residual_falls_slowly():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.double))[0]
    a = basis @ torch.diag(torch.linspace(-0.999, 0.999, 40, dtype=torch.double)) @ basis.T
    b = torch.randn(40, 1, dtype=torch.double)
    count = {}
    for history in (5, 20):
        solution = solve(
            lambda z: a @ z + b, torch.zeros_like(b), Partition(None, 40), tol=1e-6, max_steps=600,
            solver="anderson", options={"history": history},
        )  # fmt: skip
        count[history] = int(solution.num_evaluations)
    assert count[20] <= 70 < 2 * count[20] < count[5]


def test_auto_is_never_far_behind_plain_steps():
    """Signals along chains, which acceleration holds up."""
    for weight in (0.9, 1.0, 3.0):
        for bend in (lambda z: z, torch.tanh):

            def step(z, weight=weight, bend=bend):
                return bend(torch.cat([z.new_ones(1, 2), weight * z[:-1]]))

            z0 = torch.zeros(60, 2, dtype=torch.double)
            count = [
                int(solve(step, z0, Partition(None, 60), solver=s, tol=1e-6, max_steps=400)
                    .num_evaluations) for s in ("picard", "auto")
            ]  # fmt: skip
            assert count[1] <= 2 * count[0]


@pytest.mark.parametrize("rate", [-2.5, -5.0])
def test_auto_evaluates_no_state_twice_where_it_leaves_its_plain_steps(rate):
    seen = []

    def step(z):
        seen.append(float(z[0]))
        return rate * z + 1

    z0 = torch.zeros(3, 1, dtype=torch.double)
    solution = solve(step, z0, Partition(None, 3), tol=1e-9)
    assert status(solution) == ["CONVERGED"]
    assert len(seen) == len(set(seen)) == int(solution.num_evaluations)


def test_a_solver_may_evaluate_the_map_and_that_counts():
    class Heun(Solver):
        def propose(self, z, fz):
            return 0.5 * (fz + self.step(fz))

    register_solver("test-heun", Heun)
    assert "test-heun" in solver_names()
    calls = 0

    def step(z):
        nonlocal calls
        calls += 1
        return 0.5 * z + 1

    solution = solve(step, torch.zeros(3, 1), ONE, solver="test-heun", tol=1e-4)
    assert status(solution) == ["CONVERGED"]
    assert int(solution.num_evaluations) == calls == 2 * int(solution.num_steps) + 1


def test_names_of_solvers_are_not_taken_twice():
    class Mine(Solver):
        def propose(self, z, fz):
            return fz

    for name in ("anderson", "auto", "torchdeq:mine"):
        with pytest.raises(ValueError, match="Expected a new name of a solver"):
            register_solver(name, Mine)
    with pytest.raises(TypeError, match="Expected a subclass of Solver"):
        register_solver("mine", lambda z, fz: fz)


@pytest.mark.parametrize(
    ("solver", "options", "error"),
    [
        ("anderson", {"history": 0}, ValueError),
        ("anderson", {"history": 2.5}, TypeError),
        ("anderson", {"damping": float("nan")}, ValueError),
        ("broyden", {"history": "many"}, TypeError),
        ("newton", {"accuracy": 1.0}, ValueError),
        ("flow", {"tolerance": 0}, ValueError),
        ("auto", {"patience": 0}, ValueError),
        ("auto", {"patients": 3}, TypeError),
    ],
)
def test_options_of_solvers_are_checked(solver, options, error):
    with pytest.raises(error, match=next(iter(options))):
        make_solver(solver, options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tol": float("nan")}, ValueError),
        ({"tol": 0}, ValueError),
        ({"atol": -1.0}, ValueError),
        ({"max_steps": 2.5}, TypeError),
        ({"check_every": 0}, ValueError),
        ({"criterion": "edge"}, ValueError),
        ({"compact": 1}, TypeError),
    ],
)
def test_arguments_of_a_solve_are_checked(options, error):
    with pytest.raises(error, match=next(iter(options))):
        solve(lambda z: z, torch.zeros(3, 1), ONE, **options)


# TorchDEQ's own


@pytest.mark.parametrize("name", ["anderson", "broyden", "fixed_point_iter"])
def test_torchdeqs_solvers_end_with_a_status(name, monkeypatch):
    from gncadeq.dynamics import torchdeq_bridge
    from gncadeq.dynamics.options import SolveOptions

    def run(step, z0, **options):
        partition = Partition(torch.tensor([0, 1, 1]), 3)
        settings = SolveOptions(f"torchdeq:{name}", **{"tol": 1e-8, "max_steps": 80, **options})
        return torchdeq_bridge.solve_stock(settings, step, z0, partition)

    z0 = torch.zeros(3, 2, dtype=torch.double)
    calls = 0

    def step(z):
        nonlocal calls
        calls += 1
        return 0.5 * z.cos()

    solution = run(step, z0)
    assert status(solution) == ["CONVERGED", "CONVERGED"]
    assert solution.num_evaluations.tolist() == [calls, calls]
    fz = step(solution.state)
    torch.testing.assert_close(solution.residual_abs[1], (fz - solution.state)[1:].norm())
    assert status(run(step, z0, max_steps=3)) == ["MAX_STEPS", "MAX_STEPS"]
    assert set(status(run(lambda z: z + float("nan"), z0))) == {"NON_FINITE"}

    def singular(func, x0, **_):
        func(func(x0))
        raise torch.linalg.LinAlgError("singular")

    monkeypatch.setattr(torchdeq_bridge, "get_solver", lambda _: singular)
    stalled = run(step, z0)
    assert status(stalled) == ["STALLED", "STALLED"]
    torch.testing.assert_close(stalled.state, step(z0))
    with pytest.warns(UserWarning, match=r"STALLED.*try another solver"):
        stalled.report("warn")


@pytest.mark.parametrize("seed", [21, 37, 40])
def test_auto_leaves_plain_steps_in_a_batch_as_it_does_alone(seed):
    """The residual of the second graph more than doubles before it falls; Anderson's method has
    begun for the first by then, and must not take the plain step for a bad proposal of its own."""
    g = torch.Generator().manual_seed(seed)
    shear = torch.triu(torch.randn(4, 4, generator=g), 1).double() * 2
    matrix = shear + torch.diag(0.3 * torch.rand(4, generator=g).double())
    bias = torch.randn(4, 1, generator=g).double()

    def run(first):
        def f(z):
            return torch.cat([0.97 * z[:first] + 0.1, matrix @ z[first:] + bias])

        batch = torch.tensor([0] * first + [first] * 4)
        p = Partition(batch, len(batch))
        return solve(f, torch.zeros(len(batch), 1).double(), p, tol=1e-6)

    alone, both = run(0), run(1)
    assert int(alone.num_steps[0]) == int(both.num_steps[1])
    torch.testing.assert_close(alone.state, both.state[1:], rtol=0, atol=1e-12)
