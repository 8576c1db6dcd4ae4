"""An automaton as an ONNX file."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gncadeq.check import check_choice, check_value, import_extra
from gncadeq.choices import Form, Program
from gncadeq.export.loop import roll
from gncadeq.export.program import Model, StepProgram, as_automaton, export_step
from gncadeq.files.atomic import write_atomically
from gncadeq.models import ImageClassifier
from gncadeq.typing import OptTensor

OPSET = 20


def to_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    program: Program = "rollout",
    steps: int | None = None,
    tol: float | None = None,
    form: Form = "scatter",
    edge_attr: OptTensor = None,
) -> Path:
    r"""Write an automaton to an ONNX file that runs on graphs of any size, without PyTorch.

    A ``"step"`` is :math:`\mathbf{z}' = f(\mathbf{z}, \mathbf{x}; \mathcal{G})`; the caller loops.
    A ``"rollout"`` holds the loop: it ends after ``steps`` steps, or once no entry of the state
    moves by more than ``tol``. Each of the two is fixed if it is given here, and an input of the
    file if not. With a ``fire_rate`` below one the update masks are inputs, as random numbers are
    the runtime's: ``[num_nodes]`` of a step, ``[steps, num_nodes]`` of a rollout, which then has
    no ``tol``, as a node may rest by chance.

    Nothing in the file checks the graph: indices out of range are the caller's fault.

    Args:
        model: A :class:`~gncadeq.Cell`, :class:`~gncadeq.GraphNCA`, :class:`~gncadeq.GraphDEQ`
            (run as an automaton) or :class:`~gncadeq.models.ImageClassifier`, whose encoder and
            readout are included.
        path: The file.
        program: ``"rollout"`` or ``"step"``.
        steps: Number of steps of a rollout; ``None`` makes it an input.
        tol: Largest change of an entry of the state at which a rollout ends early, 0 only at an
            exact fixed point; ``None`` makes it an input.
        form: ``"scatter"`` takes ``edge_index``; ``"gather"`` takes a table ``neighbors``
            (:func:`~gncadeq.export.neighbor_table`), for runtimes that can't scatter.
        edge_attr: What edges carry, for convs of PyTorch Geometric that take it; its width and
            type count.

    Returns:
        The path.

    Raises:
        ValueError: If the cell can't be exported, or not in this form.
        TypeError: If the model is of another kind.
        ImportError: If the extra ``export`` isn't installed.

    Example:
        >>> import tempfile
        >>> from gncadeq import ConvCell
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_onnx(ConvCell(1, 8), f"{folder}/cell.onnx", program="step").name
        'cell.onnx'
    """
    check_choice("program", program, ("rollout", "step"))
    masked = as_automaton(model).fire_rate < 1
    for name, value in (("steps", steps), ("tol", tol)):
        if value is not None and (program == "step" or (name == "tol" and masked)):
            kind = "a step" if program == "step" else "a rollout with update masks"
            raise ValueError(f"Expected {name}=None for {kind} (got {value})")
    steps = check_value("steps", steps, int | None)
    tol = check_value("tol", tol, float | None, least=0.0)
    onnx = import_extra("onnx", "export")
    traced = StepProgram(model, form, edge_attr)
    proto = _step_model(traced)
    if program == "rollout":
        proto = roll(proto, steps, tol)
    proto.producer_name = "gncadeq"
    onnx.helper.set_model_props(proto, _metadata(model, traced, program, steps, tol))
    onnx.checker.check_model(proto, full_check=True)
    path = Path(path)
    write_atomically(path, proto.SerializeToString())
    return path


def _step_model(program: StepProgram) -> Any:
    import_extra("onnxscript", "export")
    outputs = ["z_next"] + ([] if program.readout is None else ["logits"])
    with _quiet():
        exported = torch.onnx.export(
            export_step(program), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(program.names), output_names=outputs,
        )  # fmt: skip
    assert exported is not None
    proto: Any = exported.model_proto
    del proto.graph.value_info[:]
    _name_sizes(proto.graph)
    for node in proto.graph.node:  # where in the source it came from is of no use elsewhere
        node.doc_string = ""
        del node.metadata_props[:]
    del proto.graph.metadata_props[:]
    proto.graph.doc_string = ""
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's parts warn of each other."""
    parts = logging.getLogger("onnx_ir")
    level = parts.level
    parts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        parts.setLevel(level)


def _name_sizes(graph: Any) -> None:
    """Give open sizes names that say what they count."""
    names: dict[str, str] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == "z":
            names[dims[0].dim_param] = "num_nodes"
        elif value.name == "edge_index":
            names[dims[1].dim_param] = "num_edges"
        elif value.name == "neighbors":
            names[dims[1].dim_param] = "most"
    for value in (*graph.input, *graph.output):
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                other = "num_graphs" if value.name == "logits" and place == 0 else dim.dim_param
                dim.dim_param = names.get(dim.dim_param, other)


def _metadata(
    model: Model, program: StepProgram, kind: Program, steps: int | None, tol: float | None
) -> dict[str, str]:
    from gncadeq import __version__

    nca = as_automaton(model)
    found = {
        "gncadeq": __version__, "cell": " ".join(repr(nca.cell).split()),
        "channels": str(program.channels), "program": kind, "form": program.form,
        "fire_rate": f"{nca.fire_rate:g}", "step_size": f"{nca.step_size:g}",
        "opset": str(OPSET),
    }  # fmt: skip
    found |= {k: str(v) for k, v in {"steps": steps, "tol": tol}.items() if v is not None}
    if isinstance(model, ImageClassifier):
        found["transform"] = json.dumps(model.config["transform"], sort_keys=True)
    return found
