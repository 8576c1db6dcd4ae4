"""The cell of ultra-compact textures: its published form on pixels, and the laws on any graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Batch

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.cells import MicroCell
from gncadeq.datasets import primitives
from gncadeq.testing import assert_batch_independent, assert_permutation_equivariant
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels
from gncadeq.transforms.kernels import FILTERS

NAMES = ("sobel_x", "sobel_y", "laplacian")


def cell(channels=7, kernels=3, std=0.1):
    made = MicroCell(channels, kernels).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=std)
    return made


def pixels(height=9, width=7, periodic=True):
    image = torch.rand(1, height, width, dtype=torch.double)
    data = PixelKernels(NAMES)(ImageToGraph(periodic=periodic)(image))
    data.x = data.x[:, :0]
    return data


@pytest.mark.parametrize(("channels", "count"), [(4, 68), (6, 150), (8, 264), (12, 588)])
@pytest.mark.parametrize("kernels", [1, 3])
def test_it_has_the_published_number_of_parameters(channels, kernels, count):
    made = MicroCell(channels, kernels)
    assert sum(p.numel() for p in made.parameters()) == count
    assert f"parameters={count}" in repr(made)


@pytest.mark.parametrize("periodic", [False, True])
def test_on_pixels_it_is_the_published_convolution(periodic):
    data, made = pixels(periodic=periodic), cell()
    z = torch.randn(63, 7, dtype=torch.double)
    out = made(z, data.x, data.edge_index, data.edge_attr)
    image = z.t().view(1, 7, 9, 7)
    filters = torch.tensor([FILTERS[NAMES[c % 3]] for c in range(7)], dtype=z.dtype)
    padded = F.pad(image, (1,) * 4, mode="circular" if periodic else "constant")
    p = F.conv2d(padded, filters[:, None], groups=7)
    senses = torch.cat([image, p, image.abs(), p.abs()], 1)
    expected = image + F.conv2d(senses, made.weight[:, :, None, None], made.bias)
    torch.testing.assert_close(out, expected.flatten(2)[0].t(), atol=1e-12, rtol=0)


def test_permutation_and_locality_laws():
    data, made = pixels(periodic=False), cell()
    assert_permutation_equivariant(made, data)
    nca = GraphNCA(made, steps=3)
    z = torch.randn(63, 7, dtype=torch.double)
    changed = z.clone()
    changed[0] += 1.0
    ends = [nca(data.x, data.edge_index, data.edge_attr, z0=start) for start in (z, changed)]
    moved = (ends[0] != ends[1]).any(1).view(9, 7)
    reached = torch.zeros_like(moved)
    reached[:4, :4] = True
    assert torch.equal(moved, reached)


def test_it_starts_as_the_identity():
    data, made = pixels(), MicroCell(5, 3).double()
    z = torch.randn(63, 5, dtype=torch.double)
    assert torch.equal(made(z, data.x, data.edge_index, data.edge_attr), z)


def test_its_equilibrium_has_a_known_answer_alone_and_in_a_batch():
    """With W = -a I on z alone and a bias b, the one equilibrium is b / a."""
    made = MicroCell(4, 3).double()
    with torch.no_grad():
        made.weight[:, :4] = -0.4 * torch.eye(4)
        made.bias.copy_(torch.tensor([0.2, -0.4, 0.0, 0.8]))
    graphs = Batch.from_data_list([pixels(5, 4), pixels(3, 6)])
    deq = GraphDEQ(made, "picard", tol=1e-10, max_steps=100)
    z = deq(graphs.x, graphs.edge_index, graphs.edge_attr, graphs.batch)
    expected = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=z.dtype).expand(38, 4)
    torch.testing.assert_close(z, expected, atol=1e-8, rtol=0)
    with torch.no_grad():  # and one that depends on the graph
        made.weight += 0.02 * torch.randn_like(made.weight)
        made.bias.copy_(torch.randn_like(made.bias))
    assert_batch_independent(deq, graphs)


def test_with_a_laplacian_it_is_blind_to_directions():
    """A turned surface has the same states, vertex by vertex; with derivatives it has not."""
    mesh = primitives.icosphere(2)
    mesh.pos = mesh.pos.double()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double)).Q
    z0 = torch.randn(mesh.num_nodes, 6, dtype=torch.double)
    ends = {}
    for kernels, count in (("isotropic", 1), ("tangent", 3)):
        made = cell(6, count, std=0.05)
        for turned in (False, True):
            seen = mesh.clone()
            if turned:
                seen.pos = mesh.pos @ turn.T
            data = MeshToGraph(kernels, scale=0.35)(seen)
            x = data.pos[:, :0]
            nca = GraphNCA(made, steps=10)
            ends[kernels, turned] = nca(x, data.edge_index, data.edge_attr, z0=z0)
    torch.testing.assert_close(ends["isotropic", False], ends["isotropic", True])
    assert (ends["tangent", False] - ends["tangent", True]).abs().max() > 1e-2


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="Every kernel needs a channel"):
        MicroCell(2, 3)
    data = pixels()
    with pytest.raises(ValueError, match=r"\[\*, 1\] \(got \[567, 3\]\)"):
        MicroCell(4, 1).double().prepare(data.x, data.edge_index, data.edge_attr)
    with pytest.raises(ValueError, match=r"\(got None\)"):
        MicroCell(4, 1).double().prepare(data.x, data.edge_index)
