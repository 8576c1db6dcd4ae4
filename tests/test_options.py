"""Options that follow others, the checks when they are set, and the advice of a failure."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import living_pixels, path_edges
from torch_geometric.data import Data

from gncadeq import (
    ConvCell,
    ConvergenceWarning,
    GraphDEQ,
    PropagationCell,
    Status,
)


class Shaken(ConvCell):
    """Draws new randomness in every call, and doesn't say so."""

    def prepare(self, *args, **kwargs):
        step = super().prepare(*args, **kwargs)
        return lambda z: step(z) + torch.rand_like(z)


def told(deq: GraphDEQ, data: Data) -> str:
    with pytest.warns(ConvergenceWarning) as record:
        deq(data.x, data.edge_index, data.edge_attr)
    return str(record[0].message)


def test_advice_looks_at_the_cause():
    data = living_pixels(0)
    said = told(GraphDEQ(ConvCell(1, 4, contraction=0.9).double(), "picard", max_steps=2), data)
    assert "bound the cell" not in said
    cell = PropagationCell(1, 0.1)
    said = told(
        GraphDEQ(cell, "picard", max_steps=2), Data(x=torch.ones(5, 1), edge_index=path_edges(5))
    )
    assert "contraction by 0.9" in said
    assert "plain steps from zeros need about 73" in said  # 0.9^73 < 1e-3 / 2 < 0.9^72
    free = ConvCell(1, 4, contraction=None).double()
    with torch.no_grad():
        for parameter in free.parameters():
            parameter.mul_(5.0)
    said = told(GraphDEQ(free, "anderson", max_steps=2), data)
    assert "bound the cell (contraction=0.95)" in said
    assert "solver_options={'history': 20}" in said
    said = told(GraphDEQ(Shaken(1, 4, contraction=0.9).double(), max_steps=5), data)
    assert "two evaluations of it at one state differ" in said
    assert "bound" not in said


def test_negative_degrees_are_named():
    """pytorch_geometric #795 and #10549: GCNConv with negative edge weights."""
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    weight = torch.tensor([-3.0, -3.0, 1.0, 1.0])
    deq = GraphDEQ.from_conv(pyg.GCNConv(4, 4), 3)
    with pytest.warns(ConvergenceWarning, match="roots of degrees, .* negative") as record:
        z, solution = deq(torch.rand(3, 3), edges, weight, return_solution=True)
    assert solution.status.tolist() == [Status.NON_FINITE]
    assert bool(z.isnan().all())
    assert bool(solution.residual.isinf().all())
    assert "bound the cell" not in str(record[0].message)


def test_options_that_are_derived_follow():
    deq = GraphDEQ(ConvCell(1, 4))
    deq.tol, deq.max_steps = 1e-5, 200
    assert (deq.backward_tol, deq.backward_max_steps) == (1e-5, 200)
    deq.backward_tol = 1e-7
    deq.tol = 1e-2
    assert deq.backward_tol == 1e-7
    deq.backward_tol = None
    assert deq.backward_tol == 1e-2


@pytest.mark.parametrize("made", [GraphDEQ(ConvCell(1, 4)), GraphDEQ(ConvCell(1, 4)).core])
def test_options_are_checked_when_they_are_set(made):
    for name, value in (
        ("tol", -1), ("criterion", "nod"), ("phantom_damping", 2.0), ("solver_options", [3]),
        ("compact", 1), ("check_every", 0), ("on_failure", "shout"), ("atol", -1.0),
        ("backward_max_steps", 2.5), ("gradient", "bptt"),
    ):  # fmt: skip
        before = getattr(made, name)
        with pytest.raises((TypeError, ValueError), match=f"'{name}'"):
            setattr(made, name, value)
        assert getattr(made, name) == before
        setattr(made, name, before)
    made.atol = None
    made.solver_options["history"] = 3  # each core has a dictionary of its own
    assert GraphDEQ(ConvCell(1, 4)).solver_options == {}
    assert made.options.backward("auto").solver_options == {"history": 3}
    assert made.options.backward("picard").solver_options == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": float("nan")}, "'tol' to be a finite number above 0"),
        ({"tol": "1e-3"}, "'tol' to be a finite number"),
        ({"max_steps": 2.5}, "'max_steps' to be a whole number"),
        ({"max_steps": -1}, "'max_steps' to be a whole number"),
        ({"backward_tol": 0.0}, "'backward_tol' to be a finite number above 0"),
        ({"backward_max_steps": True}, "'backward_max_steps' to be a whole number"),
        ({"solver": None}, "'solver' to be"),
        ({"solver": 3}, "'solver' to be"),
        ({"gradient": "bptt"}, "as_nca"),
        ({"compact": "no"}, "'compact' to be True or False"),
        ({"check_every": 0}, "'check_every' to be a whole number of at least 1"),
        ({"phantom_damping": 1.5}, "'phantom_damping' to be a finite number above 0"),
        ({"criterion": "nodes"}, "Did you mean 'node'"),
    ],
)
def test_arguments_are_checked_when_they_are_given(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GraphDEQ(ConvCell(1, 4), **options)
