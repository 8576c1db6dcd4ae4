"""The laws, over every cell, solver and gradient that they are about."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch_geometric.data import Batch
from toys import SOLVERS, STENCIL_CELLS, stencil_cell

from gncadeq import ConvCell, GraphDEQ, GraphNCA, Status
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_close,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
    gradients,
    graph_of,
)
from gncadeq.transforms import ImageToGraph

ALL = (*SOLVERS, "auto")


STOCK = ("torchdeq:anderson", "torchdeq:broyden", "torchdeq:fixed_point_iter")


# 1. Grid law


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("living", [None, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (5, 7), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grid_law(shape, living, periodic, dtype):
    atol = 1e-10 if dtype == torch.float64 else 1e-5
    height, width = shape
    images = torch.rand(3, 2, height, width, dtype=dtype)
    images[:, :, 0, 0] = 0.9  # some pixel lives
    graph = ImageToGraph(living_threshold=living, periodic=periodic).batch(images)
    cell = ConvCell(2, 5).to(dtype)
    conv = cell.to_conv2d()
    z = torch.randn(graph.num_nodes, 5, dtype=dtype, requires_grad=True)
    out = cell(z, *graph_of(graph))

    alive = (images > (-1 if living is None else living)).any(1)
    canvas = torch.zeros(3, height, width, 5, dtype=dtype)
    dense_z = canvas.index_put(alive.nonzero(as_tuple=True), z)
    dense = torch.cat([images * alive[:, None], dense_z.permute(0, 3, 1, 2)], 1)
    padded = torch.nn.functional.pad(dense, (1,) * 4, mode="circular" if periodic else "constant")
    expected = torch.nn.functional.conv2d(padded, conv.weight, conv.bias).tanh()
    expected = expected.permute(0, 2, 3, 1)[alive]
    torch.testing.assert_close(out, expected, atol=atol, rtol=0)

    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), [z, cell.weight_z, cell.weight_x, cell.bias])
    theirs = torch.autograd.grad((expected * weight).sum(), [z, conv.weight, conv.bias])
    as_stencil = theirs[1].permute(2, 3, 1, 0).reshape(9, 7, 5)
    scale = 1 if dtype == torch.float64 else 30
    torch.testing.assert_close(mine[0], theirs[0], atol=atol, rtol=0)
    torch.testing.assert_close(mine[1], as_stencil[:, 2:], atol=scale * atol, rtol=0)
    torch.testing.assert_close(mine[2], as_stencil[:, :2], atol=scale * atol, rtol=0)
    torch.testing.assert_close(mine[3], theirs[2], atol=scale * atol, rtol=0)


@pytest.mark.parametrize("name", STENCIL_CELLS)
def test_both_forms_of_a_grid_agree(name):
    """The fast form is the plain form: values, gradients and gradients of gradients."""
    from gncadeq.cells.stencil import prepare_neighborhood
    from gncadeq.graph.neighborhood import Neighborhood

    graph = ImageToGraph().batch(torch.rand(2, 2, 6, 5, dtype=torch.double))
    cell = stencil_cell(name)
    fast = prepare_neighborhood(graph.edge_index, graph.edge_attr, graph.num_nodes, 9)
    e = fast.incoming
    plain = Neighborhood(
        torch.stack([e.sender, e.receiver]), e.relation, graph.num_nodes, 9, kind="csr"
    )
    assert (fast.kind, plain.kind) == ("grid", "csr")
    z = torch.randn(graph.num_nodes, cell.channels, dtype=torch.double, requires_grad=True)
    results = []
    for hood in (fast, plain):
        out = cell(z, graph.x, hood)
        (first,) = torch.autograd.grad(out.pow(2).sum(), z, create_graph=True)
        second = torch.autograd.grad(first.pow(2).sum(), [z, cell.weight_z])
        results.append([out, first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_gradcheck_on_a_multigraph():
    """Several edges of one relation into one node, hubs, isolated nodes: still exact."""
    from gncadeq.graph.neighborhood import Neighborhood

    edge_index = torch.tensor([[0, 1, 2, 2, 3, 3, 0, 4], [3, 3, 3, 0, 0, 3, 3, 1]])
    relation = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
    hood = Neighborhood(edge_index, relation, num_nodes=6, num_relations=2)
    for cin, cout in ((2, 3), (3, 2)):
        z = torch.randn(6, cin, dtype=torch.double, requires_grad=True)
        weight = torch.randn(2, cin, cout, dtype=torch.double, requires_grad=True)
        expected = torch.zeros(6, cout, dtype=torch.double)
        for (j, i), r in zip(edge_index.t().tolist(), relation.tolist(), strict=True):
            expected[i] += (z[j] @ weight[r]).detach()
        run = lambda z, w: hood.stencil(w)(z)  # noqa: E731
        torch.testing.assert_close(run(z, weight), expected)
        assert torch.autograd.gradcheck(run, (z, weight))
        assert torch.autograd.gradgradcheck(run, (z, weight))


# 2. Permutation law, 7. Locality law


@pytest.mark.parametrize("name", [*STENCIL_CELLS, "wide"])
def test_permutation_and_locality_laws(name):
    data = ImageToGraph(living_threshold=0.4)(torch.rand(2, 9, 8, dtype=torch.double))
    cell = stencil_cell(name)
    if name == "wide":
        data.edge_attr = torch.tensor([6, 7, 8, 11, 12, 13, 16, 17, 18])[data.edge_attr]
    assert_permutation_equivariant(cell, data)
    assert_local(cell, data)


# 3. Batch law


@pytest.mark.parametrize("name", STENCIL_CELLS)
@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("compact", [True, False])
def test_batch_law(name, solver, compact, ragged):
    deq = GraphDEQ(stencil_cell(name), solver, tol=1e-9, max_steps=300, compact=compact)
    assert_batch_independent(deq, ragged)


@pytest.mark.parametrize("solver", ALL)
def test_batch_law_beside_nan_and_divergence(solver):
    """Batch-mates that return NaN or diverge change neither state nor gradient."""
    to_graph = ImageToGraph()
    graphs = [to_graph(torch.rand(2, 6, 6, dtype=torch.double)) for _ in range(3)]
    graphs[1].x[3] = float("nan")
    batch = Batch.from_data_list(graphs)
    cell = stencil_cell("direct")
    deq = GraphDEQ(cell, solver, tol=1e-9, max_steps=200, on_failure="ignore")

    def run(data, nodes):
        cell.zero_grad()
        z, solution = deq(*graph_of(data), getattr(data, "batch", None), return_solution=True)
        z[nodes].pow(2).sum().backward()
        return z.detach(), solution, [p.grad.clone() for p in cell.parameters()]

    z, solution, grad = run(batch, batch.batch != 1)
    assert [s.name for s in map(_status, solution.status)] == [
        "CONVERGED", "NON_FINITE", "CONVERGED",
    ]  # fmt: skip
    # Where there is no equilibrium the state is NaN, and nowhere else.
    assert torch.equal(z.isnan().all(1), batch.batch == 1)
    rest = Batch.from_data_list([graphs[0], graphs[2]])
    alone, _, alone_grad = run(rest, slice(None))
    torch.testing.assert_close(z[batch.batch != 1], alone, atol=1e-10, rtol=0)
    assert_gradients_close(grad, alone_grad, rtol=1e-8)


def _status(code):
    return Status(int(code))


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("count", [2, 16, 128])
def test_the_same_graph_alone_and_in_a_batch(solver, count):
    """Where TorchDEQ takes more steps for the same graph, and returns another state."""
    to_graph = ImageToGraph()
    first = to_graph(torch.rand(2, 6, 5, dtype=torch.double))
    others = [to_graph(torch.rand(2, 6, 5, dtype=torch.double)) for _ in range(count - 1)]
    others[0].x *= 0.01  # slower, since its tanh stays linear
    batch = Batch.from_data_list([first, *others])
    deq = GraphDEQ(stencil_cell("direct"), solver, tol=1e-3, max_steps=200)
    with torch.no_grad():
        alone, alone_solution = deq(*graph_of(first), return_solution=True)
        z, solution = deq(*graph_of(batch), batch.batch, return_solution=True)
    torch.testing.assert_close(z[:30], alone, atol=1e-10, rtol=0)
    assert solution.num_steps[0] == alone_solution.num_steps[0]
    assert solution.num_evaluations[0] == alone_solution.num_evaluations[0]


# 4. One-rule law


@pytest.mark.parametrize("name", STENCIL_CELLS)
def test_one_rule_law(name, ragged):
    deq = GraphDEQ(stencil_cell(name), "picard", tol=1e-10, max_steps=500)
    assert_one_rule(deq, ragged)


# 5. Gradient law


@pytest.fixture(scope="module")
def unrolled():
    """The gradient of 300 steps of a cell, which is the same for every solver."""
    known = {}

    def of(name, ragged):
        if name not in known:
            known[name] = ragged.x, gradients(GraphNCA(stencil_cell(name), steps=300), ragged)
        x, found = known[name]
        assert torch.equal(x, ragged.x)
        return found

    return of


@pytest.mark.parametrize("name", STENCIL_CELLS)
@pytest.mark.parametrize("solver", [*ALL, *STOCK])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradient_law(name, solver, mode, ragged, unrolled):
    deq = GraphDEQ(stencil_cell(name), solver, tol=1e-10, max_steps=400)
    getattr(deq, mode)()
    assert_gradients_close(gradients(deq, ragged), unrolled(name, ragged))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("nodes", [1, 10])
def test_gradient_law_for_masked_losses_of_any_scale(solver, nodes, ragged):
    picked = torch.randperm(ragged.num_nodes)[:nodes]
    deq = GraphDEQ(stencil_cell("direct"), solver, tol=1e-10, max_steps=400)
    unrolled = gradients(deq.as_nca(steps=300), ragged, picked)
    for scale in (1.0, 1e-3, 1e-6):
        assert_gradients_close(gradients(deq, ragged, picked, scale), unrolled)


def test_gradient_law_for_several_forwards_and_backwards(ragged):
    deq = GraphDEQ(stencil_cell("direct"), tol=1e-10, max_steps=400)
    once = gradients(deq, ragged)[1:]
    deq.zero_grad()
    first, second = (deq(*graph_of(ragged), ragged.batch) for _ in range(2))
    loss = first.pow(2).sum() + second.sum()
    loss.backward(retain_graph=True)
    assert_gradients_close([p.grad.clone() for p in deq.parameters()], once)
    loss.backward()
    assert_gradients_close([p.grad / 2 for p in deq.parameters()], once)


def test_phantom_gradient_approaches_the_exact_one(ragged):
    cell = stencil_cell("direct", contraction=0.5)
    exact = gradients(GraphDEQ(cell, tol=1e-10, max_steps=200), ragged)

    def error(**options):
        deq = GraphDEQ(cell, tol=1e-10, max_steps=200, **options)
        approximate = gradients(deq, ragged)
        return float((approximate[0] - exact[0]).norm() / exact[0].norm())

    one = error(gradient="one_step")
    assert one == pytest.approx(error(gradient="phantom", phantom_steps=1))
    assert error(gradient="phantom", phantom_steps=40) < 1e-6 < one
    value = GraphDEQ(cell, tol=1e-10, max_steps=200, gradient="phantom")
    a, b = (d(*graph_of(ragged), ragged.batch) for d in (value, GraphDEQ(cell, tol=1e-10)))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_phantom_gradient_is_that_of_damped_steps_at_the_equilibrium(ragged):
    """Geng et al. 2022, eq. 7: y ← (1 − τ) y + τ f(y), from the equilibrium, is differentiated."""
    deq = GraphDEQ(stencil_cell("direct", contraction=0.5), tol=1e-10, max_steps=200,
                   gradient="phantom", phantom_steps=3, phantom_damping=0.4)  # fmt: skip
    x = ragged.x.clone().requires_grad_()
    z = deq(x, ragged.edge_index, ragged.edge_attr, ragged.batch)
    y = z.detach()
    step = deq.cell.prepare(x, ragged.edge_index, ragged.edge_attr)
    for _ in range(3):
        y = 0.6 * y + 0.4 * step(y)
    weights = torch.randn_like(z)
    wanted = [x, *deq.cell.parameters()]
    mine = torch.autograd.grad((z * weights).sum(), wanted)
    assert_gradients_close(mine, torch.autograd.grad((y * weights).sum(), wanted), rtol=1e-8)


def test_no_gradient_where_none_is_wanted(ragged):
    deq = GraphDEQ(stencil_cell("direct"))
    with torch.no_grad():
        assert not deq(*graph_of(ragged), ragged.batch).requires_grad


# 6. Honest-residual law


@pytest.mark.parametrize("name", STENCIL_CELLS)
@pytest.mark.parametrize("solver", [*SOLVERS, *STOCK])
@pytest.mark.parametrize(("tol", "max_steps"), [(1e-6, 200), (1e-12, 4)])
def test_honest_residual_law(name, solver, tol, max_steps, ragged):
    deq = GraphDEQ(stencil_cell(name), solver, tol=tol, max_steps=max_steps, on_failure="ignore")
    assert_honest_residual(deq, ragged)


# 8. Determinism law


def test_determinism_law(ragged):
    deq = GraphDEQ(stencil_cell("direct"), start="normal", tol=1e-6)
    state = torch.get_rng_state()
    runs = [
        deq(*graph_of(ragged), ragged.batch, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), state)
    nca = GraphNCA(deq.cell, steps=9, fire_rate=0.5, start="normal")
    runs = [nca(*graph_of(ragged), generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*runs)


# 9. Memory law


_MEMORY = """
import resource, torch
from gncadeq import ConvCell, GraphDEQ
from gncadeq.transforms import ImageToGraph
graph = ImageToGraph(living_threshold=0.2)(torch.rand(1, 100, 100))
deq = GraphDEQ(ConvCell(1, 16, contraction=0.9), tol=1e-30, on_failure="ignore")
for steps in (10, 10, 100, 100):
    deq.max_steps = steps
    deq(graph.x, graph.edge_index, graph.edge_attr).sum().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_law():
    """Peak memory of training with 10 and with 100 solver steps, history included."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEMORY],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, before, _, after = (1024 * int(line) for line in done.stdout.split())
    state = 100 * 100 * 16 * 4
    assert after - before < 45 * state  # a solve that kept its steps would keep 90 states more
