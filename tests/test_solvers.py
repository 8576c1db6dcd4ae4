"""Solvers: right states where the solution is known, registration, failures, what they read."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from toys import SOLVERS

from benchmarks.overhead import host_reads
from gncadeq import ConvCell, ConvergenceError, ConvergenceWarning, GraphDEQ, Status
from gncadeq.dynamics import Partition, Solver, register_solver, solve
from gncadeq.transforms import ImageToGraph


class Paths:
    """A linear GCN cell on eight path graphs of 60 nodes; the exact solution is known."""

    def __init__(self, graphs: int = 8, n: int = 60, channels: int = 4) -> None:
        adjacency = torch.diag(torch.ones(n - 1), 1)
        adjacency = (adjacency + adjacency.T + torch.eye(n)).double()
        degree = adjacency.sum(1).rsqrt()
        adjacency = degree[:, None] * adjacency * degree
        torch.manual_seed(0)
        weight = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.double))[0]
        self.a, self.w = adjacency, 0.97 * weight
        self.b = torch.randn(graphs, n, channels, dtype=torch.double)
        self.batch = torch.arange(graphs).repeat_interleave(n)
        self.shape = self.b.shape

    def __call__(self, z):
        return (self.a @ z.view(self.shape) @ self.w + self.b).flatten(0, 1)

    def exact(self):
        g, n, c = self.shape
        system = torch.eye(n * c, dtype=torch.double) - torch.kron(self.a, self.w.T.contiguous())
        return torch.linalg.solve(system, self.b.reshape(g, -1).T).T.reshape(g * n, c)


@pytest.mark.parametrize(("solver", "most"), [("picard", 400), ("anderson", 49), ("broyden", 49)])
def test_eight_paths(solver, most):
    paths = Paths()
    partition = Partition(paths.batch, len(paths.batch))
    z0 = torch.zeros(len(paths.batch), 4, dtype=torch.double)
    solution = solve(paths, z0, partition, solver=solver, tol=1e-3, max_steps=400)
    residual = partition.norm(paths(solution.state) - solution.state)
    residual = residual / partition.norm(paths(solution.state))
    assert bool((residual <= 1e-3).all())
    assert bool(solution.converged.all())
    assert int(solution.num_evaluations.max()) <= most
    tight = solve(paths, z0, partition, solver=solver, tol=1e-11, max_steps=2000)
    torch.testing.assert_close(tight.state, paths.exact(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_lit_pixel_on_a_black_grid(solver):
    """Where TorchDEQ used row by row freezes 96 of 100 nodes at zero."""
    image = torch.zeros(1, 10, 10, dtype=torch.double)
    image[0, 4, 5] = 1.0
    data = ImageToGraph()(image)
    cell = ConvCell(1, 4, contraction=0.9).double()
    deq = GraphDEQ(cell, solver, tol=1e-10, max_steps=300)
    z = deq(data.x, data.edge_index, data.edge_attr)
    expected = deq.as_nca(steps=400)(data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(z, expected, atol=1e-8, rtol=0)
    assert bool((z.abs().sum(1) > 1e-12).all())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_state_does_not_matter(solver, scale):
    b = scale * torch.tensor([[1.0], [2.0]], dtype=torch.double)
    solution = solve(lambda z: 0.9 * z + b, torch.zeros_like(b), Partition(None, 2),
                     solver=solver, tol=1e-8, max_steps=500)  # fmt: skip
    torch.testing.assert_close(solution.state / scale, 10 * b / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_that_is_the_solution_costs_one_evaluation(solver):
    paths = Paths(2)
    partition = Partition(paths.batch, len(paths.batch))
    solution = solve(paths, paths.exact(), partition, solver=solver, tol=1e-8)
    assert solution.num_evaluations.tolist() == [1, 1]
    assert solution.num_steps.tolist() == [0, 0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_graph_ends_its_own_way(solver):
    """Converging at two speeds, growing, NaN from the start, and oscillating for ever."""
    rate = torch.tensor([0.5, 0.95, 3.0, float("nan"), 1.0], dtype=torch.double).unsqueeze(1)

    def step(z):
        return rate[: len(z)] * z + 1 if len(z) == 5 else z

    class Step:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, z):
            turned = torch.stack([-z[:, 1], z[:, 0]], 1)  # a quarter turn has no other rest than 0
            return torch.where(
                self.rate == 1.0, turned + 1e3 * z.pow(2).sum(1, True), self.rate * z + 1
            )

        def restrict(self, nodes):
            return Step(self.rate[nodes])

    z0 = torch.ones(5, 2, dtype=torch.double)
    solution = solve(Step(rate), z0, Partition(torch.arange(5), 5), solver="picard", tol=1e-9,
                     max_steps=2000)  # fmt: skip
    names = [Status(int(s)).name for s in solution.status]
    assert names[:2] == ["CONVERGED", "CONVERGED"]
    assert names[2] == "DIVERGED"
    assert names[3] == "NON_FINITE"
    assert names[4] in ("DIVERGED", "NON_FINITE")
    # Where there is no equilibrium, no state is made up.
    assert torch.equal(
        solution.state.isnan().all(1), solution.status == int(Status.NON_FINITE)
    )  # fmt: skip
    torch.testing.assert_close(solution.state[0], torch.full((2,), 2.0, dtype=torch.double))
    assert solution.num_steps[0] < solution.num_steps[1]
    assert step(z0).shape == z0.shape


def test_max_steps_returns_the_best_state_and_says_so():
    paths = Paths(3)
    partition = Partition(paths.batch, len(paths.batch))
    z0 = torch.zeros(len(paths.batch), 4, dtype=torch.double)
    solution = solve(paths, z0, partition, tol=1e-12, max_steps=5, trace=True)
    assert set(solution.status.tolist()) == {int(Status.MAX_STEPS)}
    assert solution.trace.shape == (6, 3)
    torch.testing.assert_close(solution.residual, solution.trace.min(0).values)
    assert "max_steps=3" in repr(solution)
    with pytest.warns(ConvergenceWarning, match=r"3 of 3 graphs.*MAX_STEPS.*raise 'max_steps'"):
        solution.report("warn")
    with pytest.raises(ConvergenceError, match="3 of 3"):
        solution.report("raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution.report("ignore")


def test_looking_less_often_changes_steps_to_multiples_only():
    paths = Paths(2)
    partition = Partition(paths.batch, len(paths.batch))
    z0 = torch.zeros(len(paths.batch), 4, dtype=torch.double)
    often = solve(paths, z0, partition, tol=1e-6, max_steps=400)
    seldom = solve(paths, z0, partition, tol=1e-6, max_steps=400, check_every=7)
    assert bool(seldom.converged.all())
    assert bool((seldom.num_steps % 7 == 0).all())
    assert bool((seldom.num_steps - often.num_steps < 7).all())


@pytest.mark.parametrize("solver", ["picard", "anderson", "auto"])
def test_a_step_reads_values_once(solver):
    batch, counts = torch.tensor([0, 0, 1]), []
    partition, z0 = Partition(batch, 3), torch.rand(3, 50)
    slope = torch.linspace(0.8, 1.2, 50)  # so that auto goes on from plain steps at once
    for steps in (4, 8):  # above rounding

        def use(steps=steps):
            solution = solve(
                lambda z: slope * z.cos(), z0, partition, solver=solver, tol=1e-30, max_steps=steps
            )
            assert not bool(solution.converged.any())

        counts.append(host_reads(use).total())
    assert counts[1] - counts[0] == 4


def test_auto_takes_plain_steps_as_long_as_two_halve_the_residual():
    """Each graph for itself: the fast one is where plain steps lead, the slow one where Anderson's
    method leads after one of them, as each is alone."""
    rate, batch = torch.tensor([[0.6], [0.6], [0.9]]).double(), torch.tensor([0, 0, 1])

    def f(rows):
        return lambda z: rate[rows] * z + 0.05 * z.sin() + torch.tensor([[0.1, 0.7]]).double()

    def run(rows, solver):
        p = Partition(batch[rows] - batch[rows][0], len(rows))
        z0 = torch.zeros(len(rows), 2, dtype=torch.double)
        options = {"history": 10} if solver == "anderson" else None
        return solve(f(rows), z0, p, solver=solver, tol=1e-6, options=options)

    fast, slow = [0, 1], [2]
    both, plain = run(fast + slow, "auto"), run(fast, "picard")
    anderson = run(slow, "anderson")
    assert int(both.num_steps[0]) == int(plain.num_steps)
    assert torch.equal(both.state[:2], plain.state)
    assert int(both.num_steps[1]) <= int(anderson.num_steps) + 1
    assert 2 * int(both.num_steps[1]) < int(run(slow, "picard").num_steps)
    torch.testing.assert_close(both.state[2:], anderson.state, rtol=0, atol=1e-4)
    for rows, graph in ((fast, 0), (slow, 1)):
        alone = run(rows, "auto")
        assert int(alone.num_steps) == int(both.num_steps[graph])
        torch.testing.assert_close(alone.state, both.state[rows], rtol=0, atol=1e-12)


def test_history_bounds_memory():
    """A hundred steps keep five differences."""
    from gncadeq.dynamics.solvers import Anderson, Broyden

    for method, lists in ((Anderson(5), ("_dg", "_dx")), (Broyden(5), ("_u", "_v"))):
        z = torch.randn(6, 2, dtype=torch.double)
        method.partition = Partition(None, 6)
        method.begin(z, method.partition)
        for _ in range(100):
            z = method.propose(z, 0.99 * z.sin() + 0.1)
        for name in lists:
            assert len(getattr(method, name)) <= 5


def test_users_can_add_a_solver():
    class Half(Solver):
        def propose(self, z, fz):
            return 0.5 * (z + fz)

    register_solver("test-half", Half)
    image = torch.rand(1, 4, 4)
    data = ImageToGraph()(image)
    deq = GraphDEQ(ConvCell(1, 3, contraction=0.5), "test-half", tol=1e-5)
    _, solution = deq(data.x, data.edge_index, data.edge_attr, return_solution=True)
    assert bool(solution.converged.all())


@pytest.mark.parametrize("num_nodes", [0, 1])
@pytest.mark.parametrize("solver", [*SOLVERS, "torchdeq:anderson"])
def test_empty_batch_and_single_node(solver, num_nodes):
    deq = GraphDEQ(ConvCell(2, 3, contraction=0.5).double(), solver, tol=1e-6)
    x = torch.rand(num_nodes, 2, dtype=torch.double, requires_grad=True)
    empty = torch.empty(2, 0, dtype=torch.long)
    relation = torch.empty(0, dtype=torch.long)
    batch = torch.zeros(num_nodes, dtype=torch.long)
    z, solution = deq(x, empty, relation, batch, return_solution=True)
    assert z.shape == (num_nodes, 3)
    assert solution.num_graphs == num_nodes
    z.sum().backward()
    assert x.grad.shape == x.shape
    assert repr(solution).startswith("Solution(graphs=")


def test_graphs_without_nodes_inside_a_batch():
    deq = GraphDEQ(ConvCell(1, 2, contraction=0.5), tol=1e-6)
    x, empty = torch.rand(2, 1), torch.empty(2, 0, dtype=torch.long)
    z, solution = deq(x, empty, empty[0], torch.tensor([1, 3]), batch_size=5, return_solution=True)
    assert z.shape == (2, 2)
    assert bool(solution.converged.all())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"solver": "andersen"}, ValueError, "Did you mean 'anderson'"),
        ({"solver": "torchdeq:newton"}, ValueError, "torchdeq:anderson"),
        ({"solver_options": {"memory": 3}}, TypeError, "memory"),
        ({"solver": "torchdeq:broyden", "solver_options": {"m": 3}}, TypeError, "'m'"),
        ({"gradient": "bptt"}, ValueError, "GraphNCA"),
        ({"tol": 0.0}, ValueError, "'tol' to be a finite number above 0"),
        ({"tol": math.nan}, ValueError, "'tol' to be a finite number above 0"),
        ({"tol": math.inf}, ValueError, "'tol' to be a finite number above 0"),
        ({"max_steps": -1}, ValueError, "max_steps"),
        ({"on_failure": "shout"}, ValueError, "'warn', 'raise' or 'ignore'"),
        ({"start": "ones"}, ValueError, "'zeros', 'normal' or a module"),
        ({"phantom_damping": 0.0}, ValueError, "phantom_damping"),
        ({"solver": "picard", "solver_options": {"damping": 2}}, ValueError, "damping"),
    ],
)
def test_unknown_options_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        GraphDEQ(ConvCell(1, 2), **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.rand(4, 3)}, ValueError, r"\[\*, 1\].*got \[4, 3\]"),
        ({"x": torch.zeros(4, 1, dtype=torch.long)}, TypeError, "floating-point"),
        ({"x": torch.zeros(4, 1, dtype=torch.double)}, TypeError, r"x\.float\(\)"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, ValueError, r"\[2, num_edges\]"),
        ({"edge_index": torch.zeros(2, 2)}, TypeError, "integer 'edge_index'"),
        ({"edge_index": torch.tensor([[0, 9], [1, 0]])}, ValueError, r"\[0, 4\)"),
        ({"edge_attr": torch.tensor([0, 9])}, ValueError, r"\[0, 9\)"),
        ({"edge_attr": None}, ValueError, "ImageToGraph"),
        ({"edge_attr": torch.rand(2)}, TypeError, "integer relations"),
        ({"edge_attr": torch.tensor([1])}, ValueError, r"\[num_edges\]"),
        ({"batch": torch.zeros(3, dtype=torch.long)}, ValueError, r"\[num_nodes\] = \[4\]"),
        ({"batch": torch.tensor([0, 1, 0, 1])}, ValueError, "ascending"),
        ({"batch": torch.zeros(4)}, ValueError, "integer 'batch'"),
        ({"z0": torch.zeros(4, 7)}, ValueError, "'z0'"),
    ],
)
@pytest.mark.parametrize("dynamics", ["deq", "nca"])
def test_bad_graphs_are_named_before_the_solve(dynamics, change, error, message):
    deq = GraphDEQ(ConvCell(1, 2))
    module = deq if dynamics == "deq" else deq.as_nca()
    arguments = {
        "x": torch.rand(4, 1), "edge_index": torch.tensor([[0, 1], [1, 0]]),
        "edge_attr": torch.tensor([3, 5]), **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        module(**arguments)


def test_options_do_not_belong_to_a_call():
    data = ImageToGraph()(torch.rand(1, 4, 4))
    deq = GraphDEQ(ConvCell(1, 4, contraction=0.9))
    with pytest.raises(TypeError, match=r"tol=1e-06.*GraphDEQ\(\.\.\.\)"):
        deq(data.x, data.edge_index, data.edge_attr, tol=1e-6)
    with pytest.raises(ValueError, match="'graph', 'node', 'channel' or 'error'"):
        deq.criterion = "nod"
    assert deq.criterion == "graph"
