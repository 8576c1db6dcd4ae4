"""Bounds are claimed for exactly known convs alone, and hold; all others are measured.

Public reports are named where they have shown what breaks.
"""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from conv_table import Works, graph
from torch import Tensor, nn
from torch.nn.utils import prune
from torch_geometric.data import Data

from gncadeq import GraphDEQ, WrappedConvCell
from gncadeq.cells import proven_bound
from gncadeq.dynamics import ConvergenceError


def data_of(num_nodes: int = 12, seed: int = 0) -> Data:
    return graph(Works(lambda: None), num_nodes, seed)


def deq_of(conv: nn.Module, **options) -> GraphDEQ:
    options = {"tol": 1e-8, "max_steps": 300, "attention": "state", "contraction": 0.5, **options}
    torch.manual_seed(1)
    return GraphDEQ.from_conv(conv, 3, channels=4, **options).double()


def test_dropout_in_the_network_of_a_sum_does_not_change_evaluation():
    def cell_of(*parts: nn.Module) -> WrappedConvCell:
        torch.manual_seed(0)
        first, last = nn.Linear(4, 4), nn.Linear(4, 4)
        torch.manual_seed(1)
        conv = pyg.GINConv(nn.Sequential(first, nn.ReLU(), *parts, last))
        return WrappedConvCell(conv, 3, 4).double()

    data, z = data_of(), torch.randn(12, 4, dtype=torch.double)
    plain, dropping = cell_of(), cell_of(nn.Dropout(0.5))
    assert dropping.proven
    for mode in (True, False):
        scales = [c.train(mode).prepare(data.x, data.edge_index).scale for c in (plain, dropping)]
        assert torch.equal(*scales)
    assert torch.equal(plain(z, data.x, data.edge_index), dropping(z, data.x, data.edge_index))
    assert float(dropping.lipschitz_bound()) == pytest.approx(0.9)
    assert float(dropping.train().lipschitz_bound()) == float("inf")
    propagation = WrappedConvCell(pyg.APPNP(3, 0.1, dropout=0.5), 3, 4)
    assert float(propagation.lipschitz_bound()) == float("inf")
    assert float(propagation.eval().lipschitz_bound()) == pytest.approx(0.9)


class Adapted(nn.Module):
    """A low-rank adapter around a linear map."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear, self.weight, self.bias = linear, linear.weight, linear.bias
        self.left, self.right = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.ones(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ (self.left @ self.right).T


def _hooked(conv: nn.Module) -> nn.Module:
    conv.lin.register_forward_hook(lambda module, inputs, output: 5 * output)
    return conv


def _adapted(conv: nn.Module) -> nn.Module:
    conv.lin = Adapted(conv.lin)
    return conv


def _replaced_method(conv: nn.Module) -> nn.Module:
    message = conv.message
    conv.message = lambda x_j, edge_weight: 3 * message(x_j, edge_weight)
    return conv


def _weight_norm(conv: nn.Module) -> nn.Module:
    torch.nn.utils.weight_norm(conv.lin)
    return conv


def _spectral_norm(conv: nn.Module) -> nn.Module:
    torch.nn.utils.spectral_norm(conv.lin)
    return conv


def _spectral_norm_parametrised(conv: nn.Module) -> nn.Module:
    torch.nn.utils.parametrizations.spectral_norm(conv.lin)
    return conv


def _pruned(conv: nn.Module) -> nn.Module:
    prune.l1_unstructured(conv.lin, "weight", 0.25)
    return conv


ALTERED = [
    _hooked, _adapted, _replaced_method, _weight_norm, _spectral_norm, _spectral_norm_parametrised,
    _pruned,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("alter", ALTERED)
def test_nothing_is_claimed_of_altered_convs_which_train_all_the_same(alter):
    """pytorch #61470, higher #14, locuslab/deq #23: the weight of the last call, freed."""
    torch.manual_seed(0)
    data = data_of()
    conv = alter(pyg.GCNConv(4, 4))
    deq = deq_of(conv, contraction=0.8)
    assert not deq.cell.proven
    assert float(deq.cell.lipschitz_bound(Data(edge_index=data.edge_index))) == float("inf")
    if alter is not _replaced_method:
        assert proven_bound(conv) is None
    optimizer = torch.optim.SGD(deq.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        z, solution = deq(data.x, data.edge_index, return_solution=True)
        assert bool(solution.converged.all())
        (z - 1).square().mean().backward()
        optimizer.step()
    deq.eval()
    with torch.no_grad():
        for parameter in conv.lin.parameters():
            parameter.mul_(0.8)
        one, two = (deq(data.x, data.edge_index) for _ in range(2))
    assert torch.equal(one, two)


def test_hooks_that_look_on_change_nothing():
    data = data_of()
    for conv in (pyg.GCNConv(4, 4), pyg.GINConv(nn.Linear(4, 4)), pyg.TAGConv(4, 4)):
        deq = deq_of(conv)
        expected = deq(data.x, data.edge_index)
        for module in conv.modules():
            module.register_forward_hook(lambda module, inputs, output: None)
        torch.testing.assert_close(deq(data.x, data.edge_index), expected)
    attention = pyg.GATConv(4, 4)
    deq = deq_of(attention, attention="injection")
    attention.register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(ValueError, match="use attention='state'"):
        deq(data.x, data.edge_index)


@pytest.mark.parametrize("parametrise", ["weight_norm", "orthogonal"])
def test_parametrisations_that_are_computed_anew_keep_the_proof(parametrise):
    data = data_of()
    for conv, name in ((pyg.GCNConv(4, 4), "lin"), (pyg.GCN2Conv(4, 0.1, 0.5, 1), "")):
        owner = conv.get_submodule(name)
        getattr(torch.nn.utils.parametrizations, parametrise)(
            owner, "weight1" if not name else "weight"
        )
        deq = deq_of(conv)
        deq(data.x, data.edge_index).sum().backward()
        assert deq.cell.proven
        with torch.no_grad():
            for parameter in owner.parametrizations.parameters():
                parameter.mul_(1.5)
        bound = float(proven_bound(conv).detach())
        weight = (
            conv.lin.weight if name else torch.lerp(torch.eye(4).double(), conv.weight1, conv.beta)
        )
        expected = float(torch.linalg.matrix_norm(weight.detach(), 2)) * (1.0 if name else 0.9)
        assert bound == pytest.approx(expected, rel=1e-5)


def test_a_largest_eigenvalue_given_by_hand():
    """ChebConv's bound is one for the eigenvalue 2, of the symmetric Laplacian."""
    torch.manual_seed(0)
    data = data_of()
    deq = deq_of(pyg.ChebConv(4, 4, 4), contraction=0.8)
    bound = deq.cell.lipschitz_bound
    assert float(bound(data)) <= 0.8 + 1e-6
    data.lambda_max = torch.tensor(0.3).double()
    assert float(bound(data)) == float("inf")
    assert "measured" in deq.cell.caveat(data.edge_index, lambda_max=data.lambda_max)
    _, solution = deq(data.x, data.edge_index, lambda_max=data.lambda_max, return_solution=True)
    assert bool(solution.converged.all())
    assert float(deq.cell.growth.value) > 1


def test_networks_of_pyg_in_a_sum_are_known():
    def known(**options) -> bool:
        options = {"norm": None, "act": "relu", **options}
        return WrappedConvCell(pyg.GINConv(pyg.MLP([4, 6, 4], **options)), 3, 4).proven

    assert known()
    assert known(dropout=0.5)
    assert known(act="tanh", plain_last=False)
    assert known(act=None)
    assert not known(norm="batch_norm")
    assert not known(act="elu")
    torch.manual_seed(0)
    mlp = pyg.MLP([4, 6, 4], norm=None)
    twin = nn.Sequential(mlp.lins[0], nn.ReLU(), mlp.lins[1])
    data = data_of()
    cells = [WrappedConvCell(pyg.GINConv(net), 3, 4).double() for net in (mlp, twin)]
    scales = [cell.prepare(data.x, data.edge_index).scale for cell in cells]
    torch.testing.assert_close(*scales)


UNNORMALISED = {
    "gcn": (lambda n: pyg.GCNConv(4, 4, normalize=n)),
    "gcn2": (lambda n: pyg.GCN2Conv(4, 0.1, 0.5, 1, normalize=n)),
    "tag": (lambda n: pyg.TAGConv(4, 4, normalize=n)),
    "lg": (lambda n: pyg.LGConv(normalize=n)),
    "appnp": (lambda n: pyg.APPNP(3, 0.1, normalize=n)),
}


@pytest.mark.parametrize("name", UNNORMALISED)
def test_edges_normalised_beforehand_give_the_same_equilibrium(name):
    """With torch_geometric.transforms.GCNNorm, as PyG's own examples do."""
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    data = data_of()
    loops = name not in ("tag", "lg")
    edges, weight = gcn_norm(data.edge_index, None, 12, add_self_loops=loops, dtype=torch.double)
    inside, outside = (deq_of(UNNORMALISED[name](n)) for n in (True, False))
    outside.load_state_dict(inside.state_dict())
    expected = inside(data.x, data.edge_index)
    found = outside(data.x, edges, weight)
    assert outside.cell.proven
    torch.testing.assert_close(found, expected, atol=1e-2 if name == "appnp" else 1e-3, rtol=0)


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("name", UNNORMALISED)
def test_the_bound_with_weights_as_they_come_holds(name, flow):
    """On directed graphs with weights of both signs, whichever units a ReLU switches off."""
    torch.manual_seed(0)
    n, conv = 9, UNNORMALISED[name](False)
    conv.flow = flow
    edge_index = torch.randint(0, n, (2, 25)).unique(dim=1)
    weight = 2 * torch.randn(edge_index.size(1), dtype=torch.double)
    x = torch.randn(n, 3, dtype=torch.double)
    cell = WrappedConvCell(conv, 3, 4, activation=None, contraction=0.8).double()
    step = cell.prepare(x, edge_index, weight)
    zero = torch.zeros(n, 4, dtype=torch.double)
    basis = torch.eye(4 * n, dtype=torch.double).view(-1, n, 4)
    matrix = torch.stack([(step(e) - step(zero)).flatten() for e in basis], 1).detach()
    most = 0.0
    for _ in range(50):
        mask = (torch.rand(4 * n) < 0.7).double()
        radius = float(torch.linalg.eigvals(mask.unsqueeze(1) * matrix).abs().max())
        most = max(most, radius)
        assert radius <= 0.8 + 1e-9
    assert most > 0.1
    assert float(cell.lipschitz_bound(Data(x, edge_index, weight))) == pytest.approx(0.8)
    free = WrappedConvCell(conv, 3, 4, contraction=None).double()
    assert float(free.lipschitz_bound(Data(x, edge_index, weight))) > 0.8


@pytest.mark.parametrize(
    "conv",
    [
        lambda: pyg.RGCNConv(4, 4, 1), lambda: pyg.ClusterGCNConv(4, 4), lambda: pyg.LEConv(4, 4),
        lambda: pyg.MixHopConv(4, 2, [0, 1]), lambda: pyg.SimpleConv("mean"),
        lambda: _adapted(pyg.GCNConv(4, 4, normalize=False)),
    ],
)  # fmt: skip
def test_linear_convs_are_bounded_for_every_state(conv):
    """Whichever units a ReLU switches off, not only those that are off at one state."""
    torch.manual_seed(0)
    data = data_of()
    cell = WrappedConvCell(conv(), 3, 4, activation=None, contraction=0.5).double()
    context = {}
    if "edge_type" in cell.context:
        context["edge_type"] = torch.zeros(data.num_edges, dtype=torch.long)
    step = cell.prepare(data.x, data.edge_index, **context)
    zero = torch.zeros(12, 4, dtype=torch.double)
    basis = torch.eye(48, dtype=torch.double).view(-1, 12, 4)
    matrix = torch.stack([(step(e) - step(zero)).flatten() for e in basis], 1).detach()
    degree = torch.bincount(data.edge_index[1], minlength=12).double().sqrt()
    weighted = degree.repeat_interleave(4).unsqueeze(1)
    norms = [
        float(torch.linalg.matrix_norm(m, 2)) for m in (matrix, weighted * matrix / weighted.T)
    ]
    if float(cell.growth.value) > 0.5:
        assert min(norms) == pytest.approx(0.5, rel=0.1)
    masks = [(torch.rand(48) < 0.7).double().unsqueeze(1) for _ in range(50)]
    radius = max(float(torch.linalg.eigvals(mask * matrix).abs().max()) for mask in masks)
    assert radius <= 0.55


@pytest.mark.parametrize(
    "conv",
    [
        lambda share: pyg.SSGConv(4, 4, share, 2), lambda share: pyg.APPNP(2, share),
        lambda share: pyg.GCN2Conv(4, share, 0.5, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [-0.5, 0.3, 1.5, 3.0])
def test_shares_outside_of_zero_and_one_are_bounded(conv, share):
    torch.manual_seed(0)
    data = data_of()
    cell = WrappedConvCell(conv(share), 3, 4, activation=None, contraction=0.9).double().eval()
    step = cell.prepare(data.x, data.edge_index)
    zero = torch.zeros(12, 4, dtype=torch.double)
    basis = torch.eye(48, dtype=torch.double).view(-1, 12, 4)
    matrix = torch.stack([(step(e) - step(zero)).flatten() for e in basis], 1).detach()
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert norm <= float(cell.lipschitz_bound()) + 1e-9
    assert norm > 0.05


def test_spectral_norms_and_dropout_stand_still_for_a_solve():
    """The power iteration moves on once a training step, the dropout of PyG's MLP is one draw."""
    torch.manual_seed(0)
    data = data_of()
    conv = pyg.GCNConv(4, 4)
    torch.nn.utils.parametrizations.spectral_norm(conv.lin)
    deq = deq_of(conv)
    vector = conv.lin.parametrizations.weight[0]._u
    deq(data.x, data.edge_index)
    before = vector.clone()
    with torch.no_grad():
        deq(data.x, data.edge_index)
        weight = conv.lin.parametrizations.weight.original
        expected = nn.functional.normalize(
            weight @ nn.functional.normalize(weight.T @ before, dim=0), dim=0
        )
    torch.testing.assert_close(vector, expected)
    deq = deq_of(pyg.GINConv(pyg.MLP([4, 6, 4], norm=None, dropout=0.5)))
    z, solution = deq(data.x, data.edge_index, return_solution=True)
    assert bool(solution.converged.all())
    assert not torch.equal(deq(data.x, data.edge_index), z)


def test_negative_degrees_are_named():
    """pytorch_geometric #795, #10549: a normalisation takes their roots."""
    data, deq = data_of(), deq_of(pyg.GCNConv(4, 4), on_failure="raise")
    weight = -torch.ones(data.num_edges, dtype=torch.double)
    with pytest.raises(ConvergenceError, match=r"below zero .* or a conv with normalize=False"):
        deq(data.x, data.edge_index, weight)
    signed = deq_of(pyg.GCNConv(4, 4, normalize=False), on_failure="raise")
    assert signed(data.x, data.edge_index, weight).isfinite().all()
