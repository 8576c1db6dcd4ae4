"""Dropout and batch statistics in cascades: they stand still for the duration of a solve."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch

from gncadeq import CascadeCell, Cell, GraphDEQ, Part
from gncadeq.cells import FeedForwardCell
from gncadeq.transforms import ImageToGraph


def arguments(data):
    return data.x, data.edge_index, data.edge_attr


class Drawing(Cell):
    """A cell with a module that draws, or has statistics, in every step."""

    in_channels = channels = 3

    def __init__(self, module):
        super().__init__()
        self.lin, self.module = nn.Linear(3, 3), module

    def prepare(self, x, edge_index, edge_attr=None):
        return lambda z: (0.3 * self.module(self.lin(z)) + x).tanh()


@pytest.mark.parametrize("criterion", ["graph", "node"])
def test_randomness_and_statistics_of_parts_stand_still(criterion):
    torch.manual_seed(0)
    norm, data = nn.BatchNorm1d(3), ImageToGraph()(torch.rand(1, 5, 5, dtype=torch.double))
    parts = [
        Part(FeedForwardCell(3), nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.3)), ["x"]),
        Part(Drawing(nn.Dropout(0.3)), nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3)), [0]),
        Part(CascadeCell([Drawing(norm)], 3), reads=[1]),
    ]
    cell = CascadeCell(parts, in_channels=1).double()
    deq = GraphDEQ(cell, tol=1e-9, max_steps=200, criterion=criterion)
    z, solution = deq(*arguments(data), return_solution=True)
    assert bool(solution.converged.all())
    assert float(solution.residual) < 1e-9
    assert int(norm.num_batches_tracked) == 1
    cell.parts[2].cell.parts[0].cell.module = nn.Identity()
    batch = Batch.from_data_list([data.clone(), data])
    batch.x[0] = float("nan")
    deq.on_failure = "ignore"
    z = deq(*arguments(batch), batch.batch, generator=torch.Generator().manual_seed(3))
    z[25:].square().sum().backward()
    used = [p.grad for p in cell.parameters() if p.grad is not None]
    assert all(bool(grad.isfinite().all()) for grad in used)
    with torch.no_grad():
        other = deq(*arguments(batch), batch.batch, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(z, other, equal_nan=True)


def test_parts_draw_apart():
    torch.manual_seed(0)
    drop = nn.Sequential(nn.Dropout(0.5))
    parts = [Part(FeedForwardCell(4), drop, [q]) for q in ("x", 0, 1)]
    z = GraphDEQ(CascadeCell(parts, 4))(torch.ones(50, 4), torch.empty(2, 0, dtype=torch.long))
    first, second, third = (int(part.count_nonzero()) for part in z.split(4, 1))
    assert first > 1.3 * second > 1.3**2 * third
