"""The equivariant cell: symmetries, the plain rule, and the laws."""

from __future__ import annotations

import pytest
import torch

import gncadeq.cells.equivariant as module
from benchmarks.equivariant import PlainRule
from gncadeq import EquivariantCell, GraphNCA
from gncadeq.testing import assert_local, assert_permutation_equivariant


def make(dim=3):
    torch.manual_seed(0)
    cell = EquivariantCell(dim, features=5, hidden_channels=7).double()
    torch.nn.init.normal_(cell.move_out)
    return cell


def graph(nodes=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, nodes - 1, (2, 4 * nodes), generator=g)  # the last one is lonely


@pytest.mark.parametrize("block", [5, 512])
def test_it_is_the_plain_rule(block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    cell, edge_index = make(), graph()
    z = torch.randn(12, 8, dtype=torch.double, requires_grad=True)
    x = z.new_zeros(12, 0)
    expected = PlainRule(cell)(z, edge_index)
    torch.testing.assert_close(cell(z, x, edge_index), expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(cell(z, x, edge_index), expected, atol=1e-12, rtol=0)
    mine = torch.autograd.grad(cell(z, x, edge_index).square().sum(), [z, *cell.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [z, *cell.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_turning_the_start_turns_every_step(dim):
    cell, edge_index = make(dim), graph()
    nca = GraphNCA(cell, steps=4)
    z = torch.randn(12, dim + 5, dtype=torch.double)
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.double))
    for reflect in (1, -1):
        matrix, shift = turn.clone(), torch.randn(dim, dtype=torch.double)
        matrix[:, 0] *= reflect
        moved = torch.cat([z[:, :dim] @ matrix + shift, z[:, dim:]], 1)
        x = z.new_zeros(12, 0)
        there, here = nca(x, edge_index, z0=moved), nca(x, edge_index, z0=z)
        torch.testing.assert_close(there[:, :dim], here[:, :dim] @ matrix + shift)
        torch.testing.assert_close(there[:, dim:], here[:, dim:])


def test_laws_and_parameters():
    from torch_geometric.data import Data

    torch.manual_seed(0)
    cell = EquivariantCell(3, features=5, hidden_channels=7, in_channels=2).double()
    data = Data(x=torch.randn(12, 2, dtype=torch.double), edge_index=graph(), num_nodes=12)
    assert_permutation_equivariant(cell, data)
    assert_local(cell, data)
    assert sum(p.numel() for p in EquivariantCell().parameters()) == 5328


def test_empty_graphs_and_bad_input():
    cell = make()
    none = torch.zeros(2, 0, dtype=torch.long)
    assert cell(torch.zeros(0, 8).double(), torch.zeros(0, 0).double(), none).shape == (0, 8)
    z = torch.randn(3, 8, dtype=torch.double)
    alone = cell(z, z.new_zeros(3, 0), none)
    torch.testing.assert_close(alone[:, :3], z[:, :3])
    with pytest.raises(ValueError, match=r"in \[0, 3\)"):
        cell(z, z.new_zeros(3, 0), none.new_full((2, 1), 3))
    with pytest.raises(ValueError, match="'features' to be a whole number of at least 1"):
        EquivariantCell(features=0)
