"""The recipes of growing: the published one, and seeds that break the symmetry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gncadeq import GrowingCell
from gncadeq.growth import Trial, color_error
from gncadeq.training import GrowConfig
from gncadeq.training.grow import Growth, grow, load_grown
from gncadeq.training.orientation import (
    lattice,
    place_seeds,
    turned_colors,
    turned_error,
    turned_targets,
)
from gncadeq.training.targets import anchor, load_target, picture_target, seed_state

GECKO = Path(__file__).parents[1] / "datasets" / "gecko.png"
TINY = {"channels": 6, "hidden_channels": 8, "min_rollout": 3, "max_rollout": 4, "steps": 2}


def target(height=11, width=9):
    torch.manual_seed(0)
    return picture_target(torch.rand(4, height, width))


def test_the_published_recipe_is_what_was_published():
    config = GrowConfig.recipe("distill", "lizard.png")
    published = {
        "channels": 16, "hidden_channels": 128, "size": 40, "padding": 16, "fire_rate": 0.5,
        "pool_size": 1024, "batch_size": 8, "min_rollout": 64, "max_rollout": 96, "damage": 3,
        "reset_every": 1, "lr": 2e-3, "steps": 8000,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    rates = [config.learning_rate(step) for step in (0, 1999, 2000, 7999)]
    assert rates == pytest.approx([2e-3, 2e-3, 2e-4, 2e-4])
    small = GrowConfig.recipe("distill", "flag", pool_size=8, padding=0)
    run = Growth(small, picture_target(torch.rand(4, 6, 6), "gradient"))
    assert sum(p.numel() for p in run.cell.parameters()) == 8336
    assert run.cell.bound is None
    assert run.pool.elders == 0
    assert (run.data.x.shape, len(run.pool.states)) == ((36, 0), 8)
    with pytest.raises(ValueError, match="Did you mean 'distill'"):
        GrowConfig.recipe("distil", "lizard.png")


@pytest.mark.parametrize(("kernels", "count"), [("tangent", 3), ("gradient", 2), ("isotropic", 1)])
def test_pixels_and_surfaces_sense_as_they_are_told(kernels, count):
    pixels = load_target("spots", size=8, kernels=kernels)
    surface = load_target("spots", "icosphere:1", kernels=kernels)
    assert pixels.edge_attr.size(1) == surface.edge_attr.size(1) == count
    wide, narrow = (load_target("spots", "icosphere:1", kernels=k) for k in ("tangent", kernels))
    columns = slice(2, 3) if kernels == "isotropic" else slice(0, count)
    torch.testing.assert_close(wide.edge_attr[:, columns], narrow.edge_attr)
    with pytest.raises(ValueError, match="other than"):
        GrowConfig("a.png", kernels="harmonics")


def test_a_picture_is_padded():
    bare, padded = (load_target(str(GECKO), size=8, padding=p) for p in (0, 3))
    image = padded.color.view(14, 14, 4)
    assert torch.equal(image[3:-3, 3:-3].reshape(-1, 4), bare.color)
    assert float(image.sum()) == pytest.approx(float(bare.color.sum()))


def test_three_seeds_tell_where_right_and_up_are():
    data = place_seeds(target(), 3)
    middle, right, above = data.pos[data.seed_node].tolist()
    assert (middle, right[1], above[0]) == ([4.0, 5.0], 5.0, 4.0)
    assert right[0] > 7
    assert above[1] < 2
    z, x = seed_state(data, 10), anchor(data, channels=3)
    assert z[data.seed_node, 3].tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(z[data.seed_node, 4:7], torch.eye(3))
    assert torch.equal(x[data.seed_node], torch.eye(3))
    assert float(z.sum()) == 3 + 6
    sphere = place_seeds(load_target("spots", "icosphere:3"), 3)
    middle, right, above = sphere.pos[sphere.seed_node]
    assert right[0] > middle[0] + 0.3
    assert above[1] > middle[1] + 0.3
    with pytest.raises(ValueError, match=r"wide enough.*Use fewer seeds"):
        place_seeds(target(1, 9), 3)


def test_orientations_of_a_picture():
    data = target(7, 7)
    picture = data.color.view(7, 7, 4)
    turned = turned_colors(data, 4)
    for k in range(4):  # rows run down: positive angles are clockwise on the screen
        torch.testing.assert_close(turned[:, k].view(7, 7, 4), picture.rot90(-k))
        torch.testing.assert_close(turned[:, 4 + k].view(7, 7, 4), picture.rot90(-k).flip(1))
    assert turned_colors(data, 4, mirror=False).size(1) == 4
    z = torch.cat([picture.rot90(1).reshape(-1, 4), picture.flip(0).reshape(-1, 4)])
    both = torch.cat([turned, turned])
    batch = torch.arange(2).repeat_interleave(49)
    torch.testing.assert_close(turned_error(z, both, batch), torch.zeros(2))
    assert float(turned_error(z[:49], turned[:, :1])) > 0.01


def test_on_a_sphere_the_axis_runs_through_the_seed():
    data = load_target("gradient", "icosphere:3")
    turned = turned_colors(data, 2, mirror=False)
    torch.testing.assert_close(turned[:, 0], data.color)
    seed = int(data.seed_node)
    torch.testing.assert_close(turned[seed, 1], data.color[seed])
    other = data.pos * torch.tensor([-1.0, -1.0, 1.0])  # half a turn about the front
    at = torch.cdist(other, data.pos).argmin(1)
    assert float((turned[:, 1] - data.color[at]).abs().max()) < 0.05


def test_a_target_is_trained_in_any_orientation(tmp_path):
    config = GrowConfig.recipe("isotropic", "flag", out=str(tmp_path / "run"), turns=8, **TINY)
    run = Growth(config, picture_target(torch.rand(4, 11, 11), "isotropic"))
    _, batch = run.pool.sample(4)
    z = batch.turned[:, 5].contiguous()
    torch.testing.assert_close(run._error(z, batch), torch.zeros(4))
    assert run.train_step()["loss"] < float(color_error(batch.z, batch.color).mean())


def test_turned_seeds_grow_a_turned_pattern(tmp_path):
    """A rule without directions commutes with the symmetries of the grid."""
    config = GrowConfig.recipe("isotropic", "flag", out=str(tmp_path / "run"), **TINY)
    data = picture_target(torch.rand(4, 11, 11), "isotropic")
    cell = grow(config, data, progress=False)
    torch.nn.init.normal_(cell.weight_out, std=0.1)
    _, graph, z0, _ = load_grown(tmp_path / "run")
    assert graph.x.shape == (121, 3)
    assert torch.equal(z0, seed_state(graph, 6))
    grown = Trial(cell, graph, z0, 1.0)
    grown.run(12)
    turned = graph.clone()

    def turn(rows):
        return rows.view(11, 11, -1).rot90(1).transpose(0, 1).reshape(121, -1)  # and mirrored

    turned.x = turn(graph.x)
    other = Trial(cell, turned, turn(z0), 1.0)
    other.run(12)
    assert float(grown.z.abs().max()) > 0.1
    torch.testing.assert_close(other.z, turn(grown.z), atol=1e-5, rtol=1e-4)


def test_several_seeds_and_turns_go_without_sweeps():
    with pytest.raises(ValueError, match=r"one seed with method='sweeps'.*Use method='bptt'"):
        GrowConfig("spots", seeds=3, method="sweeps")
    with pytest.raises(ValueError, match=r"turns=0 with method='sweeps'.*Use method='bptt'"):
        GrowConfig("spots", turns=4, method="sweeps")


def test_a_target_turns_with_its_seeds():
    data = place_seeds(target(11, 11), 3)
    quarter, half, _ = turned_targets(data, 4)
    picture = data.color.view(11, 11, 4)
    torch.testing.assert_close(quarter.color.view(11, 11, 4), picture.rot90(-1))
    assert quarter.pos[quarter.seed_node].tolist() == [[5, 5], [5, 10], [10, 5]]
    assert half.pos[half.seed_node].tolist() == [[5, 5], [0, 5], [5, 10]]
    config = GrowConfig.recipe("isotropic", "flag", variants=3, **TINY)
    pool = Growth(config, picture_target(torch.rand(4, 11, 11), "isotropic")).pool
    assert len(pool.graphs) == 1 + 2 * 3  # half of the slots are the target itself
    for graph, state in zip(pool.graphs, pool.seeds, strict=True):
        marked = graph.x.nonzero()
        assert sorted(marked[:, 1].tolist()) == [0, 1, 2]
        assert state[marked[:, 0], 3].tolist() == [1, 1, 1]


def test_a_lattice_has_the_laplacian_of_pixels():
    for jitter, near in ((0.0, 1e-4), (0.25, 0.2)):
        data = lattice(32, 30, jitter)
        x, y = (data.pos - torch.tensor([14.5, 15.5])).unbind(1)
        inner = (x.abs() < 12) & (y.abs() < 13)
        field = torch.stack([x**2 + y**2, x, torch.ones_like(x)], 1)
        sensed = GrowingCell(3, 1, alive_channel=None).prepare(
            x[:, None][:, :0], data.edge_index, data.edge_attr
        ).perception(field)[:, 0]  # fmt: skip
        assert float((sensed[inner, 0].mean() - 1).abs()) < near  # a quarter of Δ(x² + y²) = 4
        assert float(sensed[inner, 2].abs().max()) < 1e-5
    dense = torch.zeros(len(x), len(x)).index_put(tuple(data.edge_index), data.edge_attr[:, 0])
    assert float(torch.linalg.eigvals(dense).real.min()) > -1.2


def test_variants_of_an_isotropic_rule_stand_on_uneven_points():
    config = GrowConfig.recipe("isotropic", "flag", **TINY)
    data = picture_target(torch.ones(4, 11, 11), "isotropic")
    variants = config.draw_variants(place_seeds(data, 3))
    assert [v.num_nodes == data.num_nodes for v in variants] == [True, False, True, False]
    middle, right, _ = variants[1].pos[variants[1].seed_node]
    assert float((middle - 5).norm()) < 1
    assert 3 < float((right - middle).norm()) < 7
    assert 0 <= float(variants[1].color.min()) <= float(variants[1].color.max()) <= 1
    assert Growth(config, data).train_step()["loss"] > 0
