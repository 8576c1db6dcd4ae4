"""``gncadeq evaluate``: weights measured on a test set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gncadeq.choices import DynamicsName, StartName
from gncadeq.commands.options import DataRoot, Device, OtherDataset, RunArgument
from gncadeq.commands.printing import (
    Json,
    errors,
    print_summary,
    progress,
    say,
    unanswered,
    write_numbers,
)
from gncadeq.commands.run_weights import load_run, load_test_set


def evaluate(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: OtherDataset = None,
    as_: Annotated[
        DynamicsName, typer.Option("--as", help="Equilibrium, or automaton beside it.")
    ] = "deq",
    solver: Annotated[str, typer.Option(help="The equilibrium's solver.")] = "auto",
    tol: Annotated[
        float | None,
        typer.Option(help="Relative residual to reach.", show_default="0.001; of cells alpha/100"),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Most solver steps.", show_default="60; of cells 1000")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="The automaton's steps.")] = 500,
    fire_rate: Annotated[float, typer.Option(help="The automaton's fire rate.")] = 1.0,
    step_size: Annotated[float, typer.Option(help="The automaton's step size.")] = 1.0,
    start: Annotated[
        StartName | None,
        typer.Option(
            help="Where dynamics start.",
            show_default="zeros for the equilibrium, normal for the automaton",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of starts and update masks.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only so many images.")] = None,
    labels: Annotated[
        Literal["graph", "cells"],
        typer.Option(
            help="Who decides: the readout of a whole graph, or every pixel alone, from averages "
            "that its neighbours pass on."
        ),
    ] = "graph",
    alpha: Annotated[
        float | None,
        typer.Option(
            help="How fast these averages forget.", show_default="by levels: 0.00049, 0.0078"
        ),
    ] = None,
    shortcuts: Annotated[
        int, typer.Option(min=0, help="Random long edges of every pixel, for averages alone.")
    ] = 0,
    picture: Annotated[
        str | None, typer.Option(help="Draw how the labels of pixels settle, to this file.")
    ] = None,
    device: Device = "cpu",
    json_file: Json = None,
) -> None:
    """Measure weights on the test set, as an equilibrium and as an automaton.

    With *--as nca* both are measured, and how often they agree. A graph whose equilibrium was not
    reached has no answer and counts as wrong; if there is such a graph, the exit status is 1.
    With *--labels cells* every pixel above grey 0.1 decides alone (self-classifying digits).
    """
    import torch

    from gncadeq.cell_labels import evaluate_cells
    from gncadeq.dynamics import GraphDEQ, GraphNCA
    from gncadeq.evaluation import evaluate as evaluate_graphs
    from gncadeq.models import SelfClassifier
    from gncadeq.transforms import AddShortcuts

    cells, automatic = labels == "cells", as_ == "nca"
    if not automatic:
        usual = {"fire-rate": (fire_rate, 1.0), "step-size": (step_size, 1.0)}
        _refuse(usual, "an equilibrium", "--as nca")
    if not cells:
        own = {"alpha": (alpha, None), "shortcuts": (shortcuts, 0), "picture": (picture, None)}
        _refuse(own, "the labels of graphs", "--labels cells")
    given = {
        "solver": solver, "tol": tol, "max_steps": max_steps, "on_failure": "ignore",
        "start": None if automatic else start,
    }  # fmt: skip
    solving: Any = {name: value for name, value in given.items() if value is not None}
    classifier, folder = load_run(run, device)
    model: Any = SelfClassifier(classifier, alpha, solving).eval() if cells else classifier
    cell = model.dynamics.cell
    if shortcuts and cell.levels > 1:
        raise ValueError(
            f"Expected long edges between pixels of one level (got --shortcuts {shortcuts} for "
            f"{cell.levels} levels, where few steps reach everything). Use weights such as mnist"
        )
    # Both check their options, before any data is read or downloaded.
    equilibrium = model.dynamics if cells else GraphDEQ(cell, **solving)
    automaton = GraphNCA(
        cell, steps, fire_rate, step_size, start or "normal", tol=equilibrium.tol
    )  # fmt: skip
    test_set = load_test_set(classifier, folder, data_root, dataset)
    index = torch.arange(len(test_set))[:limit]
    options: dict[str, Any] = {"index": index, "seed": seed, "progress": progress()}
    if shortcuts:
        options["transform"] = AddShortcuts(shortcuts, seed=seed)
    measure: Any = evaluate_cells if cells else evaluate_graphs
    model.dynamics = equilibrium
    reference = measure(model, test_set, title="equilibrium", **options)
    columns, failed = {"equilibrium": reference.summary()}, [unanswered(reference)]
    if automatic:
        model.dynamics = automaton
        result = measure(model, test_set, title="automaton", **options)
        if cells:
            alike = {"same_label": result.labels.same(reference.labels)}
        else:
            alike = {"agreement": result.agreement(reference)}
            failed.append(unanswered(result, "a finite state after all steps"))
        columns["automaton"] = {**result.summary(), **alike}
        model.dynamics = equilibrium
    print_summary(columns)
    write_numbers(json_file, columns)
    if picture:
        from gncadeq.viz.figures import save_figure
        from gncadeq.viz.settling import settling_figure

        lengthen = options.get("transform", lambda graph: graph)
        first = [int((test_set.labels == c).nonzero()[0]) for c in range(6)]
        graphs = [lengthen(test_set.get(i)) for i in first]
        rate = fire_rate if automatic else 0.5
        say(save_figure(settling_figure(model, graphs, fire_rate=rate, seed=seed), picture))
    if any(failed):
        say(*filter(None, failed), to=errors)
        raise typer.Exit(1)


def _refuse(options: dict[str, tuple[Any, Any]], of: str, remedy: str) -> None:
    """Refuse options whose values are not the defaults that stand beside them."""
    for name, (value, usual) in options.items():
        if value != usual:
            raise ValueError(f"Expected no '--{name}' of {of} (got {value}). Use {remedy}")


EXAMPLES = (
    "gncadeq evaluate runs/mnist --solver picard --tol 1e-5 --max-steps 600",
    "gncadeq evaluate mnist --as nca --steps 1000 --fire-rate 0.5 --start normal",
    "gncadeq evaluate mnist-pyramid --labels cells --picture cells.png",
)
