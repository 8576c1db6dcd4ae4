"""``gncadeq predict``: image files classified."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gncadeq.commands.options import RunArgument
from gncadeq.commands.printing import errors, say
from gncadeq.commands.weights import load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from torch_geometric.data import Batch

    from gncadeq.models import PixelGraphClassifier

LOSSY = 0.1  # the noise of JPEG around a digit
MOST_LIVING = 250_000  # pixels of a picture as it is: 0.6 GB
_AS_IS = "Options of pictures as they are"


def predict(
    run: RunArgument,
    image: Annotated[list[str], typer.Argument(help="Image files of any size.")],
    out: Annotated[str, typer.Option("--out", help="Folder for the pictures.")] = "maps",
    top: Annotated[int, typer.Option(min=1, help="How many probabilities to print.")] = 3,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Classify the whole picture as one graph, and draw what the states around each "
            "pixel decode to. By default the digits are found, and each is brought to the size "
            "and the stroke of the training digits.",
            rich_help_panel=_AS_IS,
        ),
    ] = False,
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Invert the grey levels; by default where most of the image is bright, since the "
            "training digits are bright on black.",
            show_default=False,
            rich_help_panel=_AS_IS,
        ),
    ] = None,
    radius: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Decode the mean state of a window of this radius around each pixel; 0 decodes "
            "each pixel's own state. By default 14.",
            show_default=False,
            rich_help_panel=_AS_IS,
        ),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            help="Blacken pixels below this grey level; by default 0.1 for lossy formats, whose "
            "noise would live, and 0 for the others.",
            show_default=False,
            rich_help_panel=_AS_IS,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Shrink or enlarge every picture until its longer side has so many pixels; by "
            "default none.",
            show_default=False,
            rich_help_panel=_AS_IS,
        ),
    ] = None,
) -> None:
    """Find and classify the digits in image files, and draw them with their labels."""
    if not as_is and any(v is not None for v in (invert, radius, floor, size)):
        raise typer.BadParameter("--invert, --radius, --floor and --size go with --as-is")
    model, _ = load_run(run)
    if not as_is and not model.card.get("inputs", {}).get("drawn"):
        errors.print(
            f"[yellow]Warning:[/yellow] the card of {run} doesn't state that it was trained on "
            "digits, and their size. Pictures are classified as they are",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        as_is = True
    failed = 0
    used: set[Path] = set()
    for name in image:
        try:
            if as_is:
                figure, lines = _as_is(model, name, top, invert, radius, floor, size)
            else:
                figure, lines = _find(model, name, top)
        except (ValueError, TypeError, OSError, ArithmeticError, MemoryError) as error:
            failed += 1
            sentence = str(error) or type(error).__name__
            sentence = sentence if name in sentence else f"{name}: {sentence}"
            errors.print("[red]Error:[/red]", end=" ")
            errors.print(sentence, highlight=False, markup=False, soft_wrap=True)
            continue
        from gncadeq.viz.figures import save_figure

        path = _free(Path(out) / f"{Path(name).stem}_labels.png", used)
        save_figure(figure, path)
        say(*(f"{name}: {line}" for line in lines), f"{name}: drawn in {path}")
    if failed:
        errors.print(f"{failed} of {len(image)} files could not be classified", highlight=False)
        raise typer.Exit(1)


def _find(model: PixelGraphClassifier, name: str, top: int) -> tuple[Figure, list[str]]:
    """Classify each digit of a picture."""
    import torch

    from gncadeq.models.inputs import doubts
    from gncadeq.transforms import FindDigits
    from gncadeq.viz.digits import found_digits_figure
    from gncadeq.viz.images import read_image

    picture = read_image(name, channels=3)
    digits = FindDigits.from_card(model.card)(picture)
    images = torch.stack([digit.image for digit in digits])
    images = images.expand(-1, model.encoder.in_channels, -1, -1)
    batch = model.to_graph.batch(images)
    z, pooled, probability = _solve(model, batch)
    lines, labels, doubtful = [], [], []
    for k, digit in enumerate(digits):
        unlike = doubts(model.card["inputs"], digit.image, int((batch.batch == k).sum()), pooled[k])
        least = model.card["inputs"]["size"] / 2
        high = max(digit.box[2] - digit.box[0], digit.box[3] - digit.box[1])
        if high < least:
            unlike.insert(0, f"only {high} pixels large")
        labels.append(int(probability[k].argmax()))
        doubtful.append(bool(unlike))
        place = "({}, {})–({}, {})".format(*digit.box)
        lines.append(f"{_ranked(probability[k], top)} at {place}{_unlike(unlike)}")
    graphs = batch.to_data_list()
    states = torch.split(z, [graph.num_nodes for graph in graphs])
    return found_digits_figure(picture, digits, labels, doubtful, graphs, states), lines


def _as_is(
    model: PixelGraphClassifier,
    name: str,
    top: int,
    invert: bool | None,
    radius: int | None,
    floor: float | None,
    size: int | None,
) -> tuple[Figure, list[str]]:
    """Classify a picture as one graph."""
    from torch_geometric.data import Batch

    from gncadeq.models.inputs import doubts
    from gncadeq.viz.figures import label_map_figure
    from gncadeq.viz.images import read_image

    picture = read_image(name, channels=model.encoder.in_channels, size=size)
    flip = bool(picture.mean() > 0.5) if invert is None else invert
    if flip:
        picture = 1 - picture
    noise = LOSSY if Path(name).suffix.lower() in (".jpg", ".jpeg", ".webp") else 0.0
    picture = picture * (picture > (noise if floor is None else floor))
    threshold = model.to_graph.living_threshold
    living = picture[0].numel() if threshold is None else int((picture.amax(0) > threshold).sum())
    if living > MOST_LIVING:
        raise ValueError(
            f"Expected a picture with at most {MOST_LIVING:,} living pixels as it is (got "
            f"{living:,}). Use --size, --floor, or leave out --as-is"
        )
    data = model.to_graph(picture)
    z, pooled, probability = _solve(model, Batch.from_data_list([data]))
    figure, label = label_map_figure(model, data, z, 14 if radius is None else radius)
    unlike = []
    if "inputs" in model.card:
        unlike = doubts(model.card["inputs"], picture, data.num_nodes, pooled[0])
    share = float((label == int(probability[0].argmax())).float().mean())
    line = (
        f"{_ranked(probability[0], top)}; {share:.0%} of {len(label)} pixels say so"
        f"{'; inverted' if flip else ''}{_unlike(unlike)}"
    )
    return figure, [line]


def _solve(model: PixelGraphClassifier, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """States, their means and the probabilities of every graph.

    Raises:
        ArithmeticError: If a graph has no equilibrium, or not a finite one.
    """
    import torch

    from gncadeq.dynamics import ConvergenceWarning, Status

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an error here
        z, partition, solution = model.settle(
            batch.x, batch.edge_index, batch.edge_attr, batch.batch, batch_size=batch.num_graphs
        )
        pooled = partition.mean(z)
        probability = model.readout.decode(pooled).softmax(1)
    bad = ~(solution.converged & probability.isfinite().all(1))
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise ArithmeticError(
            f"Expected an equilibrium (got status {Status(int(solution.status[k])).name} with "
            f"residual {float(solution.residual[k]):.1e} for graph {k}). Train with a bound "
            "(--contraction 0.99), or check the weights for NaN"
        )
    return z, pooled, probability


def _ranked(probability: Tensor, top: int) -> str:
    order = probability.argsort(descending=True)[:top].tolist()
    return f"{order[0]} ({', '.join(f'{i}: {float(probability[i]):.1%}' for i in order)})"


def _unlike(phrases: list[str]) -> str:
    return f"; WARNING, unlike the training images: {', '.join(phrases)}" if phrases else ""


def _free(path: Path, used: set[Path]) -> Path:
    """A name that no other file of this call has taken."""
    free, number = path, 2
    while free in used:
        free, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    used.add(free)
    return free


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Examples:\n\n    gncadeq predict mnist seven.png\n\n"
        "    gncadeq predict mnist *.jpg --out maps\n\n"
        "    gncadeq predict mnist panorama.png --as-is"
    )(predict)


__all__ = ["register"]
