"""Every pixel's label, step by step until all agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.check import check_seed
from gncadeq.device import beside
from gncadeq.dynamics import GraphNCA, Partition
from gncadeq.models import SelfClassifier
from gncadeq.transforms import graph_to_image
from gncadeq.viz.colors import LABEL_COLORS, paint, rgb
from gncadeq.viz.figures import show_pixels
from gncadeq.viz.legend import TEXT

STEPS = (0, 5, 20, 100, 1000)
_GREY = 0.1  # pixels brighter than this are drawn


@torch.no_grad()
def settling_figure(
    model: SelfClassifier,
    graphs: Sequence[Data],
    steps: Sequence[int] = STEPS,
    fire_rate: float = 0.5,
    seed: int = 0,
) -> Figure:
    """The label of every pixel after some steps from Gaussian noise, and at the equilibrium.

    Args:
        model: The classifier.
        graphs: What its transform made of images, one a row.
        steps: After how many steps, ascending.
        fire_rate: The share of the nodes that update in a step.
        seed: Of noise and update masks.
    """
    batch = beside(Batch.from_data_list(list(graphs)), model)
    u, edges, relation = model.inject(batch.x, batch.edge_index, batch.edge_attr)
    partition = Partition(batch.batch, batch.num_nodes, batch.num_graphs)
    generator = torch.Generator().manual_seed(check_seed(seed))
    z = torch.randn(batch.num_nodes, model.cell.channels, generator=generator, dtype=u.dtype)
    z = z.to(u.device)
    columns, done = [], 0
    for until in steps:
        if until > done:
            nca = GraphNCA(model.cell, until - done, fire_rate)
            z, done = nca(u, edges, relation, z0=z, generator=generator), until
        columns.append(model.read(u, z, edges, partition).argmax(1).cpu())
    logits = model(batch.x, batch.edge_index, batch.edge_attr, batch=batch.batch)
    columns.append(logits.argmax(1).cpu())
    rows, cols = len(graphs), len(columns) + 1
    figure = Figure(figsize=(cols * 1.0, rows * 1.0 + 0.6))
    axes = figure.subplots(rows, cols, squeeze=False)
    for row, (line, graph) in enumerate(zip(axes, graphs, strict=True)):
        show_pixels(line[0], graph_to_image(graph.x, graph)[0], cmap="gray", vmin=0, vmax=1)
        own = slice(int(batch.ptr[row]), int(batch.ptr[row + 1]))
        for axis, label in zip(line[1:], columns, strict=True):
            show_pixels(axis, label_image(label[own], graph))
    titles = ["input", *("noise" if t == 0 else f"step {t}" for t in steps), "equilibrium"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for number, color in enumerate(LABEL_COLORS):
        figure.text(0.2 + 0.06 * number, 0.04, f"■ {number}", color=color, va="bottom")
    figure.text(0.13, 0.04, "label", color=TEXT, va="bottom")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def label_image(label: Tensor, graph: Data) -> Tensor:
    """Labels ``[num_nodes]`` as a picture ``[H, W, 3]``, black where no bright pixel is."""
    height, width = graph.image_size.view(-1).tolist()
    bright = graph.x.amax(1) > _GREY
    if "level" in graph:
        bright &= graph.level == 0
    color = torch.tensor(rgb(LABEL_COLORS))[label[bright]]
    return paint(color, graph.pos[bright], height, width, background=0.0)
