"""The picture of what was found in a picture: boxes, labels, and each digit's equilibrium."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.transforms import FoundDigit
from gncadeq.viz.colors import LABEL_COLORS, StateColors, drawn, paint_graph
from gncadeq.viz.figures import show_pixels

_SHOWN = 12  # digits that are drawn on their own, beside the picture


def found_digits_figure(
    picture: Tensor,
    digits: Sequence[FoundDigit],
    labels: Sequence[int],
    doubtful: Sequence[bool],
    graphs: Sequence[Data],
    states: Sequence[Tensor],
) -> Figure:
    """Draw a picture with a box and a label around each digit, and what the model made of them.

    Args:
        picture: ``[C, H, W]`` in [0, 1].
        digits: What was found in it.
        labels: Their classes.
        doubtful: Which are unlike the training images; they get "?" and a dashed box.
        graphs: Their pixel graphs.
        states: Their equilibria ``[num_nodes, channels]``.
    """
    height, width = picture.shape[1:]
    columns = min(len(digits), _SHOWN)
    side = 1.1  # inches of a digit
    across = max(4.0, columns * side)
    down = min(max(across * height / width, 1.5), 8.0)
    figure = Figure(figsize=(across, down + 2 * side + 0.3))
    grid = figure.add_gridspec(
        3, columns, height_ratios=[down, side, side], hspace=0.08, wspace=0.06
    )
    axis = figure.add_subplot(grid[0, :])
    grey = picture.size(0) == 1
    axis.imshow(picture.permute(1, 2, 0).squeeze(2) if grey else picture.permute(1, 2, 0),
                cmap="gray" if grey else None, vmin=0, vmax=1)  # fmt: skip
    axis.axis("off")
    line = max(1.0, 2.0 - 0.01 * len(digits))
    margin = 0.01 * max(height, width)
    for digit, label, doubt in zip(digits, labels, doubtful, strict=True):
        left, top, right, bottom = digit.box
        color, corner = LABEL_COLORS[label % 10], (left - margin, top - margin)
        size = right - left + 2 * margin, bottom - top + 2 * margin
        place, dash = (corner[0] - 0.5, corner[1] - 0.5), "--" if doubt else "-"
        axis.add_patch(Rectangle(place, *size, fill=False, lw=line, ec=color, ls=dash))
        axis.annotate(
            f"{label}{'?' if doubt else ''}", corner, color="white", va="bottom",
            ha="left", annotation_clip=False,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    for k, (digit, z, graph) in enumerate(
        zip(digits[:columns], states[:columns], graphs[:columns], strict=True)
    ):
        seen = drawn(z, graph)
        painted = paint_graph(StateColors(seen)(seen), graph)
        names = ("as the model\nsees it", "equilibrium")
        for row, (image, name) in enumerate(zip((digit.image[0], painted), names, strict=True), 1):
            small = figure.add_subplot(grid[row, k])
            show_pixels(small, image, cmap="gray", vmin=0, vmax=1)
            if k == 0:
                small.set_ylabel(name)
    return figure
