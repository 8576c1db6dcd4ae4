"""What TorchDEQ's users find: the core "graph", its options, and TorchDEQ's norms, dropout and
losses with cells."""

from __future__ import annotations

import argparse
import copy
import math

import pytest
import torch
import torchdeq
from deq_cores import BATCH, assert_same, core, gradients, start_of, step_of, unrolled
from torchdeq.loss import fp_correction

from gncadeq.dynamics import ConvergenceWarning, GraphCore

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
