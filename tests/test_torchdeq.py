"""What TorchDEQ's users find: the core "graph", its options, and TorchDEQ's norms, dropout and
losses with cells."""

from __future__ import annotations

import argparse
import copy
import math
import pickle

import pytest
import torch
import torchdeq
from torch import nn
from torch_geometric.nn import GINConv
from torchdeq.dropout import VariationalDropout, reset_dropout
from torchdeq.loss import fp_correction, jac_reg
from torchdeq.norm import apply_norm, remove_norm, reset_norm

from gncadeq import ConvCell, GraphDEQ
from gncadeq.dynamics import ConvergenceWarning, GraphCore

BATCH = torch.tensor([0, 0, 0, 1, 1])
EDGES = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])


def core(**options):
    """The core "graph", solved to rounding."""
    return torchdeq.get_deq(core="graph", **{"f_tol": 1e-10, "f_max_iter": 300, **options})


def step_of(data):
    cell = ConvCell(2, 3, contraction=0.8).double()
    return cell, cell.prepare(data.x, data.edge_index, data.edge_attr)


def start_of(data):
    return torch.zeros(data.num_nodes, 3, dtype=torch.double)


def unrolled(step, z, steps=400):
    for _ in range(steps):
        z = step(z)
    return z


def gradients(loss, cell):
    return torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)


def assert_same(mine, theirs, rtol=1e-6):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-9)


# The solve and its gradient


@pytest.mark.parametrize("solver", ["auto", "anderson", "broyden", "fixed_point_iter"])
@pytest.mark.parametrize("training", [True, False])
def test_ragged_graphs_have_the_exact_gradient(ragged, solver, training):
    cell, step = step_of(ragged)
    deq = core(ift=True, f_solver=solver).train(training)
    [z], info = deq(step, start_of(ragged), batch=ragged.batch)
    expected = unrolled(step, start_of(ragged))
    torch.testing.assert_close(z, expected, rtol=1e-8, atol=1e-9)
    one_node = torch.arange(ragged.num_nodes).eq(3).double().unsqueeze(1)  # of masked labels
    assert_same(gradients((z * one_node).sum(), cell), gradients((expected * one_node).sum(), cell))
    assert (step(z) - z).detach().norm() <= 2 * info["abs_lowest"].norm()
    assert info["rel_lowest"].max() <= 1e-10


def test_a_graph_in_a_batch_is_solved_as_alone(ragged):
    cell, step = step_of(ragged)
    [z], info = core(f_tol=1e-6)(step, start_of(ragged), batch=ragged.batch)
    for number, data in enumerate(ragged.to_data_list()):
        alone = cell.prepare(data.x, data.edge_index, data.edge_attr)
        [one], known = core(f_tol=1e-6)(alone, start_of(data))
        torch.testing.assert_close(z[ragged.batch == number], one)
        assert int(info["nstep"][number]) == int(known["nstep"])


def test_the_gradient_is_that_of_damped_steps_where_they_are_asked_for(ragged):
    cell, step = step_of(ragged)
    [z], _ = core(grad=2, tau=0.3)(step, start_of(ragged), batch=ragged.batch)
    y = z.detach()
    for _ in range(2):
        y = 0.7 * y + 0.3 * step(y)
    weights = torch.randn_like(y)
    assert_same(gradients((z * weights).sum(), cell), gradients((y * weights).sum(), cell))


def test_a_graph_that_is_broken_does_not_poison_the_others():
    w = torch.tensor(0.5, requires_grad=True)
    shift = torch.tensor([[1.0], [1.0], [1.0], [math.nan], [1.0]])
    deq = core(f_tol=1e-6, on_failure="ignore")
    [z], info = deq(lambda z: w * z + shift, torch.zeros(5, 1), batch=BATCH)
    assert z[BATCH == 1].isnan().all()
    assert info["rel_lowest"][1].isinf()
    (grad,) = torch.autograd.grad(z[0].sum(), w)
    torch.testing.assert_close(grad, torch.tensor(4.0), rtol=1e-4, atol=0.0)  # 1 / (1 - w)^2


def test_several_states_are_solved_as_one():
    a = torch.tensor(0.5, dtype=torch.double, requires_grad=True)

    def func(y, z):
        return a * z + 1, 0.5 * y  # y = 1 / (1 - a / 2)

    start = [torch.zeros(5, 1, dtype=torch.double), torch.zeros(5, 1, dtype=torch.double)]
    [(y, z)], info = core()(func, start, batch=BATCH)
    torch.testing.assert_close(y, torch.full_like(y, 4 / 3))
    torch.testing.assert_close(z, torch.full_like(z, 2 / 3))
    assert info["nstep"].shape == (2,)
    (grad,) = torch.autograd.grad(y[0].sum(), a)
    assert float(grad) == pytest.approx(0.5 / (1 - 0.25) ** 2)


def test_empty_batches_autocast_and_maps_without_gradients():
    def step(z):
        return z @ torch.tensor([[0.5]]) + 1

    deq = core(f_tol=1e-5)
    [z], info = deq(step, torch.zeros(0, 1), batch=torch.zeros(0, dtype=torch.long), batch_size=2)
    assert z.shape == (0, 1)
    assert info["nstep"].tolist() == [0, 0]
    with torch.autocast("cpu", torch.bfloat16):
        [z], _ = deq(step, torch.zeros(5, 1))
    torch.testing.assert_close(z, torch.full((5, 1), 2.0), rtol=1e-4, atol=0.0)
    assert not deq(step, torch.zeros(5, 1, requires_grad=True))[0][0].requires_grad
    with pytest.raises(ValueError, match="certificate"):
        core(criterion="error")(step, torch.zeros(5, 1))


def test_gradients_of_gradients_are_refused():
    w = torch.tensor(0.5, requires_grad=True)
    [z], _ = core(f_tol=1e-6)(lambda z: w * z + 1, torch.zeros(5, 1), batch=BATCH)
    with pytest.raises(RuntimeError, match="another tensor"):
        torch.autograd.grad(z.sum(), w, create_graph=True)


# Options


def half(z):
    return 0.5 * z + 1


def test_step_limits_and_tolerances_are_honoured():
    zero = torch.zeros(5, 1)
    deq = core(f_solver="picard", f_max_iter=6, f_tol=1e-12, eval_factor=2.0, on_failure="ignore")
    for training, steps in ((True, 6), (False, 12)):
        [z], info = deq.train(training)(half, zero, batch=BATCH)
        torch.testing.assert_close(z, torch.full_like(z, 2 - 2 * 0.5**steps))
        assert info["nstep"].tolist() == [steps, steps]
    [z], _ = deq(half, zero, solver_kwargs={"f_max_iter": 2})
    torch.testing.assert_close(z, torch.full_like(z, 1.5))
    [z], _ = deq(half, zero, solver_kwargs={"f_max_iter": 1, "damping": 0.5})
    torch.testing.assert_close(z, torch.full_like(z, 0.5))
    exact = core(f_max_iter=6, eval_f_max_iter=9, f_solver="picard", on_failure="ignore").eval()
    assert exact(half, zero)[1]["nstep"].tolist() == [9]
    with pytest.warns(ConvergenceWarning, match="residual 1e-10"):
        core(f_max_iter=3, f_solver="picard")(half, zero, batch=BATCH)
    loose = core(f_tol=0.1, f_solver="picard")
    assert int(loose(half, zero)[1]["nstep"]) == 3  # residuals 1, 1/3, 1/7, 1/15
    assert loose.b_tol == 0.1
    assert core(f_max_iter=7).b_max_iter == 7


def test_the_backward_solve_has_its_own_solver_limit_and_writer():
    w = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    zero, seen = torch.zeros(5, 1, dtype=torch.double), []
    deq = core(b_solver="fixed_point_iter", b_max_iter=5, b_tol=1e-9)
    [z], _ = deq(lambda z: w * z + 1, zero, batch=BATCH, backward_writer=seen.append)
    with pytest.warns(ConvergenceWarning, match=r"of their gradient 1e-09.*after 5 steps"):
        (grad,) = torch.autograd.grad(z[0].sum(), w)
    # u = 1 + w u by plain steps from 1, times z
    assert float(grad) == pytest.approx(2 * sum(0.5**k for k in range(6)))
    assert [info["nstep"].tolist() for info in seen] == [[5, 0]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"f_tols": 1e-3}, TypeError, "Unknown option 'f_tols'.* 'f_tol'"),
        ({"graph_solver": "auto"}, TypeError, "'graph_solver'"),
        ({"f_stop_mode": "abs"}, ValueError, "'f_stop_mode' to be 'rel'"),
        ({"b_stop_mode": "abs"}, ValueError, "'b_stop_mode' to be 'rel'"),
        ({"hook_ift": True}, ValueError, "ift=True"),
        ({"no_stat": True}, ValueError, "'no_stat'"),
        ({"sup_gap": 2}, ValueError, "'sup_gap'.*n_states"),
        ({"sup_loc": [2]}, ValueError, "'sup_loc'.*n_states"),
        ({"f_solver": "andersen"}, ValueError, "'anderson'"),
        ({"b_solver": "torchdeq:anderson"}, ValueError, "'solver'"),
        ({"f_solver": "picard", "solver_options": {"history": 3}}, TypeError, "history"),
        ({"f_solver": "torchdeq:anderson", "criterion": "node"}, ValueError, "'criterion'"),
        ({"f_tol": 0}, ValueError, "'f_tol'"),
        ({"f_max_iter": 2.5}, TypeError, "'f_max_iter'"),
        ({"b_tol": -1}, ValueError, "'b_tol'"),
        ({"grad": 0}, ValueError, "'grad'"),
        ({"grad": [1, 2], "n_states": 3}, ValueError, "3 states"),
        ({"tau": 2.0}, ValueError, "'tau'"),
        ({"ift": "yes"}, TypeError, "'ift'"),
        ({"indexing": [5, 3]}, ValueError, "ascend"),
        ({"indexing": [400]}, ValueError, "limit 300"),
    ],
)
def test_options_that_are_not_honoured_are_refused(options, error, message):
    before = dict(torchdeq.solver._solvers)
    with pytest.raises(error, match=message):
        core(**options)
    assert torchdeq.solver._solvers == before


def test_states_and_solver_options_are_checked():
    for start in (torch.zeros(5), torch.zeros(1, 5, 2)):
        with pytest.raises(ValueError, match="num_nodes, channels"):
            core()(half, start)
    with pytest.raises(TypeError, match="lam"):
        core(f_solver="anderson")(half, torch.zeros(5, 1), solver_kwargs={"lam": 1e-4})
    with pytest.raises(ValueError, match="ascending"):
        core()(half, torch.zeros(5, 1), batch=BATCH.flip(0))


def test_command_lines_of_torchdeq_are_taken():
    parser = argparse.ArgumentParser()
    torchdeq.add_deq_args(parser)
    parser.add_argument("--lr", default=1e-3)
    words = "--ift --f_stop_mode rel --b_stop_mode rel --core graph --f_tol 1e-4"
    args = parser.parse_args(words.split())
    kept = copy.deepcopy(args)
    deq = torchdeq.get_deq(args)
    assert isinstance(deq, GraphCore)
    assert (deq.solver, deq.f_tol, deq.b_tol, deq.gradient) == ("picard", 1e-4, 1e-6, "ift")
    assert args == kept
    with pytest.raises(ValueError, match="f_stop_mode"):
        torchdeq.get_deq(parser.parse_args(["--core", "graph"]))


# States on the way, and what is known of a solve


@pytest.mark.parametrize("options", [{"n_states": 3}, {"indexing": [2, 4]}])
@pytest.mark.parametrize("ift", [True, False])
def test_states_on_the_way_are_returned_for_corrections(options, ift):
    w = torch.tensor(0.5, dtype=torch.double, requires_grad=True)

    def step(z):
        return w * z + 1

    zero = torch.zeros(5, 1, dtype=torch.double)
    deq = core(f_solver="picard", f_max_iter=6, ift=ift, on_failure="ignore", **options)
    states, info = deq(step, zero, batch=BATCH)
    values = [2 - 2 * 0.5**k for k in (2, 4, 6)]
    assert [float(z[0].detach()) for z in states] == pytest.approx(values)
    assert info["nstep"].shape == info["rel_lowest"].shape == (2,)
    # one step's gradient on the way, dz/dw = z; at the end the system's, but for 6 steps of it
    rates = [float(torch.autograd.grad(z[0].sum(), w, retain_graph=True)[0]) for z in states]
    last = values[2] * (sum(0.5**k for k in range(7)) if ift else 1)
    assert rates == pytest.approx([*values[:2], last])
    loss = fp_correction(lambda z, y: (z - y).square().mean(), (states, 2.0), gamma=0.8)
    by_hand = sum(0.8 ** (2 - k) * (v - 2.0) ** 2 for k, v in enumerate(values))
    assert float(loss.detach()) == pytest.approx(by_hand)
    # converged early: as many states as were asked for, the last with the system's gradient
    states, _ = core(ift=True, **options)(step, zero)
    assert len(states) == 3
    assert float(torch.autograd.grad(states[2][0].sum(), w)[0]) == pytest.approx(4.0)
    with torch.no_grad():
        assert len(deq.eval()(step, zero)[0]) == 1


def test_info_is_as_torchdeqs():
    _, info = core(f_solver="picard", f_tol=0.1)(half, torch.zeros(5, 1), batch=BATCH)
    z, rows = torch.zeros(()), []
    for _ in range(4):
        rows.append(float((half(z) - z) / half(z)))
        z = half(z)
    torch.testing.assert_close(info["rel_trace"], torch.tensor([rows, rows]))
    theirs = torchdeq.get_deq()(half, torch.zeros(5, 1))[1]
    assert info.keys() == theirs.keys()
    assert type(info) is type(theirs)
    # a graph that has ended keeps its last value
    start = torch.tensor([[2.0], [2.0], [2.0], [0.0], [0.0]])
    _, info = core(f_solver="picard", f_tol=0.1)(half, start, batch=BATCH)
    assert info["nstep"].tolist() == [0, 3]
    assert info["rel_trace"][0].tolist() == [0.0] * 4


def test_the_spectral_radius_is_that_of_each_graph():
    turn = torch.tensor([[0.0, -0.9], [0.9, 0.0]])
    scale = torch.where(BATCH == 0, 1.0, 0.5).unsqueeze(1)
    deq = core(f_tol=1e-5).eval()
    _, info = deq(lambda z: scale * (z @ turn), torch.ones(5, 2), batch=BATCH, sradius_mode=True)
    torch.testing.assert_close(info["sradius"], torch.tensor([0.9, 0.45]), rtol=1e-3, atol=0.0)
    # a batch's last graph may be empty
    _, info = deq(half, torch.zeros(5, 1), batch=BATCH, batch_size=3, sradius_mode=True)
    torch.testing.assert_close(info["sradius"], torch.tensor([0.5, 0.5, 0.0]), rtol=1e-3, atol=0.0)


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
