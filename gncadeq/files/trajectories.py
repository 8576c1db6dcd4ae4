"""Trajectories on disk: a graph and its states as safetensors; loading runs no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.files.tensors import read_tensors, write_tensors

_FORMAT = "gncadeq trajectory 1"
_GRAPH = ("pos", "face", "edge_index", "image_size", "origin")
_FIELD = "field:"
_STEPS = "steps"


class Trajectory(NamedTuple):
    """What a trajectory file holds.

    Attributes:
        data: The graph.
        z: States ``[T, num_nodes, C]``, or one frame ``[num_nodes, C]``.
        fields: More values, by name.
        steps: The step of every frame, or ``None`` where the file doesn't say.
    """

    data: Data
    z: Tensor
    fields: dict[str, Tensor]
    steps: list[int] | None


def save_trajectory(
    path: str | Path,
    data: Any,
    trajectory: Tensor,
    fields: Mapping[str, Tensor] | None = None,
    steps: Sequence[int] | None = None,
) -> Path:
    """Write a graph, its trajectory and named fields, atomically.

    Args:
        path: The file, ``*.safetensors``.
        data: The graph; ``pos``, ``face``, ``edge_index`` and ``image_size`` are kept.
        trajectory: States ``[T, num_nodes, C]``, or one frame ``[num_nodes, C]``.
        fields: More values, as :func:`gncadeq.viz.write_viewer` takes them.
        steps: The step of every frame, for captions.

    Raises:
        ValueError: If there aren't as many steps as frames.

    Example:
        >>> import tempfile, torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_trajectory(
        ...         f"{folder}/t.safetensors", data, torch.rand(4, 9, 2), steps=[0, 10, 20, 30]
        ...     )
        ...     graph, z, fields, steps = load_trajectory(path)
        >>> z.shape, fields, steps
        (torch.Size([4, 9, 2]), {}, [0, 10, 20, 30])
    """
    graph = {k: getattr(data, k, None) for k in _GRAPH}
    tensors = {k: v for k, v in graph.items() if v is not None}
    tensors["z"] = trajectory
    if steps is not None:
        tensors[_STEPS] = torch.tensor(check_steps(steps, trajectory))
    tensors |= {_FIELD + name: value for name, value in (fields or {}).items()}
    write_tensors(path, tensors, {"content": _FORMAT})
    return Path(path)


def check_steps(steps: Sequence[int], trajectory: Tensor) -> list[int]:
    """Return the steps of frames, or raise a ValueError if they aren't as many."""
    frames = len(trajectory) if trajectory.dim() == 3 else 1
    if len(steps) != frames:
        raise ValueError(f"Expected a step for each of {frames} frames (got {len(steps)})")
    return [int(step) for step in steps]


def load_trajectory(path: str | Path) -> Trajectory:
    """Read what :func:`save_trajectory` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is corrupt, or no trajectory.
    """
    path = Path(path)
    if not path.is_file():
        what = (
            f"is a folder; 'gncadeq run' writes {path / 'trajectory.safetensors'}"
            if path.is_dir()
            else "does not exist"
        )
        raise FileNotFoundError(f"Expected a trajectory file (got {path}, which {what})")
    tensors, metadata = read_tensors(path, "a trajectory file")
    if metadata.get("content") != _FORMAT or "z" not in tensors:
        raise ValueError(
            f"Expected a trajectory written by save_trajectory (got {path}, which holds "
            f"{sorted(tensors)[:5]})"
        )
    z, steps = tensors.pop("z"), tensors.pop(_STEPS, None)
    fields = {k[len(_FIELD) :]: v for k, v in tensors.items() if k.startswith(_FIELD)}
    graph = {k: v for k, v in tensors.items() if k in _GRAPH}
    numbers = None if steps is None else steps.tolist()
    return Trajectory(Data(**graph, num_nodes=z.size(-2)), z, fields, numbers)
