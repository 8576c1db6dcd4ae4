"""The laws of every cell and every dynamics, as assertions on any cell and graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import Cell


def graph_of(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """What dynamics are called with."""
    return data.x, data.edge_index, data.edge_attr


def assert_permutation_equivariant(cell: Cell, data: Data, atol: float = 1e-10) -> None:
    """Renumbering nodes renumbers the result; shuffling edges changes nothing."""
    n = data.num_nodes
    z = torch.randn(n, cell.channels, dtype=data.x.dtype)
    expected = cell(z, *graph_of(data))
    order = torch.randperm(n)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(n)
    edges = torch.randperm(data.edge_index.size(1))
    out = cell(z[order], data.x[order], inverse[data.edge_index][:, edges], data.edge_attr[edges])
    torch.testing.assert_close(out, expected[order], atol=atol, rtol=0)


def assert_batch_independent(deq: GraphDEQ, batch: Batch, atol: float = 1e-9) -> None:
    """A graph in a batch gets the state, the steps and the gradient that it gets alone."""
    x = batch.x.clone().requires_grad_()
    z, solution = deq(x, batch.edge_index, batch.edge_attr, batch.batch, return_solution=True)
    z.pow(3).sum().backward()
    for k in range(batch.num_graphs):
        data = batch[k]
        mine = batch.batch == k
        alone_x = data.x.clone().requires_grad_()
        alone, alone_solution = deq(alone_x, data.edge_index, data.edge_attr, return_solution=True)
        alone.pow(3).sum().backward()
        torch.testing.assert_close(z[mine], alone, atol=atol, rtol=0)
        torch.testing.assert_close(x.grad[mine], alone_x.grad, atol=atol, rtol=0)
        assert solution.num_steps[k] == alone_solution.num_steps[0]
        assert solution.status[k] == alone_solution.status[0]


def assert_one_rule(deq: GraphDEQ, data: Data, steps: int = 400, atol: float = 1e-7) -> None:
    """The equilibrium is at rest under the automaton, and every rollout reaches it."""
    with torch.no_grad():
        z = deq(*graph_of(data), getattr(data, "batch", None))
        for fire_rate in (1.0, 0.5):
            rest = deq.as_nca(fire_rate=fire_rate, steps=5)
            assert rest.cell is deq.cell
            torch.testing.assert_close(rest(*graph_of(data), z0=z), z, atol=atol, rtol=0)
            nca = GraphNCA(deq.cell, steps, fire_rate=fire_rate, start="normal")
            torch.testing.assert_close(nca(*graph_of(data)), z, atol=atol, rtol=0)


def gradients(
    dynamics: GraphDEQ | GraphNCA, data: Data, nodes: Tensor | None = None, scale: float = 1.0
) -> list[Tensor]:
    """Gradients of a loss on some nodes with respect to all parameters and the injection."""
    dynamics.zero_grad()
    x = data.x.detach().clone().requires_grad_()
    z = dynamics(x, data.edge_index, data.edge_attr, getattr(data, "batch", None))
    picked = z if nodes is None else z[nodes]
    (scale * (picked.pow(2) + picked).sum()).backward()
    return [p.grad / scale for p in dynamics.parameters() if p.grad is not None] + [x.grad / scale]


def assert_gradients_close(left: list[Tensor], right: list[Tensor], rtol: float = 1e-6) -> None:
    """Two lists of gradients agree to a relative error."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert float((a - b).norm()) <= rtol * float(b.norm()) + 1e-14


def assert_honest_residual(deq: GraphDEQ, batch: Batch, atol: float = 1e-12) -> None:
    """The reported residual is that of the returned state, by one more step."""
    with torch.no_grad():
        z, solution = deq(*graph_of(batch), batch.batch, return_solution=True)
        fz = deq.cell(z, *graph_of(batch))
    for k in range(batch.num_graphs):
        mine = batch.batch == k
        expected = (fz[mine] - z[mine]).norm() / fz[mine].norm()
        assert abs(float(expected - solution.residual[k])) <= atol
        assert bool(solution.converged[k]) == (float(solution.residual[k]) <= deq.tol)


def assert_local(cell: Cell, data: Data, steps: int = 3) -> None:
    """After t steps a node depends on its t-hop neighbourhood alone."""
    nca = GraphNCA(cell, steps)
    with torch.no_grad():
        before = nca(*graph_of(data))
        changed = data.x.clone()
        changed[0] += 1.0
        after = nca(changed, data.edge_index, data.edge_attr)
    reached = torch.zeros(data.num_nodes, dtype=torch.bool)
    reached[0] = True
    for _ in range(steps):
        reached[data.edge_index[1, reached[data.edge_index[0]]]] = True
    moved = (before != after).any(dim=1)
    assert not bool((moved & ~reached).any())
    assert bool(moved[0])
