"""Gradients of any order: exact, or refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch_geometric.data import Batch
from toys import SOLVERS, EdgeCell, conv_cell

from gncadeq import Cell, ConvCell, ConvergenceWarning, GraphDEQ, GraphNCA
from gncadeq.testing import (
    assert_gradients_close,
    assert_gradients_exact,
    gradients,
    graph_of,
)
from gncadeq.transforms import ImageToGraph


def edge_data():
    """Two graphs with weighted edges."""
    data = ImageToGraph(living_threshold=0.3).batch(torch.rand(2, 2, 4, 3, dtype=torch.double))
    data.edge_attr = 0.5 + torch.rand(data.num_edges, dtype=torch.double)
    return data


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
    gc.disable()
    gc.freeze()  # what there is so far is not listed
    try:
        step()
        before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
        for _ in range(3):
            step()
        assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) == before
    finally:
        gc.unfreeze()
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


def test_a_gradient_that_does_not_converge_says_which_limit_to_raise(small):
    deq = GraphDEQ(conv_cell(contraction=0.9), tol=1e-8, max_steps=200, backward_max_steps=2)
    z = deq(*graph_of(small), small.batch)
    with pytest.warns(ConvergenceWarning, match="of their gradient.*raise 'backward_max_steps'"):
        z.pow(2).sum().backward()


@pytest.mark.parametrize("gradient", ["ift", "phantom", "one_step"])
def test_a_frozen_model_gives_a_state_without_a_gradient(gradient):
    data = edge_data()
    deq = GraphDEQ(EdgeCell(2, 3).double(), gradient=gradient).requires_grad_(False)
    arguments = (data.edge_index, data.edge_attr)
    z = deq(data.x.detach(), *arguments)
    assert not z.requires_grad
    assert deq(data.x.detach().requires_grad_(), *arguments).requires_grad
    torch.testing.assert_close(deq.requires_grad_(True)(data.x.detach(), *arguments).detach(), z)
