"""The pictures of a classifier; matplotlib and Pillow, no display needed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_seed
from gncadeq.device import beside, device_of
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition, solve
from gncadeq.evaluation import Evaluation
from gncadeq.files.atomic import write_atomically
from gncadeq.files.csv_rows import read_rows
from gncadeq.models import ImageClassifier
from gncadeq.transforms import graph_to_image
from gncadeq.viz.colors import LABEL_COLORS, StateColors, drawn, paint, paint_graph, rgb
from gncadeq.viz.images import enlarged, write_gif
from gncadeq.viz.legend import TEXT

STEPS = (0, 1, 2, 3, 5, 8, 15, 40)
_PAGE = 8.0  # inches
_DPI = 160
_POINTS = 9  # of text, on a page


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG or PDF, atomically, as :func:`encode_figure` makes it."""
    write_atomically(path, encode_figure(figure, Path(path).suffix[1:] or "png"))
    return Path(path)


def encode_figure(figure: Figure, kind: str = "png") -> bytes:
    """A figure as a file, its text in the font and colour of all pictures and in one size: 9 points
    where a figure that is wider than a page of 8 inches is shrunk to it.
    """
    wider = max(1.0, figure.get_figwidth() / _PAGE)
    for text in figure.findobj(Text):
        text.set(fontsize=_POINTS * wider, fontfamily="DejaVu Sans")
        if text.get_color() == "black":
            text.set_color(TEXT)
    for axes in figure.axes:
        axes.tick_params(which="both", labelsize=_POINTS * wider, labelcolor=TEXT)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI / wider, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def save_gif(frames: Sequence[Tensor], path: str | Path) -> Path:
    """Write frames ``[H, W, 3]`` in [0, 1] as a GIF; the last one stays for a second."""
    return write_gif(path, [enlarged(frame, 6) for frame in frames])


@torch.no_grad()
def _rollout(model: ImageClassifier, data: Data, steps: int, fire_rate: float, seed: int) -> Tensor:
    nca = GraphNCA(model.dynamics.cell, steps, fire_rate=fire_rate, start="normal")
    data = beside(data, model)
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    _, trajectory = nca(
        u, data.edge_index, data.edge_attr, return_trajectory=True,
        generator=torch.Generator().manual_seed(check_seed(seed)),
    )  # fmt: skip
    return trajectory.cpu()  # type: ignore[no-any-return]


@torch.no_grad()
def _solved(model: ImageClassifier, data: Data) -> Tensor:
    deq = GraphDEQ(model.dynamics.cell, tol=1e-6, max_steps=600)
    data = beside(data, model)
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    z: Tensor = deq(u, data.edge_index, data.edge_attr)
    return z.cpu()


def show_pixels(axis: Any, picture: Tensor, **style: Any) -> None:
    """Draw an image in a thin frame, without ticks."""
    axis.imshow(picture.numpy(), interpolation="nearest", **style)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("#cccccc")


def open_axes(*axes: Any, **labels: Any) -> None:
    """Leave out the upper and the right line, and set labels and limits."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(**labels)


def trajectory_figure(
    model: ImageClassifier,
    graphs: Sequence[Data],
    steps: Sequence[int] = STEPS,
    fire_rate: float = 1.0,
    seed: int = 0,
) -> tuple[Figure, list[Tensor]]:
    """The essay's Figure 1: the state after every step, from noise to stasis.

    The last column is the equilibrium that the solver finds from zeros. Beside it stands how far
    the automaton's last state is from it, relative to its norm. Of a pyramid level 1 is drawn.

    Returns:
        The strip, one row an image; and the frames of an animation of all images side by side.
    """
    runs = [_rollout(model, g, max(steps), fire_rate, seed + i) for i, g in enumerate(graphs)]
    solved = [_solved(model, g) for g in graphs]
    colors = StateColors(torch.cat([drawn(z, g) for z, g in zip(solved, graphs, strict=True)]))
    rows, cols = len(graphs), len(steps) + 2
    figure = Figure(figsize=(cols * 0.95, rows * 0.95 + 0.35))
    axes = figure.subplots(rows, cols, squeeze=False)
    for line, graph, run, end in zip(axes, graphs, runs, solved, strict=True):
        show_pixels(line[0], graph_to_image(graph.x, graph)[0], cmap="gray", vmin=0, vmax=1)
        for axis, z in zip(line[1:], [*(run[t] for t in steps), end], strict=True):
            show_pixels(axis, paint_graph(colors(drawn(z, graph)), graph))
        distance = float((run[-1] - end).norm() / end.norm())
        line[-1].yaxis.set_label_position("right")
        line[-1].set_ylabel(f"distance\n{distance:.0e}", rotation=0, ha="left", va="center")
    titles = ["input", *("noise" if t == 0 else f"step {t}" for t in steps), "solver"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    pairs = list(zip(graphs, runs, strict=True))
    frames = [
        torch.cat([paint_graph(colors(drawn(run[t], g)), g) for g, run in pairs], dim=1)
        for t in range(max(steps) + 1)
    ]
    return figure, frames


Window = Callable[[int, int], tuple[slice, slice]]
CROPS: dict[str, Window] = {
    "whole": lambda h, w: (slice(0, h), slice(0, w)),
    "upper half": lambda h, w: (slice(0, h // 2), slice(0, w)),
    "lower half": lambda h, w: (slice(h // 2, h), slice(0, w)),
    "left half": lambda h, w: (slice(0, h), slice(0, w // 2)),
    "right half": lambda h, w: (slice(0, h), slice(w // 2, w)),
    "centre": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
    "corner quarter": lambda h, w: (slice(0, h // 2), slice(0, w // 2)),
}
"""Named windows of an image, as slices of its height and width."""


@torch.no_grad()
def truncation_figure(model: ImageClassifier, images: Sequence[Tensor]) -> Figure:
    """The essay's Figure 2: truncated images ``[C, H, W]`` in [0, 1], their equilibria and labels.

    The model sees the window alone, as an image of that size; it is drawn where it was cut out.
    """
    model.eval()
    answers = {
        (r, name): _answer(model, image, *window(*image.shape[1:]))
        for r, image in enumerate(images) for name, window in CROPS.items()
    }  # fmt: skip
    colors = StateColors(torch.cat([drawn(a[1], a[0]) for a in answers.values() if a]))
    figure = Figure(figsize=(len(CROPS) * 1.25, len(images) * 1.5 + 0.3))
    axes = figure.subplots(len(images), len(CROPS), squeeze=False)
    for axis, ((r, name), answer) in zip(axes.flat, answers.items(), strict=True):
        h, w = images[r].shape[1:]
        canvas = torch.full((h, w, 3), 0.9)
        window = CROPS[name](h, w)
        canvas[window] = 1.0
        text = "no pixel lives"
        if answer is not None:
            data, z, probability = answer
            canvas[window] = paint_graph(colors(drawn(z, data)), data)
            text = f"{int(probability.argmax())}  ({float(probability.max()):.0%})"
        show_pixels(axis, canvas)
        axis.set_xlabel(text, labelpad=2)
        if r == 0:
            axis.set_title(name)
    figure.subplots_adjust(wspace=0.08, hspace=0.22)
    return figure


def _answer(
    model: ImageClassifier, image: Tensor, height: slice, width: slice
) -> tuple[Data, Tensor, Tensor] | None:
    """The graph of a window, its equilibrium and its probabilities; ``None`` if no pixel lives."""
    try:
        data = model.to_graph(image[:, height, width].contiguous())
    except ValueError:
        return None
    graph = beside(data, model)
    u = model.encode(graph.x, graph.edge_index, graph.edge_attr)
    z = model.dynamics(u, graph.edge_index, graph.edge_attr)
    nodes = Partition(None, z.size(0), like=z)
    pooled = model.pool(z, nodes, graph.edge_index, graph.edge_attr)
    return data, z.cpu(), model.readout.decode(pooled).softmax(1)[0].cpu()


@torch.no_grad()
def residual_figure(
    model: ImageClassifier, data: Any, steps: int = 40, tol: float = 1e-6
) -> Figure:
    """Relative residual per evaluation, median and range over a batch, for every solver."""
    model.eval()
    data = beside(data, model)
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    step = model.dynamics.cell.prepare(u, data.edge_index, data.edge_attr)
    partition = Partition(data.batch, data.num_nodes, data.num_graphs)
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(data.num_nodes, model.dynamics.cell.channels, generator=generator)
    z0 = z0.to(u.device)
    figure = Figure(figsize=(5.2, 3.4))
    axis = figure.subplots()
    for solver, color in zip(("picard", "anderson", "broyden"), LABEL_COLORS, strict=False):
        solution = solve(
            step, z0, partition, solver=solver, tol=tol, max_steps=steps, trace=True, compact=False
        )
        assert solution.trace is not None
        trace = solution.trace.nan_to_num(nan=tol).clamp(min=tol).cpu().numpy()
        x = np.arange(1, len(trace) + 1)
        axis.plot(x, np.median(trace, 1), color=color, label=solver)
        axis.fill_between(x, trace.min(1), trace.max(1), color=color, alpha=0.15, lw=0)
    nca = GraphNCA(model.dynamics.cell, steps, fire_rate=0.5)
    _, states = nca(
        u, data.edge_index, data.edge_attr, data.batch, z0=z0, return_trajectory=True,
        generator=generator,
    )  # fmt: skip
    residuals = [partition.norm(step(z) - z) / partition.norm(step(z)) for z in states]
    trace = torch.stack(residuals).clamp(min=tol).cpu().numpy()
    x = np.arange(1, len(trace) + 1)
    axis.plot(x, np.median(trace, 1), color="#888888", ls="--", label="automaton, fire rate ½")
    axis.axhline(1e-3, color="#bbbbbb", lw=0.8, zorder=0)
    axis.set_yscale("log")
    open_axes(axis, xlabel="evaluations of the cell", ylabel="relative residual of a graph")
    axis.legend(frameon=False)
    return figure


def learning_figure(metrics: Path) -> Figure:
    """Loss, accuracy and solver steps over the epochs of a run's ``metrics.csv``."""
    rows = read_rows(metrics)
    per_epoch = max(int(r["step"]) for r in rows) / (max(int(r["epoch"]) for r in rows) + 1)
    x = [int(r["step"]) / per_epoch for r in rows]
    figure = Figure(figsize=(9, 2.8))
    left, middle, right = figure.subplots(1, 3)
    left.plot(x, [float(r["loss"]) for r in rows], color=LABEL_COLORS[0], lw=1)
    left.set_yscale("log")
    error = [100 * (1 - float(r["accuracy"])) for r in rows]
    middle.plot(x, error, color=LABEL_COLORS[1], lw=1, label="training")
    held = [(a, 100 * (1 - float(r["validation_accuracy"])))
            for a, r in zip(x, rows, strict=True) if r["validation_accuracy"]]  # fmt: skip
    if held:
        middle.plot(*zip(*held, strict=True), "o-", color=LABEL_COLORS[3], ms=3, label="validation")
        middle.legend(frameon=False)
    middle.set_yscale("symlog", linthresh=0.1)  # an error of zero has a place too
    middle.set_ylim(bottom=0)
    right.plot(x, [float(r["solver_steps"]) for r in rows], color=LABEL_COLORS[2], lw=1)
    right.set_ylim(bottom=0)
    for axis, name in zip(
        (left, middle, right), ("training loss", "error (%)", "solver steps"), strict=True
    ):
        open_axes(axis, xlabel="epoch", ylabel=name)
    figure.tight_layout()
    return figure


def confusion_figure(result: Evaluation) -> Figure:
    """Which classes are taken for which."""
    count = result.confusion()
    figure = Figure(figsize=(4.6, 4.2))
    axis = figure.subplots()
    share = count / count.sum(1, keepdim=True).clamp(min=1)
    axis.imshow(share.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
    for i, j in count.nonzero().tolist():
        axis.text(j, i, str(int(count[i, j])), ha="center", va="center",
                  color="white" if share[i, j] > 0.3 else "#333333")  # fmt: skip
    number = range(count.size(0))
    title = f"{100 * result.accuracy:.2f} % of {len(result.label)}"
    if result.without_answer:
        title += f", {result.without_answer} without an answer"
    axis.set(xticks=number, yticks=number, xlabel="predicted", ylabel="right")
    axis.set_title(title)
    return figure


def label_map_figure(
    model: ImageClassifier, data: Data, z: Tensor, radius: int = 14
) -> tuple[Figure, Tensor]:
    """The picture (input, state, labels) and the labels ``[num_pixels]`` that the states around
    each pixel decode to, in a window of a radius; 0 decodes every pixel's own.
    """
    label = model.local_labels(z.to(device_of(model)), beside(data, model), radius).cpu()
    image, seen = graph_to_image(data.x, data)[:1], drawn(z, data)
    height, width = image.shape[1:]
    wide = width > 1.5 * height
    tall = 3 * 8.0 * height / width + 1.3 if wide else 8.0 / 3 * height / width + 0.9
    figure = Figure(figsize=(8.0, tall))
    axes = figure.subplots(3, 1) if wide else figure.subplots(1, 3)
    palette = torch.tensor(rgb(LABEL_COLORS))
    pictures = (
        image.permute(1, 2, 0).expand(-1, -1, 3),
        paint_graph(StateColors(seen)(seen), data),
        paint(palette[label % 10], data.pos[: len(label)], height, width),
    )
    for axis, picture, name in zip(
        axes, pictures, ("input", "equilibrium", "local labels"), strict=True
    ):
        axis.imshow(picture.numpy(), interpolation="nearest")
        axis.set_title(name)
        axis.axis("off")
    handles = [
        axes[2].scatter([], [], color=LABEL_COLORS[i % 10], marker="s", label=str(i))
        for i in sorted(set(label.tolist()))
    ]
    figure.legend(handles=handles, loc="lower center", ncols=10, frameon=False)
    return figure, label
