"""A graph or trajectory to a picture, an animation, a page or a mesh, by the file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_count
from gncadeq.datasets import graph_files, mesh_files
from gncadeq.datasets.mesh_files import save_mesh
from gncadeq.files.atomic import write_atomically
from gncadeq.files.content import suffix_of
from gncadeq.files.trajectories import Trajectory, check_steps, load_trajectory
from gncadeq.viz.colors import ColorScale, Kind
from gncadeq.viz.images import png
from gncadeq.viz.recording import write_viewer
from gncadeq.viz.surface import render_frames, render_gif, render_strip, render_surface

_MESHES = (".ply", ".glb", ".obj")
_OF_PICTURES = ("size", "azimuth", "elevation", "zoom", "background", "node_size", "supersample")
_PLAIN = 0.72  # the grey of a graph without values
_STRIP = 6


def render_file(
    source: str | Path | Data | tuple[Data, Tensor],
    target: str | Path,
    *,
    channel: int | None = None,
    colormap: str = "viridis",
    low: float | None = None,
    high: float | None = None,
    frames: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    ms: int = 120,
    **options: Any,
) -> Path:
    """Draw ``source`` into ``target``, of which the suffix says how.

    Args:
        source: A graph, whose ``z``, or else ``x``, or else ``color`` is drawn; a graph with its
            trajectory; or a file: a mesh, points, a graph (:func:`gncadeq.load_graph`), or what
            :func:`gncadeq.viz.save_trajectory` wrote.
        target: ``*.png``, one frame, or a strip of six from the first to the last; ``*.gif``, an
            animation; ``*.html``, the page of :func:`gncadeq.viz.write_viewer`; ``*.ply``,
            ``*.glb`` or ``*.obj``, the mesh with its colours in the last frame.
        channel: The channel to draw; by default three as colours where there are so many, and the
            first one otherwise. The page has them all.
        colormap: Colours of a single channel in pictures.
        low: Value of the first colour in pictures; by default as
            :meth:`gncadeq.viz.ColorScale.fit` finds it.
        high: Value of the last colour in pictures.
        frames: The frames to draw in pictures, and to keep in pages; negative ones count from the
            end.
        steps: The step of every frame, for captions; by default what the file says of it, and where
            it says nothing, frames are called frames.
        ms: Milliseconds a frame of an animation is shown.
        options: Options of :class:`gncadeq.viz.SurfaceRenderer`, or for a page of
            :func:`gncadeq.viz.write_viewer`.

    Raises:
        ValueError: If the suffix, a frame or the channel is unknown, an option is of no use, or a
            graph without faces is to be a mesh.

    Example:
        >>> import tempfile
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     render_file(data, f"{folder}/graph.png", size=64).name
        'graph.png'
    """
    target = Path(target)
    suffix = target.suffix.lower()
    endings = (".png", ".gif", ".html", *_MESHES)
    if suffix not in endings:
        raise ValueError(f"Expected a target ending in {', '.join(endings)} (got {target.name!r})")
    data, z, fields, known = _read(source)
    steps = known if steps is None else check_steps(steps, z)
    chosen = _chosen(frames, len(z), _STRIP if suffix == ".png" else None)
    if suffix == ".html":
        unused = {"channel": channel, "low": low, "high": high}
        return _page(target, Trajectory(data, z, fields, steps), chosen, unused, options)
    value = _values(z, channel)
    discrete = not value.is_floating_point()
    kind: Kind = "labels" if discrete else "rgb" if value.dim() == 3 else "scalar"
    scale = ColorScale.fit(value, kind, low, high, colormap)
    if suffix in _MESHES:
        if options:
            raise ValueError(f"Expected {list(options)} for pictures alone (got {target.name!r})")
        save_mesh(data, target, scale(value[chosen[-1]]))
        return target
    if suffix == ".gif":
        return render_gif(target, render_frames(data, value, chosen, scale, **options), ms=ms)
    if len(chosen) == 1:
        picture = render_surface(data, value[chosen[0]], scale, **options)
    else:
        drawn = render_frames(data, value, chosen, scale, **{"size": 320, **options})
        captions = [f"frame {t}" if steps is None else f"step {steps[t]}" for t in chosen]
        picture = render_strip(drawn, captions, scale=scale)
    write_atomically(target, png(picture))
    return target


def _page(
    target: Path,
    run: Trajectory,
    chosen: list[int],
    unused: dict[str, Any],
    options: dict[str, Any],
) -> Path:
    data, z, fields, steps = run
    named = [name for name, value in unused.items() if value is not None]
    named += [name for name in _OF_PICTURES if name in options]
    if named:
        raise ValueError(f"Expected {named} for pictures alone (a page has its own controls)")
    moving = {k for k, v in fields.items() if v.dim() > 1 and v.size(0) == z.size(0)}
    kept = {k: v[chosen] if k in moving else v for k, v in fields.items()}
    kept |= options.pop("fields", None) or {}
    numbers = None if steps is None else [steps[t] for t in chosen]
    return write_viewer(target, data, z[chosen], fields=kept, steps=numbers, **options)


def _read(source: Any) -> Trajectory:
    """The graph, its states ``[T, N, C]``, fields and steps."""
    fields: dict[str, Tensor] = {}
    steps = None
    if isinstance(source, tuple):
        data, z = source
    elif isinstance(source, str | Path):
        suffix = suffix_of(source)
        if suffix in graph_files.READABLE and not graph_files.holds_points(source):
            return _read(graph_files.place_nodes(graph_files.load_graph(source)))
        if suffix in mesh_files.SHAPES:
            return _read(mesh_files.load_shape(source))
        data, z, fields, steps = load_trajectory(source)
    else:
        data = source
        values = (getattr(data, name, None) for name in ("z", "x", "color"))
        z = next((v for v in values if v is not None), None)
        if z is None:
            z = torch.full((data.num_nodes, 3), _PLAIN)
    z = z.unsqueeze(1) if z.dim() == 1 else z
    z = z.unsqueeze(0) if z.dim() == 2 else z
    if z.dim() != 3 or 0 in z.shape:
        raise ValueError(
            "Expected states of shape [T, num_nodes, channels] or [num_nodes, channels] "
            f"(got {list(z.shape)})"
        )
    return Trajectory(data, z, fields, steps)


def _values(z: Tensor, channel: int | None) -> Tensor:
    if channel is None:
        return z if z.size(2) >= 3 else z[..., 0]
    return z[..., check_count("channel", channel, 0, z.size(2) - 1)]


def _chosen(frames: Sequence[int] | None, count: int, most: int | None) -> list[int]:
    if frames is None:
        if most is None or count <= most:
            return list(range(count))
        return [round(i * (count - 1) / (most - 1)) for i in range(most)]
    if not frames:
        raise ValueError("Expected frames to draw (got none)")
    return [check_count("frames", t, -count, count - 1) % count for t in frames]
