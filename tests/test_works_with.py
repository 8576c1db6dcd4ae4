"""What is used around PyTorch and PyTorch Geometric works around an equilibrium."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import REPOSITORY, run_page
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import KarateClub
from torch_geometric.explain import CaptumExplainer, Explainer
from torch_geometric.loader import RandomNodeLoader
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from gncadeq import GraphDEQ

PAGE = (REPOSITORY / "docs" / "works_with.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_snippets_of_the_page_run(capsys):
    for name in ("lightning", "captum", "yacs"):
        pytest.importorskip(name, reason="the page shows all of it")
    run_page("works_with")
    output = capsys.readouterr().out
    assert "torch.bfloat16 torch.float32 True" in output
    assert "torch.Size([3, 3]) torch.Size([4])" in output
    for target in re.findall(r"\]\(#(.*?)\)", PAGE):
        titles = [re.sub(r"[^\w\- ]", "", t).strip().lower().replace(" ", "-")
                  for t in re.findall(r"^## (.*)$", PAGE, re.M)]  # fmt: skip
        assert target in titles


class Nodes(nn.Module):
    """A node classifier."""

    def __init__(self, conv: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(in_channels, 6)
        self.deq = GraphDEQ.from_conv(conv, 6, tol=1e-6, max_steps=200)
        self.head = nn.Linear(8, 4)

    def forward(self, x, edge_index):
        return self.head(self.deq(self.encoder(x), edge_index))


@pytest.mark.parametrize("conv", [GCNConv, SAGEConv, GATConv])
def test_a_model_in_bfloat16_solves_in_float32(conv):
    data, net = KarateClub()[0], Nodes(conv(8, 8), 34)
    exact = net.deq(net.encoder(data.x), data.edge_index)
    with torch.autocast("cpu", torch.bfloat16):
        h = net.encoder(data.x)
        z, solution = net.deq(h, data.edge_index, return_solution=True)
        loss = nn.functional.cross_entropy(net.head(z), data.y)
        assert net(data.x, data.edge_index).dtype == torch.bfloat16
    assert (h.dtype, z.dtype) == (torch.bfloat16, torch.float32)
    assert float(solution.residual.max()) <= 1e-6
    torch.testing.assert_close(z, exact, rtol=0.02, atol=0.02)  # what the encoder rounded away
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())
    assert float(net.encoder.weight.grad.norm()) > 0


@pytest.mark.parametrize("method", ["IntegratedGradients", "Saliency"])
def test_captum_attributes_the_equilibrium(method):
    """Integrated gradients add up to the difference that they explain, through the solve."""
    pytest.importorskip("captum", reason="needs captum")
    edge_index = torch.tensor([[0, 1, 1, 2, 2, 3, 4, 5], [1, 0, 2, 1, 3, 2, 5, 4]])
    x, net = torch.rand(6, 3), Nodes(GCNConv(8, 8), 3).eval()
    explainer = Explainer(
        net, CaptumExplainer(method, **({"n_steps": 50} if "Int" in method else {})),
        explanation_type="model", node_mask_type="attributes",
        model_config={"mode": "multiclass_classification", "task_level": "node",
                      "return_type": "raw"},
    )  # fmt: skip
    explanation = explainer(x, edge_index, index=0)
    mask = explanation.node_mask
    assert float(mask[3].abs().sum()) > 0  # three hops away
    assert float(mask[4:].abs().sum()) == 0  # another component
    if method == "IntegratedGradients":
        with torch.no_grad():
            out, base = net(x, edge_index)[0], net(torch.zeros_like(x), edge_index)[0]
            label = int(out.argmax())
            torch.testing.assert_close(mask.sum(), (out - base)[label], rtol=0.02, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Could not define global config")
@pytest.mark.parametrize("name", ["deq_gcnconv", "deq_sageconv", "deq_gatconv"])
def test_graphgym_builds_layers_by_name(name):
    import importlib

    pytest.importorskip("yacs", reason="GraphGym needs yacs")
    from torch_geometric.graphgym.models.layer import GeneralLayer, LayerConfig

    import gncadeq.graphgym

    importlib.reload(gncadeq.graphgym)
    config = LayerConfig(dim_in=3, dim_out=8, has_batchnorm=True, has_l2norm=False)
    layer = GeneralLayer(name, config)
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graphs = [Data(x=torch.rand(3, 3), edge_index=edge_index) for _ in range(3)]
    batch = layer(Batch.from_data_list(graphs))
    assert batch.x.shape == (9, 8)
    batch.x.sum().backward()
    assert layer.layer.model.cell.inject.bias is None  # the batch norm has one
    layer.eval()
    alone = layer(graphs[1].clone()).x
    together = layer(Batch.from_data_list(graphs)).x
    torch.testing.assert_close(together[3:6], alone)


def test_random_node_loader_covers_all_nodes():
    data = KarateClub()[0]
    data.index = torch.arange(data.num_nodes)
    deq, seen = GraphDEQ.from_conv(GCNConv(8, 8), 34), []
    for part in RandomNodeLoader(data, num_parts=3, shuffle=True):
        assert deq(part.x, part.edge_index).shape == (part.num_nodes, 8)
        seen.append(part.index)
    assert torch.equal(torch.cat(seen).sort().values, data.index)
