"""Gradients of any order, precision and randomness: exact, or refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch_geometric.data import Batch
from toys import EdgeCell, NoisyCell

from gncadeq import Cell, ConvCell, ConvergenceWarning, GraphDEQ, GraphNCA
from gncadeq.dynamics import Partition, solve
from gncadeq.testing import (
    assert_deterministic,
    assert_gradients_close,
    assert_gradients_exact,
    gradients,
    graph_of,
)
from gncadeq.transforms import ImageToGraph

SOLVERS = ("picard", "anderson", "broyden")


def conv_cell(update: str = "direct", contraction: float = 0.6) -> ConvCell:
    torch.manual_seed(1)
    return ConvCell(2, 3, update=update, contraction=contraction).double()


def edge_data():
    """Two graphs with weighted edges."""
    data = ImageToGraph(living_threshold=0.3).batch(torch.rand(2, 2, 4, 3, dtype=torch.double))
    data.edge_attr = 0.5 + torch.rand(data.num_edges, dtype=torch.double)
    return data


@pytest.fixture
def small():
    return ImageToGraph(living_threshold=0.3).batch(torch.rand(2, 2, 4, 3, dtype=torch.double))


# Second order


@pytest.mark.parametrize("update", ["direct", "residual"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_second_order_equals_unrolling(update, solver, small):
    deq = GraphDEQ(conv_cell(update), solver, tol=1e-11, max_steps=300)
    picked = torch.tensor([0, 5])
    for nodes in (None, picked):
        assert_gradients_exact(deq, small, nodes, order=2, steps=80, rtol=1e-6)


def test_third_order_equals_unrolling(small):
    deq = GraphDEQ(conv_cell(contraction=0.4), tol=1e-12, max_steps=200)
    assert_gradients_exact(deq, small, order=3, steps=40, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_to_edge_attributes(order):
    deq = GraphDEQ(EdgeCell(2, 3).double(), tol=1e-11, max_steps=200)
    data = edge_data()
    found = gradients(deq, data, order=order)
    assert found[1].shape == data.edge_attr.shape
    assert float(found[1].norm()) > 0
    assert_gradients_exact(deq, data, order=order, steps=80)


def test_gradcheck_and_gradgradcheck():
    """Against finite differences, for the injection, edge attributes and parameters."""
    torch.manual_seed(0)
    cell = EdgeCell(1, 2).double()
    deq = GraphDEQ(cell, tol=1e-13, max_steps=200)
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    x = torch.rand(3, 1, dtype=torch.double, requires_grad=True)
    edge_attr = torch.rand(4, dtype=torch.double, requires_grad=True)

    def run(x, edge_attr, *parameters):
        return deq(x, edge_index, edge_attr)

    inputs = (x, edge_attr, *cell.parameters())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_second_order_where_the_injection_depends_on_the_parameters(small):
    """One cell twice in a row: what flows through the injection is counted once."""
    cell = conv_cell()

    def second(dynamics):
        x = small.x.clone().requires_grad_()
        inputs = [x, *cell.parameters()]
        arguments = (small.edge_index, small.edge_attr, small.batch)
        z = dynamics(x.exp(), *arguments)
        z = dynamics(torch.tanh(z[:, :2] + x), *arguments)
        first = torch.autograd.grad(z.pow(2).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    implicit = second(GraphDEQ(cell, tol=1e-11, max_steps=200))
    assert_gradients_close(implicit, second(GraphNCA(cell, 80)))


def test_second_order_beside_a_nan_graph():
    to_graph = ImageToGraph()
    graphs = [to_graph(torch.rand(2, 4, 4, dtype=torch.double)) for _ in range(3)]
    graphs[1].x[3] = float("nan")
    deq = GraphDEQ(conv_cell(), tol=1e-11, max_steps=200, on_failure="ignore")
    batch, rest = Batch.from_data_list(graphs), Batch.from_data_list([graphs[0], graphs[2]])
    found = gradients(deq, batch, nodes=batch.batch != 1, order=2)
    expected = gradients(deq, rest, order=2)
    assert_gradients_close(found[1:], expected[1:], rtol=1e-8)
    assert_gradients_close([found[0][batch.batch != 1]], expected[:1], rtol=1e-8)


def test_a_penalty_on_forces_trains(small):
    """What second order is for: -dE/dx, and a loss on it."""
    deq = GraphDEQ(conv_cell(), tol=1e-8)
    x = small.x.clone().requires_grad_()
    energy = deq(x, small.edge_index, small.edge_attr, small.batch).pow(2).sum()
    (force,) = torch.autograd.grad(-energy, x, create_graph=True)
    force.pow(2).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in deq.parameters())
    assert any(float(p.grad.norm()) > 0 for p in deq.parameters())


class Capturing(Cell):
    """Depends on a tensor that is no parameter."""

    in_channels = channels = 2

    def __init__(self):
        super().__init__()
        self.rate = [torch.tensor(0.5, dtype=torch.double, requires_grad=True)]

    def reset_parameters(self):
        pass

    def prepare(self, x, edge_index, edge_attr=None):
        return lambda z: torch.tanh(self.rate[0] * z + x)


def test_captured_tensors_have_first_order_and_second_is_refused(small):
    cell = Capturing()
    deq = GraphDEQ(cell, tol=1e-11)
    x = small.x.clone().requires_grad_()
    for dynamics in (deq, deq.as_nca(steps=100)):
        z = dynamics(x, small.edge_index, small.edge_attr, small.batch)
        (found,) = torch.autograd.grad(z.sum(), cell.rate[0])
        cell.expected = getattr(cell, "expected", found)
        torch.testing.assert_close(found, cell.expected, rtol=1e-8, atol=0)
    z = deq(x, small.edge_index, small.edge_attr, small.batch)
    with pytest.raises(RuntimeError, match=r"shape \[\].*make it a parameter"):
        torch.autograd.grad(z.sum(), x, create_graph=True)


def test_parameters_that_depend_on_each_other_are_refused(small):
    cell = conv_cell()
    base = {name: p.detach().clone().requires_grad_() for name, p in cell.named_parameters()}
    tied = {**base, "weight_z": base["weight_z"] * base["bias"].cos().mean()}
    deq = GraphDEQ(cell, tol=1e-10)
    named = {f"cell.{name}": p for name, p in tied.items()}
    z = torch.func.functional_call(deq, named, (*graph_of(small), small.batch))
    with pytest.raises(RuntimeError, match="not functions of each other"):
        torch.autograd.grad(z.pow(2).sum(), base["bias"], create_graph=True)


@pytest.mark.parametrize("gradient", ["phantom", "one_step"])
def test_approximate_gradients_refuse_second_order(gradient, small):
    deq = GraphDEQ(conv_cell(), tol=1e-8, gradient=gradient)
    x = small.x.clone().requires_grad_()
    z = deq(x, small.edge_index, small.edge_attr, small.batch)
    (first,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    for target in (x, deq.cell.weight_z):
        with pytest.raises(RuntimeError, match=r"gradient='ift'.*as_nca"):
            torch.autograd.grad(first.sum(), target, retain_graph=True)


def test_first_order_builds_no_graph_and_no_cycle(small):
    """Nothing is evaluated again, and reference counting alone frees the state."""
    cell, calls = conv_cell(), []
    original = cell.prepare

    def counting(*arguments):
        step = original(*arguments)
        return lambda z: calls.append(torch.is_grad_enabled()) or step(z)

    cell.prepare = counting
    deq = GraphDEQ(cell, tol=1e-8)
    z = deq(small.x, small.edge_index, small.edge_attr, small.batch)
    assert sum(calls) == 1  # the one that gradients go through
    before = len(calls)
    gc.disable()
    try:
        z.pow(2).sum().backward()
        assert len(calls) == before
        alive = weakref.ref(z)
        node = weakref.ref(z.grad_fn.equation)
        del z
        assert alive() is None
        assert node() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["conv", "automatic", "wrapped"])
def test_training_steps_leave_nothing_to_collect(kind, small):
    """No reference cycle holds a state: memory doesn't wait for the garbage collector."""
    from torch_geometric.nn import GCNConv

    edge_attr = small.edge_attr
    if kind == "wrapped":
        deq = GraphDEQ.from_conv(GCNConv(3, 3), in_channels=2).double()
        edge_attr = None
    else:
        deq = GraphDEQ(conv_cell(), tol=1e-6)
    if kind == "automatic":
        prepare = deq.cell.prepare

        class Plain:  # a step that can be cut down and has no adjoint
            def __init__(self, step):
                self.step = step

            def __call__(self, z):
                return self.step(z)

            def restrict(self, nodes):
                return Plain(self.step.restrict(nodes))

        deq.cell.prepare = lambda *graph: Plain(prepare(*graph))

    def step():
        z = deq(small.x, small.edge_index, edge_attr, small.batch)
        z.pow(2).sum().backward()

    step()
    gc.collect()
    gc.disable()
    try:
        step()
        before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
        for _ in range(3):
            step()
        assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) == before
    finally:
        gc.enable()


# torch.func


def test_functional_call_with_other_parameters(small):
    """Fast weights (MAML): gradients reach what the new parameters were computed from."""
    cell = conv_cell()
    deq, nca = GraphDEQ(cell, tol=1e-11, max_steps=200), GraphNCA(cell, 80)
    results = []
    for dynamics in (deq, nca):
        base = {n: p.detach().clone().requires_grad_() for n, p in dynamics.named_parameters()}
        fast = {n: 0.9 * p + 0.01 for n, p in base.items()}
        z = torch.func.functional_call(dynamics, fast, (*graph_of(small), small.batch))
        first = torch.autograd.grad(z.pow(2).sum(), list(base.values()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(base.values()))
        results.append([g.detach() for g in (*first, *second)])
    assert_gradients_close(*results)


class Live(ConvCell):
    """Looks its parameters up in every step, not once."""

    def prepare(self, x, edge_index, edge_attr=None):
        original = ConvCell.prepare

        class Step:
            def __init__(self, cell, nodes=None):
                self.cell, self.nodes = cell, nodes

            def __call__(self, z):
                step = original(self.cell, x, edge_index, edge_attr)
                return step(z) if self.nodes is None else step.restrict(self.nodes)(z)

            def restrict(self, nodes):
                return Step(self.cell, nodes if self.nodes is None else self.nodes[nodes])

        return Step(self)


def test_a_step_that_changed_since_the_solve_is_noticed(small):
    """After functional_call the cell has its own parameters again, which are others."""
    torch.manual_seed(0)
    deq = GraphDEQ(Live(2, 3, contraction=0.9).double(), tol=1e-8, max_steps=200)
    deq.requires_grad_(False)
    small.x[small.batch == 0] *= 1e-4  # its adjoint system is done sooner
    fast = {n: (p + 0.1).requires_grad_() for n, p in deq.named_parameters()}
    z = torch.func.functional_call(deq, fast, (*graph_of(small), small.batch))
    weight = torch.where(small.batch == 0, 0.0, 1.0).unsqueeze(1)
    message = "Expected the step to be the one that was solved"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad((weight * z).sum(), list(fast.values()), retain_graph=True)
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(z.sum(), list(fast.values()), create_graph=True)


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_function_transforms_are_refused(transform, small):
    deq = GraphDEQ(conv_cell(), tol=1e-6)

    def loss(x):
        return deq(x, small.edge_index, small.edge_attr, small.batch).sum()

    run = {
        "grad": lambda: torch.func.grad(loss)(small.x),
        "vmap": lambda: torch.func.vmap(loss)(small.x.expand(2, -1, -1)),
        "jvp": lambda: torch.func.jvp(loss, (small.x,), (small.x,)),
    }[transform]
    with pytest.raises(RuntimeError, match=r"torch\.func.*torch\.autograd\.grad"):
        run()


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


def test_a_gradient_that_does_not_converge_says_which_limit_to_raise(small):
    deq = GraphDEQ(conv_cell(contraction=0.9), tol=1e-8, max_steps=200, backward_max_steps=2)
    z = deq(*graph_of(small), small.batch)
    with pytest.warns(ConvergenceWarning, match="of their gradient.*raise 'backward_max_steps'"):
        z.pow(2).sum().backward()


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


# Back-propagation through time


class Watched(Cell):
    """Counts the states that are alive."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.in_channels, self.channels = cell, cell.in_channels, cell.channels
        self.states, self.evaluations, self.most = [], 0, 0

    def reset_parameters(self):
        self.cell.reset_parameters()

    def prepare(self, x, edge_index, edge_attr=None):
        step = self.cell.prepare(x, edge_index, edge_attr)

        def watched(z):
            out = step(z)
            self.states.append(weakref.ref(out))
            self.evaluations += 1
            self.most = max(self.most, self.alive())
            return out

        return watched

    def alive(self):
        return sum(state() is not None for state in self.states)


@pytest.mark.parametrize(
    ("steps", "every", "stored", "most"),
    [
        (25, "sqrt", 5, 10),  # 5 segments of 5
        (26, "sqrt", 5, 11),  # 4 segments of 6, and 2 steps
        (24, 4, 6, 10),
        (1, "sqrt", 1, 2),
        (12, None, 12, 12),
    ],
)
def test_checkpointed_rollouts_store_what_is_documented(steps, every, stored, most, small):
    cell = conv_cell("residual")
    expected = gradients(GraphNCA(cell, steps), small)
    watched = Watched(cell)
    nca = GraphNCA(watched, steps, checkpoint_every=every)
    x = small.x.clone().requires_grad_()
    z = nca(x, small.edge_index, small.edge_attr, small.batch)
    assert watched.alive() <= stored
    loss = (z.pow(2) + z).sum()
    loss.backward()
    assert watched.most <= most
    assert watched.evaluations <= 2 * steps
    assert_gradients_close([x.grad, *(p.grad for p in cell.parameters())], expected, rtol=1e-12)


@pytest.mark.parametrize(("dropout", "fire_rate"), [(0.3, 1.0), (0.0, 0.5)])
def test_checkpointed_rollouts_keep_their_masks(dropout, fire_rate, small):
    cell = NoisyCell(2, dropout).double()
    found = []
    for every in (None, 3, "sqrt"):
        torch.manual_seed(4)
        found.append(gradients(GraphNCA(cell, 10, fire_rate, checkpoint_every=every), small))
    assert_gradients_close(found[1], found[0], rtol=1e-12)
    assert_gradients_close(found[2], found[0], rtol=1e-12)


@pytest.mark.parametrize("every", [0, -1, "root"])
def test_bad_segments_are_refused(every):
    with pytest.raises(TypeError if every == "root" else ValueError, match="'checkpoint_every'"):
        GraphNCA(conv_cell(), checkpoint_every=every)
    assert GraphNCA(conv_cell(), 0, checkpoint_every="sqrt")._segment(0) == 1


@pytest.mark.parametrize("gradient", ["ift", "phantom", "one_step"])
def test_a_frozen_model_gives_a_state_without_a_gradient(gradient):
    data = edge_data()
    deq = GraphDEQ(EdgeCell(2, 3).double(), gradient=gradient).requires_grad_(False)
    arguments = (data.edge_index, data.edge_attr)
    z = deq(data.x.detach(), *arguments)
    assert not z.requires_grad
    assert deq(data.x.detach().requires_grad_(), *arguments).requires_grad
    torch.testing.assert_close(deq.requires_grad_(True)(data.x.detach(), *arguments).detach(), z)
