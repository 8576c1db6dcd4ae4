"""Graphs that follow the state: agents within a radius, flocks, and measures of series."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from boid_rules import (
    Flock,
    LearnedFlock,
    WithinRadius,
    correlation_dimension,
    order,
    sample_entropy,
)
from boids import run, starts

from gncadeq import GraphNCA, IGNNCell, WrappedConvCell
from gncadeq.cells import RewiredCell

NONE = torch.empty(2, 0, dtype=torch.long)


def by_hand(z: torch.Tensor) -> torch.Tensor:
    """A step of the flock, agent by agent."""
    out = z.clone()
    for i in range(len(z)):
        near, push = [], torch.zeros(2, dtype=z.dtype)
        for j in range(len(z)):
            way = (z[j, :2] - z[i, :2] + 0.5) % 1.0 - 0.5
            if j != i and float(way.norm()) < 0.1:
                near.append((way, z[j, 2:] - z[i, 2:]))
                if float(way.norm()) < 0.03:
                    push -= 0.004 * (1 - way.norm() / 0.03) * way / way.norm()
        if near:
            push += 0.02 * torch.stack([a for a, _ in near]).mean(0)
            push += 0.15 * torch.stack([b for _, b in near]).mean(0)
        velocity = z[i, 2:] + push
        velocity *= velocity.norm().clamp(0.005, 0.015) / velocity.norm()
        out[i] = torch.cat([(z[i, :2] + velocity) % 1.0, velocity])
    return out


def test_a_flock_follows_the_rule_by_hand_with_the_neighbours_of_the_moment():
    z0, batch = starts(1, 60, 0)
    z0, want = z0.double(), z0.double()
    way = run(Flock(), z0, batch, 12)[:, 0]
    for step in range(12):
        want = by_hand(want)
        torch.testing.assert_close(way[step + 1], want, rtol=0, atol=1e-12)
    pairs = [WithinRadius(0.1)(z, batch)[0].size(1) for z in (way[0], way[12])]
    assert pairs[0] != pairs[1]


def test_flocks_of_a_batch_do_not_see_each_other():
    z0, batch = starts(3, 20, 1)
    together = run(Flock(), z0, batch, 5)
    for k in range(3):
        alone = run(Flock(), z0[20 * k : 20 * k + 20], batch[:20], 5)
        torch.testing.assert_close(together[:, k], alone[:, 0])


def test_edges_reach_around_the_torus_and_carry_the_way():
    z = torch.tensor([[0.01, 0.5, 0, 0], [0.99, 0.5, 0, 0], [0.5, 0.5, 0, 0]])
    edge_index, way = WithinRadius(0.1)(z, torch.zeros(3, dtype=torch.long))
    assert sorted(edge_index.t().tolist()) == [[0, 1], [1, 0]]
    there = way[(edge_index[0] == 1).nonzero().item()]
    torch.testing.assert_close(there, torch.tensor([-0.02, 0.0]))


def test_a_learned_rule_has_gradients_through_many_steps():
    torch.manual_seed(0)
    cell = RewiredCell(LearnedFlock(0.1, hidden=8), WithinRadius(0.1))
    z0, batch = starts(2, 15, 2)
    z = GraphNCA(cell, 4)(z0[:, :0], NONE, None, batch, z0=z0)
    z[:, 2:].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in cell.parameters())
    before = cell.cell.message[0].weight.detach().clone()
    cell.reset_parameters()
    assert not torch.equal(before, cell.cell.message[0].weight)


def test_rules_that_take_tensors_by_name_are_refused():
    from torch_geometric.nn import PointNetConv

    conv = WrappedConvCell(PointNetConv(torch.nn.Linear(6, 4)), 1, channels=4, contraction=None)
    with pytest.raises(ValueError, match="its graph alone"):
        RewiredCell(conv, WithinRadius(0.1))
    with pytest.raises(TypeError, match="'rewire'"):
        RewiredCell(IGNNCell(1, 2), 0.1)
    with pytest.raises(TypeError, match="'cell'"):
        RewiredCell(torch.nn.Linear(2, 2), WithinRadius(0.1))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "got NoneType.*Return a pair"),
        ((torch.tensor([[0], [1]]), None, None), "Return a pair"),
        ((torch.tensor([[0], [2]]), None), "within graphs.*Leave out"),
        ((torch.tensor([[0], [3]]), None), r"\[0, 3\).*got 0 to 3"),
    ],
)
def test_what_is_no_graph_of_the_state_is_refused(made, message):
    nca = GraphNCA(RewiredCell(IGNNCell(1, 2), lambda z, batch: made), steps=2)
    with pytest.raises(ValueError, match=message):
        nca(torch.rand(3, 1), torch.empty(2, 0, dtype=torch.long), batch=torch.tensor([0, 0, 1]))


def test_order_is_one_where_all_fly_alike():
    same = torch.tensor([[0.0, 1.0]]).repeat(4, 1)
    assert float(order(same)) == 1.0
    assert float(order(torch.cat([same, -same]))) == 0.0


def test_series_are_measured_as_known():
    rng = np.random.default_rng(0)
    time = np.arange(400)
    wave = np.sin(2 * math.pi * time / 31.7)
    assert sample_entropy(wave) < 0.4 < 1.8 < sample_entropy(rng.normal(size=400))
    assert 0.8 < correlation_dimension(wave) < 1.3
    assert correlation_dimension(rng.normal(size=400)) > 3.0
    assert math.isnan(correlation_dimension(np.zeros(50)))
