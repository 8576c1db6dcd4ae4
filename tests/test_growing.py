"""The growing cell: the convolution of the paper on pixels, and the laws on any graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Batch, Data

import gncadeq.graph.perception as perception
from gncadeq import GraphDEQ, GraphNCA, GrowingCell
from gncadeq.cells import Perception
from gncadeq.export.description import describe
from gncadeq.export.plain import EdgeList
from gncadeq.export.rules import rule as exported
from gncadeq.testing import assert_local, assert_permutation_equivariant
from gncadeq.transforms import ImageToGraph, PixelKernels
from gncadeq.transforms.kernels import FILTERS

NAMES = ("sobel_x", "sobel_y", "laplacian")


def cell(alive=3, in_channels=0, kernels=3, scale=0.3):
    torch.manual_seed(0)
    made = GrowingCell(8, kernels, 16, in_channels, alive_channel=alive).double()
    torch.nn.init.normal_(made.weight_out, std=scale)
    made.weight_out.data[3].abs_()  # more hidden units wake a node up than kill it
    return made


def pixels(height=9, width=7, periodic=False, living=None):
    image = torch.rand(1, height, width, dtype=torch.double)
    graph = ImageToGraph(periodic=periodic, living_threshold=living)(image)
    return PixelKernels(NAMES)(graph)


def published(made: GrowingCell, z, periodic, mask=1.0):
    """The update of the paper, written with convolutions: mask the update, then see who lives."""
    filters = torch.tensor([FILTERS[n] for n in NAMES], dtype=z.dtype)
    c = z.size(1)

    def correlate(image, kernel):
        image = F.pad(image, (1,) * 4, mode="circular" if periodic else "constant")
        return F.conv2d(image, kernel.expand(c, 1, 3, 3), groups=c)

    senses = torch.cat([z, *(correlate(z, k) for k in filters)], dim=1)
    hidden = F.conv2d(senses, made.weight_z[:, :, None, None], made.bias).relu()
    out = z + mask * F.conv2d(hidden, made.weight_out[:, :, None, None])

    def alive(image):
        a = image[:, 3:4]
        a = F.pad(a, (1,) * 4, mode="circular") if periodic else F.pad(a, (1,) * 4, value=-1e9)
        return F.max_pool2d(a, 3, stride=1) > made.alive_threshold

    return out * (alive(z) & alive(out))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("block", [4, 4096])
def test_on_pixels_it_is_the_published_convolution(periodic, block, monkeypatch):
    monkeypatch.setattr(perception, "_BLOCK", block)
    data, made = pixels(periodic=periodic), cell()
    z = torch.zeros(63, 8, dtype=torch.double)
    z[31, 3:] = 1.0
    with torch.no_grad():
        image = z.t().view(1, 8, 9, 7)
        for _ in range(6):
            z = made(z, data.x[:, :0], data.edge_index, data.edge_attr)
            image = published(made, image, periodic)
            flat = image.flatten(2).squeeze(0).t()
            torch.testing.assert_close(z, flat, atol=1e-10, rtol=1e-10)
    assert 9 < int((z.abs().sum(1) > 0).sum()) <= 63  # it has grown


@pytest.mark.parametrize("block", [4, 4096])
def test_a_random_update_follows_the_published_order(block, monkeypatch):
    """At fire rate 1/2 a node that does not update may die all the same, of its neighbours."""
    monkeypatch.setattr(perception, "_BLOCK", block)
    data, made = pixels(), cell()
    made.weight_out.data[3] *= -0.3  # some nodes die
    z = torch.rand(63, 8, dtype=torch.double) * 0.4
    graph = data.x[:, :0], data.edge_index, data.edge_attr
    draw = torch.Generator().manual_seed(3)
    masks = [torch.rand(63, 1, generator=draw) < 0.5 for _ in range(8)]
    image, unordered = z.t().view(1, 8, 9, 7), z
    with torch.no_grad():
        for mask in masks:
            image = published(made, image, False, mask.t().view(1, 1, 9, 7).double())
            unordered = torch.where(mask, made(unordered, *graph), unordered)
        nca = GraphNCA(made, steps=8, fire_rate=0.5)
        found = nca(*graph, z0=z, generator=torch.Generator().manual_seed(3))
    expected = image.flatten(2).squeeze(0).t()
    assert 0 < int((expected.abs().sum(1) == 0).sum()) < 63
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert not torch.allclose(unordered, expected, atol=1e-3)  # life first, then the mask


def test_the_step_size_scales_the_update_before_life_is_decided():
    data, made = pixels(), cell()
    z = torch.rand(63, 8, dtype=torch.double) * 0.4
    image = published(made, z.t().view(1, 8, 9, 7), False, 0.25)
    nca = GraphNCA(made, steps=1, step_size=0.25)
    found = nca(data.x[:, :0], data.edge_index, data.edge_attr, z0=z)
    torch.testing.assert_close(found, image.flatten(2).squeeze(0).t())


def test_a_bound_holds_for_every_state():
    data, made = pixels(), cell(scale=5.0)
    graph = data.x[:, :0], data.edge_index, data.edge_attr
    bounded = GrowingCell(**{**made.config, "bound": 2.0}).double()
    bounded.load_state_dict(made.state_dict())
    z = torch.rand(63, 8, dtype=torch.double)
    free = GraphNCA(made, steps=200, fire_rate=0.5)
    assert float(free(*graph, z0=z).detach().abs().max()) > 1e50
    held = GraphNCA(bounded, steps=200, fire_rate=0.5)(*graph, z0=z)
    assert float(held.detach().abs().max()) == 2.0
    small = z * 1e-3  # within the bound nothing changes
    assert torch.equal(bounded(small, *graph), made(small, *graph))
    with pytest.raises(ValueError, match="'bound' to be a finite number above 0"):
        GrowingCell(bound=0.0)


def test_with_and_without_autograd_it_is_the_same():
    data, made = pixels(), cell(in_channels=1)
    z = torch.randn(63, 8, dtype=torch.double)
    with torch.no_grad():
        quick = made(z, data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(quick, made(z, data.x, data.edge_index, data.edge_attr))


def smooth(z, *graph):
    return cell(alive=None, in_channels=1)(z, *graph).square().sum()


def test_gradients():
    data = pixels(3, 3)
    z = torch.randn(9, 8, dtype=torch.double, requires_grad=True)
    weight = data.edge_attr.clone().requires_grad_()
    graph = (data.x, data.edge_index)
    assert torch.autograd.gradcheck(lambda z, w: smooth(z, *graph, w), (z, weight))
    assert torch.autograd.gradgradcheck(lambda z, w: smooth(z, *graph, w), (z, weight))


@pytest.mark.parametrize("alive", [None, 3])
@pytest.mark.parametrize("living", [None, 0.4])
def test_permutation_and_locality_laws(alive, living):
    data = pixels(8, 8, living=living)
    assert_permutation_equivariant(cell(alive, in_channels=1), data)
    if alive is None:  # a mask of what is alive before and after reaches two hops
        assert_local(cell(alive, in_channels=1), data)


def test_fixed_points_are_those_of_every_update_mask():
    """Where the rule is at rest, dead cells and living, no update mask moves it."""
    data, made = pixels(), cell()
    torch.nn.init.zeros_(made.weight_out)
    z = torch.zeros(63, 8, dtype=torch.double)
    z[10:20] = torch.rand(10, 8, dtype=torch.double) + 0.2
    fixed = made(z, data.x[:, :0], data.edge_index, data.edge_attr)
    nca = GraphNCA(made, steps=5, fire_rate=0.3)
    torch.testing.assert_close(
        nca(data.x[:, :0], data.edge_index, data.edge_attr, z0=fixed), fixed, atol=0, rtol=0
    )


def test_batch_law_of_its_equilibria():
    made = cell(None, in_channels=1, scale=0.02)
    with torch.no_grad():  # pull back to zero: a contraction
        made.weight_z[:8, :8] = torch.eye(8)
        made.weight_z[8:, :8] = -torch.eye(8)
        made.weight_z[:, 8:] *= 0.1
        made.weight_out[:, :8], made.weight_out[:, 8:] = -0.5 * torch.eye(8), 0.5 * torch.eye(8)
    graphs = [pixels(4, 5), pixels(6, 3), pixels(5, 5, living=0.5)]
    deq = GraphDEQ(made, "picard", tol=1e-10, max_steps=300)
    batch = Batch.from_data_list(graphs)
    z = deq(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    alone = [deq(g.x, g.edge_index, g.edge_attr) for g in graphs]
    torch.testing.assert_close(z, torch.cat(alone), atol=1e-8, rtol=0)


def test_perception_of_whole_graphs():
    graphs = Batch.from_data_list([pixels(4, 4), pixels(3, 5)])
    sense = Perception(graphs.edge_index, graphs.edge_attr, graphs.num_nodes)
    z = torch.randn(graphs.num_nodes, 2, dtype=torch.double)
    nodes = torch.arange(16, 31)
    torch.testing.assert_close(sense.restrict(nodes)(z[nodes]), sense(z)[nodes])


def test_filters_of_other_sizes_and_unknown_names():
    data = ImageToGraph()(torch.rand(1, 3, 3))
    assert PixelKernels([torch.ones(3, 3)])(data).edge_attr.tolist() == [[1.0]] * 49
    with pytest.raises(ValueError, match="Did you mean 'laplacian'"):
        PixelKernels(("laplace",))
    with pytest.raises(ValueError, match="square filter of odd size"):
        PixelKernels([torch.ones(2, 2)])
    with pytest.raises(ValueError, match="all of one size"):
        PixelKernels(["sobel_x", torch.ones(5, 5)])
    with pytest.raises(ValueError, match="ImageToGraph writes them"):
        PixelKernels()(Data(edge_index=data.edge_index, num_nodes=9))


def test_bad_graphs_are_refused():
    data, made = pixels(), cell()
    x = data.x[:, :0]
    with pytest.raises(ValueError, match=r"\[\*, 3\] \(got None\)"):
        made.prepare(x, data.edge_index, None)
    with pytest.raises(ValueError, match="PixelKernels"):
        made.prepare(x, data.edge_index, data.edge_attr[:, :2])
    with pytest.raises(TypeError, match="floating-point kernel weights"):
        made.prepare(x, data.edge_index, data.edge_attr.long())
    wrong = data.edge_index.clone()
    wrong[0, 0] = 63
    with pytest.raises(ValueError, match=r"in \[0, 63\)"):
        made.prepare(x, wrong, data.edge_attr)
    with pytest.raises(ValueError, match="alive_channel"):
        GrowingCell(4, alive_channel=4)


def test_the_published_rule_has_a_bias_at_its_end():
    """As many parameters as published, the identity at first, and the bias adds to the update."""
    rule = GrowingCell(16, 2, 128, out_bias=True)
    assert sum(p.numel() for p in rule.parameters()) == 8336
    data = pixels()
    made = cell(alive=None, in_channels=2)
    with_bias = GrowingCell(**{**made.config, "out_bias": True}).double()
    with_bias.load_state_dict({**made.state_dict(), "bias_out": torch.arange(8).double()})
    z, x = torch.rand(63, 8, dtype=torch.double), torch.rand(63, 2, dtype=torch.double)
    graph = x, data.edge_index, data.edge_attr
    out = with_bias(z, *graph)
    torch.testing.assert_close(out, made(z, *graph) + torch.arange(8))
    (slope,) = torch.autograd.grad(out.sum(), with_bias.bias_out)
    assert slope.tolist() == [63.0] * 8
    with_bias.reset_parameters()
    torch.testing.assert_close(with_bias(z, *graph), z)


def test_a_bias_is_exported_and_described():
    rule = cell(alive=None).float()
    made = GrowingCell(**{**rule.config, "out_bias": True})
    made.load_state_dict({**rule.state_dict(), "bias_out": torch.arange(8.0)})
    assert describe(made)["hidden"] == 17
    data = PixelKernels(NAMES)(ImageToGraph()(torch.rand(1, 5, 4)))
    z = torch.rand(20, 8)
    graph = data.edge_index, data.edge_attr
    plain = exported(made)(EdgeList(graph[0], 20), z[:, :0], graph[1], None)
    torch.testing.assert_close(plain(z), made(z, z[:, :0], *graph))
