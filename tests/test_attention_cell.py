"""Attention among neighbours, as a free rule and held in a cascade."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import TransformerConv

from gncadeq import CascadeCell, GraphDEQ, GraphNCA, Part, WrappedConvCell
from gncadeq.cells import AttentionCell
from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_exact,
    assert_honest_residual,
    assert_local,
    assert_one_rule,
    assert_permutation_equivariant,
)


def graph(num_nodes: int = 7, seed: int = 0) -> Data:
    """A directed graph with parallel edges, a loop, a lonely node, and attributes of edges."""
    g = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, num_nodes - 1, (2, 3 * num_nodes), generator=g)
    x = torch.randn(num_nodes, 2, dtype=torch.double, generator=g)
    edge_attr = torch.randn(3 * num_nodes, 3, dtype=torch.double, generator=g)
    return Data(x=x, edge_index=edge_index, edge_attr=edge_attr, num_nodes=num_nodes)


def made(edge_dim: int | None = 3) -> AttentionCell:
    torch.manual_seed(1)
    cell = AttentionCell(2, 4, 2, 6, 5, edge_dim).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.4)
    return cell


def held() -> CascadeCell:
    """Two parts, each a transformer block whose attention is held and solved."""
    torch.manual_seed(1)
    parts = []
    for p in range(2):
        conv = TransformerConv(4, 2, heads=2, edge_dim=3, root_weight=False)
        drive = nn.Sequential(nn.LayerNorm(2 + 4 * p), nn.Linear(2 + 4 * p, 4), nn.GELU())
        reads = ["x"] if p == 0 else ["x", 0]
        parts.append(Part(WrappedConvCell(conv, 4, contraction=0.8), drive, reads))
    return CascadeCell(parts, 2).double()


def normalised(h: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(h, h.shape[1:], norm.weight, norm.bias)


def test_the_step_is_its_equation():
    cell, data = made(), graph()
    z = torch.randn(7, 4, dtype=torch.double)
    h = z @ cell.embed_z.weight.t() + cell.embed_x(data.x)
    q, k, v = (normalised(h, cell.norm_attention) @ cell.qkv.weight.t()).view(7, 3, 2, 3).unbind(1)
    heard = torch.zeros(7, 2, 3, dtype=torch.double)
    for i in range(7):
        into = (data.edge_index[1] == i).nonzero().flatten()
        source = data.edge_index[0, into]
        score = torch.einsum("hd,ehd->eh", q[i], k[source]) / 3**0.5
        score = score + data.edge_attr[into] @ cell.edge_bias.weight.t()
        heard[i] = torch.einsum("eh,ehd->hd", score.softmax(0), v[source])
    h = h + cell.join(heard.flatten(1))
    norm, first, _, last = cell.mlp
    h = h + last(F.gelu(first(normalised(h, norm))))
    expected = z + normalised(h, cell.update[0]) @ cell.update[1].weight.t()
    found = cell(z, data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(found, expected)


def test_it_starts_as_the_identity():
    cell, data = AttentionCell(2, 4, edge_dim=3).double(), graph()
    z = torch.randn(7, 4, dtype=torch.double)
    assert torch.equal(cell(z, data.x, data.edge_index, data.edge_attr), z)


@pytest.mark.parametrize("make", [made, held])
def test_renumbering_and_locality(make):
    assert_permutation_equivariant(make(), graph())
    assert_local(make(), graph())


def test_a_graph_of_a_batch_runs_as_it_does_alone():
    cell, graphs = made(), [graph(5, 1), graph(8, 2)]
    batch = Batch.from_data_list(graphs)
    nca = GraphNCA(cell, steps=5)
    together = nca(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    alone = [nca(g.x, g.edge_index, g.edge_attr) for g in graphs]
    torch.testing.assert_close(together, torch.cat(alone))
    step = cell.prepare(batch.x, batch.edge_index, batch.edge_attr)
    kept = (batch.batch == 1).nonzero().flatten()
    torch.testing.assert_close(step.restrict(kept)(together[kept]), step(together)[kept])


def test_gradients_are_those_of_finite_differences():
    cell, data = made(), graph(4)

    def last(z, x, edge_attr):
        return GraphNCA(cell, steps=2)(x, data.edge_index, edge_attr, z0=z)

    given = torch.randn(4, 4, dtype=torch.double), data.x, data.edge_attr
    assert torch.autograd.gradcheck(last, [g.clone().requires_grad_() for g in given])


def test_held_in_a_cascade_it_has_one_equilibrium():
    cell, data = held().eval(), graph()
    certificate = cell.certificate(data.edge_index, data.edge_attr, num_nodes=7)
    assert certificate.rate <= 0.8 + 1e-12
    deq = GraphDEQ(cell, tol=1e-11, max_steps=500)
    batch = Batch.from_data_list([graph(5, 1), graph(8, 2)])
    assert_batch_independent(deq, batch)
    assert_honest_residual(deq, batch)
    assert_one_rule(deq, data)
    assert_gradients_exact(deq, data)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="that 4 heads divide"):
        AttentionCell(1, 2, embed_channels=6)
    data = graph()
    for edge_attr in (None, data.edge_attr[:, :2], torch.zeros(21, dtype=torch.long)):
        with pytest.raises(ValueError, match="'edge_attr'"):
            made().prepare(data.x, data.edge_index, edge_attr)
    with pytest.raises(TypeError, match="'edge_attr' in the type of 'x'"):
        made().prepare(data.x, data.edge_index, data.edge_attr.float())
    with pytest.raises(ValueError, match="Expected no 'edge_attr'"):
        made(None).prepare(data.x, data.edge_index, data.edge_attr)
    with pytest.raises(ValueError, match="'edge_index' in"):
        made(None).prepare(data.x, data.edge_index + 3)


def test_attributes_of_edges_do_not_come_with_a_neighborhood():
    data = graph()
    hood = Neighborhood(data.edge_index, torch.zeros_like(data.edge_index[0]), data.num_nodes, 1)
    conv = WrappedConvCell(TransformerConv(4, 4, edge_dim=3), 2).double()
    for cell in (made(), conv):
        with pytest.raises(ValueError, match="whose edges have another order"):
            cell.prepare(data.x, hood, data.edge_attr)
