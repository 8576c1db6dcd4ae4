"""Rollouts that are undone in the backward pass have the gradient of their own iteration."""

from __future__ import annotations

import pytest
import torch
from toys import NoisyCell, conv_cell

from gncadeq import ConvCell, GraphDEQ, GraphNCA, GrowingCell
from gncadeq.analysis import saved_bytes
from gncadeq.dynamics.reversible import kept_every
from gncadeq.export.program import as_automaton
from gncadeq.testing import assert_gradients_close, gradients
from gncadeq.transforms import ImageToGraph


class Pairs(GraphNCA):
    """The same iteration, by automatic differentiation through every step."""

    def forward(self, x, edge_index, edge_attr=None, batch=None, z0=None, masks=None, **_):
        step = self.cell.prepare(x, edge_index, edge_attr)
        y = z = x.new_zeros(x.size(0), self.cell.channels) if z0 is None else z0
        for t in range(self.steps):
            rate = self.step_size * (1.0 if masks is None else masks[t].to(x))
            y = y + rate * (step(z) - y)
            z = z + rate * (step(y) - z)
        return z


@pytest.mark.parametrize(("steps", "size"), [(1, 0.5), (40, 0.5), (9, 0.8), (130, 0.1)])
@pytest.mark.parametrize("kind", ["direct", "residual"])
def test_the_gradient_is_that_of_the_iteration(kind, steps, size, small):
    cell = conv_cell(kind)
    expected = gradients(Pairs(cell, steps, step_size=size), small)
    found = gradients(GraphNCA(cell, steps, step_size=size, gradient="reversible"), small)
    assert_gradients_close(found, expected, rtol=1e-8)


def run(dynamics, graph, **more):
    return dynamics(graph.x, graph.edge_index, graph.edge_attr, **more)


def test_update_masks_are_replayed(small):
    """The gradient is that with the same masks written down."""
    cell = conv_cell("residual")
    torch.manual_seed(5)
    nca = GraphNCA(cell, 20, fire_rate=0.5, step_size=0.4, gradient="reversible")
    seen = []
    draw, nca._mask = nca._mask, lambda *args: seen.append(draw(*args)) or seen[-1]
    found = gradients(nca, small)
    assert len(seen) == 40
    assert 0.3 < float(torch.stack(seen).float().mean()) < 0.7
    pairs = Pairs(cell, 20, step_size=0.4)
    forward = pairs.forward
    pairs.forward = lambda *args, **options: forward(*args, masks=seen[:20])
    assert_gradients_close(found, gradients(pairs, small), rtol=1e-8)


def test_gradients_reach_the_start(small):
    cell = conv_cell("residual")
    z0 = torch.randn(small.num_nodes, 3, dtype=torch.double).requires_grad_()
    graph = small.x, small.edge_index, small.edge_attr
    grads = [
        torch.autograd.grad(nca(*graph, z0=z0).pow(3).sum(), z0)[0]
        for nca in (
            Pairs(cell, 9, step_size=0.3),
            GraphNCA(cell, 9, step_size=0.3, gradient="reversible"),
        )
    ]
    assert_gradients_close([grads[1]], [grads[0]], rtol=1e-9)


def test_an_injection_computed_from_shared_weights_counts_once(small):
    """The injection depends on a parameter that the cell has, too."""
    cell = conv_cell("residual")
    weight = cell.bias
    x = small.x * weight[:2] + weight[2]
    found = []
    for nca in (
        Pairs(cell, 9, step_size=0.3),
        GraphNCA(cell, 9, step_size=0.3, gradient="reversible"),
    ):
        z = nca(x, small.edge_index, small.edge_attr)
        found.append(torch.autograd.grad(z.sum(), weight, retain_graph=True)[0])
    assert_gradients_close(found[1:], found[:1], rtol=1e-9)


@pytest.mark.parametrize("size", [0.5, 0.2])
def test_the_same_fixed_points(small, size):
    cell = conv_cell()
    z = run(GraphDEQ(cell, tol=1e-12, max_steps=300), small).detach()
    nca = GraphNCA(cell, 400, fire_rate=0.5, step_size=size, start="normal", gradient="reversible")
    with torch.no_grad():
        out, found = run(nca, small, return_solution=True)
    assert float((out - z).norm() / z.norm()) < 1e-5
    assert float(found.residual.max()) < 1e-5


def test_memory_is_flat_between_kept_states():
    torch.manual_seed(0)
    data, cell = ImageToGraph()(torch.rand(1, 9, 9)), ConvCell(1, 8, contraction=0.9)
    own = [*cell.parameters(), data.x, data.edge_index, data.edge_attr]

    def saved(steps, **options):
        nca = GraphNCA(cell, steps, step_size=0.1, **options)
        return saved_bytes(lambda: run(nca, data), own)

    assert kept_every(0.1, torch.float) == 37
    flat = [saved(steps, gradient="reversible") for steps in (8, 32, 37)]
    assert flat[0] == flat[1] == flat[2] < saved(8)
    assert saved(38, gradient="reversible") - flat[2] == 2 * 8 * 81 * 4  # two states


@pytest.mark.parametrize("size", [2, 12])
def test_float32_reconstructs_well(size):
    """In single precision the error is that of single precision, for many steps."""
    cell = conv_cell("residual")
    data = ImageToGraph()(torch.rand(2, size, size, dtype=torch.double))
    expected = gradients(Pairs(cell, 100, step_size=0.5), data)
    cell.float()
    data.x = data.x.float()
    found = gradients(GraphNCA(cell, 100, step_size=0.5, gradient="reversible"), data)
    assert_gradients_close([g.double() for g in found], expected, rtol=1e-3)


def test_what_cannot_be_undone_is_refused(small):
    with pytest.raises(ValueError, match="'step_size' below 1"):
        GraphNCA(conv_cell(), 8, gradient="reversible")
    with pytest.raises(ValueError, match="'checkpoint_every'"):
        GraphNCA(conv_cell(), 8, step_size=0.5, checkpoint_every=2, gradient="reversible")
    with pytest.raises(ValueError, match="'gradient' to be 'bptt' or 'reversible'"):
        GraphNCA(conv_cell(), 8, gradient="ift")
    options = {"steps": 4, "step_size": 0.5, "gradient": "reversible"}
    with pytest.raises(ValueError, match="draws nothing"):
        run(GraphNCA(NoisyCell(2, 0.5).double(), **options), small)
    with pytest.raises(ValueError, match="return_trajectory"):
        run(GraphNCA(conv_cell(), **options), small, return_trajectory=True)
    growing, seen = GrowingCell(4, 2, 8, in_channels=2).double(), small.clone()
    seen.edge_attr = torch.rand(small.num_edges, 2, dtype=torch.double)
    with pytest.raises(ValueError, match="without dying cells"):
        run(GraphNCA(growing, **options), seen)
    nca = GraphNCA(conv_cell(), **options)
    with pytest.raises(RuntimeError, match="first order"):
        gradients(nca, small, order=2)
    with pytest.raises(ValueError, match="plain steps to export"):
        as_automaton(nca)
    z = run(nca, small)
    with torch.no_grad():
        nca.cell.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_the_smallest_steps_need_no_other_state():
    assert kept_every(1e-17, torch.float32) > 10**15
