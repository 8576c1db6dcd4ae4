"""What a certificate promises holds: distances shrink, and errors stay within their bounds."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import living_pixels, path_edges
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_undirected

from gncadeq import (
    ConvCell,
    ConvergenceWarning,
    GraphDEQ,
    GraphNCA,
    IGNNCell,
    MonotoneCell,
    PropagationCell,
    Status,
    WrappedConvCell,
)
from gncadeq.cells import prepare_neighborhood
from gncadeq.certificate import Certificate
from gncadeq.dynamics import Partition


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted(seed: int, directed: bool = False) -> Data:
    generator = draw(seed)
    edges = torch.randint(12, (2, 30), generator=generator)
    edges = edges if directed else to_undirected(edges)
    x = torch.randn(12, 1, generator=generator).double()
    return Data(x=x, edge_index=edges, edge_attr=None, num_nodes=12)


def directed(seed: int) -> Data:
    data = weighted(seed, directed=True)
    data.edge_attr = torch.randn(30, generator=draw(seed)).double()
    return data


def wrap(conv):
    return WrappedConvCell(conv, 1, contraction=0.8, activation=None)


CELLS = {
    "conv": (lambda: ConvCell(1, 4, contraction=0.9), living_pixels),
    "monotone": (lambda: MonotoneCell(1, 4), living_pixels),
    "propagation, sym": (lambda: PropagationCell(1, 0.2, "sym"), directed),
    "propagation, row": (lambda: PropagationCell(1, 0.2, "row"), directed),
    "propagation, metropolis": (lambda: PropagationCell(1, 0.2, "metropolis"), directed),
    "ignn, sym": (lambda: IGNNCell(1, 4, kappa=0.9, normalization="sym"), directed),
    "ignn, perron": (lambda: IGNNCell(1, 4, kappa=0.9, normalization=None), weighted),
    "GCN": (lambda: wrap(pyg.GCNConv(4, 4)), weighted),
    "SAGE": (lambda: wrap(pyg.SAGEConv(4, 4)), weighted),
    "GCN, weights as they are": (lambda: wrap(pyg.GCNConv(4, 4, normalize=False)), weighted),
    "GIN": (lambda: wrap(pyg.GINConv(torch.nn.Linear(4, 4))),
            lambda seed: weighted(seed, directed=True)),
    "GAT": (lambda: wrap(pyg.GATConv(4, 2, heads=2)),
            lambda seed: weighted(seed, directed=True)),
}  # fmt: skip


def made(name: str):
    make, graph = CELLS[name]
    torch.manual_seed(3)
    cell = make().double().eval()
    with torch.no_grad():
        for parameter in cell.parameters():  # far from the small numbers of a start
            parameter.mul_(3.0)
    return cell, graph


@pytest.mark.parametrize("name", CELLS)
def test_distances_shrink_by_the_rate(name):
    cell, graph = made(name)
    data = graph(0)
    certificate = cell.certificate(data.edge_index, data.edge_attr, num_nodes=data.num_nodes)
    assert 0 < certificate.rate < 1
    step = torch.no_grad()(cell.bind(data.x, data.edge_index, data.edge_attr))
    partition = Partition(None, data.num_nodes)
    generator = draw(1)
    worst = 0.0
    for size in (1e-3, 1.0, 30.0):
        for _ in range(20):
            y, z = (
                size * torch.randn(2, data.num_nodes, cell.channels, generator=generator)
            ).double()
            # also differences that point along the growing direction
            for _ in range(3):
                before = certificate.norm(y - z, partition)
                fy, fz = step(y), step(z)
                after = certificate.norm(fy - fz, partition)
                worst = max(worst, float(after / before))
                z = y + (fz - fy) / after * before
    assert worst <= certificate.rate * (1 + 1e-9)
    assert worst > 0.05  # the steps did move


@pytest.mark.parametrize("name", CELLS)
def test_the_error_is_within_its_bound_on_every_graph_of_a_batch(name):
    cell, graph = made(name)
    graphs = [graph(seed) for seed in (0, 1)]
    batch = Batch.from_data_list(graphs)
    exact = GraphDEQ(cell, tol=1e-12, max_steps=2000)(
        batch.x, batch.edge_index, batch.edge_attr, batch.batch
    )
    for steps in (1, 3, 10):
        deq = GraphDEQ(cell, solver="picard", tol=1e-9, max_steps=steps, on_failure="ignore")
        z, solution = deq(
            batch.x, batch.edge_index, batch.edge_attr, batch.batch, return_solution=True
        )
        fz = cell(z, batch.x, batch.edge_index, batch.edge_attr)
        partition = Partition(batch.batch, batch.num_nodes)
        certificate = cell.certificate(batch.edge_index, batch.edge_attr, num_nodes=batch.num_nodes)
        error = certificate.norm(z - exact, partition) / certificate.norm(fz, partition)
        assert bool((error <= solution.error_bound * (1 + 1e-9)).all())
        assert bool((solution.error_bound < 1e3 * error + 1e-9).all())  # and says something
        alone = graphs[0]
        _, single = deq(alone.x, alone.edge_index, alone.edge_attr, return_solution=True)
        torch.testing.assert_close(single.error_bound[0], solution.error_bound[0])


def without_an_edge(data: Data) -> Data:
    return Data(x=data.x, edge_index=data.edge_index[:, 1:], edge_attr=data.edge_attr[1:])


def von_neumann(seed: int) -> Data:
    data = living_pixels(seed)
    keep = torch.isin(data.edge_attr, torch.tensor([1, 3, 4, 5, 7]))
    return Data(x=data.x, edge_index=data.edge_index[:, keep], edge_attr=data.edge_attr[keep])


def lone_pixel() -> Data:
    none = torch.zeros(0, dtype=torch.long)
    x = torch.ones(1, 1).double()
    return Data(x=x, edge_index=none.view(2, 0), edge_attr=none)


def not_a_number(data: Data) -> Data:
    weight = data.edge_attr.clone()
    weight[0] = float("nan")
    return Data(x=data.x, edge_index=data.edge_index, edge_attr=weight, num_nodes=12)


MIXED = {
    "conv": lambda: [
        living_pixels(0),
        without_an_edge(living_pixels(1)),
        von_neumann(2),
        lone_pixel(),
    ],
    "monotone": lambda: [von_neumann(2), living_pixels(0), without_an_edge(living_pixels(1))],
    "GCN": lambda: [weighted(0), weighted(1, directed=True), weighted(2)],
    "SAGE": lambda: [weighted(1, directed=True), weighted(0)],
    "propagation, sym": lambda: [directed(0), not_a_number(directed(1))],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_graph_has_the_bound_that_it_has_alone_whatever_its_batch_mates(name):
    cell, graphs = made(name)[0], MIXED[name]()
    # A tenth of its weights: stencils that are cut down stay below one.
    cell.contraction = 0.3 if name == "conv" else getattr(cell, "contraction", None)
    deq = GraphDEQ(cell, tol=1e-6, on_failure="ignore")
    single = []
    for data in graphs:
        arguments = (data.x, data.edge_index, data.edge_attr)
        single.append(deq(*arguments, return_solution=True)[1].error_bound)
    alone = torch.cat(single)
    assert bool(alone.isfinite().any())
    assert bool(alone.isinf().any())
    batch = Batch.from_data_list(graphs)
    _, solution = deq(batch.x, batch.edge_index, batch.edge_attr, batch.batch, return_solution=True)
    torch.testing.assert_close(solution.error_bound, alone, rtol=1e-6, atol=0.0)


def test_rates_of_a_batch_are_those_of_its_graphs():
    cell = ConvCell(1, 4, contraction=0.9).double()
    graphs = MIXED["conv"]()
    batch = Batch.from_data_list(graphs)
    whole = float(cell.lipschitz_bound())
    part = float(cell.lipschitz_bound(von_neumann(2)))
    center = float(cell.lipschitz_bound(Data(edge_attr=torch.tensor([4]))))
    assert len({whole, part, center}) == 3
    certificate = cell.certificate(
        batch.edge_index, batch.edge_attr, num_nodes=batch.num_nodes, batch=batch.batch
    )
    # A lone pixel senses all that is present in its window: the bound of the whole one holds.
    assert certificate.rate.tolist() == [whole, float("inf"), part, whole]
    assert repr(certificate) == f"Certificate(rate={whole:.3g}, inf, {part:.3g}, {whole:.3g})"
    z = torch.rand(batch.num_nodes, 4).double()
    rest, kept = Partition(batch.batch, batch.num_nodes), torch.tensor([False, True, True, True])
    nodes, rest = rest.restrict(kept.numpy())
    restricted = certificate.restrict(nodes, kept)
    assert restricted.rate.tolist() == certificate.rate.tolist()[1:]
    assert restricted.error_bound(z[nodes], z[nodes], rest).isinf().tolist() == [True, False, False]


def test_the_error_criterion_solves_the_certified_graphs_of_a_batch():
    cell = ConvCell(1, 4, contraction=0.9).double()
    good, bad = living_pixels(0), without_an_edge(living_pixels(1))
    deq = GraphDEQ(cell, criterion="error")
    z, alone = deq(good.x, good.edge_index, good.edge_attr, return_solution=True)
    with pytest.raises(ValueError, match="nothing is proven"):
        deq(bad.x, bad.edge_index, bad.edge_attr)
    batch = Batch.from_data_list([bad, good])
    with pytest.warns(ConvergenceWarning, match=r"graphs 0; .* use another criterion"):
        both, solution = deq(
            batch.x, batch.edge_index, batch.edge_attr, batch.batch, return_solution=True
        )
    assert solution.status.tolist() == [Status.MAX_STEPS, Status.CONVERGED]
    assert solution.num_steps[1] == alone.num_steps[0]
    torch.testing.assert_close(both[batch.batch == 1], z)
    torch.testing.assert_close(solution.error_bound[1:], alone.error_bound)


def test_a_small_residual_may_hide_a_large_error_and_the_criterion_bounds_it():
    edge_index, x = path_edges(200), torch.randn(200, 1, generator=draw(0)).double()
    cell = PropagationCell(1, 0.001, "row")
    exact = GraphDEQ(cell, tol=1e-12, max_steps=5000)(x, edge_index)
    z, solution = GraphDEQ(cell, max_steps=5000)(x, edge_index, return_solution=True)
    error = float((z - exact).abs().max() / z.abs().max())
    assert bool(solution.converged.all())
    assert error > 0.1
    assert float(solution.error_bound) >= error
    assert "error≤" in repr(solution)
    deq = GraphDEQ(cell, criterion="error", max_steps=5000)
    z, solution = deq(x, edge_index, return_solution=True)
    assert bool(solution.converged.all())
    assert float((z - exact).abs().max() / z.abs().max()) <= 1e-3
    torch.testing.assert_close(solution.residual, solution.error_bound)
    assert deq.as_nca().criterion == "graph"


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_rounding_counts_in_the_bound(norm):
    edge_index, x = path_edges(200), torch.rand(200, 2, generator=draw(0))
    cell = PropagationCell(2, 0.1, norm)
    exact = GraphDEQ(cell, tol=1e-14, max_steps=1000)(x.double(), edge_index)
    z, solution = GraphDEQ(cell, solver="picard", tol=1e-12, max_steps=1000, on_failure="ignore")(
        x, edge_index, return_solution=True
    )
    certificate, partition = cell.certificate(edge_index, None, num_nodes=200), Partition(None, 200)
    error = certificate.norm(z - exact, partition) / certificate.norm(exact, partition)
    assert float(error) > 1e-8
    assert float(error) <= float(solution.error_bound) <= 1e-5
    deq = GraphDEQ(cell, criterion="error", tol=1e-7, max_steps=100)
    with pytest.warns(ConvergenceWarning, match=r"raise 'tol' to 1.2e-06 at least.* use float64"):
        deq(x, edge_index)


def test_without_a_certificate_nothing_is_claimed():
    edge_index, x = path_edges(5), torch.rand(5, 3)
    deq = GraphDEQ.from_conv(pyg.ResGatedGraphConv(4, 4), 3)
    _, solution = deq(x, edge_index, return_solution=True)
    assert bool((solution.error_bound == float("inf")).all())
    assert "error" not in repr(solution)
    deq.criterion = "error"
    with pytest.raises(ValueError, match="Expected a certificate below 1"):
        deq(x, edge_index)
    with pytest.raises(ValueError, match="GraphDEQ bounds the error"):
        GraphNCA(deq.cell, criterion="error")


def test_a_pixel_graph_with_a_missing_edge_has_no_certificate():
    data, cell = living_pixels(0), ConvCell(1, 4, contraction=0.9).double()
    n = data.num_nodes
    assert cell.certificate(data.edge_index, data.edge_attr, num_nodes=n).rate < 0.91
    hood = prepare_neighborhood(data.edge_index, data.edge_attr, n, 9)
    assert cell.certificate(hood, num_nodes=n).rate < 0.91
    fewer = data.edge_index[:, 1:], data.edge_attr[1:]
    assert cell.certificate(*fewer, num_nodes=n) is None


def test_a_certificate_is_that_of_the_weights_that_were_solved_with():
    data, cell = living_pixels(0), ConvCell(1, 4, contraction=0.9).double()
    _, solution = GraphDEQ(cell)(data.x, data.edge_index, data.edge_attr, return_solution=True)
    again = pickle.loads(pickle.dumps(solution))
    with torch.no_grad():
        next(cell.parameters()).mul_(2.0)
    assert again.error_bound.equal(solution.error_bound)
    assert copy.deepcopy(again).error_bound.equal(solution.error_bound)
    _, solution = GraphDEQ(cell)(data.x, data.edge_index, data.edge_attr, return_solution=True)
    with torch.no_grad():
        next(cell.parameters()).mul_(2.0)
    assert "error" not in repr(solution)
    with pytest.raises(RuntimeError, match="before the optimiser's step"):
        solution.error_bound  # noqa: B018


def test_a_solution_that_is_kept_keeps_nothing_of_autograd():
    data, cell = living_pixels(0), ConvCell(2, 4, contraction=0.9).double()
    encoder = torch.nn.Linear(1, 2).double()
    x = encoder(data.x)
    kept = weakref.ref(x)
    z, solution = GraphDEQ(cell)(x, data.edge_index, data.edge_attr, return_solution=True)
    z.sum().backward()
    del x, z
    assert kept() is None
    assert float(solution.error_bound) < 1.0


def test_the_bound_is_that_of_the_solve_wherever_it_is_read():
    data, cell = living_pixels(0), ConvCell(1, 4, contraction=0.9)
    data.x = data.x.float()
    deq = GraphDEQ(cell, tol=1e-6)
    arguments = (data.x, data.edge_index, data.edge_attr)
    plain, under, changed = (deq(*arguments, return_solution=True)[1] for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert under.error_bound.equal(plain.error_bound)
    data.x.add_(1.0)
    with pytest.raises(RuntimeError, match="and the graph that were solved with"):
        changed.error_bound  # noqa: B018


def test_norms_by_hand():
    z = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    partition = Partition(torch.tensor([0, 0, 1]), 3)
    weight = torch.tensor([1.0, 10.0, 1.0])
    for certificate, expected in (
        (Certificate(0.5), [26.0**0.5, 10.0]),
        (Certificate(0.5, "max"), [5.0, 10.0]),
        (Certificate(0.5, "max", groups=2), [4.0, 8.0]),
        (Certificate(0.5, "max", groups=2, node_weight=weight), [10.0, 8.0]),
        (Certificate(0.5, channel_weight=torch.tensor([1.0, 0.0])), [3.0, 6.0]),
        (Certificate(0.5, "sum", groups=2), [17.0**0.5, 8.0]),
    ):
        torch.testing.assert_close(certificate.norm(z, partition), torch.tensor(expected))
    rest = Certificate(0.5, "max", groups=2, node_weight=weight).restrict(
        torch.tensor([1]), torch.tensor([True])
    )
    torch.testing.assert_close(rest.norm(z[1:2], Partition(None, 1)), torch.tensor([10.0]))
