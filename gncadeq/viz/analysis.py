"""The pictures of :mod:`gncadeq.analysis`; matplotlib, no display needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from gncadeq.analysis.attractors import Attractor, AttractorCensus
from gncadeq.analysis.basin import BasinMap
from gncadeq.analysis.independence import PathIndependence
from gncadeq.analysis.sensitivity import influence_by_hop
from gncadeq.viz.colors import LABEL_COLORS, paint
from gncadeq.viz.figures import open_axes

_GREY = "#999999"
_KINDS = dict(
    zip(Attractor, ("#4c78a8", "#54a24b", "#eeca3b", "#e45756", "#7f7f7f", "#b279a2"), strict=True)
)


def spectrum_figure(
    eigenvalues: Sequence[Tensor], measures: dict[str, Tensor] | None = None
) -> Figure:
    """Leading eigenvalues in the complex plane, within the unit circle; and stretching per graph.

    Args:
        eigenvalues: Complex ``[k]`` of every graph, from
            :func:`gncadeq.analysis.leading_eigenvalues`.
        measures: Named ``[num_graphs]`` values to compare with one, such as radii and norms.
    """
    figure = Figure(figsize=(7.6 if measures else 3.9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if measures else 1, squeeze=False)[0]
    turn = np.linspace(0, 2 * np.pi, 400)
    axes[0].plot(np.cos(turn), np.sin(turn), color=_GREY, lw=1)
    radius = max((float(e.abs().max()) for e in eigenvalues if e.numel()), default=0.0)
    axes[0].plot(radius * np.cos(turn), radius * np.sin(turn), color=LABEL_COLORS[3], lw=1, ls="--")
    for values in eigenvalues:
        v = values.detach().cpu()
        axes[0].scatter(v.real, v.imag, s=9, color=LABEL_COLORS[0], alpha=0.55, lw=0)
    # Beside the circle's tip, since the largest eigenvalues often lie on its axis.
    axes[0].annotate(
        f"ρ = {radius:.3f}", (radius * np.cos(0.8), radius * np.sin(0.8)), xytext=(4, 4),
        textcoords="offset points", color=LABEL_COLORS[3],
    )  # fmt: skip
    axes[0].set(aspect="equal", xlabel="Re λ", ylabel="Im λ")
    if measures:
        _strips(axes[1], measures)
    open_axes(*axes)
    return figure


def _strips(axis: Any, measures: dict[str, Tensor]) -> None:
    """One column of dots a measure, one dot a graph."""
    jitter = np.random.default_rng(0)
    for x, (value, color) in enumerate(zip(measures.values(), LABEL_COLORS, strict=False)):
        v = value.detach().cpu().numpy()
        axis.scatter(x + jitter.uniform(-0.13, 0.13, len(v)), v, s=14, color=color, alpha=0.6, lw=0)
        axis.plot([x - 0.25, x + 0.25], [np.median(v)] * 2, color=color, lw=2)
        axis.annotate(f"{np.median(v):.2f}", (x + 0.27, np.median(v)), va="center")
    axis.axhline(1.0, color=_GREY, lw=1, zorder=0)
    if all(bool((v > 0).all()) for v in measures.values()):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="both", labelsize=8)
    axis.set_xticks(range(len(measures)), list(measures))
    axis.set(xlim=(-0.5, len(measures) - 0.3), ylabel="stretching in one step")


def lyapunov_figure(exponents: Tensor) -> Figure:
    """The leading Lyapunov exponents of every graph, and the distribution of the largest.

    Args:
        exponents: ``[num_graphs, k]``, from :func:`gncadeq.analysis.lyapunov_exponents`.
    """
    finite = exponents.detach().cpu().double()
    values = finite.masked_fill(~finite.isfinite(), float("nan")).numpy()
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    index = np.arange(1, values.shape[1] + 1)
    left.plot(index, values.T, color=LABEL_COLORS[0], alpha=0.25, lw=0.8)
    middle = finite.median(0).values  # minus infinity isn't drawn
    left.plot(index, middle, "o-", color=LABEL_COLORS[0], ms=4, label="median")
    left.legend(frameon=False)
    first = values[:, 0][np.isfinite(values[:, 0])]
    right.hist(first, bins=min(20, max(5, len(first) // 2)), color=LABEL_COLORS[0], alpha=0.8)
    right.axvline(0.0, color=LABEL_COLORS[3], lw=1)
    right.annotate(
        "chaos beyond", (0.0, 1.0), xycoords=("data", "axes fraction"), xytext=(-4, -2),
        textcoords="offset points", ha="right", va="top", color=LABEL_COLORS[3],
    )  # fmt: skip
    left.axhline(0.0, color=LABEL_COLORS[3], lw=1)
    open_axes(left, xlabel="index", ylabel="Lyapunov exponent per step", xticks=index)
    open_axes(right, xlabel="largest exponent", ylabel="graphs")
    return figure


def independence_figure(report: PathIndependence) -> Figure:
    """The shares of graphs within a distance, and within a misalignment, of their other ends."""
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    values = (report.distance, 1.0 - report.alignment)
    names = ("largest relative distance of end states", "misalignment 1 − AA")
    for axis, value, name, color in zip(axes, values, names, LABEL_COLORS, strict=False):
        v = np.sort(value.detach().double().cpu().nan_to_num(nan=2.0).clamp(min=1e-8).numpy())
        share = np.arange(1, len(v) + 1) / max(1, len(v))
        axis.step(v, 100 * share, where="post", color=color)
        axis.plot(v, 100 * share, ".", color=color, ms=4)
        axis.axvline(1.0, color=_GREY, lw=0.8, ls=":")
        axis.set_xscale("log")
        least = min(float(v.min(initial=1e-3)), 1e-6) / 2
        open_axes(axis, xlim=(least, 3.0), ylim=(0, 104), xlabel=name)
    axes[0].axvline(report.tol, color=LABEL_COLORS[3], lw=1, label="solver's tolerance")
    axes[0].legend(frameon=False, loc="center right")
    axes[0].set_ylabel("graphs (%)")
    return figure


def census_figure(census: AttractorCensus) -> Figure:
    """How many graphs settle into what; their evidence; and how their orbits come back."""
    figure = Figure(figsize=(10.2, 3.0), layout="constrained")
    bars, evidence, orbits = figure.subplots(1, 3, width_ratios=(0.9, 1.0, 1.1))
    counts, names = census.counts(), census.names()
    kinds = {n: Attractor(int(c)) for n, c in zip(names, census.label.tolist(), strict=True)}
    drawn = bars.barh(list(counts), list(counts.values()), color=[_KINDS[kinds[n]] for n in counts],
                      height=0.6)  # fmt: skip
    bars.bar_label(drawn, padding=3)
    bars.set_ylim(max(len(counts), 3) - 0.5, -0.5)
    bars.set_xlim(0, 1.15 * max(counts.values(), default=1))
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))
    residual = census.residual.double().cpu().nan_to_num(nan=1e3, posinf=1e3).clamp(1e-17, 1e3)
    exponent = census.lyapunov.double().cpu()
    for code in sorted(set(census.label.tolist())):
        mask, kind = census.label.cpu() == code, Attractor(code)
        finite = mask & exponent.isfinite()
        style = {"color": _KINDS[kind], "alpha": 0.7, "lw": 0}
        evidence.scatter(residual[finite], exponent[finite], s=18, **style)
        if kind is not Attractor.DIVERGED:
            rows = mask.nonzero().flatten()[:20].tolist()
            curve = census.distance[:, rows].double().cpu().clamp(min=1e-10).numpy()
            steps, label = np.arange(1, len(curve) + 1), kind.name.lower().replace("_", " ")
            orbits.plot(steps, curve, color=_KINDS[kind], lw=0.8, alpha=0.6)
            orbits.plot([], [], color=_KINDS[kind], label=label)
    evidence.axhline(0.0, color=_GREY, lw=1, zorder=0)
    evidence.set_xscale("log")
    evidence.xaxis.set_major_locator(LogLocator(numticks=5))
    evidence.xaxis.set_minor_formatter("")
    orbits.set_yscale("log")
    if orbits.get_legend_handles_labels()[0]:
        orbits.legend(frameon=False)
    open_axes(bars, xlabel="graphs")
    limits = 0.2 * float(residual.min()), 5 * float(residual.max())
    open_axes(evidence, xlim=limits, xlabel="relative residual", ylabel="largest Lyapunov exponent")
    open_axes(orbits, xlabel="steps later", ylabel="distance from the state")
    return figure


def basin_figure(basin: BasinMap) -> Figure:
    """Steps to come back from a plane of starts, and how far from the equilibrium they end."""
    figure = Figure(figsize=(7.6, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    r = basin.offset.detach().cpu().double().numpy()
    half = (r[1] - r[0]) / 2
    extent = (r[0] - half, r[-1] + half, r[0] - half, r[-1] + half)
    steps = np.ma.masked_where(~basin.returned.numpy(), basin.num_steps.numpy())
    least = int(steps[steps > 0].min()) - 1 if (steps > 0).any() else 0
    picture = left.imshow(steps, origin="lower", extent=extent, cmap="viridis_r", vmin=least)
    left.set_facecolor("#e45756")
    figure.colorbar(picture, ax=left, shrink=0.85, label="steps to the equilibrium",
                    ticks=MaxNLocator(integer=True))  # fmt: skip
    lost = 1.0 - float(basin.returned.double().mean())
    left.set_title(f"{100 * lost:.0f} % lost (red)" if lost else "all starts return")
    distance = basin.distance.double().nan_to_num(nan=1e3, posinf=1e3).clamp(1e-12, 1e3).numpy()
    low = min(max(float(distance.min()), 1e-6), 1e-3)
    picture = right.imshow(
        distance.clip(low), origin="lower", extent=extent, cmap="magma",
        norm=LogNorm(low, max(1.0, float(distance.max()))),
    )  # fmt: skip
    figure.colorbar(picture, ax=right, shrink=0.85, label="distance from it, relative")
    right.set_title("where rollouts end")
    for axis in (left, right):
        axis.plot(0, 0, "+", color="white", ms=9, mew=1.6)
        axis.set_xlabel("offset along d₁ (norms of z*)")
    left.set_ylabel("offset along d₂ (norms of z*)")
    return figure


def sensitivity_figure(
    value: Tensor,
    hops: Tensor,
    pos: Tensor | None = None,
    image_size: tuple[int, int] | None = None,
    others: Sequence[tuple[Tensor, Tensor]] = (),
) -> Figure:
    """The sensitivity of one node to every other: on the image, and by distance.

    Args:
        value: ``[num_nodes]``, from :func:`gncadeq.analysis.sensitivity`.
        hops: ``[num_nodes]``, from :func:`gncadeq.analysis.hop_distance`.
        pos: ``[num_nodes, 2]`` (column, row), for the picture, with the ``image_size``.
        image_size: Height and width of the image.
        others: More pairs of values and hops, of other graphs or nodes.
    """
    mapped = pos is not None and image_size is not None
    figure = Figure(figsize=(7.8 if mapped else 4.2, 3.3), layout="constrained")
    axes = figure.subplots(1, 2 if mapped else 1, squeeze=False)[0]
    value, hops = value.detach().cpu().double(), hops.cpu()
    top = float(value.max().clamp(min=1e-30))
    if pos is not None and image_size is not None:
        _map(axes[0], value, hops, pos.cpu(), image_size, top)
    axis, floor = axes[-1], 1e-5 * top  # what is less, the solver's tolerance hides

    def profile(value: Tensor, hops: Tensor) -> Tensor:
        mean = influence_by_hop(value.detach().cpu().double(), hops.cpu())
        return mean.masked_fill(mean < floor, float("nan"))

    for pair in others:
        axis.plot(profile(*pair), color=LABEL_COLORS[0], lw=0.8, alpha=0.4)
    reached = hops >= 0
    spread = np.random.default_rng(0).uniform(-0.15, 0.15, int(reached.sum()))
    axis.scatter(hops[reached].numpy() + spread, value[reached], s=6, lw=0,
                 color=LABEL_COLORS[1], alpha=0.5, label="a node")  # fmt: skip
    axis.plot(profile(value, hops), "o-", color=LABEL_COLORS[1], ms=4, label="mean")
    if others:
        axis.plot([], [], color=LABEL_COLORS[0], lw=0.8, label="means of other graphs")
    axis.set_yscale("log")
    axis.legend(frameon=False)
    limits = 0.9 * floor, 2e5 * floor
    open_axes(axis, ylim=limits, xlabel="distance (hops)", ylabel="sensitivity")
    return figure


def _map(
    axis: Any, value: Tensor, hops: Tensor, pos: Tensor, size: tuple[int, int], top: float
) -> None:
    """Sensitivities on the image, and a circle around the node."""
    canvas = paint(value.float()[:, None].expand(-1, 3), pos, *size, background=-1.0)[..., 0]
    seen = np.ma.masked_less(canvas.double().numpy(), 0.0).clip(1e-4 * top)
    norm = LogNorm(1e-4 * top, top)
    picture = axis.imshow(seen, cmap="magma", norm=norm, interpolation="nearest")
    col, row = pos[hops == 0][0].tolist()
    axis.plot(col, row, "o", mfc="none", mec="#72b7b2", ms=8, mew=1.5)
    axis.set(xticks=[], yticks=[], facecolor="#f2f2f2")
    axis.figure.colorbar(picture, ax=axis, shrink=0.85, extend="min", label="sensitivity")
