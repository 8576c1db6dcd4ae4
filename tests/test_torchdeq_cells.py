"""TorchDEQ's registry, norms, dropout and losses with GraphDEQ and its cells."""

from __future__ import annotations

import pickle

import pytest
import torch
import torchdeq
from deq_cores import BATCH, EDGES, assert_same, core, gradients, unrolled
from torch import nn
from torch_geometric.nn import GINConv
from torchdeq.dropout import VariationalDropout, reset_dropout
from torchdeq.loss import jac_reg
from torchdeq.norm import apply_norm, remove_norm, reset_norm

from gncadeq import ConvCell, GraphDEQ

# The registry, and GraphDEQ


@pytest.mark.parametrize("name", ["sliced", "indexing"])
def test_torchdeqs_own_cores_find_our_solvers(name):
    torch.manual_seed(0)
    matrix = torch.tensor([[0.5, 0.4], [-0.4, 0.5]], dtype=torch.double, requires_grad=True)
    x, zero = torch.rand(5, 2, dtype=torch.double), torch.zeros(5, 2, dtype=torch.double)
    deq = torchdeq.get_deq(
        core=name, ift=True, f_solver="graph:anderson", b_solver="graph:anderson", f_tol=1e-10,
        b_tol=1e-10, f_stop_mode="rel", b_stop_mode="rel", f_max_iter=100, b_max_iter=100,
    )  # fmt: skip
    known = {"solver_kwargs": {"batch": BATCH}}
    [z], info = deq(lambda z: z @ matrix + x, zero, **known)
    expected = x @ torch.linalg.inv(torch.eye(2) - matrix)
    torch.testing.assert_close(z, expected, rtol=1e-8, atol=1e-9)
    assert info["rel_lowest"].shape == (2,)
    assert_same(
        torch.autograd.grad(z[0].sum(), matrix), torch.autograd.grad(expected[0].sum(), matrix)
    )
    with pytest.raises(ValueError, match="'stop_mode' to be 'rel'"):
        torchdeq.get_deq(core=name, f_solver="graph:anderson")(lambda z: z, zero)
    if name == "indexing":
        deq = torchdeq.get_deq(core=name, f_solver="graph:auto", f_stop_mode="rel", n_states=2)
        with pytest.raises(ValueError, match="core='graph'"):
            deq(lambda z: z, zero)


def test_the_equilibrium_is_solved_by_a_core(ragged):
    cell = ConvCell(2, 3, contraction=0.8).double()
    deq = GraphDEQ(cell, tol=1e-10, max_steps=200, solver="anderson")
    assert type(deq.core) is torchdeq.core._core["graph"]
    assert deq.core.f_solver is not None
    assert deq.core.f_solver == torchdeq.solver.get_solver("graph:anderson")
    made = core(f_solver="anderson", f_max_iter=200)
    given = GraphDEQ(cell, core=made)
    assert given.core is made
    assert (given.tol, given.max_steps, given.solver) == (1e-10, 200, "anderson")
    graph = (ragged.x, ragged.edge_index, ragged.edge_attr, ragged.batch)
    one, two = deq(*graph), given(*graph)
    assert torch.equal(one, two)
    assert_same(gradients(one.sum(), cell), gradients(two.sum(), cell), rtol=0)
    given.tol = 1e-2
    assert made.f_tol == given.backward_tol == 1e-2
    again = pickle.loads(pickle.dumps(given))
    assert (again.tol, again.solver, again.core.b_tol) == (1e-2, "anderson", 1e-2)
    # the core's phantom gradient is the equilibrium's
    phantom = GraphDEQ(cell, core=core(grad=2, tau=0.3))
    assert (phantom.gradient, phantom.phantom_steps, phantom.phantom_damping) == ("phantom", 2, 0.3)


def test_other_cores_are_refused():
    cell = ConvCell(2, 3)
    with pytest.raises(TypeError, match=r"core='graph'.*DEQSliced"):
        GraphDEQ(cell, core=torchdeq.get_deq())
    with pytest.raises(TypeError, match=r"\['tol'\] from the core alone"):
        GraphDEQ(cell, tol=1e-5, core=core())
    with pytest.raises(ValueError, match=r"one state.*n_states"):
        GraphDEQ(cell, core=core(n_states=2))


# Norms, dropout and losses of TorchDEQ's


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    deq = GraphDEQ.from_conv(GINConv(layers), 3, tol=1e-11, max_steps=300).double()
    return deq, torch.rand(5, 3, dtype=torch.double)


@pytest.mark.parametrize(("kind", "own"), [("weight_norm", "_v"), ("spectral_norm", "_orig")])
def test_norms_of_torchdeq_hold_in_cells(kind, own):
    deq, x = network()
    apply_norm(deq.cell, kind)
    names = dict(deq.named_parameters())
    normed = [names["cell.conv.nn.0.weight_g"], names["cell.conv.nn.0.weight" + own]]
    start = torch.zeros(5, 4, dtype=torch.double)
    for _ in range(2):  # as in two steps of training
        reset_norm(deq)
        mine = torch.autograd.grad(deq(x, EDGES, batch=BATCH)[3].sum(), normed)
        reset_norm(deq.eval())  # the same weights: nothing is estimated anew
        fixed = unrolled(deq.cell.prepare(x, EDGES), start)
        assert_same(mine, torch.autograd.grad(fixed[3].sum(), normed))
        assert all(float(g.abs().max()) > 1e-4 for g in mine)
        with torch.no_grad():
            normed[0].mul_(0.9)
        deq.train()
    reset_norm(deq)
    before = deq(x, EDGES, batch=BATCH).detach()
    remove_norm(deq)
    torch.testing.assert_close(deq(x, EDGES, batch=BATCH).detach(), before)


def test_dropout_of_torchdeq_is_held_in_cells():
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), VariationalDropout(0.5), nn.Linear(4, 4))
    deq = GraphDEQ.from_conv(GINConv(layers), 3, tol=1e-11, max_steps=300).double()
    x, drop = torch.rand(5, 3, dtype=torch.double), deq.cell.conv.nn[2]
    states = []
    for _ in range(2):
        reset_dropout(deq)
        z, solution = deq(x, EDGES, batch=BATCH, return_solution=True)
        assert bool(solution.converged.all())
        mask, weight = drop.mask.clone(), layers[0].weight
        (grad,) = torch.autograd.grad(z[3].sum(), weight)
        assert torch.equal(drop.mask, mask)
        # the gradient is that of the equation with this mask
        step = deq.cell.prepare(x, EDGES)
        fixed = unrolled(step, torch.zeros(5, 4, dtype=torch.double))
        torch.testing.assert_close(z, fixed, rtol=1e-8, atol=1e-9)
        (expected,) = torch.autograd.grad(fixed[3].sum(), weight)
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-9)
        states.append(z.detach())
    assert not torch.allclose(*states)
    # a mask is one of the whole batch, so no graph may leave it early
    scale = torch.where(BATCH == 0, 1.0, 0.0).double().unsqueeze(1)
    start = scale * torch.rand(5, 4, dtype=torch.double)  # graph 1 starts near its end
    step = deq.cell.prepare(scale * x, EDGES)
    fixed = unrolled(step, start)
    [z], info = core(compact=False)(step, start + (1 - scale) * fixed.detach(), batch=BATCH)
    torch.testing.assert_close(z, fixed, rtol=1e-8, atol=1e-9)
    assert int(info["nstep"][1]) == 0 < int(info["nstep"][0])


def test_the_jacobian_loss_of_torchdeq_reaches_the_cell():
    """``E |vᵀ J|² / size`` of ``J = w I`` is ``w²``, whatever the noise's mean square."""
    w = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    [z], _ = core()(lambda z: w * z + 1, torch.zeros(5, 1, dtype=torch.double), batch=BATCH)
    torch.manual_seed(0)
    loss = jac_reg(w * z + 1, z)
    torch.manual_seed(0)
    noise = float(torch.randn(5, 1).double().square().mean())
    assert float(loss.detach()) == pytest.approx(0.25 * noise)
    loss.backward()
    assert float(w.grad) == pytest.approx(2 * 0.5 * noise)


def test_the_jacobian_loss_goes_through_the_equilibrium():
    torch.manual_seed(0)
    deq, x = network()
    weight = deq.cell.conv.nn[0].weight

    def loss(z):
        torch.manual_seed(3)
        return jac_reg(deq.cell.prepare(x, EDGES)(z), z, vecs=2)

    mine = torch.autograd.grad(loss(deq(x, EDGES, batch=BATCH)), weight)
    start = torch.zeros(5, 4, dtype=torch.double)
    theirs = torch.autograd.grad(loss(unrolled(deq.cell.prepare(x, EDGES), start)), weight)
    assert_same(mine, theirs)
