"""The fast forms of a step against the plain one: no speed may cost exactness."""

from __future__ import annotations

import pytest
import torch
from graphs import ADJOINT_CELLS, dense, make_cell, pixel_graphs, weighted_graph

import gncadeq.graph.relations as forms
from gncadeq import ConvCell
from gncadeq.dynamics import Partition, solve
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.transforms import ImageToGraph
from gncadeq.typing import AdjointStep, RestrictableStep

EDGES = torch.tensor([[0, 1, 2, 2, 3, 3, 0, 4, 3], [3, 3, 3, 0, 0, 3, 3, 1, 3]])
RELATION = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 1])


def plain(z, weight):
    """The stencil edge by edge."""
    out = torch.zeros(z.size(0), weight.size(2), dtype=z.dtype)
    for (j, i), r in zip(EDGES.t().tolist(), RELATION.tolist(), strict=True):
        out[i] += z[j] @ weight[r]
    return out


@pytest.mark.parametrize("channels", [(2, 3), (3, 2), (3, 3)])
@pytest.mark.parametrize("most", [0, 2**24])
@pytest.mark.parametrize("block", [1, 2**18])
def test_every_form_is_the_plain_sum(channels, most, block, monkeypatch):
    """Multigraph, hub, loop, isolated node; blocks of one receiver and more; with and without
    autograd."""
    monkeypatch.setattr(forms, "_MOST_MESSAGES", most)
    monkeypatch.setattr(forms, "_BLOCK", block)
    nodes = 6 if block > 1 else 150  # more than the 64 rows that a block has at least
    hood = Neighborhood(EDGES, RELATION, num_nodes=nodes, num_relations=2)
    weight = torch.randn(2, *channels, dtype=torch.double)
    z = torch.randn(nodes, channels[0], dtype=torch.double)
    expected = plain(z, weight)
    stencil = hood.stencil(weight)
    torch.testing.assert_close(stencil(z), expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        first = stencil(z)
        torch.testing.assert_close(first, expected, atol=1e-12, rtol=0)
        stencil(torch.randn_like(z))  # the workspace is not what was returned
        torch.testing.assert_close(first, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("graph", ["full", "periodic", "living"])
def test_transposed_stencil_is_the_transposed_matrix(graph):
    data = pixel_graphs()[graph]
    cell = ConvCell(2, 3).double()
    stencil = cell.prepare(data.x, data.edge_index, data.edge_attr).stencil
    assert (stencil.neighborhood.kind == "grid") == (graph != "living")
    with torch.no_grad():
        there = dense(stencil, data.num_nodes, 3)
        back = dense(stencil.transposed(), data.num_nodes, 3)
    torch.testing.assert_close(back, there.t(), atol=1e-12, rtol=0)


def conv(update):
    torch.manual_seed(1)
    return ConvCell(2, 3, update=update, contraction=0.9).double()


@pytest.mark.parametrize("name", ["direct", "residual", *ADJOINT_CELLS])
def test_adjoint_is_the_transposed_jacobian(name):
    pixels = name in ("direct", "residual", "monotone")
    cell = conv(name) if name in ("direct", "residual") else make_cell(name)
    data = pixel_graphs()["living"] if pixels else weighted_graph(12)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    assert isinstance(step, AdjointStep)
    z = torch.randn(data.num_nodes, cell.channels, dtype=torch.double, requires_grad=True)
    u = torch.randn_like(z)
    fz = step(z)
    (expected,) = torch.autograd.grad(fz, z, u, retain_graph=True)
    with torch.no_grad():
        product = step.adjoint(z.detach(), fz.detach())
        torch.testing.assert_close(product(u), expected, atol=1e-12, rtol=0)
        assert isinstance(product, RestrictableStep)
        everyone = torch.arange(data.num_nodes)
        torch.testing.assert_close(product.restrict(everyone)(u), expected, atol=1e-12, rtol=0)


def test_compaction_spares_the_steps_of_ended_graphs():
    """A fast and a slow graph: the same result, and the fast one's nodes are left alone."""
    rate = torch.tensor([0.1] * 6 + [0.95] * 2, dtype=torch.double).unsqueeze(1)
    partition = Partition(torch.tensor([0] * 6 + [1] * 2), num_nodes=8)
    counts = []

    class Step:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, z):
            counts.append(z.size(0))
            return self.rate * z + 1

        def restrict(self, nodes):
            return Step(self.rate[nodes])

    results = {}
    for compact in (True, False):
        counts.clear()
        solution = solve(
            Step(rate), torch.zeros(8, 1, dtype=torch.double), partition, solver="picard",
            tol=1e-8, max_steps=500, compact=compact,
        )  # fmt: skip
        results[compact] = solution, sum(counts)
        assert bool(solution.converged.all())
    (short, spent), (whole, most) = results[True], results[False]
    assert torch.equal(short.state, whole.state)
    assert torch.equal(short.num_steps, whole.num_steps)
    steps = short.num_steps.tolist()
    ideal = sum(n * (k + 1) for n, k in zip((6, 2), steps, strict=True))
    assert spent <= ideal + 3 * 8 < most  # two steps' worth carried along, and the rounding up


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("living", [None, 0.5])
@pytest.mark.parametrize("grad", [False, True])
def test_a_compiled_step_serves_graphs_of_all_sizes(living, grad):
    """The same values and gradients, and nothing is compiled again for another graph."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda step, z: step(z), backend=counter, dynamic=True)
    cell, to_graph = ConvCell(1, 4, contraction=0.9), ImageToGraph(living_threshold=living)
    frames = []
    for size in (5, 6, 9, 13):
        data = to_graph.batch(torch.rand(3, 1, size, size))
        step = cell.prepare(data.x, data.edge_index, data.edge_attr)
        _ = step.stencil.neighborhood.incoming.reversed  # sorted beforehand, as a solve does
        z = torch.randn(data.num_nodes, 4, requires_grad=grad)
        with torch.set_grad_enabled(grad):
            values = step(z), compiled(step, z)
            torch.testing.assert_close(*values)
            if grad:
                torch.testing.assert_close(
                    *(torch.autograd.grad(v.square().sum(), z)[0] for v in values)
                )
        frames.append(counter.frame_count)
    assert 1 <= frames[1] <= 4
    assert frames[1:] == [frames[1]] * 3


def test_edges_between_two_sets_of_nodes() -> None:
    torch.manual_seed(0)
    targets, sources, relations = 4, 7, 3
    edge_index = torch.stack([torch.randint(sources, (15,)), torch.randint(targets, (15,))])
    relation = torch.randint(relations, (15,))
    weight = torch.randn(relations, 2, 5, dtype=torch.double, requires_grad=True)
    z = torch.randn(sources, 2, dtype=torch.double, requires_grad=True)
    hood = Neighborhood(edge_index, relation, targets, relations, num_sources=sources)
    expected = torch.zeros(targets, 5, dtype=torch.double)
    for (j, i), r in zip(edge_index.T.tolist(), relation.tolist(), strict=True):
        expected[i] = expected[i] + z[j] @ weight[r]
    assert torch.allclose(hood.stencil(weight)(z), expected)
    with torch.no_grad():
        assert torch.allclose(hood.stencil(weight)(z), expected)
        back = hood.stencil(weight).transposed()(expected)
    assert torch.allclose(back, torch.autograd.grad(expected.square().sum() / 2, z)[0])
    assert torch.autograd.gradcheck(lambda z, w: hood.stencil(w)(z), (z, weight))
    wide = torch.randn(relations, 5, 2, dtype=torch.double, requires_grad=True)
    z = torch.randn(sources, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, w: hood.stencil(w)(z), (z, wide))
    with pytest.raises(ValueError, match="num_sources=6"):
        Neighborhood(edge_index.clamp(min=6), relation, targets, relations, num_sources=6)
