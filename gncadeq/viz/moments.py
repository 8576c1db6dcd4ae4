"""Pictures of growing automata, on pixel grids and in space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.choices import Up
from gncadeq.files.atomic import write_atomically
from gncadeq.files.trajectories import save_trajectory
from gncadeq.growth import Moment
from gncadeq.viz.colors import ColorScale, paint_graph
from gncadeq.viz.images import enlarged, png, write_gif
from gncadeq.viz.legend import tile
from gncadeq.viz.recording import write_viewer
from gncadeq.viz.surface import SurfaceRenderer

_ON_WHITE = ColorScale("rgba")


def painter(
    data: Data, size: int, up: Up = "y", azimuth: float = 30.0
) -> Callable[[Tensor], Image.Image]:
    """What draws node colours ``[num_nodes, 4]``, multiplied by alpha, on white.

    Args:
        data: A pixel grid, or a mesh or graph with ``pos`` in the plane or in space.
        size: Side of a picture in pixels; a grid is enlarged by a whole number up to that.
        up: The axis that points up in space.
        azimuth: Degrees by which the camera goes to the right around what is in space.
    """
    if data.get("image_size") is not None:
        scale = max(1, size // int(data.image_size.max()))
        return lambda color: enlarged(paint_graph(_ON_WHITE(color.clamp(0, 1)), data), scale)
    flat = data.pos.size(1) == 2
    renderer = SurfaceRenderer(data, size=size, up=up, azimuth=0.0 if flat else azimuth)
    return lambda color: renderer(color, _ON_WHITE)


def save_strip(
    moments: Sequence[Moment], data: Data, path: str | Path, columns: int = 6, size: int = 200,
    up: Up = "y", azimuth: float = 30.0,
) -> Path:  # fmt: skip
    """Draw a trial's moments in two rows, each with its step, and the target at the end: a row up
    to the injury, and a row from it on. ``size``, ``up`` and ``azimuth`` are as of :func:`painter`.
    """
    hurt = next((k for k, m in enumerate(moments) if m.event == "damage"), len(moments))
    before, after = list(moments[:hurt]), list(moments[hurt:])
    if after:
        columns = min(columns, hurt)
        shown = [*_thin(before, columns), *_thin(after, columns - 1)]
    else:
        shown = _thin(before, 2 * columns - 1)
    kept = [(m, m.color) for m in shown if m.color is not None]
    paint = painter(data, size, up, azimuth)
    captions = [f"step {m.steps:,}{', cut' if m.event == 'damage' else ''}" for m, _ in kept]
    pictures = [*(paint(c) for _, c in kept), paint(data.color)]
    write_atomically(path, png(tile(pictures, [*captions, "target"], columns)))
    return Path(path)


def _thin(moments: list[Moment], count: int) -> list[Moment]:
    """The first, the last and some between, nearer to each other at the beginning."""
    if len(moments) <= count:
        return moments
    places = (np.linspace(0, 1, count) ** 2 * (len(moments) - 1)).round().astype(int)
    for k in range(1, count):  # no moment twice
        places[k] = max(places[k], places[k - 1] + 1)
    return [moments[min(int(p), len(moments) - 1)] for p in places]


def save_animation(
    moments: Sequence[Moment], data: Data, path: str | Path, size: int = 240, ms: int = 60,
    up: Up = "y", azimuth: float = 30.0,
) -> Path:  # fmt: skip
    """Write a GIF of a trial's moments, ``ms`` milliseconds a frame, halting at the injury and at
    the end; ``size``, ``up`` and ``azimuth`` are as of :func:`painter`.
    """
    kept = [m for m in moments if m.color is not None]
    paint = painter(data, size, up, azimuth)
    frames = [paint(m.color) for m in kept if m.color is not None]
    # One palette for all frames: adaptive ones flicker.
    sheet = Image.new("RGB", (frames[0].width, frames[0].height * 2))
    sheet.paste(paint(data.color), (0, 0))
    sheet.paste(frames[len(frames) // 3], (0, frames[0].height))
    palette = sheet.quantize(255)
    drawn = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    pauses = [
        ms * 12 if k + 1 == len(kept) or m.event == "damage" or kept[k + 1].event == "damage"
        else ms for k, m in enumerate(kept)
    ]  # fmt: skip
    return write_gif(path, drawn, pauses)


def save_viewer(
    moments: Sequence[Moment], data: Data, path: str | Path, up: Up = "y", title: str = "gncadeq"
) -> Path:
    """Write a trial's moments as a page (:func:`gncadeq.viz.write_viewer`)."""
    color = _colors(moments)
    target = _ON_WHITE(data.color).expand(len(color), -1, -1)
    return write_viewer(
        path, data, _ON_WHITE(color), names=("red", "green", "blue"), up=up, title=title,
        fields={"alpha": color[..., 3], "target": target}, steps=_steps(moments),
    )  # fmt: skip


def save_moments(moments: Sequence[Moment], data: Data, path: str | Path) -> Path:
    """Write a trial's moments as a trajectory, on white, for :func:`gncadeq.viz.render_file`."""
    color = _colors(moments)
    fields = {"alpha": color[..., 3]}
    return save_trajectory(path, data, _ON_WHITE(color), fields, _steps(moments))


def _colors(moments: Sequence[Moment]) -> Tensor:
    return torch.stack([m.color for m in moments if m.color is not None])


def _steps(moments: Sequence[Moment]) -> list[int]:
    return [m.steps for m in moments if m.color is not None]
