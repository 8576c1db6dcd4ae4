"""Whether an ONNX file computes what the automaton does."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_seed, import_extra
from gncadeq.dynamics import Partition
from gncadeq.dynamics.rollout import advance
from gncadeq.export.plain import neighbor_table
from gncadeq.export.program import Model, as_automaton, float_type
from gncadeq.models import ImageClassifier
from gncadeq.typing import OptTensor


def graph_inputs(data: Data, form: str = "scatter") -> dict[str, np.ndarray]:
    """The part of a file's inputs that a graph gives, as numpy arrays by name.

    Args:
        data: A graph or a batch of graphs.
        form: That of the file.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> sorted(graph_inputs(ImageToGraph()(torch.rand(1, 4, 5))))
        ['batch', 'edge_attr', 'edge_index', 'x']
    """
    n = int(data.num_nodes)  # type: ignore[arg-type]
    batch = data.get("batch")
    found: dict[str, Any] = {
        "x": data.get("x"), "edge_attr": data.edge_attr,
        "batch": torch.zeros(n, dtype=torch.long) if batch is None else batch,
    }  # fmt: skip
    if form == "gather":
        found["neighbors"], found["edge_attr"] = neighbor_table(data.edge_index, data.edge_attr, n)
    else:
        found["edge_index"] = data.edge_index
    return {k: v.detach().cpu().numpy() for k, v in found.items() if v is not None}


@torch.no_grad()
def check_onnx(
    path: str | os.PathLike[str],
    model: Model,
    data: Data,
    z0: OptTensor = None,
    *,
    steps: int | None = None,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> float:
    """Run a file in onnxruntime and the model in PyTorch, and compare all that comes out.

    Args:
        path: The file.
        model: What it was written from.
        data: A graph or a batch of graphs; the file needs to have seen none like it.
        z0: The start; zeros by default.
        steps: Steps of a rollout in whose file they aren't fixed; by default the automaton's.
        tolerance: The largest difference that is taken for rounding; at least the
            file's ``tol``.
        seed: Seed of the update masks, where there are any.

    Returns:
        The largest difference of states and of logits, each relative to its largest entry where
        that is above one.

    Raises:
        ValueError: If the difference is larger than ``tolerance``.
        ImportError: If the extra ``export`` isn't installed.
    """
    session = import_extra("onnxruntime", "export").InferenceSession(os.fspath(path))
    about = session.get_modelmeta().custom_metadata_map
    if "gncadeq" not in about:
        raise ValueError(f"Expected a file that to_onnx has written (got {os.fspath(path)!r})")
    rollout = about["program"] == "rollout"
    model = copy.deepcopy(model).cpu().eval()  # as it was written
    nca = as_automaton(model)
    count = int(about.get("steps", nca.steps if steps is None else steps)) if rollout else 1
    n = int(data.num_nodes)  # type: ignore[arg-type]
    blank = torch.zeros(n, nca.cell.channels, dtype=float_type(nca.cell))
    z = blank if z0 is None else z0
    inner = nca.cell.prepare(*_graph(model, nca.cell.in_channels, data, z))
    scale = getattr(inner, "scale", None)
    feed = graph_inputs(data, about["form"]) | {
        "z": z.numpy(), "steps": np.array(count), "tol": np.zeros((), z.numpy().dtype),
    }  # fmt: skip
    masks: OptTensor = None
    if nca.fire_rate < 1:
        masks = (
            torch.rand(count, n, generator=torch.Generator().manual_seed(check_seed(seed)))
            < nca.fire_rate
        )
        feed["update_mask"] = (masks if rollout else masks[0]).numpy()
    if scale is not None:
        feed["scale"] = scale.detach().numpy()
    known = {i.name for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    given = session.run(None, {k: v for k, v in feed.items() if k in known})
    found = dict(zip(names, given, strict=True))

    start = z
    tol = float(about.get("tol", 0.0))
    for t in range(count):
        new = advance(inner, z, nca.step_size, None if masks is None else masks[t].unsqueeze(1))
        moved, z = float((new - z).abs().max()), new
        if masks is None and moved <= tol:
            break
    expected = {"z_last" if rollout else "z_next": z}
    if isinstance(model, ImageClassifier):
        partition = Partition(data.get("batch"), n)
        pooled = model.pool(z if rollout else start, partition, data.edge_index, data.edge_attr)
        expected["logits"] = model.readout.decode(pooled)
    worst = max(_difference(found[k], v) for k, v in expected.items())
    tolerance = max(tolerance, tol)  # the two may end a step apart
    if not worst <= tolerance:
        raise ValueError(
            f"Expected onnxruntime to come within {tolerance:g} of PyTorch (got a difference of "
            f"{worst:.2g} after {count} steps). A rule that isn't stable amplifies rounding: "
            "compare fewer steps"
        )
    return worst


def _graph(model: Model, in_channels: int, data: Data, z: Tensor) -> tuple[Any, ...]:
    x = data.get("x")
    if in_channels == 0 or x is None:
        x = z[:, :0]
    if isinstance(model, ImageClassifier):
        x = model.encode(x, data.edge_index, data.edge_attr)
    return x, data.edge_index, data.edge_attr


def _difference(found: np.ndarray, expected: Tensor) -> float:
    if list(found.shape) != list(expected.shape):
        return float("inf")
    size = np.abs(expected.numpy()).max(initial=1.0)
    return float(np.abs(found - expected.numpy()).max(initial=0.0) / size)
