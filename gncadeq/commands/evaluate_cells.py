"""``gncadeq evaluate --labels cells``: every pixel decides for its image."""

from __future__ import annotations

from typing import Any

import typer

from gncadeq.commands.printing import errors, print_summary, progress, say, write_numbers
from gncadeq.commands.run_weights import load_run, load_test_set


def evaluate_cells(
    run: str,
    data_root: str | None,
    dataset: str | None,
    alpha: float | None,
    shortcuts: int,
    picture: str | None,
    solving: dict[str, Any],
    stepping: dict[str, Any] | None,
    seed: int,
    limit: int | None,
    device: str,
    json_file: str | None,
) -> None:
    """Measure the labels of single pixels, of the equilibrium and of an automaton beside it.

    Args:
        run: The weights of a classifier.
        data_root: Where the dataset is.
        dataset: Another one than the weights' own.
        alpha: How fast averages forget.
        shortcuts: Long edges a pixel.
        picture: Where a picture goes.
        solving: Options of the equilibrium.
        stepping: Options of the automaton; ``None`` for none.
        seed: Of starts, update masks and long edges.
        limit: How many images.
        device: Where to compute.
        json_file: Where the numbers go.
    """
    import torch

    from gncadeq.cell_labels import evaluate_cells as measure
    from gncadeq.dynamics import GraphNCA
    from gncadeq.models import SelfClassifier
    from gncadeq.transforms import AddShortcuts

    classifier, folder = load_run(run, device)
    model = SelfClassifier(classifier, alpha, {"on_failure": "ignore", **solving}).eval()
    if shortcuts and model.cell.levels > 1:
        raise ValueError(
            f"Expected long edges between pixels of one level (got --shortcuts {shortcuts} for "
            f"{model.cell.levels} levels, where few steps reach everything). Use weights such as "
            "mnist"
        )
    automaton = None
    if stepping is not None:
        automaton = GraphNCA(model.cell, **stepping, tol=model.dynamics.tol)
    test_set = load_test_set(classifier, folder, data_root, dataset)
    options: dict[str, Any] = {
        "index": torch.arange(len(test_set))[:limit], "seed": seed, "progress": progress(),
        "transform": AddShortcuts(shortcuts, seed=seed) if shortcuts else None,
    }  # fmt: skip
    equilibrium = model.dynamics
    reference = measure(model, test_set, title="equilibrium", **options)
    columns = {"equilibrium": reference.summary()}
    if automaton is not None:
        model.dynamics = automaton
        result = measure(model, test_set, title="automaton", **options)
        same = result.labels.same(reference.labels)
        columns["automaton"] = {**result.summary(), "same_label": same}
        model.dynamics = equilibrium
    print_summary(columns)
    write_numbers(json_file, columns)
    if picture:
        from gncadeq.viz.figures import save_figure
        from gncadeq.viz.settling import settling_figure

        first = [int((test_set.labels == c).nonzero()[0]) for c in range(6)]
        graphs = [test_set.get(i) for i in first]
        if shortcuts:
            graphs = [options["transform"](graph) for graph in graphs]
        rate = (stepping or {}).get("fire_rate", 0.5)
        say(save_figure(settling_figure(model, graphs, fire_rate=rate, seed=seed), picture))
    missing = int((~reference.converged).sum())
    if missing:
        say(
            f"Expected an equilibrium of every graph (got none of {missing} of "
            f"{len(reference.converged)}, whose pixels count as wrong). Raise --max-steps or --tol",
            to=errors,
        )
        raise typer.Exit(1)
