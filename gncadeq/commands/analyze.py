"""``gncadeq analyze``: what a run's dynamics do, on one page."""

from __future__ import annotations

from typing import Annotated

import typer

from gncadeq.commands.options import DataRoot, Device, OtherDataset, RunArgument
from gncadeq.commands.printing import Json, progress, say, write_numbers
from gncadeq.commands.run_weights import load_run, load_test_set, place_of


def analyze(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: OtherDataset = None,
    out: Annotated[
        str | None, typer.Option("--out", help="The page.", show_default="RUN/analysis.html")
    ] = None,
    graphs: Annotated[int, typer.Option(min=1, help="How many test images to look at.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of all starts.")] = 0,
    device: Device = "cpu",
    json_file: Json = None,
) -> None:
    """Measure convergence, stability and path independence of a run, on one HTML page."""
    from gncadeq.report import measure_report

    model, folder = load_run(run, device)
    test_set = load_test_set(model, folder, data_root, dataset)
    page = out or place_of(run, folder) / "analysis.html"
    report = measure_report(model, test_set, graphs=graphs, seed=seed, progress=progress())
    say(report.save(page))
    write_numbers(json_file, report.summary())


EXAMPLES = (
    "gncadeq analyze runs/mnist",
    "gncadeq analyze mnist --graphs 50 --json -",
)
