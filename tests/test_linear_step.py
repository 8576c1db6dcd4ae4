"""Convs that are linear in the state run as products with a sparse matrix, to the same results."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import (
    APPNP,
    ChebConv,
    GCNConv,
    GraphConv,
    LGConv,
    SAGEConv,
    SGConv,
    TAGConv,
)
from torch_geometric.utils import remove_self_loops, to_undirected

from gncadeq import GraphDEQ, WrappedConvCell
from gncadeq.cells.pyg import conv_scale
from gncadeq.cells.pyg.conv_step import WrappedConvStep
from gncadeq.cells.pyg.linear_step import LinearConvStep
from gncadeq.typing import AdjointStep

CONVS = {
    "GCN": lambda: GCNConv(4, 4),
    "GCN improved": lambda: GCNConv(4, 4, improved=True, bias=False),
    "GCN without loops": lambda: GCNConv(4, 4, add_self_loops=False),
    "GCN as it is": lambda: GCNConv(4, 4, normalize=False),
    "GCN mean": lambda: GCNConv(4, 4, aggr="mean"),
    "GCN backwards": lambda: GCNConv(4, 4, flow="target_to_source"),
    "SAGE": lambda: SAGEConv(4, 4),
    "SAGE sum": lambda: SAGEConv(4, 4, aggr="sum", root_weight=False),
    "GraphConv": lambda: GraphConv(4, 4),
    "GraphConv mean": lambda: GraphConv(4, 4, aggr="mean", bias=False),
    "SG": lambda: SGConv(4, 4, K=3),
    "TAG": lambda: TAGConv(4, 4, K=2),
    "TAG as it is": lambda: TAGConv(4, 4, K=2, normalize=False, bias=False),
    "Cheb": lambda: ChebConv(4, 4, K=4),
    "Cheb of one": lambda: ChebConv(4, 4, K=1, bias=False),
    "Cheb rw": lambda: ChebConv(4, 4, K=3, normalization="rw"),
    "LG": lambda: LGConv(),
    "LG as it is": lambda: LGConv(normalize=False),
    "APPNP": lambda: APPNP(K=3, alpha=0.2),
    "APPNP dropout": lambda: APPNP(K=3, alpha=0.2, dropout=0.5).eval(),
}
WEIGHTED = {name for name in CONVS if not name.startswith("SAGE")}


class PlainStep:
    """PyG's form for all."""

    of_step = staticmethod(lambda step: step)


def graphs(directed: bool = False) -> Batch:
    torch.manual_seed(0)
    data = []
    for n, scale in ((9, 0.1), (5, 3.0), (1, 1.0)):  # with double edges, and a node alone
        edges = torch.randint(n, (2, 3 * n))
        edges = edges if directed else to_undirected(edges)
        data.append(Data(x=scale * torch.randn(n, 3), edge_index=edges, num_nodes=n))
    return Batch.from_data_list(data).to("cpu")


def outcome(cell, data: Batch, weight) -> list[torch.Tensor]:
    """State, steps and all gradients of a solve."""
    deq = GraphDEQ(copy.deepcopy(cell), tol=1e-10, max_steps=300, on_failure="ignore")
    x = data.x.double().requires_grad_()
    given = {} if weight is None else {"edge_weight": weight.clone().requires_grad_()}
    z, solution = deq(x, data.edge_index, batch=data.batch, return_solution=True, **given)
    inputs = [x, *given.values(), *(p for p in deq.parameters() if p.requires_grad)]
    grads = torch.autograd.grad((z * torch.arange(4)).sin().sum(), inputs, allow_unused=True)
    return [z.detach(), solution.num_steps, *(g for g in grads if g is not None)]


def test_sparse_injections_in_half_precision_and_with_dense_dimensions():
    deq = GraphDEQ.from_conv(GCNConv(4, 4), 6, contraction=0.8)
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    x = torch.rand(3, 6).half()
    torch.testing.assert_close(deq(x.to_sparse(), edge_index), deq(x, edge_index))
    with pytest.raises(ValueError, match="without dense dimensions"):
        deq(torch.sparse_coo_tensor([[0, 2]], torch.rand(2, 6), (3, 6)), edge_index)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("batched", [True, False])
def test_a_sparse_injection_is_the_dense_one(layout, batched):
    data = graphs()
    x = torch.where(torch.rand(data.num_nodes, 3) < 0.4, torch.randn(data.num_nodes, 3), 0.0)
    x = x.double()
    batch = data.batch if batched else None
    for conv, weight in ((GCNConv(4, 4), None), (SAGEConv(4, 4), None)):
        torch.manual_seed(2)
        cell = WrappedConvCell(conv, 3).double()
        found = []
        for given in (x, x.to_sparse(layout=layout)):
            deq = GraphDEQ(cell, tol=1e-11, max_steps=300)
            z, solution = deq(given, data.edge_index, weight, batch, return_solution=True)
            grads = torch.autograd.grad(z.sin().sum(), list(cell.parameters()))
            nca = deq.as_nca(steps=3)(given, data.edge_index, weight, batch)
            bound = solution.error_bound
            found.append([z.detach(), solution.num_steps, bound, nca.detach(), *grads])
        for mine, whole in zip(*found, strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"'x' of shape \[num_nodes, in_channels\] = \[\*, 3\]"):
        deq(x[:, :2].to_sparse(layout=layout), data.edge_index)


def test_a_graph_that_changes_in_place_is_another_graph():
    torch.manual_seed(3)
    data, deq = graphs(), GraphDEQ.from_conv(GCNConv(4, 4), 3, tol=1e-6)
    x, edge_index = data.x, data.edge_index.clone()
    weight = torch.rand(edge_index.size(1))

    def fresh():
        return copy.deepcopy(deq)(x, edge_index.clone(), edge_weight=weight.clone())

    deq(x, edge_index, edge_weight=weight)
    edge_index[1, :5] = edge_index[0, :5]
    torch.testing.assert_close(deq(x, edge_index, edge_weight=weight), fresh())
    weight.data[3] = 2.0  # of which its version doesn't tell
    torch.testing.assert_close(deq(x, edge_index, edge_weight=weight), fresh())
    deq.cell.conv.add_self_loops = False
    torch.testing.assert_close(deq(x, edge_index, edge_weight=weight), fresh())
    few = edge_index[:, (edge_index < 9).all(0)]
    torch.testing.assert_close(deq(x[:9], few), copy.deepcopy(deq)(x[:9], few))


FEW = [(name, act) for name in ("GCN", "GraphConv", "Cheb") for act in ("relu", None, "elu")]


@pytest.mark.parametrize(("name", "activation"), [*((name, "tanh") for name in CONVS), *FEW])
def test_the_form_changes_nothing(name, activation, monkeypatch):
    """In state, steps and gradients; where its slope is known, the adjoint is written out."""
    torch.manual_seed(1)
    cell = WrappedConvCell(CONVS[name](), 3, 4, activation=activation).double()
    if "dropout" in name:
        cell.eval()
    data = graphs()
    weights = [None]
    if name in WEIGHTED:  # the same both ways
        source, target = data.edge_index
        weights.append(0.5 + ((source * target) % 5).double())
    for weight in weights:
        given = {} if weight is None else {"edge_weight": weight}
        step = cell.prepare(data.x.double(), data.edge_index, **given)
        assert isinstance(step, LinearConvStep)
        assert isinstance(step, AdjointStep) == (activation != "elu")
        lowered = outcome(cell, data, weight)
        with monkeypatch.context() as patch:
            patch.setattr(conv_scale, "LinearConvStep", PlainStep)
            assert type(cell.prepare(data.x.double(), data.edge_index, **given)) is not type(step)
            plain = outcome(cell, data, weight)
        assert len(lowered) == len(plain) > 3
        for mine, expected in zip(lowered, plain, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["GCN", "GraphConv mean", "APPNP"])
def test_derivatives_of_both_orders(name):
    torch.manual_seed(1)
    cell = WrappedConvCell(CONVS[name](), 3, 4, contraction=None).double()
    data = graphs(directed=True)[0]
    data.edge_index = remove_self_loops(data.edge_index)[0]  # of which gcn_norm keeps one only
    weight = torch.rand(data.num_edges, dtype=torch.double, requires_grad=True)
    z = torch.randn(data.num_nodes, 4, dtype=torch.double, requires_grad=True)

    def step(z, weight):
        return cell.prepare(data.x.double(), data.edge_index, edge_weight=weight)(z)

    assert torch.autograd.gradcheck(step, (z, weight))
    assert torch.autograd.gradgradcheck(step, (z, weight))


def hooked(conv):
    conv.lin.register_forward_hook(lambda *_: None)
    return conv


def replaced(conv):
    conv.lin = nn.Sequential(conv.lin)
    return conv


def messages_replaced(conv):
    conv.message = lambda x_j, edge_weight: 2 * x_j
    return conv


def message_hooked(conv):
    conv.register_propagate_forward_hook(lambda *_: None)
    return conv


def explained(conv):
    conv.explain = True
    conv._edge_mask = nn.Parameter(torch.ones(8))
    conv._loop_mask = torch.ones(8, dtype=torch.bool)
    conv._apply_sigmoid = True
    return conv


class Doubled(GCNConv):
    def message(self, x_j, edge_weight):
        return 2 * super().message(x_j, edge_weight)


OTHERS = {
    "hooked": lambda: hooked(GCNConv(4, 4)),
    "message hooked": lambda: message_hooked(GCNConv(4, 4)),
    "replaced": lambda: replaced(GCNConv(4, 4)),
    "messages replaced": lambda: messages_replaced(GCNConv(4, 4)),
    "explained": lambda: explained(GCNConv(4, 4, add_self_loops=False)),
    "parametrised": lambda: with_norm(GCNConv(4, 4)),
    "subclass": lambda: Doubled(4, 4),
    "largest": lambda: SAGEConv(4, 4, aggr="max"),
    "unit": lambda: SAGEConv(4, 4, normalize=True),
    "projected": lambda: SAGEConv(4, 4, project=True),
    "dropout": lambda: APPNP(K=3, alpha=0.2, dropout=0.5),
    "with a second bias": lambda: with_linear(GCNConv(4, 4)),
}


def with_linear(conv):
    conv.lin = nn.Linear(4, 4)
    return conv


def with_norm(conv):
    nn.utils.parametrizations.weight_norm(conv.lin)
    return conv


@pytest.mark.parametrize("name", OTHERS)
def test_what_somebody_has_changed_keeps_its_own_form(name):
    cell = WrappedConvCell(OTHERS[name](), 3, 4, contraction=None)
    edges = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
    step = cell.prepare(torch.rand(4, 3), edges)
    assert isinstance(step, WrappedConvStep)
    assert not isinstance(step, LinearConvStep)


def test_hooks_of_all_modules_are_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        cell = WrappedConvCell(GCNConv(4, 4), 3, 4)
        cell(torch.zeros(2, 4), torch.rand(2, 3), torch.tensor([[0, 1], [1, 0]]))
    finally:
        handle.remove()
    assert GCNConv in seen


def test_autocast_keeps_the_form_of_pyg():
    torch.manual_seed(0)
    cell = WrappedConvCell(GCNConv(4, 4), 3, 4)
    edges = torch.tensor([[0, 1], [1, 0]])
    step = cell.prepare(torch.rand(2, 3), edges)
    with torch.autocast("cpu"):
        z = torch.rand(2, 4)
        y = step.output(z)
        expected = WrappedConvStep.output(step, z)
    assert isinstance(step, LinearConvStep)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("kind", [GCNConv, SAGEConv])
def test_weights_that_changed_since_the_solve_are_noticed(kind):
    """The transposed Jacobian is that of the weights now, which autograd doesn't look after."""
    torch.manual_seed(0)
    deq = GraphDEQ.from_conv(kind(3, 3), in_channels=2)
    z = deq(torch.rand(4, 2), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))
    z.sum().backward(retain_graph=True)
    with torch.no_grad():
        deq.cell.conv.bias.mul_(2) if kind is GCNConv else deq.cell.conv.lin_l.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
