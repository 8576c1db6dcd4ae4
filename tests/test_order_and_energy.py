"""Certificates of the kinds order and energy: laws, on random graphs, weights and orders."""

from __future__ import annotations

import pytest
import torch
from graphs import weighted_graph
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_undirected

from gncadeq import CascadeCell, GraphDEQ, GraphNCA, HopfieldCell, ReachCell
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.transforms import ImageToGraph

SEEDS = range(4)


def undirected(seed: int, n: int = 14) -> Data:
    """A graph with loops, a lonely node, and weights of both signs, the same both ways."""
    data = weighted_graph(n, seed)
    edge_index, weight = to_undirected(data.edge_index, data.edge_attr, num_nodes=n)
    return Data(x=data.x, edge_index=edge_index, edge_attr=weight, num_nodes=n)


def random_cell(kind, seed: int, spread: float = 1.0) -> ReachCell | HopfieldCell:
    torch.manual_seed(seed)
    cell = kind(2, 3).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=spread)
    return cell


# Order


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_larger_states_have_larger_images(seed, spread):
    data, cell = weighted_graph(14, seed), random_cell(ReachCell, seed, spread)
    step = cell.prepare(data.x, data.edge_index)
    for scale in (0.1, 1.0, 100.0):
        low = scale * torch.randn(14, 3).double()
        high = low + scale * torch.rand(14, 3).double() * (torch.rand(14, 1) < 0.5)
        assert bool((step(low) <= step(high)).all())
        assert float(step(high).detach().min()) >= 0.0
        assert float(step(high).detach().max()) <= 1.0


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_from_the_bottom_states_rise_to_the_least_equilibrium_in_every_order(seed, spread):
    data, cell = weighted_graph(14, seed), random_cell(ReachCell, seed, spread)
    certificate = cell.certificate(data.edge_index, num_nodes=14)
    assert certificate.kind == "order"
    assert certificate.promises
    with torch.no_grad():
        step = cell.prepare(data.x, data.edge_index)
        bottom = torch.full((14, 3), certificate.bottom, dtype=torch.double)
        least = bottom
        for _ in range(1000):
            least = step(least)
        torch.testing.assert_close(step(least), least, atol=1e-9, rtol=0)
        for rate in (0.5, 0.1):  # random nodes; one after the other, unevenly
            z = bottom
            for _ in range(int(4000 / rate)):
                fired = torch.rand(14, 1) < rate * torch.linspace(0.2, 1, 14).unsqueeze(1)
                after = torch.where(fired, step(z), z)
                assert bool((after >= z - 1e-15).all())
                moved, z = bool((after != z).any()), after
                if not moved and bool((step(z) == z).all()):
                    break
            torch.testing.assert_close(z, least, atol=1e-7, rtol=0)
        # Every other equilibrium is above it.
        top = torch.ones(14, 3).double()
        for _ in range(1000):
            top = step(top)
        assert bool((top >= least - 1e-9).all())


def test_marks_reach_their_component_and_no_further():
    living = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(3)) > 0.4
    data = ImageToGraph("von_neumann", living_threshold=0.5)(living.float())
    label, _ = WeightedAdjacency(data.edge_index, None, data.num_nodes).components()
    start = int(torch.bincount(label).argmax())
    mark = torch.zeros(data.num_nodes, 1)
    mark[(label == start).nonzero()[0]] = 1.0
    torch.manual_seed(0)
    cell = ReachCell(1, 4)
    z = GraphDEQ(cell, "picard", max_steps=400)(mark, data.edge_index)
    assert torch.equal(z[:, 0] > 0.5, label == start)
    nca = GraphNCA(cell, steps=1000, fire_rate=0.5, start="zeros")
    torch.testing.assert_close(nca(mark, data.edge_index), z, atol=1e-2, rtol=0)


def test_reachability_is_learned_by_thirty_parameters():
    """On 10 × 10 pixels; right on 40 × 40, where ways are four times as long."""

    def grid(size: int, seed: int) -> tuple[Data, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        living = torch.rand(1, size, size, generator=g) > 0.4
        data = ImageToGraph("von_neumann", living_threshold=0.5)(living.float())
        label, _ = WeightedAdjacency(data.edge_index, None, data.num_nodes).components()
        start = int(torch.randint(data.num_nodes, (), generator=g))
        data.x = torch.ones(data.num_nodes, 2)
        data.x[:, 1] = torch.arange(data.num_nodes) == start
        return data, (label == label[start]).float()

    torch.manual_seed(0)
    cell, readout = ReachCell(2, 4), nn.Linear(4, 1)
    with torch.no_grad():
        cell.input.weight[:, 0] = 0.1 * torch.randn(4)  # of being open nothing follows
    deq = GraphDEQ(cell, "picard", tol=1e-3, max_steps=100, on_failure="ignore")
    parameters = [*cell.parameters(), *readout.parameters()]
    assert sum(p.numel() for p in parameters) == 33
    optimizer = torch.optim.Adam(parameters, lr=0.03)
    for iteration in range(40):
        pairs = [grid(10, 1000 * iteration + i) for i in range(16)]
        batch = Batch.from_data_list([data for data, _ in pairs])
        z = deq(batch.x, batch.edge_index, batch=batch.batch)
        goal = torch.cat([goal for _, goal in pairs])
        loss = nn.functional.binary_cross_entropy_with_logits(readout(z).squeeze(1), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for seed in range(3):
        data, goal = grid(40, -seed - 1 + 2**31)
        z = GraphDEQ(cell, "picard", tol=1e-5, max_steps=1000)(data.x, data.edge_index)
        assert torch.equal(readout(z).squeeze(1) > 0, goal > 0)


# Energy


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_energy_falls_whichever_nodes_are_updated(seed, spread):
    data, cell = undirected(seed), random_cell(HopfieldCell, seed, spread)
    certificate = cell.certificate(data.edge_index, data.edge_attr, num_nodes=14)
    assert certificate.kind == "energy"
    assert certificate.promises
    with torch.no_grad():
        step = cell.prepare(data.x, data.edge_index, data.edge_attr)
        starts = [2 * torch.rand(14, 3).double() - 1, torch.randn(14, 3).double().sign()]
        for z in starts:
            for k in range(300):
                rate = (1.0, 0.5, 0.1)[k // 100]
                after = torch.where(torch.rand(14, 1) < rate, step(z), z)
                fall = float(step.energy(z).sum() - step.energy(after).sum())
                least = certificate.decrease * float((after - z).square().sum())
                assert fall >= least - 1e-12 * (1 + abs(float(step.energy(z).sum())))
                z = after
            for _ in range(1500):
                z = step(z)
            torch.testing.assert_close(step(z), z, atol=1e-5, rtol=0)


def test_the_gradient_of_the_energy_is_what_a_step_descends():
    """Where a step is at rest, and only there, the energy is stationary."""
    data, cell = undirected(0), random_cell(HopfieldCell, 0)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    z = (0.9 * (2 * torch.rand(14, 3).double() - 1)).requires_grad_()
    (slope,) = torch.autograd.grad(step.energy(z).sum(), z)
    goal = (step(z) - z) / step.step_size + z
    torch.testing.assert_close(slope, z.atanh() - goal.atanh())


def test_starts_are_remembered():
    """Two cliques that agree within and differ between: a memory, of which a start decides."""
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    edge_index = torch.tensor([*pairs, *((i + 6, j + 6) for i, j in pairs)]).T
    cell = HopfieldCell(1, 1)
    with torch.no_grad():
        cell.state.fill_(3.0)
        cell.input.bias.zero_()
    x = torch.zeros(12, 1)
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        kept = torch.tensor(signs).repeat_interleave(6).float().unsqueeze(1)
        noisy = kept.clone()
        noisy[[0, 7]] *= -1
        z = GraphNCA(cell, steps=200, fire_rate=0.5)(x, edge_index, z0=0.5 * noisy)
        assert torch.equal(z.sign(), kept)


def test_nothing_is_promised_of_one_way_edges_or_of_cascades_of_many_equilibria():
    cell = random_cell(HopfieldCell, 0)
    one_way = torch.tensor([[0, 1], [1, 2]])
    assert cell.certificate(one_way, num_nodes=3) is None
    both = torch.cat([one_way, one_way.flip(0)], 1)
    assert cell.certificate(both, num_nodes=3) is not None
    unequal = torch.tensor([1.0, 1.0, 1.0, 2.0]).double()
    assert cell.certificate(both, unequal, num_nodes=3) is None
    for first in (ReachCell(1, 2), HopfieldCell(1, 2)):
        cascade = CascadeCell([first, ReachCell(3, 2)], in_channels=1)
        assert cascade.certificate(both, num_nodes=3) is None
        deq = GraphDEQ(first, "picard", on_failure="ignore")
        _, solution = deq(torch.rand(3, 1), both, return_solution=True)
        assert bool(solution.error_bound.isinf().all())


def test_the_bound_of_a_cascade_holds_for_averages_and_maxima():
    from gncadeq import ConvCell, MaxPropagationCell, Part, PropagationCell

    torch.manual_seed(0)
    data = ImageToGraph()(torch.rand(1, 6, 6, dtype=torch.double))
    parts = [
        Part(ConvCell(1, 3, contraction=0.5), reads=["x"]),
        Part(PropagationCell(3, 0.05, "metropolis"), reads=[0], relations="all"),
        Part(MaxPropagationCell(3, 0.1), reads=[0], relations="all"),
    ]
    cell = CascadeCell(parts, 1).double()
    exact = GraphDEQ(cell, tol=1e-13, max_steps=500)(data.x, data.edge_index, data.edge_attr)
    for tol in (1e-2, 1e-4):
        z, solution = GraphDEQ(cell, "picard", tol=tol, max_steps=500)(
            data.x, data.edge_index, data.edge_attr, return_solution=True
        )
        error = float((z - exact).norm() / exact.norm())
        bound = float(solution.error_bound)
        assert error <= bound < 1e4 * tol
