"""Equilibria of convs within what people use around PyTorch Geometric."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch_geometric.nn as pyg
from conv_table import Works, graph
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import ToSparseTensor
from torch_geometric.utils import to_edge_index

from gncadeq import GraphDEQ


class Net(nn.Module):
    """A graph classifier as in any tutorial, its stack of convs replaced."""

    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        conv = pyg.GCNConv(8, 8) if conv is None else conv
        self.conv = GraphDEQ.from_conv(conv, 3, tol=1e-6, max_steps=100)
        self.linear = pyg.Linear(8, 2)

    def forward(self, x, edge_index, batch=None):
        x = self.conv(x, edge_index, batch=batch)
        return self.linear(x if batch is None else pyg.global_mean_pool(x, batch))


def graphs(count: int = 6):
    out = []
    for seed in range(count):
        data = graph(Works(lambda: None), 6 + seed, seed).apply(
            lambda t: t.float() if t.is_floating_point() else t
        )
        data.x = data.x + (seed % 2)
        data.y = torch.tensor([seed % 2])
        out.append(data)
    return out


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def data():
    return graphs(1)[0]


def test_training_on_mini_batches(net):
    loader = DataLoader(graphs(), batch_size=3, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    losses = []
    for _ in range(15):
        for batch in loader:
            optimizer.zero_grad()
            logits = net(batch.x, batch.edge_index, batch.batch)
            loss = nn.functional.cross_entropy(logits, batch.y)
            loss.backward()
            optimizer.step()
            averaged.update_parameters(net)
            losses.append(float(loss.detach()))
    assert sum(losses[-2:]) < 0.6 * sum(losses[:2])
    batch = next(iter(loader))
    out = averaged(batch.x, batch.edge_index, batch.batch)
    assert out.shape == (3, 2)
    assert not torch.equal(out, net(batch.x, batch.edge_index, batch.batch))


@pytest.mark.parametrize("conv", [pyg.GCNConv, pyg.GATConv, pyg.SAGEConv])
def test_copies_and_files_give_the_same(conv, data, tmp_path):
    net = Net(conv(8, 8))
    expected = net(data.x, data.edge_index)
    fresh = Net(conv(8, 8))
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    save_model(net, str(tmp_path / "net.safetensors"))
    other = Net(conv(8, 8))
    load_model(other, str(tmp_path / "net.safetensors"))
    for same in (fresh, other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same is not net
        torch.testing.assert_close(same(data.x, data.edge_index), expected, rtol=0, atol=0)
        with torch.no_grad():
            same.conv.cell.inject.weight.zero_()
    torch.testing.assert_close(net(data.x, data.edge_index), expected, rtol=0, atol=0)


def test_edges_in_other_forms(net, data):
    expected = net(data.x, data.edge_index)
    typed = EdgeIndex(data.edge_index.contiguous(), sparse_size=(6, 6))
    torch.testing.assert_close(net(data.x, typed), expected)
    sparse = ToSparseTensor(layout=torch.sparse_csr)(data.clone()).adj_t
    with pytest.raises(TypeError, match=r"sparse_csr matrix.*to_edge_index\(adj_t\)"):
        net(data.x, sparse)
    again = to_edge_index(sparse)[0].flip(0)
    torch.testing.assert_close(net(data.x, again), expected)


def test_an_equilibrium_is_a_layer_like_any_other(data):
    model = pyg.Sequential(
        "x, edge_index",
        [
            (GraphDEQ.from_conv(pyg.GCNConv(8, 8), 3), "x, edge_index -> x"),
            nn.ReLU(),
            (pyg.SAGEConv(8, 4), "x, edge_index -> x"),
        ],
    )
    assert model(data.x, data.edge_index).shape == (6, 4)
    pytest.importorskip("tabulate", reason="torch_geometric.nn.summary needs tabulate")
    table = pyg.summary(model, data.x, data.edge_index)
    assert "GraphDEQ" in table
    assert "[6, 8]" in table


@pytest.mark.parametrize("conv", [pyg.GCNConv, pyg.SAGEConv])
def test_gnn_explainer_finds_the_edges_that_matter(conv, data):
    net = Net(conv(8, 8)).eval()
    explainer = Explainer(
        net, GNNExplainer(epochs=20), explanation_type="model", node_mask_type="attributes",
        edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "node",
                      "return_type": "raw"},
    )  # fmt: skip
    explanation = explainer(data.x, data.edge_index, index=0)
    assert explanation.edge_mask.shape == (data.num_edges,)
    assert float(explanation.edge_mask.std()) > 0  # the masks were trained, through the solve
    assert explanation.node_mask.shape == data.x.shape
    torch.testing.assert_close(net(data.x, data.edge_index), net(data.x, data.edge_index))
