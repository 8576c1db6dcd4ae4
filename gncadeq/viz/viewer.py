"""An interactive page for a trajectory on a mesh, point cloud or graph: one file, no network."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gncadeq.choices import Up
from gncadeq.files.atomic import write_atomically
from gncadeq.files.trajectories import check_steps
from gncadeq.viz.colors import LABEL_COLORS, NO_VALUE, ColorScale, color_table
from gncadeq.viz.geometry import geometry
from gncadeq.viz.page import fill_page

COLORMAPS = ("viridis", "magma", "cividis", "coolwarm", "twilight", "gray")
_MISSING = 255  # the code of NaN and infinity; finite values have 0 to 254


def write_viewer(
    path: str | Path,
    data: Any,
    trajectory: Tensor,
    *,
    names: Sequence[str] | None = None,
    fields: Mapping[str, Tensor] | None = None,
    title: str = "gncadeq",
    up: Up = "y",
    edges: bool = True,
    steps: Sequence[int] | None = None,
    steps_per_second: float = 10.0,
) -> Path:
    """Write a page that plays a trajectory, to be turned, zoomed and coloured in any browser.

    The page is one file and loads nothing. A channel has 255 levels between its least and its
    greatest value; a file takes one byte a node, channel and frame before compression.

    Args:
        path: The HTML file, which is written atomically.
        data: A graph with ``pos`` and ``face`` (mesh), ``edge_index`` (graph) or neither (points).
        trajectory: States ``[T, num_nodes, C]``, or one frame ``[num_nodes, C]``. Three
            channels or more are shown as colours at first.
        names: Names of the channels.
        fields: More that can be shown, by name, such as residuals: ``[T, num_nodes]`` or
            ``[num_nodes]`` scalars, integer labels of the same shapes, or colours
            ``[T, num_nodes, 3]``.
        title: Heading of the page.
        up: The axis of ``pos`` that points up.
        edges: Whether to draw edges where there are no faces.
        steps: The step of every frame, which the page shows; by default it counts frames.
        steps_per_second: The frames shown in a second, at first.

    Raises:
        ValueError: If shapes don't fit each other, or if a field has more than 255 labels.

    Example:
        >>> import tempfile
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_viewer(f"{folder}/a.html", data, torch.rand(5, 64, 3)).read_text()
        >>> "http:" in page or "https:" in page
        False
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
    page = _Page()
    planes = [page.plane(trajectory[..., c]) for c in range(channels)]
    if channels >= 3:
        page.colors("channels 0, 1, 2 as colours", trajectory[..., :3], planes[:3])
    for name, value in (fields or {}).items():
        page.add(name, _field(name, value.detach().cpu(), frames, shape.num_nodes))
    for c, plane in enumerate(planes):
        page.scalar(names[c] if names else f"channel {c}", plane)
    page.array("position", ((shape.pos + 1) / 2 * 65535).round().astype("<u2"))
    page.array("face", shape.face.astype("<u4"))
    page.array("edge", shape.edge.astype("<u4"))
    scene = {
        "nodes": shape.num_nodes, "frames": frames, "faces": len(shape.face),
        "edges": len(shape.edge), "radius": shape.radius, "flat": shape.flat,
        "fields": page.fields, "planes": page.planes, "missing": NO_VALUE,
        "speed": steps_per_second,
        "steps": None if steps is None else check_steps(steps, trajectory),
        "colormaps": {n: _base64(_bytes(color_table(n))) for n in COLORMAPS},
    }  # fmt: skip
    write_atomically(path, page.html(title, scene).encode())
    return Path(path)


class _Page:
    """Collects what goes into the file."""

    def __init__(self) -> None:
        self.fields: list[dict[str, Any]] = []
        self.planes: list[dict[str, Any]] = []
        self.blocks: list[str] = []

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
        number = len(self.planes)
        self.planes.append({"frames": len(codes), "low": low, "high": high, "missing": missing})
        # Differences in time, modulo 256: what changes slowly becomes zeros, which gzip folds.
        self.array(f"plane{number}", np.diff(codes, axis=0, prepend=np.zeros_like(codes[:1])))
        return number

    def array(self, name: str, value: NDArray[Any]) -> None:
        text = _base64(gzip.compress(np.ascontiguousarray(value).tobytes(), 6, mtime=0))
        self.blocks.append(f'<script type="text/plain" id="{name}">{text}</script>')

    def html(self, title: str, scene: dict[str, Any]) -> str:
        scripts = ("base64.js", "viewer_gl.js", "viewer_camera.js", "viewer.js")
        return fill_page("viewer.html", title, scene, scripts, "\n".join(self.blocks))

    def _field(self, name: str, kind: str, planes: Sequence[int], **more: Any) -> None:
        self.fields.append({"name": str(name), "kind": kind, "planes": list(planes), **more})


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


def _bytes(unit: Tensor) -> bytes:
    return (unit * 255).round().to(torch.uint8).numpy().tobytes()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
