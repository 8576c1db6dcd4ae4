"""``gncadeq evaluate``: weights measured on a test set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gncadeq.choices import DynamicsName, StartName
from gncadeq.commands.options import DataRoot, OtherDataset, RunArgument
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
    tol: Annotated[float, typer.Option(help="Relative residual to reach.")] = 1e-3,
    max_steps: Annotated[int, typer.Option(help="Most solver steps.")] = 60,
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
    json_file: Json = None,
) -> None:
    """Measure weights on the test set, as an equilibrium and as an automaton.

    With *--as nca* both are measured, and how often they agree. A graph whose equilibrium was not
    reached has no answer and counts as wrong; if there is such a graph, the exit status is 1.
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
    model, folder = load_run(run)
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
        "    gncadeq evaluate mnist --as nca --steps 1000 --fire-rate 0.5 --start normal"
    )(evaluate)
