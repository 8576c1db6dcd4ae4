"""Tables as bars: a panel for each quantity, a group of bars for each row."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from gncadeq.viz.colors import LABEL_COLORS
from gncadeq.viz.figures import open_axes, save_figure

Table = dict[str, dict[str, float]]


def draw_bars(panels: dict[str, Table], path: Path) -> None:
    """Write a picture.

    Args:
        panels: Of each panel the label of its axis, and the values by row and by series.
        path: The PNG.
    """
    figure = Figure(figsize=(4.5 * len(panels), 3), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, table) in zip(every, panels.items(), strict=True):
        series = list(dict.fromkeys(name for row in table.values() for name in row))
        width = 1 / (len(series) + 1)
        for k, name in enumerate(series):
            found = {
                at + k * width: row[name] for at, row in enumerate(table.values()) if name in row
            }
            axes.bar(
                list(found), list(found.values()), 0.9 * width, label=name, color=LABEL_COLORS[k]
            )
        middle = (len(series) - 1) * width / 2
        open_axes(axes, ylabel=label, xticks=[at + middle for at in range(len(table))])
        axes.set_xticklabels(table, rotation=20 if len(table) > 4 else 0)
        if len(series) > 1:
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    save_figure(figure, path)
