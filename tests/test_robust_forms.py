"""What fast forms must survive: threads, changed parameters, precisions, empty and odd graphs."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch.func import functional_call
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv, GraphNorm

from gncadeq import ConvCell, EquivariantCell, GraphDEQ, GraphNCA, GrowingCell
from gncadeq.cells import StencilConv, prepare_neighborhood, stencil_norm
from gncadeq.dynamics import Partition
from gncadeq.transforms import ImageToGraph, PixelKernels


def living(size=6):
    return ImageToGraph(living_threshold=0.3)(torch.rand(1, size, size))


def prepared(data):
    return prepare_neighborhood(data.edge_index, data.edge_attr, data.num_nodes, 9)


def test_threads_share_a_neighborhood():
    data = living(60)
    stencil = prepared(data).stencil(torch.randn(9, 16, 16) * 0.1)
    states = [torch.randn(data.num_nodes, 16) for _ in range(4)]
    with torch.no_grad():
        expected = [stencil(z) for z in states]
    wrong = []

    def work(i):
        with torch.no_grad():
            wrong.extend(i for _ in range(60) if not torch.equal(stencil(states[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.parametrize("pixels", ["all", "living"])
def test_a_parameter_changed_before_the_backward_pass_does_no_silent_harm(pixels):
    data = ImageToGraph()(torch.rand(1, 6, 6)) if pixels == "all" else living()
    torch.manual_seed(0)
    cell = ConvCell(1, 4).double()
    cell.weight_z.data *= 0.3

    def gradient(change):
        cell.zero_grad()
        deq = GraphDEQ(cell, tol=1e-11, max_steps=300)
        z = deq(data.x.double(), data.edge_index, data.edge_attr)
        kept = cell.weight_z.data
        if change:  # as averaging of weights does: no version counter sees it
            cell.weight_z.data = 2.5 * kept
        z.sum().backward()
        cell.weight_z.data = kept
        return cell.bias.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False))


def test_a_nan_batch_mate_and_a_prepared_graph_with_context():
    torch.manual_seed(5)  # nothing is proven of this rule: graphs on which it comes to rest
    batch = Batch.from_data_list([ImageToGraph()(torch.rand(1, 4, 4)) for _ in range(3)])
    hood = prepared(batch)
    torch.manual_seed(0)
    deq = GraphDEQ.from_conv(
        GCNConv(4, 4), 1, norm=GraphNorm(4), tol=1e-10, max_steps=500, on_failure="ignore"
    ).double()
    found = []
    for broken in (False, True):
        x = batch.x.double()
        if broken:
            x[16] = float("nan")
        deq.zero_grad()
        z, solution = deq(x, hood, None, batch.batch, return_solution=True)
        assert solution.converged.tolist() == [True, not broken, True]
        z[:16].sum().backward()
        found.append(deq.cell.inject.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", ["growing", "equivariant"])
def test_functional_call_with_recomputed_steps(kind):
    torch.manual_seed(0)
    data = PixelKernels()(ImageToGraph()(torch.rand(1, 4, 4)))
    if kind == "growing":
        cell = GrowingCell(4, 3, 8, alive_channel=None).double()
        torch.nn.init.normal_(cell.weight_out, std=0.1)
    else:
        cell = EquivariantCell(2, 4, 8).double()
    z0 = torch.randn(16, cell.channels, dtype=torch.double)
    graph = (z0[:, :0], data.edge_index, data.edge_attr.double())
    found = []
    for every in (None, 2):
        nca = GraphNCA(cell, steps=4, checkpoint_every=every)
        ps = {n: (0.5 * p).detach().requires_grad_() for n, p in nca.named_parameters()}
        out = functional_call(nca, ps, graph, {"z0": z0})
        found.append(torch.autograd.grad(out.square().sum(), list(ps.values())))
    torch.testing.assert_close(*found)


def test_autocast_is_the_same_with_and_without_gradients():
    for data in (ImageToGraph()(torch.rand(1, 6, 6)), living()):
        conv, nca = StencilConv(4, 4), GraphNCA(ConvCell(1, 4), steps=3)
        with torch.autocast("cpu", torch.bfloat16):
            half = torch.nn.Linear(1, 4)(data.x)
            assert conv(half, data.edge_index, data.edge_attr).shape == (data.num_nodes, 4)
            graph = (data.x, data.edge_index, data.edge_attr)
            with torch.no_grad():
                quick = nca(*graph)
            torch.testing.assert_close(quick, nca(*graph), atol=1e-5, rtol=1e-5)


def test_inference_mode_copies_and_pickles():
    data = living()
    hood, deq = prepared(data), GraphDEQ(ConvCell(1, 4, contraction=0.9))
    with torch.inference_mode():
        first = deq(data.x, hood)
    size = len(pickle.dumps(hood))
    torch.testing.assert_close(deq(data.x, hood), first.clone())
    again = copy.deepcopy(hood)
    torch.testing.assert_close(deq(data.x, again), first.clone())
    assert len(pickle.dumps(hood)) <= 2 * size  # at most the reversed edges are new


def test_graphs_without_nodes_and_stencils_without_channels():
    none = torch.zeros(2, 0, dtype=torch.long)
    deq = GraphDEQ(GrowingCell(4, 1))
    assert deq(torch.zeros(0, 0), none, torch.zeros(0, 1)).shape == (0, 4)
    data = living()
    empty = prepared(data).stencil(torch.zeros(9, 0, 4))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert empty(torch.zeros(data.num_nodes, 0)).abs().sum() == 0


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-22, 1.0, 1e19, 1e30])
def test_norms_of_tiny_and_huge_stencils(scale):
    weight = torch.randn(9, 4, 4)
    expected = scale * stencil_norm(weight.double())
    torch.testing.assert_close(stencil_norm(weight * scale).double(), expected, rtol=1e-4, atol=0)


def test_a_large_graph_has_the_same_norm_alone_and_in_a_batch():
    value = torch.rand(300_000, 1)
    batch = torch.cat([torch.zeros(5), torch.ones(300_000), 3 * torch.ones(7)]).long()
    with torch.no_grad():
        alone = Partition(None, 300_000).norm(value)
        both = torch.cat([torch.rand(5, 1), value, torch.rand(7, 1)])
        among = Partition(batch, both.size(0), num_graphs=4).norm(both)
    assert float(alone[0]) == float(among[1])
    torch.testing.assert_close(alone.double(), value.double().norm().view(1), rtol=1e-6, atol=0)
    assert float(among[2]) == 0.0


def test_filters_of_another_window_are_refused():
    data = ImageToGraph()(torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="5 x 5 window"):
        PixelKernels((torch.ones(5, 5),))(data)


def test_forward_mode_through_the_equivariant_cell():
    cell = EquivariantCell(2, 4, 8).double()
    z = torch.randn(5, 6, dtype=torch.double)
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    step, v = cell.prepare(z[:, :0], edge_index), torch.randn_like(z)
    _, tangent = torch.func.jvp(step, (z,), (v,))
    eps = 1e-6
    with torch.no_grad():
        expected = (step(z + eps * v) - step(z - eps * v)) / (2 * eps)
    torch.testing.assert_close(tangent, expected, atol=1e-6, rtol=1e-6)


def test_a_prepared_graph_is_pickled_after_a_gradient():
    data = living()
    hood, deq = prepared(data), GraphDEQ(ConvCell(1, 4, contraction=0.9))
    z = deq(data.x, hood)
    z.sum().backward()  # sorts the reversed edges
    for edges in (hood.reversed(), hood.reversed().reversed()):
        pickle.dumps(edges)
    for same in (copy.deepcopy(hood), pickle.loads(pickle.dumps(hood))):
        torch.testing.assert_close(deq(data.x, same), z)
