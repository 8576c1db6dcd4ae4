"""Of several starts the one of least residual is kept, graph by graph."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from gncadeq import Cell, GraphDEQ, GraphNCA
from gncadeq.dynamics import best_of


class TwoWells(Cell):
    """Each node falls to −1, or comes near 1 slowly: a residual tells which it was."""

    in_channels = channels = 1

    def prepare(self, x, edge_index, edge_attr=None):
        return lambda z: torch.where(z > 0, z + 0.1 * (1 - z), -1.0)


def wells():
    return GraphNCA(TwoWells(), steps=6, start="normal")


def graph(count):
    x = torch.zeros(count, 1)
    return x, torch.zeros(2, 0, dtype=torch.long), None, torch.arange(count)


def test_the_best_start_of_every_graph_is_kept():
    generator = torch.Generator().manual_seed(0)
    one, _ = wells()(*graph(200), return_solution=True, generator=generator)
    assert 0.3 < float((one == -1).float().mean()) < 0.7
    z, found = best_of(wells(), *graph(200), starts=10, generator=generator)
    assert float((z == -1).float().mean()) > 0.97
    step = TwoWells().prepare(*graph(200)[:2])
    again = ((step(z) - z).abs() / step(z).abs().clamp_min(1e-12)).flatten()
    torch.testing.assert_close(found.residual, again, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.state, z)


def test_more_starts_are_never_worse_with_the_same_numbers():
    residuals = []
    for starts in (1, 3, 9):
        generator = torch.Generator().manual_seed(1)
        _, found = best_of(wells(), *graph(50), starts=starts, generator=generator)
        residuals.append(found.residual)
    assert bool((residuals[1] <= residuals[0]).all())
    assert bool((residuals[2] <= residuals[1]).all())


def test_an_equilibrium_does_as_well_and_several_nodes_a_graph():
    data = Data(x=torch.zeros(6, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    deq = GraphDEQ(TwoWells(), "picard", max_steps=4, start="normal", on_failure="ignore")
    z, found = best_of(deq, data.x, data.edge_index, None, batch, starts=30)
    assert found.residual.shape == (2,)
    assert float(z.min()) == -1.0


def test_starts_that_would_all_be_the_same_are_refused():
    with pytest.raises(ValueError, match="start from noise"):
        best_of(GraphNCA(TwoWells()), *graph(2))
    with pytest.raises(ValueError, match="and z0"):
        best_of(wells(), *graph(2), z0=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="'starts'"):
        best_of(wells(), *graph(2), starts=0)
    with pytest.raises(ValueError, match="no 'return_trajectory'"):
        best_of(wells(), *graph(2), return_trajectory=True)
    with pytest.raises(TypeError, match="'dynamics'"):
        best_of(TwoWells(), *graph(2))
    with pytest.raises(TypeError, match="'generator'"):
        best_of(wells(), *graph(2), generator=3)
    with pytest.raises(TypeError, match="'x'"):
        best_of(wells(), {"a": torch.zeros(2, 1)})


@pytest.mark.parametrize("kind", [GraphDEQ, GraphNCA])
@pytest.mark.parametrize("start", ["normal", "zeros"])
def test_a_seed_in_the_place_of_a_generator_is_refused(kind, start):
    with pytest.raises(TypeError, match="'generator'"):
        kind(TwoWells(), start=start)(*graph(2), generator=3)
