"""``gncadeq evaluate``: weights measured on a test set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gncadeq.choices import DynamicsName, StartName
from gncadeq.commands.evaluate_cells import evaluate_cells
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

    from gncadeq.dynamics import GraphDEQ, GraphNCA
    from gncadeq.evaluation import evaluate as measure

    if as_ == "deq":
        for option, value, default in (
            ("fire-rate", fire_rate, 1.0),
            ("step-size", step_size, 1.0),
        ):
            if value != default:
                raise ValueError(
                    f"Expected no '--{option}' of an equilibrium (got {value}). Use --as nca"
                )
    if labels == "cells":
        given = {"solver": solver, "tol": tol, "max_steps": max_steps}
        if start and as_ == "deq":
            given["start"] = start
        automatic = {
            "steps": steps, "fire_rate": fire_rate, "step_size": step_size,
            "start": start or "normal",
        }  # fmt: skip
        evaluate_cells(
            run, data_root, dataset, alpha, shortcuts, picture,
            {name: value for name, value in given.items() if value is not None},
            automatic if as_ == "nca" else None, seed, limit, device, json_file,
        )  # fmt: skip
        return
    for name, choice in {"alpha": alpha, "shortcuts": shortcuts, "picture": picture}.items():
        if choice:
            raise ValueError(
                f"Expected no '--{name}' of the labels of graphs (got {choice}). Use --labels cells"
            )
    tol, max_steps = 1e-3 if tol is None else tol, 60 if max_steps is None else max_steps
    model, folder = load_run(run, device)
    cell = model.dynamics.cell
    # Both check their options, before any data is read or downloaded.
    equilibrium = GraphDEQ(
        cell, solver, tol=tol, max_steps=max_steps, on_failure="ignore",
        start=start if start and as_ == "deq" else "zeros",
    )  # fmt: skip
    automaton = GraphNCA(cell, steps, fire_rate, step_size, start or "normal", tol=tol)
    test_set = load_test_set(model, folder, data_root, dataset)
    index = torch.arange(len(test_set))[:limit]
    options: dict[str, Any] = {"index": index, "seed": seed, "progress": progress()}
    model.dynamics = equilibrium
    reference = measure(model, test_set, title="equilibrium", **options)
    columns, failed = {"equilibrium": reference.summary()}, [unanswered(reference)]
    if as_ == "nca":
        model.dynamics = automaton
        result = measure(model, test_set, title="automaton", **options)
        columns["automaton"] = {**result.summary(), "agreement": result.agreement(reference)}
        failed.append(unanswered(result, "a finite state after all steps"))
    print_summary(columns)
    write_numbers(json_file, columns)
    if any(failed):
        say(*filter(None, failed), to=errors)
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Examples:\n\n"
        "    gncadeq evaluate runs/mnist --solver picard --tol 1e-5 --max-steps 600\n\n"
        "    gncadeq evaluate mnist --as nca --steps 1000 --fire-rate 0.5 --start normal\n\n"
        "    gncadeq evaluate mnist-pyramid --labels cells --picture cells.png"
    )(evaluate)
