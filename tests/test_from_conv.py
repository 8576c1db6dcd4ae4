"""Classes of convs and their options, widths that are found, and errors that name the remedy."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from conftest import run_page
from conv_table import cell_of, plain, weighted, with_loops
from graphs import dense
from torch import nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from gncadeq import ConvCell, GraphDEQ, GraphNCA, WrappedConvCell


@pytest.mark.parametrize(
    ("function", "name"),
    [(torch.tanh, "tanh"), (torch.relu, "relu"), (F.relu, "relu"), (F.gelu, "gelu"),
     (nn.Tanh(), "tanh")],
)  # fmt: skip
def test_an_activation_given_as_a_function_is_the_one_of_that_name(function, name):
    data = plain()
    cells = []
    for activation in (function, name):
        torch.manual_seed(0)
        cells.append(GraphDEQ.from_conv(pyg.GCNConv, 3, channels=4, activation=activation))
    x = torch.rand(data.num_nodes, 3)
    assert torch.equal(cells[0](x, data.edge_index), cells[1](x, data.edge_index))
    assert cells[0].cell.lipschitz_bound(data) == cells[1].cell.lipschitz_bound(data)
    assert cells[0].state_dict().keys() == cells[1].state_dict().keys()


@pytest.mark.parametrize("function", [torch.exp, lambda z: torch.tanh(z), nn.Tanh])
def test_other_functions_are_refused_as_activations(function):
    with pytest.raises(TypeError, match="Expected 'activation' to be a name such as 'tanh'"):
        GraphDEQ.from_conv(pyg.GCNConv, 3, channels=4, activation=function)


def test_a_width_of_x_that_is_not_known_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"'in_channels'.*got -1.*data\.num_features"):
        GraphDEQ.from_conv(pyg.GCNConv, -1, channels=4)


def test_new_convs_start_with_channels_that_see_from_nothing_to_as_far_as_the_bound_allows():
    data = plain()
    options = {"channels": 4, "activation": None, "bias": False, "tol": 1e-12, "max_steps": 300}
    deq = GraphDEQ.from_conv(pyg.GCNConv, 3, **options).double()
    z = deq(data.x, data.edge_index)
    smooth = dense(lambda z: pyg.LGConv()(z, *with_loops(data)), data.num_nodes, 1)
    eye = torch.eye(data.num_nodes, dtype=torch.double)
    drive = deq.cell.inject(data.x)
    for c, far in enumerate((0, 1 / 3, 2 / 3, 1)):
        expected = torch.linalg.solve(eye - 0.9 * far * smooth, drive[:, c])
        torch.testing.assert_close(z[:, c], expected, atol=1e-6, rtol=0)
    assert float(deq.cell.lipschitz_bound(data)) == pytest.approx(0.9)
    (one,) = GraphDEQ.from_conv(pyg.GCNConv, 3, channels=1).cell.conv.lin.weight
    assert float(one) == 10.0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (pyg.GATConv, {}), (pyg.AGNNConv, {}), (pyg.GCN2Conv, {"alpha": 0.1}),
        (pyg.GraphConv, {}), (pyg.GCNConv, {"norm": "LayerNorm"}),
        (pyg.GCNConv, {"contraction": None}),
    ],
)  # fmt: skip
def test_where_the_scale_of_matrices_counts_new_convs_start_as_identities(kind, options):
    cell = GraphDEQ.from_conv(kind, 3, channels=4, **options).cell
    square = [p for p in cell.conv.parameters() if p.shape == (4, 4)]
    assert all(torch.equal(p, torch.eye(4)) for p in square)


def test_constructors_share_options_out():
    deq = GraphDEQ.from_conv(pyg.GCNConv(4, 4), 3, contraction=0.5, tol=1e-5, solver="picard")
    assert (deq.cell.contraction, deq.tol, deq.solver) == (0.5, 1e-5, "picard")
    nca = GraphNCA.from_conv(pyg.GCNConv(4, 4), 3, activation="tanh", steps=7)
    assert isinstance(nca.cell.activation, nn.Tanh)
    assert nca.steps == 7
    assert deq.as_nca().cell is deq.cell
    with pytest.raises(TypeError, match=r"got 'contractoin'.*Did you mean 'contraction'"):
        GraphDEQ.from_conv(pyg.GCNConv(4, 4), 3, contractoin=0.5)


def call(conv: nn.Module, data: Data | None = None, edge_attr=None, **context):
    data = plain() if data is None else data
    deq = GraphDEQ.from_conv(conv, 3, channels=4, on_failure="ignore").double()
    return deq(data.x, data.edge_index, edge_attr, **context)


def test_errors_name_the_remedy():
    data, edges = plain(), plain().num_edges
    with pytest.raises(ValueError, match=r"same width \(got 4 → 2 from GCNConv\)"):
        call(pyg.GCNConv(4, 2))
    with pytest.raises(
        ValueError, match=r"Expected \['pos'\] for PointTransformerConv .*pos=\.\.\."
    ):
        call(pyg.PointTransformerConv(4, 4))
    with pytest.raises(ValueError, match=r"Pass edge_type=\.\.\."):
        call(pyg.RGCNConv(4, 4, 2))
    with pytest.raises(ValueError, match=r"Pass edge_attr=\.\.\."):
        call(pyg.GMMConv(4, 4, 2, 2))
    with pytest.raises(ValueError, match=r"got \['edge_weight'\], and its forward failed"):
        call(pyg.FAConv(4), None, torch.ones(edges).double())
    with pytest.raises(TypeError, match=r"integer 'edge_type' .*\.long\(\)"):
        call(pyg.RGCNConv(4, 4, 2), None, torch.ones(edges).double())
    with pytest.raises(TypeError, match=r"floating-point 'edge_weight'"):
        call(pyg.GCNConv(4, 4), None, torch.ones(edges).long())
    with pytest.raises(TypeError, match=r"'edge_weight' in the type of 'x'"):
        call(pyg.GCNConv(4, 4), None, torch.ones(edges))
    with pytest.raises(ValueError, match=r"\[num_edges\] = \[\d+\] \(got \[\d+, 3\]\)"):
        call(pyg.GCNConv(4, 4), None, torch.ones(edges, 3).double())
    with pytest.raises(ValueError, match=f"a row for each of {edges} edges"):
        call(pyg.GCNConv(4, 4), None, torch.ones(edges + 1).double())
    with pytest.raises(ValueError, match="takes no attributes of edges"):
        call(pyg.SAGEConv(4, 4), None, torch.ones(edges).double())
    ones = torch.ones(edges).double()
    with pytest.raises(ValueError, match="got both"):
        call(pyg.GCNConv(4, 4), None, ones, edge_weight=ones)
    with pytest.raises(TypeError, match="Did you mean 'pos'"):
        call(pyg.PointTransformerConv(4, 4), posi=data.x)
    with pytest.raises(TypeError, match="takes none"):
        GraphDEQ(ConvCell(1, 2))(torch.rand(1, 1), torch.zeros(2, 0).long(), pos=data.x)
    with pytest.raises(ValueError, match=r"in \[0, 8\) .* \(got 0 to 8\)"):
        call(pyg.GCNConv(4, 4), Data(data.x, torch.tensor([[0], [8]])))
    with pytest.raises(TypeError, match="in the type of the parameters"):
        call(pyg.GCNConv(4, 4), Data(data.x.float(), data.edge_index))
    with pytest.raises(ValueError, match="on the device of 'x'"):
        call(pyg.GCNConv(4, 4), Data(data.x, data.edge_index.to("meta")))
    with pytest.raises(ValueError, match=r"shape \[num_nodes\] = \[8\] \(got \[7\]\)"):
        GraphDEQ.from_conv(pyg.GCNConv(4, 4), 3).double()(
            data.x, data.edge_index, batch=torch.zeros(7).long()
        )
    with pytest.raises(ValueError, match="differentiable to its state"):
        call(pyg.LabelPropagation(2, 0.5))
    with pytest.raises(ValueError, match=r"takes 'edge_index'.*got MLP"):
        call(pyg.MLP([4, 4]))
    for options, match in (
        ({"contraction": 0.0}, "'contraction' to be"),
        ({"power_steps": 1}, "'power_steps' to be"),
        ({"init": "eye"}, "'conv', 'identity' or 'ranges'"),
        ({"channels": 0}, "'channels' to be"),
    ):
        with pytest.raises(ValueError, match=match):
            WrappedConvCell(pyg.GCNConv(4, 4), 3, **options)


def test_edge_index_class_and_names_of_edges():
    data = weighted()
    deq = GraphDEQ.from_conv(pyg.GCNConv(4, 4), 3).double()
    expected = deq(data.x, data.edge_index, data.edge_attr)
    typed = EdgeIndex(data.edge_index.contiguous(), sparse_size=(12, 12))
    torch.testing.assert_close(deq(data.x, typed, data.edge_attr), expected)
    torch.testing.assert_close(deq(data.x, data.edge_index, data.edge_attr[:, None]), expected)
    named = deq(data.x, data.edge_index, edge_weight=data.edge_attr)
    torch.testing.assert_close(named, expected)


def test_the_examples_of_the_page_run(capsys):
    names = run_page("from_convs_to_equilibrium")
    assert "converged=1" in capsys.readouterr().out
    assert names["h"].shape == (34, 16)
    assert float(names["conv"].cell.lipschitz_bound(names["data"])) <= 0.9 + 1e-6
    assert list(names["steps"].values()) == sorted(names["steps"].values())


@pytest.mark.parametrize(
    ("dynamics", "option", "meant"),
    [(GraphDEQ, "max_step", "max_steps"), (GraphNCA, "firerate", "fire_rate")],
)
def test_unknown_options_are_named(dynamics, option, meant):
    with pytest.raises(TypeError, match=rf"got '{option}'.*Did you mean '{meant}'"):
        dynamics.from_conv(pyg.GCNConv(4, 4), 2, **{option: 1})


class Own(pyg.MessagePassing):
    """A conv that doesn't say its width, and takes a tensor of unknown form if it is given one."""

    def __init__(self, dim: int = 4, norm: bool = True) -> None:
        super().__init__(aggr="mean")
        self.mlp = nn.Sequential(nn.Linear(2 * dim, 16), nn.Tanh(), nn.Linear(16, dim))
        self.norm = nn.BatchNorm1d(dim) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.5)

    def forward(self, z, edge_index, extra=None):
        return self.dropout(self.norm(self.propagate(edge_index, z=z)))

    def message(self, z_i, z_j):
        return self.mlp(torch.cat([z_i, z_j], 1))


class Misleading(Own):
    """Not one of PyG's, whose names say nothing."""

    out_channels = 7


@pytest.mark.parametrize(
    ("build", "width"),
    [
        (Misleading, 4),
        (lambda: pyg.GINConv(nn.Linear(4, 4)), 4),
        (lambda: pyg.GINConv(pyg.MLP([8, 16, 8], norm=None)), 8),
        (lambda: pyg.GINConv(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(6))), 6),
        (lambda: pyg.GINEConv(nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 8)), edge_dim=3), 8),
        (lambda: pyg.GINEConv(nn.Linear(7, 7)), 7),
        (lambda: pyg.EdgeConv(nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 6))), 6),
        (lambda: pyg.PointNetConv(nn.Linear(8, 5)), 5),
        (lambda: pyg.PPFConv(nn.Linear(9, 5)), 5),
        (lambda: pyg.DirGNNConv(pyg.SAGEConv(4, 4)), 4),
        (Own, 4),
    ],
)
def test_the_width_is_found_by_trying(build, width):
    conv = build().train()
    calls: list = []
    conv.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in conv.state_dict().items()
              if not nn.parameter.is_lazy(value)}  # fmt: skip
    state = torch.get_rng_state()
    cell = WrappedConvCell(conv, 3, bias=False)
    assert cell.channels == width
    torch.set_rng_state(state)
    inject = nn.Linear(3, width, bias=False)
    nn.init.xavier_uniform_(inject.weight)
    assert torch.equal(inject.weight, cell.inject.weight)  # which is all that was drawn
    assert not calls
    assert conv.training
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items()
               if name in before)  # fmt: skip


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: pyg.SimpleConv("mean"), "keeps none that was tried"),
        (pyg.AGNNConv, "keeps several widths"),
        (lambda: pyg.GINConv(nn.Identity()), "keeps none that was tried"),
        (lambda: pyg.GINConv(nn.Linear(4, 5)), "keeps none that was tried"),
    ],
)
def test_a_width_that_nothing_says_is_asked_for(build, why):
    with pytest.raises(ValueError, match=rf"{why}.*Pass channels="):
        WrappedConvCell(build(), 3)
    if build is pyg.AGNNConv:
        assert WrappedConvCell(build(), 3, channels=5).channels == 5


def test_a_traced_solve_is_refused_with_the_way_out():
    data = plain()
    deq = GraphDEQ(cell_of(pyg.GCNConv(4, 4)))
    with pytest.raises(RuntimeError, match=r"gncadeq\.export\.to_onnx"):
        torch.export.export(deq, (data.x, data.edge_index), strict=False)
    with pytest.raises(RuntimeError, match=r"gncadeq\.export\.to_exported_program"):
        torch.jit.trace(deq, (data.x, data.edge_index))
    with pytest.raises(Exception, match=r"deq\.as_nca\(\)"):
        torch.compile(deq, fullgraph=True, backend="eager")(data.x, data.edge_index)
    expected = deq(data.x, data.edge_index)
    compiled = torch.compile(deq, backend="eager")(data.x, data.edge_index)
    torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize("dynamics", [GraphDEQ, GraphNCA])
def test_a_class_makes_a_new_conv_and_a_conv_keeps_its_weights(dynamics):
    trained = pyg.GCNConv(4, 4)
    before = trained.lin.weight.clone()
    assert dynamics.from_conv(trained, 3).cell.conv is trained
    assert torch.equal(trained.lin.weight, before)
    new = dynamics.from_conv(pyg.GCNConv, 3, channels=4).cell
    assert torch.equal(new.conv.lin.weight, 10 * torch.linspace(0, 1, 4).diag())
    nn.init.zeros_(new.conv.lin.weight)
    new.reset_parameters()
    assert torch.equal(new.conv.lin.weight, 10 * torch.linspace(0, 1, 4).diag())
    random = dynamics.from_conv(pyg.GCNConv, 3, channels=4, init="conv").cell
    assert not torch.equal(random.conv.lin.weight, torch.eye(4))


@pytest.mark.parametrize("kind", [pyg.GCNConv, pyg.SAGEConv, pyg.GATConv])
def test_neighbors_count_from_the_start(kind):
    """The share of a state's squared Jacobian that is due to other nodes' inputs; of one node on a
    ring, where all see the same."""

    def share(init: object) -> float:
        torch.manual_seed(0)
        deq = GraphDEQ.from_conv(kind, 4, channels=32, init=init, tol=1e-6)
        x = torch.randn(6, 4) * 0.1
        ring = torch.arange(6)
        edge_index = torch.stack([ring.repeat(2), torch.cat([ring.roll(1), ring.roll(-1)])])
        jacobian = torch.autograd.functional.jacobian(lambda x: deq(x, edge_index)[0], x)
        size = jacobian.square().sum((0, 2))
        return float(1 - size[0] / size.sum())

    random = share("conv")
    assert share("identity") > max(0.3, 2 * random)
    assert share("ranges") > max(0.15, 1.5 * random)  # the first channels see no neighbours


@pytest.mark.parametrize(
    ("kind", "options", "shown"),
    [
        (pyg.GATConv, {"heads": 2, "dropout": 0.5}, "GATConv(8, 4, heads=2)"),
        (pyg.GATConv, {"heads": 2, "concat": False}, "GATConv(8, 8, heads=2)"),
        (partial(pyg.GATv2Conv, heads=4, bias=False), {}, "GATv2Conv(8, 2, heads=4)"),
        (pyg.GCN2Conv, {"alpha": 0.1}, "GCN2Conv(8, alpha=0.1, beta=1.0)"),
        (pyg.GatedGraphConv, {"num_layers": 1}, "GatedGraphConv(8, num_layers=1)"),
        (pyg.ChebConv, {"K": 2}, "ChebConv(8, 8, K=2, normalization=sym)"),
        (Own, {"dim": 8, "norm": "LayerNorm"}, "Own()"),
    ],
)
def test_classes_of_convs_and_their_options(kind, options, shown):
    data = plain()
    deq = GraphDEQ.from_conv(kind, 3, channels=8, on_failure="ignore", **options).double().eval()
    assert repr(deq.cell.conv).startswith(shown[:-1])
    assert deq(data.x, data.edge_index).shape == (8, 8)


def test_classes_that_cannot_have_the_width():
    with pytest.raises(ValueError, match=r"Expected 'channels'.* new GCNConv .*channels=64"):
        GraphDEQ.from_conv(pyg.GCNConv, 3)
    with pytest.raises(ValueError, match=r"that 3 heads divide \(got 8\)"):
        GraphDEQ.from_conv(pyg.GATConv, 3, channels=8, heads=3)
