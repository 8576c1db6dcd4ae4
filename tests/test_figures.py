"""Figures show what they say."""

from __future__ import annotations

import torch

from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.models import PyramidClassifier
from gncadeq.report.sections import Bench, pixels_of
from gncadeq.transforms import ImageToGraph
from gncadeq.viz.colors import drawn, paint_graph
from gncadeq.viz.figures import trajectory_figure


def test_the_last_column_of_figure_1_is_the_solvers_solution():
    model = PixelGraphClassifier.from_pretrained("digits")
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = model.to_graph(image)
    figure, _ = trajectory_figure(model, [data], steps=(0, 2))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["input", "noise", "step 2", "solver"]

    # The automaton starts from noise of seed 0; two steps are far from rest, and the label says so.
    with torch.no_grad():
        u = model.encode(data.x, data.edge_index, data.edge_attr)
        cell = model.dynamics.cell
        z = GraphDEQ(cell, tol=1e-6, max_steps=600)(u, data.edge_index, data.edge_attr)
        state = torch.randn(64, cell.channels, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            state = cell(state, u, data.edge_index, data.edge_attr)
        distance = float((state - z).norm() / z.norm())
    assert distance > 1e-3
    assert figure.axes[-1].get_ylabel() == f"distance\n{distance:.0e}"


def test_a_pyramid_is_drawn_by_its_level_1_two_by_two_pixels_a_node():
    data = ImageToGraph(levels=3)(torch.rand(1, 5, 6))
    color = torch.rand(data.num_nodes, 3)
    picture = paint_graph(drawn(color, data), data)
    assert picture.shape == (5, 6, 3)
    for node in (data.level == 1).nonzero().flatten().tolist():
        col, row = data.pos[node].long().tolist()
        block = picture[row : row + 2, col : col + 2].reshape(-1, 3)
        assert torch.equal(block, color[node].expand_as(block))


def test_a_central_node_of_a_pyramid_feels_pixels_through_its_levels(tmp_path):
    """The sensitivities are those of the cascade's Jacobian; distances are those of pixels."""
    dataset = PixelGraphs(tmp_path, "digits", train=False)
    model = PyramidClassifier(channels=(2, 3)).eval()
    dataset.to_graph = model.to_graph
    bench = Bench(model, dataset, 1, seed=0)
    (data,) = bench.graphs
    step, z = bench.one(0)
    value, hops = bench.felt(0, pixels_of(data))
    assert len(value) == len(hops) == int((data.level == 0).sum())
    jacobian = torch.autograd.functional.jacobian(step, z)
    n, c = z.shape
    inverse = torch.linalg.inv(torch.eye(n * c) - jacobian.view(n * c, n * c)).view(n, c, n, c)
    size = inverse.permute(0, 2, 1, 3).flatten(2).norm(dim=2)[:, : len(value)]
    nodes = (data.level == 1).nonzero().flatten()
    assert min(float((size[i] - value).abs().max()) for i in nodes) < 1e-3 * float(value.max())
