"""Figures show what they say."""

from __future__ import annotations

import torch

from gncadeq import GraphDEQ, PixelGraphClassifier
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
