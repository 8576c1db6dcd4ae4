"""Directions between those of a window: weights of relations, on graphs that are no grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from gncadeq import CascadeCell, ConvCell, GraphDEQ, GraphNCA, Part
from gncadeq.cells import FeedForwardCell, StencilConv, StencilDrive
from gncadeq.cells.stencil import prepare_neighborhood
from gncadeq.dynamics import Partition
from gncadeq.graph.levels import Pyramid
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_exact,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
)
from gncadeq.transforms import ImageToGraph, SoftDirections

RULE = {"contraction": 0.8, "scale_spread": 0.0, "bound": "rows"}


def points(count: int, seed: int = 0, channels: int = 2) -> Data:
    g = torch.Generator().manual_seed(seed)
    pos = 5 * torch.rand(count, 2, generator=g, dtype=torch.double)
    x = torch.randn(count, channels, generator=g, dtype=torch.double)
    return Data(x=x, pos=pos, num_nodes=count)


def cascade() -> CascadeCell:
    torch.manual_seed(0)
    relu = {**RULE, "injection": "additive", "activation": "relu", "bias": False}
    parts = [
        Part(FeedForwardCell(3), StencilDrive(2, 3, norm=False), ["x"]),
        Part(ConvCell(4, 4, **relu), StencilDrive(3, 4, norm=False), [0]),
        Part(ConvCell(5, 5, **relu), StencilDrive(4, 5, norm=False), [1], level=1),
    ]
    return CascadeCell(parts, in_channels=2).double()


def arguments(data: Data):
    return data.x, data.edge_index, data.edge_attr


def test_points_of_a_grid_have_the_relations_of_pixels():
    grid = ImageToGraph()(torch.rand(1, 4, 5))
    data = SoftDirections(1.0)(grid)
    one, relation = data.edge_attr.nonzero(as_tuple=True)
    assert torch.equal(data.edge_attr.sum(1), torch.ones(data.num_edges))
    others = relation != 4
    assert int((~others).sum()) == 20  # every pixel senses itself
    mine = set(
        zip(*data.edge_index[:, one[others]].tolist(), relation[others].tolist(), strict=True)
    )
    written = zip(*grid.edge_index.tolist(), grid.edge_attr.tolist(), strict=True)
    assert mine == set(written)
    cell = ConvCell(1, 3)
    z = torch.randn(20, 3)
    torch.testing.assert_close(
        cell(z, *arguments(data)), cell(z, *arguments(grid)), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("wide", [2, 7])
def test_weights_multiply_what_edges_carry(wide):
    data, conv = SoftDirections(1.5)(points(12)), StencilConv(2, wide).double()
    matrix = torch.zeros(9, 12, 12, dtype=torch.double)
    matrix[:, data.edge_index[1], data.edge_index[0]] = data.edge_attr.t()
    expected = torch.einsum("rij,jc,rcd->id", matrix, data.x, conv.weight) + conv.bias
    torch.testing.assert_close(conv(*arguments(data)), expected)
    assert bool((matrix.sum(2) <= 1 + 1e-12).all())
    with torch.no_grad():  # the form without a record of gradients
        torch.testing.assert_close(conv(*arguments(data)), expected)


def test_gradients_of_any_order():
    data = SoftDirections(1.5)(points(6))
    weight = torch.randn(9, 2, 3, dtype=torch.double, requires_grad=True)
    z, there = data.x.clone().requires_grad_(), data.edge_attr > 0  # no weight, no edge

    def convolve(z, weight, edge_attr=data.edge_attr):
        edge_attr = torch.where(there, edge_attr, 0.0)
        return prepare_neighborhood(data.edge_index, edge_attr, 6, 9).stencil(weight)(z)

    for values in ((z, weight), (z, weight, data.edge_attr.clone().requires_grad_())):
        assert torch.autograd.gradcheck(convolve, values)
        assert torch.autograd.gradgradcheck(convolve, values)
    hood = prepare_neighborhood(data.edge_index, data.edge_attr, 6, 9)
    u = torch.randn(6, 3, dtype=torch.double)
    back = torch.autograd.grad(convolve(z, weight), z, u)[0]
    torch.testing.assert_close(hood.stencil(weight).transposed()(u), back)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(0, 2**16), st.floats(0.3, 4.0), st.booleans())
def test_a_step_is_a_contraction_of_the_largest_norm_on_every_graph(count, seed, scale, wide):
    torch.manual_seed(seed)
    data = SoftDirections(scale)(points(count, seed))
    cell = ConvCell(2, 4, **{**RULE, "scale_spread": float(wide)}).double()
    with torch.no_grad():
        cell.weight_z.mul_(10 ** torch.empty(9, 1, 1).uniform_(-2, 1).double())
    certificate = cell.certificate(*arguments(data)[1:], num_nodes=count)
    assert certificate.over_nodes == "max"
    assert certificate.rate <= 0.8 + 1e-9
    partition = Partition(None, count)
    cell.requires_grad_(False)
    y = torch.randn(count, 4, dtype=torch.double)
    step = cell.prepare(*arguments(data))
    for _ in range(10):  # towards the direction in which a linear step stretches most
        z = y + 1e-3 * torch.randn_like(y)
        change = certificate.norm(step(y) - step(z), partition)
        assert float(change) <= certificate.rate * float(certificate.norm(y - z, partition)) + 1e-12
    assert cell.lipschitz_bound() <= 0.8 + 1e-9
    assert float(cell.lipschitz_bound(data)) == pytest.approx(certificate.rate)


def test_weights_beyond_one_are_seen_by_the_certificate():
    data = SoftDirections(1.5)(points(12))
    cell = ConvCell(2, 4, **RULE).double()
    twice = cell.certificate(data.edge_index, 2 * data.edge_attr, num_nodes=12)
    assert twice.rate == pytest.approx(
        2 * cell.certificate(data.edge_index, data.edge_attr, num_nodes=12).rate
    )
    batch = Batch.from_data_list([data, SoftDirections(1.5)(points(5, 1))])
    rates = cell.certificate(
        batch.edge_index, batch.edge_attr, num_nodes=17, batch=batch.batch
    ).rate
    assert rates.tolist() == [
        pytest.approx(cell.certificate(g.edge_index, g.edge_attr, num_nodes=g.num_nodes).rate)
        for g in batch.to_data_list()
    ]


@pytest.mark.parametrize("kind", ["conv", "cascade"])
def test_laws(kind):
    torch.manual_seed(0)
    cell = ConvCell(2, 4, **RULE).double() if kind == "conv" else cascade()
    to_graph = SoftDirections(1.0, [] if kind == "conv" else [1.7])
    graphs = [to_graph(points(n, n)) for n in (9, 1, 14)]
    deq = GraphDEQ(cell, tol=1e-9, backward_tol=1e-11, max_steps=300, solver="picard")
    if kind == "conv":
        assert_permutation_equivariant(cell, graphs[0])
        assert_local(cell, graphs[2], steps=1)
    assert_gradients_exact(deq, graphs[2])
    assert_one_rule(deq, graphs[0])
    assert_batch_independent(deq, Batch.from_data_list(graphs))


def test_the_error_bound_of_a_cascade_of_such_parts_holds():
    graph = SoftDirections(1.0, [1.7])(points(20))
    cell = cascade()
    cell.requires_grad_(False)
    exact = GraphDEQ(cell, tol=1e-13, max_steps=500)(*arguments(graph))
    for tol in (1e-1, 1e-3, 1e-6):
        z, solution = GraphDEQ(cell, tol=tol, solver="picard")(
            *arguments(graph), return_solution=True
        )
        error = float((z - exact).norm() / z.norm())
        assert error <= float(solution.error_bound) < float("inf")


def test_an_automaton_from_noise_at_any_rate_ends_where_the_solver_does():
    graph = SoftDirections(1.0, [1.7])(points(20))
    deq = GraphDEQ(cascade(), tol=1e-12, max_steps=300)
    z = deq(*arguments(graph))
    start = 10 * torch.randn_like(z)
    nca = GraphNCA(deq.cell, steps=600, fire_rate=0.5)
    torch.testing.assert_close(nca(*arguments(graph), z0=start), z, atol=1e-9, rtol=0)


def test_a_batch_is_made_as_its_graphs_are():
    graphs = [points(n, n) for n in (7, 1, 12)]
    for graph in graphs:
        graph.y = torch.tensor([graph.num_nodes])
    to_graph = SoftDirections(1.0, [1.5, 3.0])
    mine = to_graph.batch(Batch.from_data_list(graphs))
    expected = [to_graph(graph) for graph in graphs]
    for one, other in zip(mine.to_data_list(), expected, strict=True):
        for key in ("x", "pos", "level", "y", "edge_index", "edge_attr"):
            torch.testing.assert_close(one[key], other[key])
    pyramid = Pyramid(mine.edge_index, mine.edge_attr, mine.num_nodes)
    for number, level in enumerate(pyramid.levels):
        assert torch.equal(level.rows, (mine.level == number).nonzero().flatten())
    top = mine.pos[mine.level == 1]
    assert len(top) < 20


def test_squares_stand_at_the_mean_place_of_their_nodes():
    pos = torch.tensor([[0.2, 0.2], [0.6, 0.4], [3.5, 0.1]])
    data = SoftDirections(1.0, [2.0])(Data(pos=pos, x=torch.ones(3, 1)))
    assert data.x.flatten().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(data.pos[3:], torch.tensor([[0.4, 0.3], [3.5, 0.1]]))
    up = data.edge_attr[:, 9:].sum(1) > 0
    assert data.edge_index[1, up].unique().tolist() == [3, 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SoftDirections(0.0), "'scale'"),
        (lambda: SoftDirections(1.0, [0.0]), "'boxes'"),
        (lambda: SoftDirections(1.0, 2.0), "'boxes'"),
        (lambda: SoftDirections(1.0)(Data(x=torch.ones(2, 1))), "'pos'"),
        (lambda: SoftDirections(1.0)(Data(pos=torch.ones(2, 3))), r"\[N, 2\]"),
        (lambda: SoftDirections(1.0)(Data(pos=torch.full((2, 2), torch.nan))), "finite"),
        (lambda: SoftDirections(1.0)(Batch.from_data_list([points(2)])), "single graph"),
        (lambda: ConvCell(2, 3, "residual", bound="rows"), "update='direct'"),
        (lambda: ConvCell(2, 3, bound="window", contraction=0.9).double()(
            torch.zeros(2, 3).double(), *arguments(points(2).update(
                {"edge_index": torch.tensor([[0], [1]]), "edge_attr": torch.ones(1, 8)}))),
         r"\[1, 9\]"),
        (lambda: prepare_neighborhood(
            torch.tensor([[0], [1]]), torch.full((1, 9), torch.inf), 2, 9), "finite weights"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
