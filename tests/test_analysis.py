"""Path independence, basins, sensitivity, and the page that shows all analyses."""

from __future__ import annotations

import base64
import io
import json
import math
import re

import pytest
import torch
from known_maps import prepared, rotation

from gncadeq import ConvCell, ConvergenceError, GraphDEQ, PixelGraphClassifier
from gncadeq.analysis import (
    asymptotic_alignment,
    basin_map,
    classify_attractor,
    hop_distance,
    influence_by_hop,
    path_independence,
    sensitivity,
)
from gncadeq.analysis.jacobian import Jacobian
from gncadeq.datasets import PixelGraphs
from gncadeq.report import measure_report
from gncadeq.transforms import ImageToGraph

# Path independence


def two_wells(z):
    return torch.tanh(3 * z)


def test_a_contraction_is_path_independent(ragged, equilibrium):
    _, step, _ = equilibrium
    z0 = torch.zeros(ragged.num_nodes, 6, dtype=torch.double)
    report = path_independence(step, z0, ragged.batch, starts=3, tol=1e-8)
    assert bool(report.independent(1e-5).all())
    assert report.residual.shape == (4, 4)
    assert bool((report.alignment > 1 - 1e-9).all())
    score = asymptotic_alignment(step, z0, ragged.batch, tol=1e-8)
    torch.testing.assert_close(score, torch.ones_like(score))


def test_two_attractors_are_told_apart():
    z0 = torch.tensor([[0.5], [0.5], [0.5], [0.5]])
    batch = torch.tensor([0, 0, 1, 1])
    other = torch.tensor([[-0.5], [-0.5], [0.5], [-0.5]])
    score = asymptotic_alignment(two_wells, z0, batch, other=other, solver="picard")
    torch.testing.assert_close(score, torch.tensor([-1.0, 0.0]), atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(0)
    report = path_independence(two_wells, z0, batch, starts=8, solver="picard", generator=generator)
    assert bool((report.converged == 1).all())
    assert bool((report.distance > 1.9).any())
    assert not bool(report.independent().any())
    assert "starts=9" in repr(report)


def test_zero_equilibria_are_aligned():
    score = asymptotic_alignment(torch.zeros_like, torch.ones(3, 2), other=torch.ones(3, 2))
    assert score.tolist() == [1.0]
    report = path_independence(torch.zeros_like, torch.ones(3, 2))
    assert report.distance.tolist() == [0.0]


def test_what_does_not_converge_is_not_independent():
    report = path_independence(lambda z: -z + 1, torch.zeros(3, 1), solver="picard", max_steps=5)
    assert float(report.converged) < 1
    assert not bool(report.independent().any())


def test_bad_independence():
    with pytest.raises(ValueError, match=r"state's shape \[3, 1\]"):
        asymptotic_alignment(torch.clone, torch.ones(3, 1), other=torch.ones(2, 1))
    with pytest.raises(ValueError, match="'scale' to be"):
        path_independence(torch.clone, torch.ones(3, 1), scale=0.0)


# Basins and sensitivity


def test_a_basin_of_two_wells_is_a_quadrant():
    z = torch.full((1, 2), 0.99505, dtype=torch.double)
    z = classify_attractor(two_wells, z, transient=50).state
    plane = torch.eye(2, dtype=torch.double).view(2, 1, 2)
    basin = basin_map(two_wells, z, directions=plane, resolution=10, radius=1.0)
    # A start returns if both entries stay positive: z + |z| a > 0, that is a > -0.707.
    inside = basin.offset > -math.sqrt(0.5)
    assert torch.equal(basin.returned, inside[:, None] & inside[None, :])
    assert "returned=64%" in repr(basin)


def test_a_contractions_basin_is_everything(equilibrium):
    cell = ConvCell(1, 3, contraction=0.8).double()
    data = ImageToGraph()(torch.rand(1, 4, 4, dtype=torch.double))
    z = GraphDEQ(cell, tol=1e-10, max_steps=300)(data.x, data.edge_index, data.edge_attr).detach()
    basin = basin_map(prepared(cell, data), z, resolution=5, radius=50.0)
    assert bool(basin.returned.all())
    assert int(basin.num_steps[2, 2]) == 0
    assert int(basin.num_steps[0, 0]) > 0


def test_bad_basins():
    z = torch.ones(2, 1)
    with pytest.raises(ValueError, match="parallel"):
        basin_map(torch.clone, z, directions=torch.ones(2, 2, 1))
    with pytest.raises(ValueError, match="at least two entries"):
        basin_map(torch.clone, z[:1])
    with pytest.raises(ValueError, match="'resolution' to be a whole number of at least 2"):
        basin_map(torch.clone, z, resolution=1)


def test_sensitivity_is_the_inverse_of_the_linearised_map(ragged, equilibrium):
    cell, _, z = equilibrium
    data, z = ragged.to_data_list()[1], z[ragged.batch == 1]
    step = prepared(cell, data)
    matrix = Jacobian(step, z).dense()
    response = torch.linalg.inv(torch.eye(len(matrix), dtype=torch.double) - matrix)
    blocks = response.view(z.size(0), 6, z.size(0), 6)
    for node in (0, 7, -1):
        expected = blocks[node].square().sum((0, 2)).sqrt()
        found = sensitivity(step, z, node, tol=1e-9)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_information_travels_one_hop_a_step(ragged, equilibrium):
    cell, _, z = equilibrium
    data = ragged.to_data_list()[2]
    step, z = prepared(cell, data), torch.zeros(data.num_nodes, 6, dtype=torch.double)
    node = 11
    hops = hop_distance(data.edge_index, node, data.num_nodes)
    for steps in (0, 1, 3):
        found = sensitivity(step, z, node, steps=steps)
        near = (hops >= 0) & (hops <= steps)
        assert torch.equal(found > 0, near)
    matrix = torch.autograd.functional.jacobian(lambda z: step(step(step(z)))[node], z)
    torch.testing.assert_close(found, matrix.square().sum((0, 2)).sqrt())
    profile = influence_by_hop(found, hops)
    assert len(profile) == int(hops.max()) + 1
    assert float(profile[0]) == pytest.approx(float(found[node]))


def test_bad_sensitivity():
    z = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="'node' to be"):
        sensitivity(torch.clone, z, 2)
    with pytest.raises(ConvergenceError):
        sensitivity(lambda z: z @ torch.tensor([[1.0]]), z, 0, max_steps=20)
    with pytest.raises(ValueError, match="'steps' to be a whole number of at least 0"):
        sensitivity(torch.clone, z, 0, steps=-1)


def test_negative_nodes_count_from_the_end():
    f = lambda z: 0.5 * z.roll(1, dims=0)  # noqa: E731
    z = torch.zeros(4, 1)
    assert torch.equal(sensitivity(f, z, -1), sensitivity(f, z, 3))


# Pictures and the page


def test_every_analysis_has_a_picture():
    from gncadeq.viz import analysis as draw

    z = torch.randn(6, 2, dtype=torch.double)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    maps = (lambda z: 0.5 * z, lambda z: z.roll(1, dims=0))
    step = lambda z: torch.cat([f(y) for f, y in zip(maps, z.split(3), strict=True)])  # noqa: E731
    turn = lambda z: z @ rotation(1.0, 0.9)  # noqa: E731
    value, hops = torch.tensor([1.0, 0.1, 0.0]), torch.tensor([0, 1, -1])
    pos = torch.tensor([[0, 0], [1, 0], [2, 0]])
    figures = [
        draw.spectrum_figure([torch.zeros(2, dtype=torch.cfloat)], {"ρ": torch.zeros(1)}),
        draw.lyapunov_figure(torch.full((3, 1), -math.inf)),
        draw.independence_figure(path_independence(turn, z, batch)),
        draw.census_figure(classify_attractor(step, z, batch, transient=60, max_period=8)),
        draw.basin_figure(basin_map(two_wells, torch.full((1, 2), 0.995), resolution=4)),
        draw.basin_figure(basin_map(lambda z: 2 * z, z, resolution=3, max_steps=4)),
        draw.sensitivity_figure(value, hops, pos, (2, 3), [(value, hops)]),
    ]
    for figure in figures:
        save = io.BytesIO()
        figure.savefig(save, format="png", dpi=20)
        assert save.getvalue().startswith(b"\x89PNG")


def test_the_page_is_self_contained(tmp_path):
    dataset = PixelGraphs(tmp_path, "digits", train=False)
    model = PixelGraphClassifier(channels=3, contraction=0.9).train()
    report = measure_report(model, dataset, graphs=2, progress=False)
    path = report.save(tmp_path / "page.html")
    text = path.read_text()
    assert model.training
    assert not list(tmp_path.glob("*.tmp"))
    assert not re.search(r"https?://|<link|src=\"(?!data:)", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 6
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert "Not measured" not in text
    numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', text)[1])
    assert numbers["Attractors of long rollouts"]["counts"] == {"fixed point": 2}


def test_the_page_says_what_cannot_be_measured(tmp_path):
    dataset = PixelGraphs(tmp_path, "digits", train=False)
    model = PixelGraphClassifier(channels=4)
    with torch.no_grad():
        model.dynamics.cell.weight_z.mul_(math.nan)
    report = measure_report(model, dataset, graphs=2, progress=False)
    text = report.save(tmp_path / "p.html").read_text()
    assert "Not measured: Expected a finite state (got NaN or infinity)" in text
    assert "diverged (2)" in text
    with pytest.raises(ValueError, match="'graphs' to be a whole number of at least 1"):
        measure_report(model, dataset, graphs=0)
