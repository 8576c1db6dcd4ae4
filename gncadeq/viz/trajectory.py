"""Trajectories on disk: a graph and its states as safetensors; loading runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.models.pretrained import write_atomically

_FORMAT = "gncadeq trajectory 1"
_GRAPH = ("pos", "face", "edge_index", "image_size")
_FIELD = "field:"


def save_trajectory(
    path: str | Path, data: Any, trajectory: Tensor, fields: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a graph, its trajectory and named fields, atomically.

    Args:
        path: The file, ``*.safetensors``.
        data: The graph; ``pos``, ``face``, ``edge_index`` and ``image_size`` are kept.
        trajectory: States ``[T, num_nodes, C]``, or one frame ``[num_nodes, C]``.
        fields: More values, as :func:`gncadeq.viz.write_viewer` takes them.

    Example:
        >>> import tempfile, torch
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_trajectory(f"{folder}/t.safetensors", data, torch.rand(4, 9, 2))
        ...     graph, trajectory, fields = load_trajectory(path)
        >>> trajectory.shape, fields
        (torch.Size([4, 9, 2]), {})
    """
    graph = {k: getattr(data, k, None) for k in _GRAPH}
    tensors = {k: v for k, v in graph.items() if v is not None}
    tensors["z"] = trajectory
    tensors |= {_FIELD + name: value for name, value in (fields or {}).items()}
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, save(plain, metadata={"format": "pt", "content": _FORMAT}))
    return Path(path)


def load_trajectory(path: str | Path) -> tuple[Data, Tensor, dict[str, Tensor]]:
    """Read the graph, the trajectory and the fields that :func:`save_trajectory` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is corrupt, or no trajectory.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a trajectory file (got {path}, which does not exist)")
    try:
        with safe_open(path, framework="pt") as file:
            content = (file.metadata() or {}).get("content")
            tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"Expected a safetensors file (got {path}: {error})") from error
    if content != _FORMAT or "z" not in tensors:
        raise ValueError(
            f"Expected a trajectory written by save_trajectory (got {path}, which holds "
            f"{sorted(tensors)[:5]})"
        )
    z = tensors.pop("z")
    fields = {k[len(_FIELD) :]: v for k, v in tensors.items() if k.startswith(_FIELD)}
    graph = {k: v for k, v in tensors.items() if k in _GRAPH}
    return Data(**graph, num_nodes=z.size(-2)), z, fields


__all__ = ["load_trajectory", "save_trajectory"]
