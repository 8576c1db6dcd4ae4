"""``gncadeq export``: a run as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gncadeq.choices import Form, Program
from gncadeq.commands.kinds import expect
from gncadeq.commands.printing import Json, busy, console, say, write_numbers

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data

    from gncadeq.dynamics import GraphNCA
    from gncadeq.models import ImageClassifier

_CHECKED_STEPS = 100  # of a classifier; a grown rule may amplify rounding
_CHECKED_GROWN = 20


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="The folder of a run of 'gncadeq train' or 'gncadeq grow', or the name of shipped "
            "weights."
        ),
    ],
    file: Annotated[str, typer.Argument(metavar="OUT", help="The file to write, model.onnx.")],
    program: Annotated[
        Program, typer.Option(help="Many steps in a loop, or one, for a loop of your own.")
    ] = "rollout",
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of the loop.", show_default="an input of the file"),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="End the loop once no entry of the state moves by more.",
            show_default="an input of the file",
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(help="Take edges, or a table of neighbours, which needs no scatter."),
    ] = "scatter",
    fire_rate: Annotated[
        float | None,
        typer.Option(
            help="Probability that a node updates; below 1 update masks are an input.",
            show_default="the run's",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare onnxruntime with PyTorch on another graph.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Write a run as an automaton to an ONNX file, for graphs of any size."""
    from gncadeq.export import check_onnx, to_onnx

    model, data, z0 = _load(run, fire_rate)
    with busy("exporting"):
        path = to_onnx(model, file, program=program, steps=steps, tol=tol, form=form)
    numbers = _describe(path)
    if check:
        usual = _CHECKED_STEPS if z0 is None else _CHECKED_GROWN
        count = usual if steps is None else steps
        with busy("comparing"):
            worst = check_onnx(path, model, data, z0, steps=count)
        done = count if program == "rollout" else 1
        say(
            f"On a graph of {data.num_nodes} nodes and {data.num_edges} edges, onnxruntime and "
            f"PyTorch differ by {worst:.1e} after {done} step{'s' * (done != 1)}"
        )
        numbers |= {"difference": worst, "steps": done}
    write_numbers(json_file, numbers)


def _load(
    run: str, fire_rate: float | None
) -> tuple[ImageClassifier | GraphNCA, Data, Tensor | None]:
    """The model, a graph to check it on, and the state to start from there."""
    import torch
    from torch_geometric.data import Batch

    from gncadeq.dynamics import GraphNCA
    from gncadeq.files.weights import read_header
    from gncadeq.models import ImageClassifier
    from gncadeq.training.grow import load_grown

    expect(run, "growth", "classifier")
    name = str(Path(run) / "model.safetensors") if Path(run).is_dir() else run
    _, architecture, _, _ = read_header(name)
    if architecture == "GrowingCell":
        cell, data, z0, card = load_grown(Path(name).parent)
        rate = card.get("fire_rate", 0.5) if fire_rate is None else fire_rate
        return GraphNCA(cell, fire_rate=rate), data, z0
    model = ImageClassifier.from_pretrained(name)
    model.dynamics = GraphNCA(
        model.dynamics.cell, fire_rate=1.0 if fire_rate is None else fire_rate
    )
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.rand(model.in_channels, *size, generator=generator) for size in ((23, 17), (9, 30))
    ]
    return model, Batch.from_data_list([model.to_graph(image) for image in images]), None


def _describe(path: Path) -> dict[str, Any]:
    """Print what goes in and out, and return it with the size of the file."""
    import onnx

    graph = onnx.load(path).graph
    table = Table(box=None, pad_edge=False)
    for name in ("", "name", "type", "shape"):
        table.add_column(name)
    ends: dict[str, dict[str, Any]] = {"in": {}, "out": {}}
    values: list[tuple[str, Any]] = [("in", v) for v in graph.input]
    for where, value in [*values, *(("out", v) for v in graph.output)]:
        kind = value.type.tensor_type
        sizes = [d.dim_param or d.dim_value for d in kind.shape.dim]
        shape = ", ".join(map(str, sizes))
        numpy_type = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        table.add_row(where, value.name, numpy_type, f"\\[{shape}]" if shape else "scalar")
        ends[where][value.name] = {"type": numpy_type, "shape": sizes}
    console.print(table)
    size = path.stat().st_size
    say(f"{path} ({size:,} bytes)")
    return {"file": str(path), "bytes": size, **ends}


EXAMPLES = (
    "gncadeq export mnist mnist.onnx --check",
    "gncadeq export mnist mnist.onnx --steps 500 --tol 1e-5 --form gather",
    "gncadeq export runs/lizard lizard.onnx --program step --check",
)
