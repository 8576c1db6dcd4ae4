"""The picture of ``variational.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from scipy.spatial import Delaunay
from torch import Tensor
from variational_models import Autoencoder, Canvas, Injected

from gncadeq import GraphNCA


@torch.no_grad()
def draw(
    models: Mapping[str, Autoencoder],
    images: Tensor,
    others: Mapping[str, Canvas],
    long: int,
    to: Path,
    count: int = 12,
) -> None:
    """Reconstructions, the same after damage, samples, and other graphs."""
    images, steps = images[:count], f"{long // 10:,} steps"
    rows: list[tuple[str, Canvas, Tensor]] = []
    for kind, model in models.items():
        decoder: Any = model.decoder
        if {"alone": "injected", "started": "placed"}.get(kind) in models:  # which look alike
            continue
        canvas, code = decoder.canvas, model.encode(images).mean
        if not rows:
            rows.append(("test", canvas, images))
        z = decoder.run(code)
        cut = canvas.square(len(code), torch.Generator().manual_seed(0)).view(-1, 1)
        hurt = torch.where(cut, 0.0, z)
        automaton = GraphNCA(decoder.dynamics.cell, long // 10, fire_rate=0.5)
        generator = torch.Generator().manual_seed(0)
        late = decoder.run(code, hurt, automaton, generator=generator)
        states = {kind: z, f"{kind}, cut": hurt, f"… {steps} on": late}
        for title, state in states.items():
            rows.append((title, canvas, decoder.read(state).view(len(code), -1).sigmoid()))
        if isinstance(decoder, Injected):
            drawn = torch.randn(len(code), code.size(1), generator=generator.manual_seed(1))
            rows.append(("samples", canvas, decoder(drawn).sigmoid()))
        if isinstance(decoder, Injected) and decoder.waves:
            rows += [(name, each, decoder(code, each).sigmoid()) for name, each in others.items()]
    if not rows:
        return
    left, size = 1.2, (0.6 * count + 1.2, 0.6 * len(rows))
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, (title, canvas, values) in zip(axes, rows, strict=True):
        for axis, value in zip(line, values, strict=False):
            show(axis, canvas, value)
        at = {"ha": "right", "va": "center", "transform": line[0].transAxes}
        line[0].text(-0.15, 0.5, title, fontsize=9, **at)
    figure.subplots_adjust(left / size[0], 0.01, 0.995, 0.99, 0.06, 0.06)
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=90)
    plt.close(figure)


def show(axis: Any, canvas: Canvas, value: Tensor) -> None:
    """The brightness of nodes: pixels as squares, other nodes as corners of triangles."""
    column, row = canvas.pos.T.numpy()
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    if len(value) == canvas.side**2 and bool((canvas.pos == canvas.pos.round()).all()):
        axis.imshow(value.view(canvas.side, -1).numpy(), **style)
    else:
        corners = Delaunay(canvas.pos.numpy()).simplices
        axis.tripcolor(column, row, value.numpy(), triangles=corners, shading="gouraud", **style)
        axis.set(xlim=(-0.5, canvas.side - 0.5), ylim=(canvas.side - 0.5, -0.5), aspect="equal")
