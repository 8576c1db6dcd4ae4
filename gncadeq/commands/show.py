"""``gncadeq show``: pictures of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from gncadeq.commands.options import DataRoot, Device, OtherDataset, RunArgument
from gncadeq.commands.printing import progress, say, unanswered
from gncadeq.commands.run_weights import load_run, load_test_set, place_of


def show(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: OtherDataset = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder for the pictures.", show_default="RUN/figures"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images in the figures.")] = 5,
    fire_rate: Annotated[float, typer.Option(help="The automaton's fire rate.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of starts and update masks.")] = 0,
    device: Device = "cpu",
) -> None:
    """Draw a run: the essay's figures 1 and 2, residuals, learning curve, confusion matrix."""
    import torch

    from gncadeq.evaluation import evaluate as measure
    from gncadeq.progress import progress_bar
    from gncadeq.viz import figures as draw

    model, folder = load_run(run, device)
    test_set = load_test_set(model, folder, data_root, dataset)
    target = Path(out) if out else place_of(run, folder) / "figures"
    wanted = list(dict.fromkeys((0, 1, 4, 7, 8, 3, 6, 2, 5, 9)))[: max(1, images)]
    index = [int((test_set.labels == d).nonzero()[0]) for d in wanted]
    graphs = [test_set.get(i) for i in index]
    pictures = [test_set.images[i].float() / 255 for i in index]
    written = []
    with progress_bar(total=6, desc="pictures", leave=False, progress=progress()) as bar:

        def done(path: Path) -> None:
            written.append(path)
            bar.update()

        figure, frames = draw.trajectory_figure(model, graphs, fire_rate=fire_rate, seed=seed)
        done(draw.save_figure(figure, target / "figure1_noise_to_stasis.png"))
        done(draw.save_gif(frames, target / "figure1_noise_to_stasis.gif"))
        figure = draw.truncation_figure(model, pictures)
        done(draw.save_figure(figure, target / "figure2_truncated.png"))
        batch = test_set.batch(torch.arange(min(64, len(test_set))))
        done(draw.save_figure(draw.residual_figure(model, batch), target / "residuals.png"))
        if folder is not None and (folder / "metrics.csv").is_file():
            figure = draw.learning_figure(folder / "metrics.csv")
            done(draw.save_figure(figure, target / "learning_curve.png"))
        result = measure(model, test_set, title="confusion matrix", progress=progress())
        done(draw.save_figure(draw.confusion_figure(result), target / "confusion.png"))
    if missing := unanswered(result):
        warnings.warn(missing, stacklevel=2)
    say(*written)


EXAMPLES = (
    "gncadeq show runs/mnist",
    "gncadeq show mnist --out pics",
)
