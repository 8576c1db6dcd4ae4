"""Jacobian regularisation against the exact Frobenius norm; rest, overflow, gradient norms."""

from __future__ import annotations

import pytest
import torch

from gncadeq import ConvCell, GraphDEQ, IGNNCell, MonotoneCell
from gncadeq.testing import graph_of
from gncadeq.training.losses import (
    jacobian_penalty,
    normalize_gradients,
    overflow_loss,
    rest_loss,
)
from gncadeq.transforms import ImageToGraph


def exact_penalty(step, z) -> torch.Tensor:
    jacobian = torch.autograd.functional.jacobian(step, z, create_graph=True)
    return jacobian.square().sum() / z.numel()


@pytest.mark.parametrize("cell", [IGNNCell(2, 3, activation="tanh"), MonotoneCell(2, 3)])
def test_jacobian_penalty_is_the_frobenius_norm(cell):
    cell = cell.double()
    data = ImageToGraph()(torch.rand(2, 3, 4, dtype=torch.double))
    data.edge_attr = data.edge_attr if isinstance(cell, MonotoneCell) else None
    step = cell.prepare(*graph_of(data))
    z = torch.rand(12, 3, dtype=torch.double)
    exact = float(exact_penalty(step, z))
    g = torch.Generator().manual_seed(0)
    mean = float(jacobian_penalty(step, z, probes=2000, generator=g))
    assert mean == pytest.approx(exact, rel=0.03)
    seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert jacobian_penalty(step, z, generator=seeds[0]) == jacobian_penalty(
        step, z, generator=seeds[1]
    )


def test_jacobian_penalty_of_diagonal_jacobians_is_exact():
    scale = torch.rand(5, 2, dtype=torch.double, requires_grad=True)
    z = torch.randn(5, 2, dtype=torch.double)
    penalty = jacobian_penalty(lambda z: scale * z, z)
    torch.testing.assert_close(penalty, scale.square().mean())
    (grad,) = torch.autograd.grad(penalty, scale)
    torch.testing.assert_close(grad, 2 * scale.detach() / 10)


@pytest.mark.parametrize("name", ["direct", "ignn", "monotone"])
def test_gradient_of_jacobian_penalty_by_finite_differences(name):
    data = ImageToGraph()(torch.rand(2, 3, 3, dtype=torch.double))
    cell = {
        "direct": ConvCell(2, 2, contraction=0.9),
        "ignn": IGNNCell(2, 2, activation="tanh"),
        "monotone": MonotoneCell(2, 2),
    }[name].double()
    if name == "ignn":
        data.edge_attr = torch.rand(data.num_edges, dtype=torch.double)
    z = torch.rand(9, 2, dtype=torch.double)
    weights = "weight_a" if name == "monotone" else "weight_z"
    parameter = getattr(cell, weights)
    if name == "ignn":  # the start is a corner of the bound, where there is no derivative
        torch.nn.init.uniform_(parameter, -1, 1)

    def run(weight):
        with torch.no_grad():
            parameter.copy_(weight)
        g = torch.Generator().manual_seed(3)
        return jacobian_penalty(cell.prepare(*graph_of(data)), z, probes=2, generator=g)

    start = parameter.detach().clone()
    (grad,) = torch.autograd.grad(run(start), parameter)
    direction = torch.randn_like(start)
    with torch.no_grad():
        slope = (run(start + 1e-5 * direction) - run(start - 1e-5 * direction)) / 2e-5
    assert float(slope) == pytest.approx(float((grad * direction).sum()), rel=1e-5)


def test_training_against_the_jacobian_penalty_speeds_convergence():
    data = ImageToGraph()(torch.rand(1, 8, 8))
    cell = ConvCell(1, 6)
    deq = GraphDEQ(cell, "picard", tol=1e-4, max_steps=200, on_failure="ignore")
    optimizer = torch.optim.Adam(cell.parameters(), lr=1e-2)

    def steps():
        with torch.no_grad():
            return int(deq(*graph_of(data), return_solution=True)[1].num_steps)

    before = steps()
    for _ in range(20):
        with torch.no_grad():
            z = deq(*graph_of(data))
        optimizer.zero_grad()
        jacobian_penalty(cell.prepare(*graph_of(data)), z).backward()
        optimizer.step()
    assert steps() < before


def test_the_rest_loss_is_zero_at_an_equilibrium_and_is_the_residual_elsewhere():
    data = ImageToGraph()(torch.rand(1, 4, 5, dtype=torch.double))
    cell = ConvCell(1, 3, contraction=0.5).double()
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    z = GraphDEQ(cell, tol=1e-12)(data.x, data.edge_index, data.edge_attr)
    assert float(rest_loss(step, z).detach()) < 1e-20
    away = torch.randn(20, 3, dtype=torch.double, requires_grad=True)
    value = rest_loss(step, away)
    assert float(value.detach()) == pytest.approx(
        float((step(away) - away).square().mean().detach())
    )
    assert torch.autograd.gradcheck(lambda z: rest_loss(step, z), (away,))
    lengths = (step(away) - away).square().sum(1).sqrt().mean().detach()
    torch.testing.assert_close(rest_loss(step, away, squared=False).detach(), lengths)
    still = torch.ones(4, 2, requires_grad=True)  # no step, and a gradient that is a number
    rest_loss(lambda z: 1.0 * z, still, squared=False).backward()
    assert torch.equal(still.grad, torch.zeros(4, 2))


def test_overflow_is_felt_outside_the_bound_alone():
    z = torch.tensor([[-3.0, -2.0, 0.0], [1.9, 2.5, 6.0]], requires_grad=True)
    value = overflow_loss(z, bound=2.0)
    assert float(value.detach()) == pytest.approx((1 + 0.5 + 4) / 6)
    (grad,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(grad * 6, torch.tensor([[-1.0, 0, 0], [0, 1, 1]]))
    with pytest.raises(ValueError, match="'bound' to be a finite number above 0"):
        overflow_loss(z, bound=0.0)


def test_normalised_gradients_keep_their_direction():
    torch.manual_seed(0)
    parameters = [torch.randn(3, 2), torch.randn(4), torch.randn(2)]
    for p, size in zip(parameters, (1e6, 1e-3), strict=False):
        p.grad = size * torch.randn_like(p)
    before = [p.grad.clone() for p in parameters[:2]]
    total = normalize_gradients(parameters)
    assert total == pytest.approx(float(torch.cat([g.flatten() for g in before]).norm()))
    for p, g in zip(parameters, before, strict=False):
        assert float(p.grad.norm()) == pytest.approx(1.0, rel=1e-4)
        torch.testing.assert_close(p.grad, g / g.norm(), atol=1e-4, rtol=1e-4)
    assert parameters[2].grad is None
    parameters[0].grad[0, 0] = float("inf")
    assert not normalize_gradients(parameters) < float("inf")
