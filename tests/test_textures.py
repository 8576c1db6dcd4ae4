"""Textures: by formula, measured by patches, and learned by a rule of a few parameters."""

from __future__ import annotations

import math

import pytest
import torch
from texture_formulas import TEXTURES, texture
from torch_geometric.data import Data

from gncadeq import GrowingCell
from gncadeq.cells import MicroCell
from gncadeq.datasets import primitives
from gncadeq.training.surface_patches import SurfacePatchLoss, on_faces
from gncadeq.training.texture_loss import (
    PatchLoss,
    image_patches,
    random_directions,
    sliced_wasserstein,
)
from gncadeq.training.textures import (
    TextureConfig,
    TextureTraining,
    texture_surface,
    train_texture,
)
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels, TurnKernels, surface_filters
from gncadeq.transforms.kernels import PIXEL


def shuffled(image):
    order = torch.randperm(image[0].numel(), generator=torch.Generator().manual_seed(0))
    return image.flatten(1)[:, order].view_as(image)


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_are_pictures_and_repeat(name):
    image = texture(name, 32, seed=1)
    assert image.shape == (3, 32, 32)
    assert 0 <= image.min() < image.max() <= 1
    assert torch.equal(image, texture(name, 32, seed=1))
    # across the border neighbours are as alike as they are inside
    inside = (image[:, 1:] - image[:, :-1]).abs().mean((0, 2)).max()
    assert (image[:, 0] - image[:, -1]).abs().mean() <= 1.2 * inside


def test_unknown_textures_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'bricks'"):
        texture("brick")
    with pytest.raises(ValueError, match=r"'size' to be .* at least 16"):
        texture("bricks", 8)


def test_transport_has_known_answers():
    x, omega = torch.randn(50, 3), random_directions(200, 3, 1, seen=3)
    shift = torch.tensor([1.0, -2.0, 0.5])
    far = sliced_wasserstein(x + shift, x[torch.randperm(50)], omega)
    torch.testing.assert_close(far, (omega @ shift).square().mean())
    assert sliced_wasserstein(x, x.flip(0), omega) < 1e-12
    twice = torch.cat([x, x])  # the same distribution with other numbers of points
    assert sliced_wasserstein(twice, x, omega) < 1e-12
    batch = sliced_wasserstein(torch.stack([x, x + shift]), x, omega)
    torch.testing.assert_close(batch, torch.stack([0 * far, far]))
    with pytest.raises(ValueError, match="3 dimensions"):
        sliced_wasserstein(x[:, :2], x, omega)


def test_transport_is_differentiable():
    x = torch.randn(2, 6, 2, dtype=torch.double, requires_grad=True)
    y = torch.randn(9, 2, dtype=torch.double)
    omega = random_directions(3, 2, 1).double()
    assert torch.autograd.gradcheck(lambda x: sliced_wasserstein(x, y, omega), x)


def test_patches_wrap_around():
    image = torch.rand(1, 2, 6, 8)
    patches = image_patches(image, 3).view(6, 8, 2, 3, 3)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            moved = image[0].roll((-down, -right), (1, 2)).permute(1, 2, 0)
            assert torch.equal(patches[..., down + 1, right + 1], moved)
    with pytest.raises(ValueError, match="after shrinking by 4"):
        image_patches(image, 3, scale=4)


@pytest.mark.parametrize("name", ["leopard", "giraffe", "coral"])
def test_the_loss_knows_a_texture_from_its_pixels(name):
    """Another piece is near; its pixels in disorder, or smeared, are far."""
    loss, other = PatchLoss(texture(name, 48)), texture(name, 48, seed=1)
    smeared = torch.nn.functional.avg_pool2d(other[None], 3, 1, 1)[0]
    images = torch.stack([other, shuffled(other), smeared])
    near, noise, dull = loss(images, torch.Generator().manual_seed(0))
    assert near < 0.2 * noise
    assert near < dull


def plane(side):
    """A flat mesh with a vertex at every pixel of ``[side, side]``, row by row from the top."""
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    at = (down[:-1, :-1] * side + right[:-1, :-1]).flatten()
    face = torch.stack([
        torch.cat([at, at + 1]), torch.cat([at + side, at + side]),
        torch.cat([at + 1, at + side + 1]),
    ])  # fmt: skip
    pos = torch.stack([right, -down, 0 * down], 2).view(-1, 3).float()
    return Data(pos=pos, face=face)


def upright(side, scale, image=None):
    """Patches around the vertex (row 12, column 10) of a plane, ``[25, channels]``."""
    data = texture_surface(plane(side), "tangent", pixel=1.0)
    data.area = torch.zeros(side**2)
    data.area[12 * side + 10] = 1.0
    loss = SurfacePatchLoss(torch.rand(3, side, side), data, scales=(scale,), samples=1)
    return loss._looks[0](data.pos if image is None else image.flatten(1).T)


def test_upright_patches_of_a_plane_are_those_of_its_picture():
    image = texture("giraffe", 24)
    seen = upright(24, 1, image).T.view(3, 5, 5)
    torch.testing.assert_close(seen, image[:, 10:15, 8:13])


def test_coarse_patches_are_averages_of_a_finer_lattice():
    right, up, _ = upright(24, 2).view(5, 5, 3).unbind(2)
    line = 2.0 * torch.arange(-2, 3)
    torch.testing.assert_close(right, 10 + line.expand(5, 5))
    torch.testing.assert_close(up, -12 - line[:, None].expand(5, 5))


def test_turned_patches_know_no_direction():
    """A picture and its quarter turn are equally far, where the surface knows no up."""
    image, data = texture("bricks", 32), texture_surface(primitives.icosphere(3))
    loss = SurfacePatchLoss(image, data, projections=256)
    turned, noise = image.rot90(1, (1, 2)), shuffled(image)
    seen = torch.stack([loss.of_picture(piece, 1) for piece in (turned, noise)])
    near, far = loss.distance([seen, torch.stack([loss.of_picture(image, 2)] * 2)])
    assert near < 0.02 * far
    colors = torch.stack([torch.full((642, 3), 0.5), image.mean((1, 2)).expand(642, 3)])
    grey, mean = loss(colors, torch.Generator().manual_seed(0))
    assert mean < grey


def test_a_surface_needs_what_its_patches_need():
    with pytest.raises(ValueError, match="texture_surface makes one"):
        SurfacePatchLoss(torch.rand(3, 20, 20), primitives.icosphere(1))


def test_points_fall_on_faces_below_them():
    """Points just off a sphere land within a face's size, and weights are those of a triangle."""
    mesh = primitives.icosphere(3)
    points = torch.nn.functional.normalize(torch.randn(200, 3), dim=1)
    vertex, weight = on_faces(1.05 * points, mesh)
    landed = (weight[..., None] * mesh.pos[vertex]).sum(1)
    assert (landed - points).norm(dim=1).max() < 0.02
    assert weight.min() >= 0
    torch.testing.assert_close(weight.sum(1), torch.ones(200))


@pytest.mark.parametrize("wavelength", [8, 12])
def test_pixels_sense_as_a_surface_does(wavelength):
    """A wave through the middle of a fine plane, and through the pixels: alike to 4 %."""
    n, fine = 41, 0.5  # of a pixel
    down, right = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    at = (down[:-1, :-1] * n + right[:-1, :-1]).flatten()
    face = torch.stack([
        torch.cat([at, at + 1]), torch.cat([at + n, at + n]), torch.cat([at + 1, at + n + 1]),
    ])  # fmt: skip
    pos = torch.stack([right * fine, -down * fine, 0.0 * down], 2).view(-1, 3)
    surface = texture_surface(Data(pos=pos, face=face), "tangent", pixel=1.0)
    middle = n * (n // 2) + n // 2
    mine = surface.edge_index[1] == middle
    offset = (pos[surface.edge_index[0, mine]] - pos[middle])[:, :2]
    across = torch.tensor([0.8, 0.6]) * 2 * math.pi / wavelength
    wave = offset @ across
    by_mesh = surface.edge_attr[mine].T @ torch.stack([wave.sin(), wave.cos()], 1)
    pixel = torch.cartesian_prod(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-1.0, 0.0, 1.0]))
    wave = pixel.flip(1) @ across  # (right, up), row by row from the top
    by_pixels = PixelKernels(surface_filters("tangent")).table.T @ torch.stack(
        [wave.sin(), wave.cos()], 1
    )
    for k, part in ((0, 0), (1, 0), (2, 1)):  # derivatives of the sine, Laplacian of the cosine
        torch.testing.assert_close(by_mesh[k, part], by_pixels[k, part], rtol=0.04, atol=0)


def test_derivatives_of_a_texture_give_a_vertex_no_weight_on_itself():
    """As those of pixels: else states grow by themselves where triangles are uneven."""
    mesh = primitives.icosphere(3)
    draw = torch.Generator().manual_seed(0)
    mesh.pos = mesh.pos + 0.06 * torch.randn(mesh.pos.shape, generator=draw)
    surface = texture_surface(mesh, "tangent")
    (source, target), weight = surface.edge_index, surface.edge_attr
    assert not weight[source == target, :2].any()
    rows = torch.zeros(surface.num_nodes, 3).index_add(0, target, weight)
    torch.testing.assert_close(rows, torch.zeros_like(rows), atol=1e-6, rtol=0)
    matrix = torch.zeros(surface.num_nodes, surface.num_nodes, dtype=torch.double)
    matrix[target, source] = weight[:, 0].double()
    before = MeshToGraph("tangent", scale=PIXEL * float(surface.pixel), up=(0.0, 1.0, 0.0))(mesh)
    raw = torch.zeros_like(matrix)
    raw[tuple(before.edge_index.flip(0))] = before.edge_attr[:, 0].double()
    growth, formerly = (torch.linalg.eigvals(a).real.max() for a in (matrix, raw))
    assert growth < 0.5 * formerly


def test_faces_without_area_sense_nothing():
    """A line of three vertices beside a square: its kernels are zero, and the square's its own."""
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    square = Data(pos=corner, face=torch.tensor([[0, 1], [1, 3], [2, 2]]))
    line = torch.tensor([[9.0, 0, 0], [10, 0, 0], [11, 0, 0]])
    face = torch.cat([square.face, torch.tensor([[4], [5], [6]])], 1)
    both = texture_surface(Data(pos=torch.cat([corner, line]), face=face), "tangent", 1.5)
    beside = both.edge_index[1] > 3
    assert beside.sum() == 9
    assert not both.edge_attr[beside].any()
    alone = texture_surface(square, "tangent", 1.5)
    torch.testing.assert_close(both.edge_attr[~beside], alone.edge_attr)


def test_turned_kernels_sense_along_each_nodes_own_axes():
    """Of a linear field, nodes sense its slope along axes that are turned by their angles."""
    data = PixelKernels(surface_filters("tangent"))(ImageToGraph()(torch.zeros(1, 9, 9)))
    right, up = data.pos[:, 0], -data.pos[:, 1]
    value, inner = 2 * right - 3 * up, (data.pos > 0).all(1) & (data.pos < 8).all(1)
    data.angle = torch.linspace(-3, 3, 81)
    turned = TurnKernels(size=2.0)(data)
    assert turned.edge_index is data.edge_index
    source, target = turned.edge_index
    sensed = torch.zeros(81, 3).index_add(0, target, turned.edge_attr * value[source, None])
    cos, sin = data.angle.cos(), data.angle.sin()
    expected = torch.stack([2 * cos - 3 * sin, -3 * cos - 2 * sin, 0 * cos], 1) * PIXEL / 2
    torch.testing.assert_close(sensed[inner], expected[inner], atol=1e-5, rtol=1e-5)
    for bad, message in (
        (Data(edge_attr=torch.rand(4, 1), num_nodes=2), r"\[num_edges, 3\].*got \[4, 1\]"),
        (Data(edge_attr=torch.rand(4, 3), num_nodes=2), r"\[2\] in 'angle' \(got None"),
        (Data(edge_attr=torch.rand(4, 3), angle=torch.ones(3), num_nodes=2), r"got \[3\] of"),
    ):
        with pytest.raises(ValueError, match=message):
            TurnKernels()(bad)
    with pytest.raises(ValueError, match="'size' to be"):
        TurnKernels(size=0)


def test_surface_pixels_are_as_fine_as_the_mesh_allows():
    coarse, fine = (texture_surface(primitives.icosphere(k)) for k in (2, 3))
    degrees = [d.num_edges / d.num_nodes for d in (coarse, fine)]
    assert abs(degrees[0] / degrees[1] - 1) < 0.2
    assert texture_surface(primitives.icosphere(3), pixel=0.4).num_edges > 1.5 * fine.num_edges


def from_noise(run):
    """The loss of ten steps from noise, the same noise always."""
    draw = torch.Generator().manual_seed(5)
    z0 = 0.3 * torch.randn(run.graph.num_nodes, run.cell.channels, generator=draw)
    graph = run.graph
    with torch.no_grad():
        z = run.nca(graph.x, graph.edge_index, graph.edge_attr, z0=z0, steps=10, generator=draw)
        colors = z[:, :3].view(len(graph), -1, 3) + 0.5
        if run.image_size is not None:
            colors = colors.mT.reshape(len(graph), 3, *run.image_size[0])
        return float(run.loss(colors, draw).mean())


def test_training_lowers_the_loss_and_repeats():
    target = texture("giraffe", 32)
    options = TextureConfig(
        channels=4, size=20, steps=60, batch_size=2, pool_size=4, min_rollout=6, max_rollout=10,
        lr=5e-3, rest=0.1, overflow=1.0,
    )  # fmt: skip
    run = TextureTraining(target, options)
    early = from_noise(run)
    figures = [run.train_step() for _ in range(60)]
    assert from_noise(run) < 0.75 * early
    assert all(f["rest"] >= 0 and f["gradient_norm"] > 0 for f in figures[1:])
    options.steps = 5
    first, second = (train_texture(target, options) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert first.weight.abs().sum() > 0


def test_any_rule_trains_on_pixels_and_on_a_surface():
    target = texture("giraffe", 32)
    options = TextureConfig(size=20, steps=40, batch_size=2, pool_size=4, min_rollout=6,
                            max_rollout=10, lr=5e-3, overflow=1.0)  # fmt: skip
    sphere = texture_surface(primitives.icosphere(3))
    torch.manual_seed(0)
    for make, data in (
        (lambda: GrowingCell(6, 1, 12, alive_channel=None), None),
        (lambda: MicroCell(6, 1), sphere),
    ):
        run = TextureTraining(target, options, make(), data)
        early = from_noise(run)
        for _ in range(40):
            run.train_step()
        assert from_noise(run) < 0.85 * early
        assert run.identity() != TextureTraining(target, options).identity()


def test_a_random_state_of_a_draw_starts_again():
    """And no other: the first of the permutation, or with reset='worst' the one of largest loss."""
    options = {"channels": 4, "size": 20, "batch_size": 3, "pool_size": 6, "reset_every": 1}
    for reset in ("random", "worst"):
        run = TextureTraining(texture("giraffe", 32), TextureConfig(reset=reset, **options))
        run.losses = torch.arange(6.0)
        seen = []
        run.nca = lambda *args, z0, seen=seen, **kwargs: seen.append(z0) or z0.requires_grad_()
        before = run.pool.clone()
        draw = torch.Generator()
        draw.set_state(run._generator.get_state())
        index = torch.randperm(6, generator=draw)[:3]
        run.train_step()
        new = [not torch.equal(a, b) for a, b in zip(seen[0].view(3, 400, 4), before[index],
                                                     strict=True)]  # fmt: skip
        expected = 0 if reset == "random" else int(index.argmax())
        assert new == [k == expected for k in range(3)]


def test_states_may_be_old_before_the_training():
    options = {"channels": 4, "size": 20, "batch_size": 2, "pool_size": 4}
    cell = MicroCell(4, 1)
    with torch.no_grad():
        cell.bias.fill_(1.0)
    young, old = (
        TextureTraining(texture("giraffe", 32), TextureConfig(age=age, **options), cell)
        for age in (0, 3)
    )
    grown = old.pool - young.pool  # by one in every step, at the fire rate one half
    assert set(grown.round().unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    torch.testing.assert_close(grown, grown.round(), atol=1e-5, rtol=0)
    assert old.identity() != young.identity()


def test_rules_with_an_injection_are_refused():
    with pytest.raises(ValueError, match="without injection"):
        TextureTraining(texture("giraffe", 32), TextureConfig(size=20), GrowingCell(4, 1, 4, 1))
    with pytest.raises(ValueError, match="kernel weights"):
        TextureTraining(
            texture("giraffe", 32), TextureConfig(size=20), MicroCell(6, 3)
        ).train_step()


def test_options_are_checked():
    with pytest.raises(ValueError, match="'kernels'"):
        TextureConfig(kernels="tangents")
    with pytest.raises(ValueError, match="'max_rollout' to be a whole number of at least"):
        TextureConfig(min_rollout=50)
    with pytest.raises(ValueError, match="'rest'"):
        TextureConfig(rest=-1.0)
    with pytest.raises(ValueError, match="'isotropic' or 'tangent'"):
        surface_filters("harmonics")


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.rand(1, 20, 20), {}, "shape \\[3, height, width\\]"),
        (255 * torch.rand(3, 20, 20), {}, "Divide bytes by 255"),
        (torch.full((3, 20, 20), float("nan")), {}, "finite 'target'"),
        (torch.rand(3, 20, 20), {"channels": 2}, "red, green and blue"),
    ],
)
def test_training_refuses(target, options, message):
    with pytest.raises(ValueError, match=message):
        TextureTraining(target, TextureConfig(**{"channels": 4, "size": 20, **options}))


def test_an_image_smaller_than_the_shrinking_is_refused():
    with pytest.raises(ValueError, match="after shrinking by 4"):
        image_patches(torch.rand(1, 3, 3, 3), size=3, scale=4)
