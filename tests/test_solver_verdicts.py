"""How solves end: at rest, on any scale, out of the domain, without any progress."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from toys import ONE, status
from toys import SOLVERS as OF_STEPS

from gncadeq import Cell, ConvCell, GraphDEQ, GraphNCA
from gncadeq.dynamics import Partition, solve
from gncadeq.transforms import ImageToGraph

SOLVERS = (*OF_STEPS, "newton", "flow", "auto")


# Rest and scale


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_a_state_that_goes_to_zero_comes_to_rest(solver, dtype, tol):
    z0 = torch.ones(3, 2, dtype=dtype)
    solution = solve(lambda z: 0.5 * z, z0, ONE, solver=solver, tol=tol, max_steps=100)
    assert status(solution) == ["CONVERGED"]
    assert float(solution.state.abs().max()) <= torch.finfo(dtype).eps
    exact = solve(lambda z: 0.5 * z, z0, ONE, solver="picard", tol=tol, atol=0, max_steps=100)
    assert status(exact) == ["MAX_STEPS"]
    early = solve(lambda z: 0.5 * z, z0, ONE, solver="picard", tol=tol, atol=0.01, max_steps=100)
    assert int(early.num_steps) == 7  # the first power of 1/2 that is at most 0.01, times √6 / 2
    assert float(early.residual_abs) <= 0.01


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("criterion", ["graph", "node", "channel"])
def test_a_black_image_with_a_noise_start(solver, criterion):
    data = ImageToGraph()(torch.zeros(1, 12, 12))
    deq = GraphDEQ(ConvCell(1, 8, contraction=0.9), solver, start="normal", criterion=criterion,
                   max_steps=60 if solver in ("anderson", "auto") else 200)  # fmt: skip
    with torch.no_grad():
        z, solution = deq(data.x, data.edge_index, data.edge_attr, return_solution=True)
    assert status(solution) == ["CONVERGED"]
    assert float(z.norm()) < 1e-7


@pytest.mark.parametrize("solver", ["auto", "torchdeq:fixed_point_iter"])
def test_an_equilibrium_has_an_absolute_tolerance(solver):
    data = ImageToGraph()(torch.zeros(1, 12, 12))
    cell = ConvCell(1, 8, contraction=0.9)
    z0 = torch.randn(144, 8)
    with torch.no_grad():
        for atol in (0.1, 0.01):
            deq = GraphDEQ(cell, solver, atol=atol, on_failure="ignore", max_steps=40)
            solution = deq(data.x, data.edge_index, data.edge_attr, z0=z0, return_solution=True)[1]
            assert status(solution) == ["CONVERGED"]
            assert float(solution.residual_abs) <= atol
            assert solver != "auto" or float(solution.residual_abs) > 1e-3 * atol
    with pytest.raises(ValueError, match="'atol'"):
        GraphDEQ(cell, atol=-1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e20, 1e35])
def test_squares_that_over_or_underflow_do_not_matter(solver, size):
    b = size * torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.1, 2.0]])
    solution = solve(lambda z: 0.5 * z + b, torch.zeros(3, 2), ONE, solver=solver, tol=1e-5)
    assert status(solution) == ["CONVERGED"]
    torch.testing.assert_close(solution.state / size, 2 * b / size, rtol=1e-4, atol=0)


@pytest.mark.parametrize("solver", ["picard", "flow"])
def test_a_tiny_state_that_grows_is_not_at_rest(solver):
    """2 tanh z leaves 1e-25 for 1.915; the squares of 1e-25 are zero in float32."""
    z0 = torch.full((3, 2), 1e-25)
    solution = solve(lambda z: 2 * z.tanh(), z0, ONE, solver=solver, tol=1e-5, max_steps=200)
    assert status(solution) == ["CONVERGED"]
    torch.testing.assert_close(solution.state, torch.full((3, 2), 1.9150081), rtol=1e-4, atol=0)


def test_norms_of_any_size():
    """Against NumPy's, in the precision in which nothing over- or underflows."""
    partition = Partition(torch.tensor([0, 0, 1, 3, 3]), 5, num_graphs=4)
    plain = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0], [5.0, 0.0], [12.0, 2.0]]).double()
    for dtype, exponents in ((torch.float32, (-38, -25, 0, 20, 37)),
                             (torch.float64, (-300, -170, 0, 170, 300))):  # fmt: skip
        for exponent in exponents:
            value = (plain * 10.0**exponent).to(dtype)
            with torch.no_grad():
                norm = partition.norm(value).double() / 10.0**exponent
                channel = partition.channel_norm(value).double() / 10.0**exponent
            expected = torch.tensor([5.0, 2**0.5, 0.0, 173**0.5]).double()
            torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
            expected = torch.tensor([[3.0, 4], [1, 1], [0, 0], [13, 2]]).double()
            torch.testing.assert_close(channel, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "newton", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_criterion_of_channels_sees_small_ones(solver, dtype):
    """Channels from 1e-8 to 1e8, the small ones slower."""
    torch.manual_seed(0)
    n, c = 20, 9
    scale = 10.0 ** torch.linspace(-8, 8, c, dtype=torch.double)
    rate = torch.linspace(0.9, 0.2, c, dtype=torch.double)
    a = torch.randn(n, n, dtype=torch.double)
    a = (a + a.T) / torch.linalg.matrix_norm(a + a.T, 2)
    b = torch.randn(n, c, dtype=torch.double)

    def step(z):
        return (scale * (rate * (a @ (z.double() / scale)) + b)).to(dtype)

    eye = torch.eye(n, dtype=torch.double)
    exact = torch.stack([torch.linalg.solve(eye - rate[k] * a, b[:, k]) for k in range(c)], 1)
    error = {}
    for criterion in ("graph", "channel"):
        solution = solve(step, torch.zeros(n, c, dtype=dtype), Partition(None, n), solver=solver,
                         tol=1e-4, criterion=criterion, max_steps=120)  # fmt: skip
        assert status(solution) == ["CONVERGED"]
        gap = solution.state.double() / scale - exact
        error[criterion] = float((gap.norm(dim=0) / exact.norm(dim=0)).max())
        fz = step(solution.state).double()
        own = ((fz - solution.state.double()).norm(dim=0) / fz.norm(dim=0)).max()
        if criterion == "channel":
            assert float(solution.residual) == pytest.approx(float(own), rel=1e-3)
    assert error["graph"] > 0.1
    assert error["channel"] < 2e-3


# Growth, divergence, the domain


@pytest.mark.parametrize("solver", ["picard", "broyden", "newton", "auto"])
def test_growth_is_no_divergence(solver):
    """A chain of 21 nodes and weight 3 is at rest after 21 steps, at 5e9."""
    step = lambda z: torch.cat([z.new_ones(1, 1), 3 * z[:-1]])  # noqa: E731
    z0 = torch.zeros(21, 1, dtype=torch.double)
    solution = solve(step, z0, Partition(None, 21), solver=solver, tol=1e-6)
    assert status(solution) == ["CONVERGED"]
    exact = 3.0 ** torch.arange(21).double().unsqueeze(1)
    torch.testing.assert_close(solution.state, exact, rtol=1e-4, atol=0)


def test_what_diverges_is_said_to():
    step = lambda z: 3 * z + 1  # noqa: E731
    for dtype, steps in ((torch.float32, 200), (torch.float64, 60)):
        z0 = torch.ones(3, 1, dtype=dtype)
        solution = solve(step, z0, ONE, solver="picard", max_steps=steps)
        assert status(solution) == ["DIVERGED"]
        assert bool(solution.state.isfinite().all())
    # Too few steps to tell: thirty without progress, and as many as there are nodes.
    assert status(solve(step, z0, ONE, solver="picard", max_steps=20)) == ["MAX_STEPS"]
    long = Partition(None, 100)
    z0 = torch.ones(100, 1, dtype=torch.double)
    assert status(solve(step, z0, long, solver="picard", max_steps=60)) == ["MAX_STEPS"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_leaves_the_domain_comes_back(solver):
    """SciPy's test_no_acceleration is of this kind: z = log z + 2 from 0.5."""
    z0 = torch.full((1, 1), 0.5, dtype=torch.double)
    solution = solve(lambda z: z.log() + 2, z0, Partition(None, 1), solver=solver, tol=1e-8)
    assert status(solution) == ["CONVERGED"]
    plain = solve(lambda z: z.log() + 2, z0, Partition(None, 1), solver="picard", tol=1e-8)
    if solver != "flow":
        assert int(solution.num_evaluations) <= int(plain.num_evaluations)


@pytest.mark.parametrize("solver", ["anderson", "broyden", "newton", "flow", "auto"])
def test_the_safeguard_belongs_to_each_graph(solver):
    """A graph that leaves the domain, one that is slow, one that isn't finite: as each alone."""

    class Step:
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, z):
            out = torch.where(self.kind == 0, z.log() + 2, 0.95 * z.sin() + 0.1)
            return torch.where(self.kind == 2, float("nan"), out)

        def restrict(self, nodes):
            return Step(self.kind[nodes])

    kind = torch.tensor([0, 1, 1, 2, 0]).unsqueeze(1)
    z0 = torch.tensor([0.5, 1.0, -1.0, 1.0, 3.0]).double().unsqueeze(1)
    batch = torch.tensor([0, 1, 1, 2, 3])
    options = {"solver": solver, "tol": 1e-8, "max_steps": 200}
    together = solve(Step(kind), z0, Partition(batch, 5), **options)
    assert status(together) == ["CONVERGED", "CONVERGED", "NON_FINITE", "CONVERGED"]
    for graph in range(4):
        own = batch == graph
        alone = solve(Step(kind[own]), z0[own], Partition(None, int(own.sum())), **options)
        torch.testing.assert_close(
            together.state[own], alone.state, rtol=0, atol=1e-9, equal_nan=True
        )  # fmt: skip
        assert int(together.num_steps[graph]) == int(alone.num_steps)
        assert int(together.num_evaluations[graph]) == int(alone.num_evaluations)


@pytest.mark.parametrize("solver", ["anderson", "auto"])
def test_more_differences_than_unknowns_do_not_enlarge_rounding(solver):
    """Maps that differ in the last bit have the same solve: the least squares are of rank two."""

    def solution(seed):
        generator = torch.Generator().manual_seed(seed)

        def step(z):
            bits = torch.randint(-1, 2, z.shape, generator=generator).to(z) if seed else 0.0
            return (0.95 * z.sin() + 0.1) * (1 + bits * torch.finfo(z.dtype).eps)

        z0 = torch.tensor([[1.0], [-1.0]], dtype=torch.double)
        return solve(step, z0, Partition(None, 2), solver=solver, tol=1e-8)

    exact = solution(0)
    for seed in range(1, 5):
        other = solution(seed)
        assert int(other.num_steps) == int(exact.num_steps)
        torch.testing.assert_close(other.state, exact.state, rtol=0, atol=1e-9)


def drifting(kind: str) -> tuple[Tensor, Tensor]:
    """An affine map of which one direction has eigenvalue one and a drift: no fixed point."""
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, dtype=torch.double, generator=generator)
    basis = torch.linalg.qr(normal(4, 4))[0]
    matrix = torch.eye(4, dtype=torch.double)
    turn = torch.linalg.qr(normal(3, 3))[0]
    matrix[1:, 1:] = turn if kind == "orthogonal" else 0.9 * turn
    drift = torch.cat([torch.ones(1, dtype=torch.double), normal(3)])
    return basis @ matrix @ basis.T, basis @ drift


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("solver", ["auto", "anderson", "broyden", "flow", "newton", "picard"])
def test_what_runs_away_has_not_converged(solver, dtype):
    """z + 1 has no fixed point: its relative residual falls only because the state grows.

    At last the state is so large that rounding swallows the step: then f(z) is z, bit for bit.
    """
    z0 = torch.zeros(3, 4, dtype=dtype)
    steps = [lambda z: z + 1, lambda z: z + 0.1, lambda z: z + torch.log1p(z.abs()) + 0.1]
    for kind in ("orthogonal", "contracting"):
        matrix, drift = (value.to(dtype) for value in drifting(kind))
        steps.append(lambda z, matrix=matrix, drift=drift: z @ matrix.T + drift)
    for step in steps:
        for tol in (1e-3, 1e-6):
            solution = solve(step, z0, ONE, solver=solver, tol=tol, max_steps=60)
            assert status(solution) != ["CONVERGED"]
    # The fixed point of this one is at -0.1, and repels.
    solution = solve(lambda z: 1.01 * z + 1e-3, z0, ONE, solver=solver, max_steps=300)
    if status(solution) == ["CONVERGED"]:
        torch.testing.assert_close(solution.state, torch.full_like(z0, -0.1), rtol=1e-1, atol=0)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("solver", ["auto", "anderson", "broyden", "newton", "picard"])
def test_what_grows_and_comes_to_rest_has_converged(solver, dtype):
    """Small steps first, large ones later, and then none: from near a point that repels."""
    for start in (1e-3, 1e-8, 1e-15):
        z0 = torch.full((3, 2), start, dtype=dtype)
        grown = solve(lambda z: torch.tanh(2 * z), z0, ONE, solver=solver, max_steps=200)
        assert status(grown) == ["CONVERGED"]
    slow = solve(lambda z: 0.99 * z + 1, z0, ONE, solver=solver, max_steps=1500)
    assert status(slow) == ["CONVERGED"]
    torch.testing.assert_close(slow.state, torch.full_like(z0, 100), rtol=0.11, atol=0)
    if solver == "picard":  # its tolerance is met long before its state is near 1000
        early = solve(lambda z: 0.999 * z + 1, z0, ONE, solver=solver, max_steps=1500)
        assert status(early) == ["MAX_STEPS"]
        with pytest.warns(UserWarning, match="steps have not become small enough"):
            early.report("warn")
        slow = solve(lambda z: 0.999 * z + 1, z0, ONE, solver=solver, max_steps=9000)
        assert status(slow) == ["CONVERGED"]
        torch.testing.assert_close(slow.state, torch.full_like(z0, 1000), rtol=0.02, atol=0)


def test_the_state_that_converged_is_returned():
    """Not one that ran away before it, with a smaller residual."""

    def step(z):  # counts to a thousand, falls to three, and from there goes to one
        counts, low = z[:, :1] < 1000, z[:, 1:] > 0
        up = torch.where(counts, z[:, :1] + 1, 3.0)
        fall = torch.where(counts, 0.0, 1.0)
        return torch.where(low, torch.cat([0.5 + 0.5 * z[:, :1], torch.ones_like(fall)], 1),
                           torch.cat([up, fall], 1))  # fmt: skip

    graph = (torch.zeros(1, 2), torch.zeros(2, 0, dtype=torch.long))
    deq = GraphDEQ(Given(step), "picard", tol=1e-2, max_steps=1100, on_failure="ignore")
    z, solution = deq(*graph, return_solution=True)
    assert status(solution) == ["CONVERGED"]
    torch.testing.assert_close(z, torch.ones(1, 2), rtol=0.05, atol=0)


class Given(Cell):
    """A map of the state of two channels, at every node."""

    def __init__(self, step) -> None:
        super().__init__()
        self.in_channels = self.channels = 2
        self.step = step

    def prepare(self, x, edge_index, edge_attr=None):
        return self.step


@pytest.mark.parametrize("solver", ["torchdeq:anderson", "torchdeq:fixed_point_iter"])
def test_torchdeq_and_automata_do_not_call_rest_what_runs_away(solver):
    deq = GraphDEQ(Given(lambda z: z + 1), solver, max_steps=1500, on_failure="ignore")
    graph = (torch.ones(3, 2), torch.zeros(2, 0, dtype=torch.long))
    _, solution = deq(*graph, return_solution=True)
    assert status(solution) != ["CONVERGED"]
    for fire_rate in (1.0, 0.5):
        automaton = GraphNCA(Given(lambda z: z + 1), steps=2500, fire_rate=fire_rate)
        _, solution = automaton(*graph, return_solution=True)
        assert float(solution.residual) < 1e-3
        assert status(solution) == ["MAX_STEPS"]
        automaton = GraphNCA(Given(lambda z: 0.99 * z + 1), steps=2500, fire_rate=fire_rate)
        _, solution = automaton(*graph, return_solution=True)
        assert status(solution) == ["CONVERGED"]


def test_an_automaton_that_trembles_about_its_rest_has_converged():
    rule = Given(lambda z: 1 + 0.5 * (z - 1) + 0.004 * (1 - z).sign())
    for steps in (40, 400, 4000):
        automaton = GraphNCA(rule, steps=steps, tol=1e-2)
        _, solution = automaton(torch.ones(3, 2), torch.zeros(2, 0, dtype=torch.long),
                                return_solution=True)  # fmt: skip
        assert status(solution) == ["CONVERGED"]


@pytest.mark.parametrize("solver", ["auto", "anderson", "broyden", "flow", "newton", "picard"])
def test_a_rule_that_latches_has_converged(solver):
    """Small steps first, large ones later, and then it is at rest."""
    latch = solve(lambda z: torch.tanh(2 * z + 1e-6), torch.zeros(3, 1), ONE, solver=solver,
                  max_steps=500)  # fmt: skip
    assert status(latch) == ["CONVERGED"]
