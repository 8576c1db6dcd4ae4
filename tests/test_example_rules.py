"""What two examples claim: shipped rules that mend, and a rule learned from its hardest states;
and the doctests of modules beside the examples."""

from __future__ import annotations

import argparse
import doctest
import importlib

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from elastic import ElasticCell, distance_loss
from many_pictures import TRAINED, Pictures
from safetensors.torch import load_file

from gncadeq import GraphNCA
from gncadeq.cells import SweepGrower


@pytest.mark.parametrize("target", ["grid", "torus", "cube"])
def test_the_shipped_weights_mend_damage_in_25_steps(target, monkeypatch):
    """Better than the published checkpoints of E(n)-GNCA, from a state at rest."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import fixed_targets as example

    data = example.make_target(target, 8 if target == "cube" else 16, None)
    data = example.widened(data, example.RECIPE[target][0])
    cell = ElasticCell(data.pos.size(1))
    cell.load_state_dict(load_file(REPOSITORY / f"examples/fixed_targets/{target}.safetensors"))
    old = cell.start(data.pos)
    old[:, 2 * cell.space] = 0.0  # no longer young; at rest, but for its features
    with torch.no_grad():
        graph = data.x, data.edge_index, data.edge_attr
        old = GraphNCA(cell, steps=100)(*graph, z0=old)
        assert float(distance_loss(cell.coordinates(old), data.pos)) < 1e-10
        for seed in range(3):
            hurt = example.damaged(old, cell.dim, torch.Generator().manual_seed(seed))
            assert float(distance_loss(cell.coordinates(hurt), data.pos)) > 0.1
            mended = GraphNCA(cell, steps=25)(*graph, z0=hurt)
            loss = float(distance_loss(cell.coordinates(mended), data.pos))
            assert loss < example.PEERS[target][4] / 2


def test_the_voronoi_rule_is_learned_from_pairs(monkeypatch):
    """In seconds the threshold lies between 2/5 and 3/7, and 5/12 is the one input in doubt."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import graph_automata as example

    args = argparse.Namespace(
        tessellations=10, smoke=True, hidden_channels=32, lr=0.02, margin=0.1,
        train_steps={"voronoi": 200},
    )  # fmt: skip
    cell, row = example.train("voronoi", args, seed=0)
    wrong, count = example.wrong_inputs("voronoi", example.BinaryCell(cell), 12)
    assert row["pairs"] == 1000
    assert count == 180
    assert {(n, d) for _, n, d in wrong} <= {(5, 12)}


def test_every_graph_keeps_the_state_whose_worst_node_is_worse(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import graph_automata as example

    batch = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3])  # two graphs, each twice
    z = torch.arange(10.0)[:, None]
    loss = torch.tensor([0.0, 0.5, 0.2, 0.2, 0.2, 0.3, 0.3, 0.0, 0.0, 0.3])
    kept = example.harder_states(z, loss, batch)
    assert kept.flatten().tolist() == [0, 1, 7, 8, 9]  # the new one of graph 0, the old one of 1


def test_voronoi_cells_tile_the_square(monkeypatch):
    """They are convex, their areas add up to one, and every place belongs to the nearest point."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    from matplotlib.path import Path
    from voronoi import voronoi_polygons

    pos = torch.rand(80, 2, dtype=torch.double)
    polygons = voronoi_polygons(pos)
    area = 0.0
    for corners in polygons:
        edge = np.roll(corners, -1, axis=0) - corners
        after = np.roll(edge, -1, axis=0)
        turn = edge[:, 0] * after[:, 1] - edge[:, 1] * after[:, 0]
        assert (turn > -1e-12).all() or (turn < 1e-12).all()
        x, y = corners.T
        area += abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    assert area == pytest.approx(1.0, abs=1e-9)
    places = torch.rand(50, 2, dtype=torch.double)
    nearest = torch.cdist(places, pos).argmin(1)
    for place, node in zip(places, nearest.tolist(), strict=True):
        assert Path(polygons[node]).contains_point(place)


def test_voronoi_refuses(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    from voronoi import voronoi_polygons

    with pytest.raises(ValueError, match=r"shape \[num_nodes, 2\]"):
        voronoi_polygons(torch.rand(4, 3))
    with pytest.raises(ValueError, match="inside"):
        voronoi_polygons(torch.tensor([[0.5, 0.5], [1.5, 0.5]]))
    with pytest.raises(ValueError, match="all different"):
        voronoi_polygons(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))


BESIDE = ("binary_rules", "curvature", "elastic", "isosurface", "labelled_figures", "small_worlds",
          "small_pictures", "texture_formulas")  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_the_doctests_of_modules_beside_examples(name):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert found.attempted
    assert not found.failed


def test_pictures_differ_by_the_code_in_their_seed_alone():
    """Only the seeds are marked, and every code is at rest after the sweeps, untrained as well."""
    pictures = Pictures(TRAINED[:3], 12)
    codes = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    x = pictures.injection(codes)
    assert torch.equal(x.any(1).nonzero().flatten(), pictures.seeds)
    assert torch.equal(x[pictures.seeds, 1:], codes)
    torch.manual_seed(0)
    cell = SweepGrower(3, 4, 3, 4, 8)
    with torch.no_grad():
        z, solution = pictures.run(GraphNCA(cell, 60), codes)
        own = z.view(3, -1, cell.channels)
    assert solution.residual.max() == 0
    assert (own[0] - own[1]).abs().max() > 0.1
    assert pictures.errors(torch.cat([pictures.color, z[:, 4:]], 1)).max() == 0
