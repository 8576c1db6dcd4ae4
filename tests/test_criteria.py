"""The criterion of nodes sees a signal that has faded."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import GCNConv
from toys import SOLVERS

from gncadeq import ConvCell, GraphDEQ, Status
from gncadeq.dynamics import Partition, solve


def _chain(criterion, solver, num_nodes=60, **options):
    """Only the first of a directed chain's nodes knows anything; LGConv passes it on."""
    torch.manual_seed(0)
    edge_index = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    x = torch.zeros(num_nodes, 3, dtype=torch.double)
    x[0] = torch.rand(3, dtype=torch.double)
    deq = GraphDEQ.from_conv(
        GCNConv(4, 4, bias=False), 3, bias=False, init="identity", criterion=criterion,
        solver=solver, tol=1e-4, max_steps=600, **options,
    ).double()  # fmt: skip
    return deq, x, edge_index


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_criterion_of_nodes_sees_a_faded_signal(solver):
    reach = {}
    for criterion in ("graph", "node"):
        deq, x, edge_index = _chain(criterion, solver)
        z, solution = deq(x, edge_index, return_solution=True)
        step = deq.cell.prepare(x, edge_index)
        difference, size = step(z) - z, step(z).norm(dim=1)
        expected = (difference.norm(dim=1) / size).nan_to_num().max() if criterion == "node" else (
            difference.norm() / size.norm())  # fmt: skip
        torch.testing.assert_close(solution.residual, expected.reshape(1))
        assert bool(solution.converged.all())
        exact = deq.as_nca(steps=3000)(x, edge_index)
        reach[criterion] = ((z - exact).norm(dim=1) <= 1e-2 * exact.norm(dim=1)).sum()
    assert int(reach["graph"]) < 60
    assert int(reach["node"]) == 60


def test_the_automaton_is_judged_by_the_criterion_of_the_equilibrium():
    deq, x, edge_index = _chain("node", "picard")
    nca = deq.as_nca(steps=30)
    assert (nca.criterion, nca.tol) == ("node", 1e-4)
    assert (nca.as_deq().criterion, nca.as_deq().tol) == ("node", 1e-4)
    z, solution = nca(x, edge_index, return_solution=True)
    fz = deq.cell(z, x, edge_index)
    size = fz.norm(dim=1)
    worst = ((fz - z).norm(dim=1) / size)[size > 0].max()
    torch.testing.assert_close(solution.residual[0], worst)
    assert float(worst) > 0.99  # the signal is on its way, though the graph is nearly still
    _, solution = deq.as_nca(steps=30, criterion="graph")(x, edge_index, return_solution=True)
    assert float(solution.residual) < 0.02


def test_a_state_that_falls_to_zero_is_no_failure():
    partition = Partition(torch.tensor([0, 0]), num_nodes=2)
    solution = solve(lambda z: 0.0 * z, torch.ones(2, 1), partition, solver="picard")
    assert bool(solution.converged)
    assert int(solution.num_steps) == 1


def test_the_criterion_of_nodes_in_a_batch_and_in_the_gradient():
    deq, x, edge_index = _chain("node", "picard")
    _, short, short_edges = _chain("node", "picard", num_nodes=20)
    batch = torch.arange(2).repeat_interleave(torch.tensor([60, 20]))
    together = torch.cat([edge_index, short_edges + 60], 1)
    z, solution = deq(torch.cat([x, short]), together, None, batch, return_solution=True)
    for k, (one, edges) in enumerate([(x, edge_index), (short, short_edges)]):
        alone, own = deq(one, edges, return_solution=True)
        torch.testing.assert_close(z[batch == k], alone, rtol=1e-12, atol=0)
        assert int(solution.num_steps[k]) == int(own.num_steps)
    # What the last node says of the first: a number of 1e-5, relatively right.
    x = x.requires_grad_()
    implicit = torch.autograd.grad(deq(x, edge_index)[-1].sum(), x)[0][0]
    unrolled = torch.autograd.grad(deq.as_nca(steps=3000)(x, edge_index)[-1].sum(), x)[0][0]
    torch.testing.assert_close(implicit, unrolled, rtol=1e-3, atol=0)


def test_a_node_at_zero_has_converged_and_a_nan_has_not():
    partition = Partition(torch.tensor([0, 1]), 2)
    b = torch.tensor([[0.0], [float("nan")]])
    solution = solve(lambda z: 0.5 * z + b, torch.zeros(2, 1), partition, criterion="node")
    assert solution.status.tolist() == [Status.CONVERGED, Status.NON_FINITE]


def test_unknown_criteria_are_refused():
    with pytest.raises(ValueError, match="'graph', 'node', 'channel' or 'error'"):
        GraphDEQ(ConvCell(1, 4), criterion="edge")
    with pytest.raises(ValueError, match="'criterion' to be 'graph'"):
        GraphDEQ(ConvCell(1, 4), solver="torchdeq:anderson", criterion="node")
