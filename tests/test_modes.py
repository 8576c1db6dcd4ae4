"""The same answer in every mode: training and evaluation, inference mode, saved and loaded.

The growth of a conv that isn't proven is part of the model. Public reports are named where they
have shown what breaks.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch_geometric.nn as pyg
from conv_table import Works, graph
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm import GraphMaskExplainer

from gncadeq import GraphDEQ, GraphNCA, WrappedConvCell
from gncadeq.testing import assert_batch_independent

CITES = ("a", "cites", "a")


def data_of(num_nodes: int = 12, seed: int = 0) -> Data:
    return graph(Works(lambda: None), num_nodes, seed)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))


MEASURED = {
    "agnn": lambda: pyg.AGNNConv(),
    "gated": lambda: pyg.ResGatedGraphConv(4, 4),
    "gat-state": lambda: pyg.GATConv(4, 4),
    "gin-norm": lambda: pyg.GINConv(normed()),
    "gps": lambda: pyg.GPSConv(4, pyg.SAGEConv(4, 4), heads=2, norm="layer_norm"),
}


def deq_of(conv: nn.Module, **options) -> GraphDEQ:
    options = {"tol": 1e-8, "max_steps": 300, "attention": "state", "contraction": 0.5, **options}
    torch.manual_seed(1)
    return GraphDEQ.from_conv(conv, 3, channels=4, **options).double()


def measured(name: str) -> GraphDEQ:
    torch.manual_seed(0)
    return deq_of(MEASURED[name]())


def evaluations(module: nn.Module) -> list[int]:
    """Counts the calls of a module, in a list of one number."""
    calls = [0]
    module.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


@pytest.mark.parametrize("name", MEASURED)
def test_inference_mode(name):
    """pytorch-lightning #17653, #19910, #14497, torchmd-net #211."""
    data, deq = data_of(), measured(name).eval()
    with torch.inference_mode():
        fresh = deq(data.x, data.edge_index)  # measures
        again = deq(data.x, data.edge_index)
    assert torch.equal(fresh, again)
    torch.testing.assert_close(deq(data.x, data.edge_index), fresh)
    torch.testing.assert_close(measured(name).eval()(data.x, data.edge_index), fresh)
    deq(data.x, data.edge_index).sum().backward()


def hetero() -> GraphDEQ:
    torch.manual_seed(0)
    conv = pyg.HeteroConv({CITES: pyg.GINConv(normed())})
    options = {"tol": 1e-8, "max_steps": 300, "contraction": 0.5}
    return GraphDEQ.from_conv(conv, {"a": 3}, channels=4, **options).double()


def test_inference_mode_of_hetero_convs():
    data, deq = data_of(), hetero().eval()
    graph = {"a": data.x}, {CITES: data.edge_index}
    with torch.inference_mode():
        fresh = deq(*graph)["a"]
    torch.testing.assert_close(hetero().eval()(*graph)["a"], fresh)
    torch.testing.assert_close(deq(*graph)["a"], fresh)
    assert float(deq.cell.growth.value) > 0.5  # the scale counts
    assert deq.cell.measure(*graph) == deq.cell.growth.value
    deq(*graph)["a"].sum().backward()


@pytest.mark.parametrize("conv", [lambda: pyg.ResGatedGraphConv(-1, 4), lambda: pyg.GCNConv(-1, 4)])
def test_weights_made_in_inference_mode_can_be_trained(conv):
    data, deq = data_of(), deq_of(conv())
    with torch.inference_mode():
        expected = deq(data.x, data.edge_index)
    deq(data.x, data.edge_index).sum().backward()
    torch.testing.assert_close(deq.eval()(data.x, data.edge_index), expected)
    assert all(p.grad is not None for p in deq.cell.inject.parameters())


def test_lightning_evaluates_what_it_trains():
    """pytorch-lightning #17653: validate, test and predict run in inference mode."""
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    data, deq = data_of(), measured("gated")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.deq = deq

        def step(self, batch: Data, index: int) -> Tensor:
            return self.deq(batch.x, batch.edge_index).square().mean()

        training_step = step

        def validation_step(self, batch: Data, index: int) -> None:
            self.log("loss", self.step(batch, index), batch_size=1)

        test_step = validation_step

        def predict_step(self, batch: Data, index: int) -> Tensor:
            return self.deq(batch.x, batch.edge_index)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader([data], batch_size=None)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Module()
    trainer.validate(module, loader, verbose=False)
    trainer.fit(module, loader, loader)
    found = trainer.test(module, loader, verbose=False)[0]["loss"]
    (state,) = trainer.predict(module, loader)
    expected = deq.eval()(data.x, data.edge_index)
    torch.testing.assert_close(state, expected, atol=1e-7, rtol=0)
    assert found == pytest.approx(float(expected.square().mean().detach()), rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(MEASURED) - {"gin-norm"}))
def test_training_and_evaluation_solve_one_map(name):
    data, deq = data_of(), measured(name)
    optimizer = torch.optim.SGD(deq.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        deq(data.x, data.edge_index).square().mean().backward()
        optimizer.step()
    trained = deq(data.x, data.edge_index)
    scale = deq.cell.prepare(data.x, data.edge_index).scale
    torch.testing.assert_close(deq.eval()(data.x, data.edge_index), trained)
    assert torch.equal(deq.cell.prepare(data.x, data.edge_index).scale, scale)


def test_with_a_batch_norm_the_modes_differ_by_its_statistics_alone():
    data, deq = data_of(), measured("gin-norm")
    deq(data.x, data.edge_index)
    norm = deq.cell.conv.nn[1]
    assert int(norm.num_batches_tracked) == 1  # once a solve
    step = deq.cell.prepare(data.x, data.edge_index)
    scale = deq.eval().cell.prepare(data.x, data.edge_index).scale
    assert torch.equal(step.scale, scale)
    # A norm with the statistics of the batch at the equilibrium evaluates as it trains.
    z, solution = deq.train()(data.x, data.edge_index, return_solution=True)
    assert bool(solution.converged.all())
    inner = deq.cell.conv.nn[0]((z + _sum(z, data.edge_index)).detach())
    norm.running_mean.copy_(inner.detach().mean(0))
    norm.running_var.copy_(inner.detach().var(0, unbiased=False))
    step = deq.eval().cell.prepare(data.x, data.edge_index)
    torch.testing.assert_close(step(z), z, atol=1e-6, rtol=0)


def _sum(z: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros_like(z).index_add(0, edge_index[1], z[edge_index[0]])


def test_evaluation_needs_no_more_of_the_conv_than_its_steps():
    data, deq = data_of(), measured("gated")
    deq(data.x, data.edge_index)
    calls = evaluations(deq.cell.conv)
    with torch.no_grad():
        _, solution = deq.eval()(data.x, data.edge_index, return_solution=True)
    assert calls[0] <= int(solution.num_steps) + 1


def test_training_measures_when_weights_have_changed():
    data, deq = data_of(), measured("gated")
    growth = deq.cell.growth
    deq(data.x, data.edge_index)
    first, calls = growth.value.clone(), evaluations(deq.cell.conv)
    deq(data_of(9, 5).x, data_of(9, 5).edge_index)  # other graphs are no reason
    assert torch.equal(growth.value, first)
    few = calls[0]
    values = [deq.cell.conv.lin_value.weight, deq.cell.conv.lin_skip.weight]
    with torch.no_grad():
        for weight in values:
            weight.mul_(4)
    deq(data.x, data.edge_index)
    assert calls[0] > few
    assert float(growth.value) > 1.5 * float(first)  # more growth counts at once
    large = growth.value.clone()
    with torch.no_grad():
        for weight in values:
            weight.div_(4)
    deq.eval()(data.x, data.edge_index)
    assert torch.equal(growth.value, large)
    deq.train()(data.x, data.edge_index)
    assert 0.9 * float(large) <= float(growth.value) < float(large)  # less counts slowly
    deq.cell.measure(data.x, data.edge_index)
    assert float(growth.value) < 0.7 * float(large)
    deq.reset_parameters()
    assert bool(growth.value.isnan())


def test_a_graph_in_a_batch_gets_what_it_gets_alone():
    graphs = [data_of(n, n) for n in (6, 14, 9)]
    deq = measured("gated")
    deq.tol = 1e-10
    batch = Batch.from_data_list(graphs)
    assert_batch_independent(deq, batch, atol=1e-8, step_slack=1)
    broken = Batch.from_data_list(graphs)
    broken.x[broken.batch == 1] = float("nan")
    fresh = measured("gated")
    fresh.on_failure = "ignore"
    fresh(broken.x, broken.edge_index, batch=broken.batch)
    rates = [float(measured("gated").cell.measure(g.x, g.edge_index)) for g in graphs]
    assert float(fresh.cell.growth.value) == pytest.approx(max(rates[0], rates[2]))
    assert float(deq.cell.growth.value) == pytest.approx(max(rates))


def test_growth_is_saved_copied_and_averaged():
    data, deq = data_of(), measured("gated")
    deq(data.x, data.edge_index)
    other = data_of(20, 3)
    expected = deq.eval()(other.x, other.edge_index)
    loaded = measured("gated").eval()
    loaded.load_state_dict(deq.state_dict())
    for model in (loaded, copy.deepcopy(deq), pickle.loads(pickle.dumps(deq))):
        assert torch.equal(model(other.x, other.edge_index), expected)
    average = torch.optim.swa_utils.AveragedModel(measured("gated"), use_buffers=True)
    for _ in range(3):
        average.update_parameters(deq)
    torch.testing.assert_close(average.module.cell.growth.value, deq.cell.growth.value)
    half = torch.optim.swa_utils.AveragedModel(measured("gated"), use_buffers=True)
    half.update_parameters(measured("gated"))  # nothing measured yet
    half.update_parameters(deq)
    torch.testing.assert_close(half.module.cell.growth.value, deq.cell.growth.value)


def test_weights_saved_before_growth_was_part_of_the_model():
    data, deq = data_of(), measured("gated").eval()
    old = {name: v for name, v in deq.state_dict().items() if "growth" not in name}
    expected = deq(data.x, data.edge_index)
    assert deq.load_state_dict(old).missing_keys == []
    assert torch.equal(deq(data.x, data.edge_index), expected)


def test_gradients_are_those_of_the_map_with_a_constant_scale():
    data, deq = data_of(5), measured("gated").eval()
    deq.tol = 1e-13
    deq(data.x, data.edge_index)
    parameters = dict(deq.named_parameters())
    names = [n for n in parameters if "lin_value" in n or "lin_key" in n]
    values = [parameters[n].detach().clone().requires_grad_() for n in names]

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(deq, given, (data.x, data.edge_index))

    assert torch.autograd.gradcheck(run, values, atol=1e-6)


def test_graphs_that_say_nothing_are_not_remembered():
    data, deq = data_of(), measured("gated")
    deq.on_failure = "ignore"
    expected = measured("gated")(data.x, data.edge_index)
    none = torch.empty(2, 0, dtype=torch.long)
    assert deq(data.x[:0], none).shape == (0, 4)
    deq(data.x * float("nan"), data.edge_index)
    assert float(deq.cell.growth.weight) == 0
    assert torch.equal(deq(data.x, data.edge_index), expected)
    still = deq_of(pyg.SimpleConv("sum"))
    alone = still(data.x, none)  # without messages nothing grows
    torch.testing.assert_close(alone, still.cell.inject(data.x).tanh(), atol=1e-7, rtol=0)
    assert float(still.cell.growth.weight) == 0
    sums = WrappedConvCell(pyg.GCNConv(4, 4, normalize=False), 3, 4, contraction=None)
    assert float(sums.lipschitz_bound(Data(edge_index=none, num_nodes=0))) == 0


@pytest.mark.parametrize("name", MEASURED)
def test_a_checkpoint_measures_once(name):
    """torch.utils.checkpoint calls again in the backward pass, and compares what was saved."""
    data, deq = data_of(), measured(name)
    x = data.x.requires_grad_()
    found = torch.utils.checkpoint.checkpoint(deq, x, data.edge_index, use_reentrant=False)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    (expected,) = torch.autograd.grad(deq(x, data.edge_index).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_a_model_that_was_built_in_inference_mode_says_so():
    data = data_of()
    with torch.inference_mode():
        deq = measured("gated")
        with pytest.raises(ValueError, match="Build the model outside"):
            deq(data.x, data.edge_index)


def test_what_is_measured_says_so_and_refuses_the_rest():
    data, deq = data_of(), measured("gated")
    assert "deq.cell.measure" in deq.cell.caveat(data.edge_index)
    with pytest.raises(ValueError, match="A proven scale needs no measurement"):
        deq_of(pyg.GCNConv(4, 4)).cell.measure(data.x, data.edge_index)
    with pytest.raises(ValueError, match="contraction=None has no scale"):
        deq_of(pyg.AGNNConv(), contraction=None).cell.measure(data.x, data.edge_index)
    with pytest.raises(ValueError, match=r"growth of AGNNConv to be measured .* Call the model"):
        deq_of(pyg.AGNNConv()).cell.fixed_bound()
    nca = GraphNCA(deq_of(pyg.AGNNConv()).cell, 3)
    assert nca(data.x, data.edge_index).isfinite().all()


def test_what_a_conv_stores_is_there_afterwards():
    class Storing(pyg.AGNNConv):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            self.seen = x
            return super().forward(x, edge_index)

    data, conv = data_of(), Storing()
    z = deq_of(conv)(data.x, data.edge_index)
    torch.testing.assert_close(conv.seen, z, atol=1e-6, rtol=0)
    super_gat = pyg.SuperGATConv(4, 4)
    z = deq_of(super_gat)(data.x, data.edge_index)
    (z.sum() + super_gat.get_attention_loss()).backward()
    assert float(super_gat.att_l.grad.norm()) > 0


@pytest.mark.parametrize("inner", [False, True])
def test_a_cache_lives_as_long_as_a_solve(inner):
    def conv() -> nn.Module:
        torch.manual_seed(0)
        gcn = pyg.GCNConv(4, 4, bias=False, cached=True)
        return pyg.AntiSymmetricConv(4, gcn) if inner else gcn

    one, two = data_of(), data_of(12, 7)
    deq, expected = deq_of(conv()).eval(), []
    for data in (one, two):
        fresh = deq_of(conv()).eval()
        fresh.load_state_dict(deq.state_dict())
        expected.append(fresh(data.x, data.edge_index))
        deq.load_state_dict(fresh.state_dict())
    steps = [deq.cell.prepare(data.x, data.edge_index) for data in (one, two)]
    for step, z in zip(steps, expected, strict=True):  # two graphs at a time
        torch.testing.assert_close(step(z), z, atol=1e-6, rtol=0)
    caches = [m for m in deq.modules() if hasattr(m, "_cached_edge_index")]
    assert [m._cached_edge_index for m in caches] == [None]
    assert [m.cached for m in caches] == [True]


class Net(nn.Module):
    """A classifier of nodes around an equilibrium."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.deq = deq_of(conv, attention="injection", tol=1e-4).float()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.head(self.deq(x, edge_index))


@pytest.mark.parametrize("algorithm", ["gnn", "mask"])
@pytest.mark.parametrize("conv", [pyg.GCNConv, pyg.GATConv, pyg.TransformerConv, pyg.AGNNConv])
def test_explainers(conv, algorithm):
    """pytorch_geometric #8401: an explainer replaces methods of the conv."""
    if algorithm == "mask" and conv in (pyg.TransformerConv, pyg.AGNNConv):
        pytest.skip("GraphMaskExplainer takes convs that name x_i and x_j, or give weights")
    torch.manual_seed(0)
    net, data = Net(conv() if conv is pyg.AGNNConv else conv(4, 4)).eval(), data_of()
    x = data.x.float()
    expected = net(x, data.edge_index)
    masks = GraphMaskExplainer(1, epochs=3, log=False)  # messages of its own: another map
    net.deq.on_failure = "ignore" if algorithm == "mask" else "raise"
    explainer = Explainer(
        net, GNNExplainer(epochs=3) if algorithm == "gnn" else masks,
        explanation_type="model", edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "node",
                      "return_type": "raw"},
    )  # fmt: skip
    mask = explainer(x, data.edge_index, index=0).edge_mask
    assert mask.shape == (data.num_edges,)
    if algorithm == "gnn":
        assert float(mask.abs().sum()) > 0
        assert torch.equal(net(x, data.edge_index), expected)
