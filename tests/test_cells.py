"""The laws, over the cells that converge by construction."""

from __future__ import annotations

import pytest
import torch
from graphs import CELLS, LAW_CELLS, make_cell, weighted_graph
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, GraphNCA, IGNNCell, MonotoneCell
from gncadeq.cells import Cell, WeightedAdjacency
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_close,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
    gradients,
    graph_of,
)
from gncadeq.training.losses import jacobian_penalty
from gncadeq.transforms import ImageToGraph

SOLVERS = ("picard", "anderson", "broyden")


@pytest.fixture
def weighted():
    return Batch.from_data_list([weighted_graph(n, n) for n in (6, 17, 40, 3)])


@pytest.fixture
def graphs(ragged, weighted):
    return lambda name: ragged if name.startswith("monotone") else weighted


@pytest.mark.parametrize("name", list(CELLS))
def test_permutation_and_locality_laws(name):
    if not name.startswith("monotone"):
        data = weighted_graph(40)
    else:
        data = ImageToGraph(living_threshold=0.4)(torch.rand(2, 9, 8, dtype=torch.double))
    if name == "monotone-wide":
        data.edge_attr = torch.tensor([6, 7, 8, 11, 12, 13, 16, 17, 18])[data.edge_attr]
    cell = make_cell(name)
    assert_permutation_equivariant(cell, data)
    if name == "monotone-wide":
        return  # on 8 of its 24 relations a step reaches two hops
    if name.startswith("monotone"):
        with torch.no_grad():
            cell.bias.add_(2.0)  # so that node 0 lives and its change is seen
    assert_local(cell, data, steps=2)


@pytest.mark.parametrize("name", LAW_CELLS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_batch_and_honest_residual_laws(name, solver, graphs):
    deq = GraphDEQ(make_cell(name), solver, tol=1e-10, max_steps=400)
    assert_batch_independent(deq, graphs(name))
    assert_honest_residual(deq, graphs(name))
    early = GraphDEQ(deq.cell, solver, tol=1e-12, max_steps=4, on_failure="ignore")
    assert_honest_residual(early, graphs(name))


@pytest.mark.parametrize("name", LAW_CELLS)
def test_one_rule_law(name, graphs):
    deq = GraphDEQ(make_cell(name), "picard", tol=1e-10, max_steps=500)
    assert_one_rule(deq, graphs(name))


@pytest.mark.parametrize("name", LAW_CELLS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gradient_law(name, solver, graphs):
    deq = GraphDEQ(make_cell(name), solver, tol=1e-11, max_steps=400)
    unrolled = gradients(deq.as_nca(steps=250), graphs(name))
    assert_gradients_close(gradients(deq, graphs(name)), unrolled)


@pytest.mark.parametrize("name", LAW_CELLS)
def test_a_graph_with_nan_leaves_its_batch_mates_alone(name, graphs):
    batch = graphs(name).clone()
    cell = make_cell(name)
    deq = GraphDEQ(cell, tol=1e-9, max_steps=300, on_failure="ignore")
    with torch.no_grad():
        expected = deq(*graph_of(batch), batch.batch)
        batch.x[batch.batch == 1] = float("nan")
        z, solution = deq(*graph_of(batch), batch.batch, return_solution=True)
    assert solution.converged.tolist() == [True, False, True, True]
    rest = batch.batch != 1
    torch.testing.assert_close(z[rest], expected[rest], atol=1e-9, rtol=0)


def test_a_cell_that_promises_nothing_says_so():
    class Wild(Cell):
        def prepare(self, x, edge_index, edge_attr=None):
            return lambda z: 3 * z

    assert float(Wild().lipschitz_bound()) == float("inf")


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IGNNCell(0, 4), "'in_channels' to be a whole number of at least 1"),
        (lambda: IGNNCell(1, 4, kappa=1.0), "'kappa' to be a finite number above 0 and below 1"),
        (lambda: IGNNCell(1, 4, activation="gelu"), "'relu', 'tanh' or 'identity'"),
        (lambda: IGNNCell(1, 4, normalization="left"), "'sym', 'row' or None"),
        (lambda: IGNNCell(1, 4, injection="neighbours"), "Did you mean 'neighbors'"),
        (lambda: MonotoneCell(1, 0), "'channels' to be"),
        (lambda: MonotoneCell(1, 4, monotonicity=0.0), "'monotonicity' to be"),
        (lambda: MonotoneCell(1, 4, contraction=1.5), r"'contraction' to be .*"),
        (lambda: MonotoneCell(1, 4, kernel_size=2), "'kernel_size' to be an odd"),
        (lambda: jacobian_penalty(torch.tanh, torch.zeros(2, 2), probes=0), "'probes'"),
        (lambda: MonotoneCell(1, 2).lipschitz_bound(Data(num_nodes=2)), "relations"),
        (lambda: WeightedAdjacency(torch.tensor([[0], [5]]), None, 3), r"in \[0, 3\)"),
        (lambda: WeightedAdjacency(torch.tensor([[0], [1]]), torch.ones(2), 3), "num_edges"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Halving(Cell):
    """A cell of one's own, with a module and, if wanted, a parameter that no module has."""

    in_channels = channels = 3

    def __init__(self, scaled=False):
        super().__init__()
        self.inject = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
        self.again = self.inject[0]
        self.scale = torch.nn.Parameter(torch.rand(3)) if scaled else None

    def prepare(self, x, edge_index, edge_attr=None):
        drive = self.inject(x)
        return lambda z: drive + z / 2


def test_a_cell_draws_the_parameters_of_its_modules_and_says_which_it_cannot():
    deq = GraphDEQ(Halving())
    before = deq.cell.again.weight.clone()
    deq.reset_parameters()
    assert not torch.equal(deq.cell.again.weight, before)
    with pytest.raises(NotImplementedError, match=r"'reset_parameters' of Halving.*\['scale'\]"):
        GraphDEQ(Halving(scaled=True)).reset_parameters()


def test_relations_are_not_weights():
    data = ImageToGraph()(torch.rand(2, 3, 3))
    with pytest.raises(TypeError, match="edge_attr=None for weights of one"):
        GraphDEQ(IGNNCell(2, 3))(*graph_of(data))


def test_rollouts_of_both_cells_stay_bounded():
    data = ImageToGraph()(torch.rand(2, 5, 5))
    for cell, relation in ((IGNNCell(2, 3), None), (MonotoneCell(2, 3), data.edge_attr)):
        nca = GraphNCA(cell, steps=200, start="normal")
        with torch.no_grad():
            _, solution = nca(data.x, data.edge_index, relation, return_solution=True)
        assert bool(solution.converged.all())
