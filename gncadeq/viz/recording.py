"""What a page shows of a trajectory on a mesh, point cloud or graph."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gncadeq.choices import Up
from gncadeq.files.trajectories import check_steps
from gncadeq.viz.colors import LABEL_COLORS, NO_VALUE, ColorScale
from gncadeq.viz.geometry import geometry
from gncadeq.viz.page import Scene, write_play

_MISSING = 255  # the code of NaN and infinity; finite values have 0 to 254


def write_viewer(
    path: str | Path, data: Any, trajectory: Tensor, *, title: str = "gncadeq", **options: Any
) -> Path:
    """Write a page that plays a trajectory, to be turned, zoomed and coloured by any channel.

    Args:
        path: The HTML file, which is written atomically.
        data: A graph, as of :func:`recording_scene`.
        trajectory: Its states.
        title: Heading of the page.
        options: The further arguments of :func:`recording_scene`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_viewer(f"{folder}/a.html", data, torch.rand(5, 64, 3)).read_text()
        >>> "http:" in page or "https:" in page
        False
    """
    return write_play(path, [recording_scene(data, trajectory, name=title, **options)], title)


def recording_scene(
    data: Any,
    trajectory: Tensor,
    *,
    names: Sequence[str] | None = None,
    fields: Mapping[str, Tensor] | None = None,
    name: str = "Recording",
    up: Up = "y",
    edges: bool = True,
    steps: Sequence[int] | None = None,
    steps_per_second: float = 10.0,
) -> Scene:
    """A trajectory on a mesh, a graph or points, whose frames are played.

    A channel has 255 levels between its least and its greatest value; a file takes one byte a node,
    channel and frame before compression.

    Args:
        data: A graph with ``pos`` and ``face`` (mesh), ``edge_index`` (graph) or neither (points).
        trajectory: States ``[T, num_nodes, C]``, or one frame ``[num_nodes, C]``. Three
            channels or more are shown as colours at first.
        names: Names of the channels.
        fields: More that can be shown, by name, such as residuals: ``[T, num_nodes]`` or
            ``[num_nodes]`` scalars, integer labels of the same shapes, or colours
            ``[T, num_nodes, 3]``.
        name: Of the scene.
        up: The axis of ``pos`` that points up.
        edges: Whether to draw edges where there are no faces.
        steps: The step of every frame, which the page shows; by default it counts frames.
        steps_per_second: The frames shown in a second, at first.

    Raises:
        ValueError: If shapes don't fit each other, or if a field has more than 255 labels.

    Example:
        >>> import torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> scene = recording_scene(ImageToGraph()(torch.rand(1, 8, 8)), torch.rand(5, 64, 3))
        >>> scene["kind"], scene["frames"]
        ('recording', 5)
    """
    shape = geometry(data, up, edges)
    if trajectory.dim() == 2:
        trajectory = trajectory.unsqueeze(0)
    if trajectory.dim() != 3 or trajectory.size(1) != shape.num_nodes or 0 in trajectory.shape:
        raise ValueError(
            f"Expected a trajectory of shape [T, {shape.num_nodes}, channels] or "
            f"[{shape.num_nodes}, channels] (got {list(trajectory.shape)})"
        )
    trajectory = trajectory.detach().cpu()
    frames, _, channels = trajectory.shape
    if names is not None and len(names) != channels:
        raise ValueError(f"Expected names of {channels} channels (got {len(names)})")
    found = _Fields()
    planes = [found.plane(trajectory[..., c]) for c in range(channels)]
    if channels >= 3:
        found.colors("channels 0, 1, 2 as colours", trajectory[..., :3], planes[:3])
    for field, value in (fields or {}).items():
        found.add(field, _field(field, value.detach().cpu(), frames, shape.num_nodes))
    for c, plane in enumerate(planes):
        found.scalar(names[c] if names else f"channel {c}", plane)
    return {
        "kind": "recording", "name": name, "words": "Frames of a trajectory.", "facts": "",
        "paused": True, "nodes": shape.num_nodes, "frames": frames, "fields": found.fields,
        "planes": found.planes, "missing": NO_VALUE, "speed": steps_per_second,
        "steps": None if steps is None else check_steps(steps, trajectory),
        "mesh": {
            "position": _zipped(((shape.pos + 1) / 2 * 65535).round().astype("<u2")),
            "face": _zipped(shape.face.astype("<u4")), "edge": _zipped(shape.edge.astype("<u4")),
            "radius": shape.radius, "flat": shape.flat,
        },
    }  # fmt: skip


class _Fields:
    """Collects what can be shown."""

    def __init__(self) -> None:
        self.fields: list[dict[str, Any]] = []
        self.planes: list[dict[str, Any]] = []

    def add(self, name: str, value: Tensor) -> None:
        """Add a field ``[T, N]`` or ``[T, N, 3]``."""
        if value.dim() == 3:
            self.colors(name, value, [self.plane(value[..., c]) for c in range(3)])
        elif value.is_floating_point():
            self.scalar(name, self.plane(value))
        else:
            self.labels(name, value)

    def colors(self, name: str, value: Tensor, planes: Sequence[int]) -> None:
        scale = ColorScale.fit(value, "rgb")
        self._field(name, "rgb", planes, low=scale.low, high=scale.high)

    def scalar(self, name: str, plane: int) -> None:
        of = self.planes[plane]
        self._field(name, "scalar", [plane], low=of["low"], high=of["high"])

    def labels(self, name: str, value: Tensor) -> None:
        labels, codes = np.unique(value.long().numpy(), return_inverse=True)
        if len(labels) > _MISSING:
            raise ValueError(
                f"Expected at most {_MISSING} labels in field {name!r} (got {len(labels)}). "
                "Use floating-point values for a scalar"
            )
        plane = self._encode(codes.reshape(value.shape).astype(np.uint8), 0.0, 254.0, False)
        palette = [LABEL_COLORS[i] for i in labels % len(LABEL_COLORS)]
        self._field(name, "labels", [plane], labels=labels.tolist(), palette=palette)

    def plane(self, value: Tensor) -> int:
        """Quantise ``[T, N]`` and return its number."""
        v = value.double().numpy()
        finite = np.isfinite(v)
        scale = ColorScale.fit(value, "scalar")
        unit = (np.where(finite, v, scale.low) - scale.low) / ((scale.high - scale.low) or 1.0)
        codes = np.where(finite, (unit * 254).round(), _MISSING).astype(np.uint8)
        return self._encode(codes, scale.low, scale.high, not finite.all())

    def _encode(self, codes: NDArray[np.uint8], low: float, high: float, missing: bool) -> int:
        # Differences in time, modulo 256: what changes slowly becomes zeros, which gzip folds.
        changes = np.diff(codes, axis=0, prepend=np.zeros_like(codes[:1]))
        self.planes.append({"low": low, "high": high, "missing": missing, "zip": _zipped(changes)})
        return len(self.planes) - 1

    def _field(self, name: str, kind: str, planes: Sequence[int], **more: Any) -> None:
        same = sum(field["name"] == name for field in self.fields)
        found = {"name": f"{name} ({same + 1})" if same else str(name), "kind": kind}
        self.fields.append({**found, "planes": list(planes), **more})


def _field(name: str, value: Tensor, frames: int, nodes: int) -> Tensor:
    """A field as ``[T, N]`` or ``[T, N, 3]``, where T may be one."""
    shape = tuple(value.shape)
    if shape == (nodes,):
        return value.unsqueeze(0)
    if shape == (frames, nodes) or (shape == (frames, nodes, 3) and value.is_floating_point()):
        return value
    raise ValueError(
        f"Expected field {name!r} of shape [{frames}, {nodes}], [{nodes}] or floating-point "
        f"[{frames}, {nodes}, 3] (got {list(shape)} of {value.dtype})"
    )


def _zipped(value: NDArray[Any]) -> dict[str, str]:
    content = gzip.compress(np.ascontiguousarray(value).tobytes(), 6, mtime=0)
    return {"gzip": base64.b64encode(content).decode(), "type": value.dtype.name.capitalize()}
