"""Variants of a surface to train on: what they keep, and that they are drawn by the seed."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from gncadeq.datasets import mesh_report
from gncadeq.testing import assert_bounded_perception
from gncadeq.training import GrowConfig
from gncadeq.training.grow import Growth
from gncadeq.training.targets import load_target, read_graph, save_target
from gncadeq.training.variants import collapse, jitter, puncture, split, stretch
from gncadeq.transforms.surface_operators import vertex_areas


def target() -> Data:
    data = load_target("gradient", on="icosphere:2")
    return Data(pos=data.pos, face=data.face, color=data.color, seed_node=data.seed_node)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", [jitter, collapse, puncture, split, stretch])
def test_the_seed_and_the_colours_stay_with_their_vertices(change):
    mesh = target()
    out = change(mesh, generator=draw())
    assert int(out.face.max()) == out.num_nodes - 1
    assert torch.equal(out.color[out.seed_node], mesh.color[mesh.seed_node])
    if change in (collapse, puncture, split):
        assert torch.equal(out.pos[out.seed_node], mesh.pos[mesh.seed_node])
        # The colour is the place, (x + 1) / 2, also in the middle of an edge.
        torch.testing.assert_close(out.color[:, :3], (out.pos + 1) / 2)
    again, other = change(mesh, generator=draw()), change(mesh, generator=draw(1))
    assert torch.equal(out.pos, again.pos)
    assert out.pos.shape != other.pos.shape or not torch.equal(out.pos, other.pos)


def test_splitting_keeps_the_surface_closed_and_its_area():
    mesh = target()
    for seed in range(5):
        finer = split(mesh, draw(seed))
        assert finer.num_nodes > 1.3 * mesh.num_nodes
        areas = [float(vertex_areas(m.pos.double(), m.face).sum()) for m in (mesh, finer)]
        assert areas[0] == pytest.approx(areas[1], rel=1e-6)
        report = mesh_report(finer)
        assert (report.boundary_edges, report.nonmanifold_edges) == (0, 0)
        assert finer.num_nodes - finer.face.size(1) / 2 == 2  # Euler: V - E + F with E = 3 F / 2


def test_collapsing_leaves_no_hole_and_a_puncture_does():
    mesh = target()
    for seed in range(5):
        coarser = collapse(mesh, draw(seed))
        assert coarser.num_nodes < 0.85 * mesh.num_nodes
        assert mesh_report(coarser).boundary_edges == 0
        open_ = puncture(mesh, draw(seed))
        assert mesh_report(open_).boundary_edges > 0
        assert open_.num_nodes < mesh.num_nodes


def test_half_of_the_pool_is_the_surface_itself():
    config = GrowConfig("gradient", on="icosphere:2", variants=7, channels=8)
    run = Growth(config, config.read_target())
    itself = run.pool.graphs[0]
    assert torch.equal(itself.pos, run.data.pos)
    own = [run.pool.graphs[run.pool.graph_of(s)] is itself for s in range(16)]
    assert sum(own) >= 8
    sizes = {graph.num_nodes for graph in run.pool.graphs}
    assert min(sizes) < 162 < max(sizes)
    for graph in run.pool.graphs:
        assert_bounded_perception(graph)
        assert torch.equal(graph.x.nonzero()[:, 0], graph.seed_node)
    again = Growth(config, config.read_target())
    assert all(torch.equal(a.pos, b.pos)
               for a, b in zip(run.pool.graphs, again.pool.graphs, strict=True))  # fmt: skip
    small = GrowConfig("gradient", on="icosphere:2", pool_size=4, batch_size=4, channels=8)
    assert len(Growth(small, small.read_target()).pool.graphs) == 3
    none = GrowConfig("gradient", on="icosphere:2", variants=0, channels=8)
    assert Growth(none, none.read_target()).pool.graphs[1:] == []


def test_what_is_too_coarse_for_the_scale_is_left_out():
    config = GrowConfig("gradient", on="icosphere:1", scale=0.3, variants=7, channels=8)
    run = Growth(config, config.read_target())
    assert 1 < len(run.pool.graphs) < 15


def test_a_seed_of_any_stride_is_saved(tmp_path):
    """A tensor of one number, cut out of a matrix, has the matrix's stride."""
    data = load_target("gradient", on="icosphere:1")
    data.seed_node = torch.tensor([[3, 4], [5, 6]])[:1, 0]
    assert data.seed_node.stride() == (2,)
    save_target(data, tmp_path / "target.safetensors")
    assert read_graph(tmp_path / "target.safetensors").seed_node.tolist() == [3]


def test_a_number_of_variants_is_checked():
    with pytest.raises(ValueError, match="'variants' to be a whole number of at least 0"):
        GrowConfig("gradient", variants=-1)
