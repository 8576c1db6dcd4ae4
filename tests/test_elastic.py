"""The elastic cell: symmetries, rest, laws; and the loss on distances."""

from __future__ import annotations

import pytest
import torch
from elastic import ElasticCell, distance_loss
from torch_geometric.data import Data

from gncadeq import GraphNCA
from gncadeq.testing import assert_local, assert_permutation_equivariant


def make(dim=3, in_channels=0, **options):
    cell = ElasticCell(dim, 2, features=5, hidden_channels=7, in_channels=in_channels, **options)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # no gate at its initial value
    return cell.double()


def shape(dim=3, nodes=12):
    """A complete graph with the rest lengths of random places: rigid."""
    pos = torch.randn(nodes, dim, dtype=torch.double)
    edge_index = (1 - torch.eye(nodes)).nonzero().t()
    length = (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=1, keepdim=True)
    return pos, edge_index, length


def state(cell, nodes=12, scale=1.0):
    z = torch.randn(nodes, cell.channels, dtype=torch.double)
    z[:, : 2 * cell.space] *= scale
    z[:, 2 * cell.space] = torch.rand(nodes, dtype=torch.double)  # the youth
    return z


def test_the_step_is_its_equation():
    cell, (_, edge_index, rest) = make(2), shape(2, 6)
    z, n = state(cell, 6), cell.space
    out = cell(z, z[:, :0], edge_index, rest)
    p, v, y, h = z[:, :n], z[:, n : 2 * n], z[:, 2 * n], z[:, 2 * n + 1 :]
    for i in range(6):
        incoming = (edge_index[1] == i).nonzero().flatten()
        j, length = edge_index[0, incoming], rest[incoming]
        weight = cell.near_out(cell.near_in(length / length.mean()).tanh())
        weight = (3 * weight.tanh()).softmax(0)
        offset = p[i] - p[j]
        d = offset.norm(dim=1, keepdim=True)
        strain = (d - length) / (d + length)
        heard = [strain.clamp(min=0), (-strain).clamp(min=0), h[j]]
        felt = torch.cat([h[i], (weight * torch.cat(heard, 1)).sum(0)])
        answer = cell.act(torch.nn.functional.silu(cell.sense(felt)))
        gates = torch.sigmoid(answer[-4:] + cell.reflex(felt))
        young = y[i] * (1 - gates[2])
        force = (weight * offset * ((1 - young) * length / d - 1)).sum(0)
        velocity = gates[1] * v[i] + 2 * gates[0] * force
        fade = torch.ones(n, dtype=torch.double)
        fade[cell.dim :] = 1 - gates[3] * (1 - young)
        feature = h[i] + cell.pace.sigmoid() * (answer[:-4].tanh() - h[i])
        expected = torch.cat([(p[i] + velocity) * fade, velocity * fade, young[None], feature])
        torch.testing.assert_close(out[i], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_turning_and_scaling_the_start_does_so_to_every_step(dim):
    cell, (_, edge_index, rest) = make(dim), shape(dim)
    nca, z, n = GraphNCA(cell, steps=4), state(cell), cell.space
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.double))
    for reflect in (1, -1):
        matrix, shift = turn.clone(), torch.zeros(n, dtype=torch.double)
        matrix[:, 0] *= reflect
        full = torch.eye(n, dtype=torch.double)
        full[:dim, :dim], shift[:dim] = matrix, torch.randn(dim, dtype=torch.double)

        def move(z, full=full, shift=shift):
            return torch.cat(
                [3 * z[:, :n] @ full + shift, 3 * z[:, n : 2 * n] @ full, z[:, 2 * n :]], dim=1
            )

        x = z.new_zeros(12, 0)
        there = nca(x, edge_index, 3 * rest, z0=move(z))
        here = nca(x, edge_index, rest, z0=z)
        torch.testing.assert_close(there, move(here), atol=1e-8, rtol=1e-8)


def test_an_old_node_with_its_rest_lengths_rests():
    cell, (pos, edge_index, rest) = make(), shape()
    z = cell.start(pos)
    z[:, 2 * cell.space] = 0.0
    out = GraphNCA(cell, steps=20)(z[:, :0], edge_index, rest, z0=z)
    torch.testing.assert_close(cell.coordinates(out), pos, atol=1e-9, rtol=0)


def test_a_fresh_cell_folds_noise_to_the_target_and_mends_it():
    cell, (pos, edge_index, rest) = ElasticCell(2, lift=2).double(), shape(2, 20)
    nca = GraphNCA(cell, steps=300)
    for _ in range(3):
        z = nca(pos[:, :0], edge_index, rest, z0=cell.start(50 * torch.randn(20, 4).double()))
        assert bool(distance_loss(cell.coordinates(z), pos) < 1e-10)
        assert bool((z[:, 2:4].abs() < 1e-6).all())  # the lift is given up
        z = torch.cat([z[:, :2] + 0.25 * torch.randn_like(z[:, :2]), z[:, 2:]], dim=1)
        z = nca(pos[:, :0], edge_index, rest, z0=z)
        assert bool(distance_loss(cell.coordinates(z), pos) < 1e-10)


def test_laws_gradients_and_parameters():
    _, edge_index, rest = shape()
    ring = (edge_index[0] - edge_index[1]).abs() == 1  # a chain, for locality
    cell = make(in_channels=2)
    x = torch.randn(12, 2, dtype=torch.double)
    data = Data(x=x, edge_index=edge_index[:, ring], edge_attr=rest[ring])
    assert_permutation_equivariant(cell, data)
    assert_local(cell, data)
    z = state(cell).requires_grad_()
    step = cell.prepare(x, data.edge_index, data.edge_attr)
    assert torch.autograd.gradcheck(step, (z,), eps=1e-7, atol=1e-5)
    grads = torch.autograd.grad(step(z).square().sum(), list(cell.parameters()))
    assert all(bool((g != 0).any()) for g in grads)
    assert sum(p.numel() for p in ElasticCell().parameters()) == 1108


def test_a_step_on_some_graphs_of_a_batch():
    cell = make()
    (_, first, a), (_, second, b) = shape(), shape(nodes=7)
    edge_index, rest = torch.cat([first, second + 12], 1), torch.cat([a, b])
    z = state(cell, 19)
    step = cell.prepare(z[:, :0], edge_index, rest)
    part = step.restrict(torch.arange(12, 19))
    torch.testing.assert_close(part(z[12:]), step(z)[12:])
    alone = cell(z[12:], z[12:, :0], second, b)
    torch.testing.assert_close(alone, step(z)[12:])


def test_lonely_and_coincident_nodes_and_bad_input():
    cell = make()
    none = torch.zeros(2, 0, dtype=torch.long)
    z = state(cell, 3)
    out = cell(z, z[:, :0], none, z.new_zeros(0, 1))
    assert bool(out.isfinite().all())
    edge = torch.tensor([[0, 1], [1, 0]])
    same = cell.start(torch.zeros(2, 3, dtype=torch.double)).requires_grad_()
    out = cell(same, same[:, :0], edge, same.new_ones(2, 1))
    out.sum().backward()
    assert bool(out.isfinite().all())
    assert bool(same.grad.isfinite().all())
    with pytest.raises(ValueError, match="rest lengths 'edge_attr' of shape"):
        cell(same, same[:, :0], edge)
    with pytest.raises(ValueError, match="positive rest lengths"):
        cell(same, same[:, :0], edge, same.new_zeros(2, 1))
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        cell(same, same[:, :0], edge + 1, same.new_ones(2, 1))
    with pytest.raises(ValueError, match="leave the other dimensions"):
        cell.start(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="'lift' to be a whole number of at least 0"):
        ElasticCell(lift=-1)


def test_distance_loss():
    target = torch.randn(9, 3, dtype=torch.double)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double))
    both = torch.cat([target @ turn + 1, 2 * target])
    loss = distance_loss(both, target)
    # doubled, every distance is off by itself: the mean squared distance
    torch.testing.assert_close(loss[1], torch.pdist(target).square().mean())
    assert bool(loss[0] < 1e-25)
    pairs = torch.triu_indices(9, 9, 1)
    torch.testing.assert_close(distance_loss(both, target, pairs), loss)
    with pytest.raises(ValueError, match="num_graphs"):
        distance_loss(both[:-1], target)


def test_under_autocast_places_stay_in_single_precision():
    cell = ElasticCell(2, 1, features=5, in_channels=3)
    _, edge_index, rest = shape(2, 6)
    x, rest, z0 = torch.randn(6, 3), rest.float(), cell.start(torch.randn(6, 3))
    nca = GraphNCA(cell, steps=10)
    with torch.autocast("cpu", torch.bfloat16):
        half = nca(x, edge_index, rest, z0=z0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, nca(x, edge_index, rest, z0=z0), atol=0.05, rtol=0.05)


def test_rest_lengths_of_another_type():
    cell = ElasticCell(2, 1, features=5)
    _, edge_index, rest = shape(2, 6)
    z = cell.start(torch.randn(6, 3))
    expected = cell(z, z[:, :0], edge_index, rest.float())
    assert torch.equal(cell(z, z[:, :0], edge_index, rest), expected)
    with pytest.raises(TypeError, match="floating-point rest lengths"):
        cell(z, z[:, :0], edge_index, torch.ones(30, 1, dtype=torch.long))
    rest[3] = float("inf")
    with pytest.raises(ValueError, match=r"finite, positive rest lengths .* \(got inf\)"):
        cell(z, z[:, :0], edge_index, rest)
