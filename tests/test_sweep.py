"""Rules along acyclic edges: solved by substitution, at rest exactly, whatever their weights."""

from __future__ import annotations

import networkx
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

from gncadeq import CascadeCell, ConvCell, GraphDEQ, GraphNCA, Part, Status, SweepCell
from gncadeq.cells import DistanceCell, FeedForwardCell, MaxPropagationCell
from gncadeq.certificate import StructuralCertificate
from gncadeq.datasets import maze, primitives
from gncadeq.graph.order import Layers
from gncadeq.testing import assert_gradients_exact, assert_permutation_equivariant
from gncadeq.transforms import ImageToGraph, NonBacktracking, SurfaceSweeps, Sweeps


def acyclic(num_nodes=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.combinations(torch.arange(num_nodes)).T
    kept = torch.rand(pairs.size(1), generator=generator) < 0.3
    shuffle = torch.randperm(num_nodes, generator=generator)
    x = torch.rand(num_nodes, 2, generator=generator, dtype=torch.double)
    return Data(x=x, edge_index=shuffle[pairs[:, kept]])


def sweeping():
    torch.manual_seed(0)
    data = Sweeps()(ImageToGraph()(torch.rand(1, 5, 4, dtype=torch.double)))
    return SweepCell(1, 3, groups=4, kernels=3, gain=2.0).double(), data


def grower(gain=1.5):
    torch.manual_seed(0)
    options = {"groups": 4, "kernels": 3, "gain": gain}
    return CascadeCell(
        [
            Part(SweepCell(1, 2, **options), reads=["x"]),
            Part(SweepCell(8, 2, injection="additive", **options), nn.Linear(8, 8), [0]),
            Part(FeedForwardCell(5, "tanh"), nn.Linear(16, 5), [0, 1]),
            Part(FeedForwardCell(4, "identity"), nn.Linear(5, 4), [2]),
        ],
        in_channels=1,
    ).double()


def arguments(data):
    return data.x, data.edge_index, data.edge_attr


def test_layers_are_longest_paths():
    data = acyclic()
    layers = Layers(data.edge_index, 9)
    expected = [0] * 9
    for _ in range(9):
        for j, i in data.edge_index.T.tolist():
            expected[i] = max(expected[i], expected[j] + 1)
    assert layers.layer.tolist() == expected
    seen = torch.cat([layer.nodes for layer in layers])
    assert sorted(seen.tolist()) == list(range(9))
    assert sum(k.edges.stop - k.edges.start for k in layers) == data.edge_index.size(1)
    assert len(Layers(torch.empty(2, 0, dtype=torch.long), 0)) == 0


@pytest.mark.parametrize("kind", ["graph", "uneven groups", "sweeps", "cascade"])
def test_laws(kind):
    if kind == "graph":
        torch.manual_seed(0)
        cell, data = SweepCell(2, 4, gain=3.0).double(), acyclic()
    elif kind == "uneven groups":  # layers in which groups have different numbers of nodes
        torch.manual_seed(0)
        cell, data = SweepCell(2, 3, groups=3, kernels=2, gain=2.0).double(), acyclic()
        data.edge_attr = torch.randn(data.num_edges, 6, dtype=torch.double)
        data.edge_attr[::2, :2] = data.edge_attr[1::3, 2:4] = 0.0
    else:
        cell, data = sweeping()
        cell = cell if kind == "sweeps" else grower()
    if kind == "graph":
        assert_permutation_equivariant(cell, data)
    assert_gradients_exact(GraphDEQ(cell), data, steps=40)


@pytest.mark.parametrize("gain", [0.5, 5.0])
def test_every_start_and_every_order_of_updates_reach_the_same_numbers(gain):
    cell, (_, data) = grower(gain), sweeping()
    z, solution = GraphDEQ(cell)(*arguments(data), return_solution=True)
    assert float(solution.residual) < 1e-14
    with torch.no_grad():
        for options in ({}, {"start": "normal"}, {"start": "normal", "fire_rate": 0.3}):
            generator = torch.Generator().manual_seed(0)
            end, after = GraphNCA(cell, steps=400, **options)(
                *arguments(data), generator=generator, return_solution=True
            )
            assert float(after.residual) == 0.0
            assert torch.allclose(end, z, atol=1e-9)


def test_substitution_takes_the_steps_of_the_longest_path():
    chain = Data(x=torch.rand(6, 2), edge_index=torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]))
    cell = SweepCell(2, 3, gain=2.0)
    z, solution = GraphDEQ(cell)(*arguments(chain), return_solution=True)
    assert int(solution.num_steps) == 6
    step, state = cell.prepare(*arguments(chain)), torch.zeros(6, 3)
    for _ in range(6):
        state = step(state)
    assert torch.allclose(state, z, atol=1e-6)
    assert not torch.allclose(step(torch.randn(6, 3)), z, atol=1e-2)


def test_a_graph_in_a_batch_and_a_graph_of_nan():
    torch.manual_seed(0)
    graphs = [acyclic(n, n) for n in (5, 9, 7)]
    cell = SweepCell(2, 4, gain=3.0).double()
    deq = GraphDEQ(cell, on_failure="ignore")
    graphs[1].x[3] = float("nan")
    batch = Batch.from_data_list(graphs)
    z, solution = deq(*arguments(batch), batch.batch, return_solution=True)
    assert solution.status.tolist() == [
        Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED
    ]  # fmt: skip
    z[batch.batch != 1].square().sum().backward()
    found = cell.weight.grad.clone()
    cell.zero_grad()
    for k in (0, 2):
        alone, one = deq(*arguments(graphs[k]), return_solution=True)
        assert torch.allclose(z[batch.batch == k], alone, atol=1e-14)
        assert int(one.num_steps) == int(solution.num_steps[k])
        alone.square().sum().backward()
    assert torch.allclose(found, cell.weight.grad, atol=1e-12)


def test_noise_is_drawn_once_a_solve_and_in_training_alone():
    torch.manual_seed(0)
    data, cell = acyclic(), SweepCell(2, 4, gain=2.0, noise=0.5).double()
    deq = GraphDEQ(cell)
    first, solution = deq(*arguments(data), return_solution=True)
    assert float(solution.residual) < 1e-14
    assert not torch.allclose(first, deq(*arguments(data)))
    deq.eval()
    assert torch.equal(deq(*arguments(data)), deq(*arguments(data)))


def test_certificates():
    cell, data = grower(5.0), sweeping()[1]
    n = data.num_nodes
    found = cell.certificate(data.edge_index, data.edge_attr, num_nodes=n)
    assert isinstance(found, StructuralCertificate)
    assert found.promises
    assert found.steps.tolist() == [8 + 8 + 1 + 1]  # a path over 5 x 4 pixels has 5 + 4 - 1
    step, z = cell.prepare(*arguments(data)), torch.randn(n, cell.channels, dtype=torch.double)
    for _ in range(int(found.steps)):
        z = step(z)
    assert torch.equal(step(z), z)
    assert repr(found) == "StructuralCertificate(rate=0, steps=18)"
    assert float(found.rate) == 0.0


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_error_bound_of_a_cascade_holds(spread):
    torch.manual_seed(0)
    data = ImageToGraph()(torch.rand(1, 6, 6, dtype=torch.double))
    first = ConvCell(1, 3, contraction=0.7, scale_spread=spread)
    second = ConvCell(3, 4, contraction=0.8, scale_spread=spread)
    third = ConvCell(2, 2, injection="additive", contraction=0.5, scale_spread=spread)
    cell = CascadeCell(
        [first, Part(second, reads=[0]), Part(third, nn.Linear(7, 2), [0, 1])], in_channels=1
    ).double()
    exact = GraphDEQ(cell, tol=1e-13, max_steps=500)(*arguments(data))
    for tol in (1e-1, 1e-3, 1e-6):
        deq = GraphDEQ(cell, solver="picard", tol=tol)
        z, solution = deq(*arguments(data), return_solution=True)
        step = cell.prepare(*arguments(data))
        error = float(((z - exact).norm() / step(z).norm()).detach())
        assert error <= float(solution.error_bound) < 1e3 * tol
    unbounded = CascadeCell([ConvCell(1, 3), Part(second, reads=[0])], in_channels=1).double()
    with torch.no_grad():
        unbounded.parts[0].cell.weight_z.mul_(3)
    assert unbounded.certificate(data.edge_index, data.edge_attr, num_nodes=36) is None


def test_messages_do_not_turn_back():
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])
    star = Data(x=torch.rand(4, 2), edge_index=edge_index)
    star.y = torch.arange(4)
    messages = NonBacktracking()(star)
    ends = list(zip(*star.edge_index.tolist(), strict=True))
    found = {(ends[a], ends[b]) for a, b in messages.edge_index.T.tolist()}
    assert found == {((k, 0), (0, j)) for k in (1, 2, 3) for j in (1, 2, 3) if j != k}
    assert torch.equal(messages.x, star.x[star.edge_index[0]])
    batch = Batch.from_data_list([messages, messages])
    assert torch.equal(batch.target_index, torch.cat([edge_index[1], edge_index[1] + 4]))
    tree = NonBacktracking()(maze(9, torch.Generator().manual_seed(0)))
    assert GraphDEQ(SweepCell(3, 2))(*arguments(tree)[:2]).shape == (96, 2)


def test_sweeps_of_a_surface_are_acyclic_means():
    mesh = primitives.icosphere(2)
    data = SurfaceSweeps(0.35, anchors=[0, 5])(mesh)
    assert data.x.shape == (162, 2)
    assert data.x.argmax(0).tolist() == [0, 5]
    weight = data.edge_attr.view(-1, 2, 4)
    total = torch.zeros(162, 2).index_add(0, data.edge_index[1], weight[:, :, 0])
    others = torch.ones(162, 2)
    others[0, 0] = others[5, 1] = 0.0
    assert torch.allclose(total, others, atol=1e-5)
    cell = SweepCell(2, 3, groups=2, kernels=4, gain=2.0)
    _, solution = GraphDEQ(cell)(*arguments(data), return_solution=True)
    assert float(solution.residual) < 1e-6
    assert int(solution.num_steps) <= 2 * 3.15 / 0.35 + 3


def test_bad_input_is_refused():
    cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])
    x = torch.rand(3, 2)
    with pytest.raises(ValueError, match="without a cycle"):
        GraphDEQ(SweepCell(2, 3))(x, cycle)
    with pytest.raises(ValueError, match=r"\[num_edges, groups \* kernels\] = \[2, 4\]"):
        GraphDEQ(SweepCell(2, 3, groups=2, kernels=2))(x, cycle[:, :2], torch.rand(2, 3))
    with pytest.raises(ValueError, match="'groups' times 'channels'"):
        SweepCell(2, 3, injection="additive")
    with pytest.raises(ValueError, match="relations"):
        Sweeps()(Data(x=x, edge_index=cycle))
    with pytest.raises(ValueError, match="anchors"):
        SurfaceSweeps(0.5, anchors=[])
    with pytest.raises(ValueError, match="anchors"):
        SurfaceSweeps(0.5, anchors=[99])(primitives.icosphere(1))
    with pytest.raises(ValueError, match="relations 0 to 8"):
        Sweeps()(ImageToGraph(levels=2)(torch.rand(1, 4, 4)))
    for cell in (SweepCell(2, 3), DistanceCell(2)):
        for outside in (-1, 3):
            with pytest.raises(ValueError, match="'edge_index' in"):
                GraphDEQ(cell)(x, torch.tensor([[0, outside], [1, 2]]))
    with pytest.raises(TypeError, match="'x'"):
        NonBacktracking()(Data(edge_index=cycle, num_nodes=3))
    apart = primitives.icosphere(1)
    apart.pos = torch.cat([apart.pos, apart.pos + 9])
    apart.face = torch.cat([apart.face, apart.face + 42], 1)
    with pytest.warns(UserWarning, match="42 of 84 vertices out of reach"):
        data = SurfaceSweeps(0.6, anchors=[0])(apart)
    assert bool(data.edge_attr.isfinite().all())
    z = GraphDEQ(SweepCell(1, 2, kernels=4, bias=False))(*arguments(data))
    assert bool((z[:42] != 0).all())
    assert not z[42:].any()


def walled(loops=0.3, size=7, seed=0):
    data = maze(size, torch.Generator().manual_seed(seed), loops)
    data.x = data.x.double()
    data.edge_attr = None
    return data


class Marks(nn.Module):
    def forward(self, x):
        return x[:, 1:]


def solver():
    torch.manual_seed(0)
    sweeps = SweepCell(5, 3, distances=2, gain=1.5)
    return CascadeCell(
        [Part(DistanceCell(2), nn.Sequential(Marks()), ["x"]), Part(sweeps, reads=[0, "x"])], 3
    ).double()


def test_distances_are_shortest_ways():
    data = walled()
    graph = networkx.Graph(data.edge_index.T.tolist())
    far = GraphDEQ(DistanceCell(2))(data.x[:, 1:], data.edge_index)
    for k in range(2):
        start = int(data.x[:, 1 + k].argmax())
        expected = networkx.single_source_shortest_path_length(graph, start)
        assert far[:, k].tolist() == [expected[i] for i in range(data.num_nodes)]
    start, goal = (int(data.x[:, k].argmax()) for k in (1, 2))
    on_a_way = {i for way in networkx.all_shortest_paths(graph, start, goal) for i in way}
    assert set(data.y.nonzero().flatten().tolist()) == on_a_way
    apart = DistanceCell(1, ceiling=7.0)
    x = torch.tensor([[1.0], [0.0]])
    z = GraphDEQ(apart)(x, torch.empty(2, 0, dtype=torch.long))
    assert z.flatten().tolist() == [0.0, 7.0]
    pair = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    x = torch.tensor([[1.0], [0.0], [float("nan")], [0.0]])
    deq = GraphDEQ(DistanceCell(1), on_failure="ignore")
    z, solution = deq(x, pair, batch=torch.tensor([0, 0, 1, 1]), return_solution=True)
    assert z[:2].flatten().tolist() == [0.0, 1.0]
    assert solution.status.tolist() == [Status.CONVERGED, Status.NON_FINITE]


def test_a_graph_without_finite_distances_is_not_solved_and_leaves_the_others_alone():
    path = torch.tensor([[0, 1, 1, 2, 3, 4, 4, 5], [1, 0, 2, 1, 4, 3, 5, 4]])
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.tensor([0.0, 1.0, 2.0, 0.0, float("nan"), 2.0])
    deq = GraphDEQ(SweepCell(3, 4, distances=1), on_failure="ignore")
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    z, solution = deq(x, path, batch=batch, return_solution=True)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NON_FINITE]
    assert torch.equal(z[:3], deq(x[:3], path[:, :4]))


def test_sweeps_along_distances_on_a_graph_with_loops():
    cell, data = solver(), walled()
    assert cell.certificate(data.edge_index, None, num_nodes=data.num_nodes).promises
    z, solution = GraphDEQ(cell)(data.x, data.edge_index, return_solution=True)
    assert float(solution.residual) < 1e-14
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(z.shape, dtype=torch.double, generator=generator) * 20
    with torch.no_grad():
        for rate in (1.0, 0.5):
            nca = GraphNCA(cell, steps=400, fire_rate=rate)
            end = nca(data.x, data.edge_index, z0=start, generator=generator)
            assert torch.allclose(end, z, atol=1e-12)
    assert_gradients_exact(GraphDEQ(cell), data, steps=100)


def test_a_node_is_at_rest_a_step_after_the_one_before_it():
    edges = torch.tensor([[0, 1, 2, 1, 2, 3], [1, 2, 3, 0, 1, 2]])
    step = DistanceCell(1).prepare(torch.tensor([[1.0], [0.0], [0.0], [0.0]]), edges)
    assert step.depth.tolist() == [1, 2, 3, 4]
    states = [torch.full((4, 1), 1e4)]
    for _ in range(5):
        states.append(step(states[-1]))
    rest = torch.stack(states)[:, :, 0] == step.substitute()[:, 0]
    assert rest.long().argmax(0).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("cell", [DistanceCell(2), MaxPropagationCell(2, 0.1)])
def test_no_nodes_are_at_rest_at_once(cell):
    edges, batch = torch.empty(2, 0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    z, found = GraphDEQ(cell)(
        torch.empty(0, 2), edges, batch=batch, batch_size=3, return_solution=True
    )
    assert z.shape == (0, 2)
    assert found.converged.tolist() == [True] * 3


def test_nodes_at_infinity_do_not_read_each_other():
    torch.manual_seed(0)
    cell, inf, nan = SweepCell(2, 3, distances=1), float("inf"), float("nan")
    path = torch.tensor([[0, 1, 2, 1, 2, 3], [1, 2, 3, 0, 1, 2]])
    far = torch.tensor([[0.0, 1.0, inf, inf], [0.0, 1.0, 2.0, 2.0], [0.0, nan, inf, inf]])
    x = torch.stack([far, torch.ones(3, 4)], 2)
    deq, batch = GraphDEQ(cell, on_failure="ignore"), torch.arange(12) // 4
    edges = torch.cat([path, path + 4, path + 8], 1)
    z, solution = deq(x.view(12, 2), edges, batch=batch, return_solution=True)
    assert solution.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NON_FINITE]
    torch.testing.assert_close(z[:4], z[4:8])  # weights of distances end at one
    got = torch.autograd.grad(z[:8].sum(), list(cell.parameters()))
    alone = torch.autograd.grad(2 * deq(x[1], path).sum(), list(cell.parameters()))
    torch.testing.assert_close(got, alone)
