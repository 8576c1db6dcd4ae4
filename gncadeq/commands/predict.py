"""``gncadeq predict``: image files classified."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gncadeq.commands.kinds import expect
from gncadeq.commands.options import Device, RunArgument
from gncadeq.commands.printing import Json, busy, errors, say, write_numbers
from gncadeq.commands.run_weights import load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from torch_geometric.data import Batch

    from gncadeq.models import ImageClassifier

LOSSY = 0.1  # the noise of JPEG around a digit
MOST_LIVING = 250_000  # pixels of a picture as it is: 0.6 GB
_AS_IS = "Options of pictures as they are"


def predict(
    run: RunArgument,
    image: Annotated[list[str], typer.Argument(help="Image files of any size.")],
    out: Annotated[str, typer.Option("--out", help="Folder for the pictures.")] = "maps",
    top: Annotated[int, typer.Option(min=1, help="How many probabilities to print.")] = 3,
    device: Device = "cpu",
    json_file: Json = None,
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
            help="Decode the states in a window of this radius around each pixel; 0 decodes "
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
    model, _ = load_run(run, device)
    if not as_is and not model.card.get("inputs", {}).get("drawn"):
        errors.print(
            f"[yellow]Warning:[/yellow] the card of {run} doesn't state that it was trained on "
            "digits, and their size. Pictures are classified as they are",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        as_is = True
    numbers: list[dict[str, Any]] = []
    used: set[Path] = set()
    for k, name in enumerate(image, 1):
        try:
            with busy(f"{name} ({k} of {len(image)})"):
                if as_is:
                    figure, answers = _as_is(model, name, top, invert, radius, floor, size)
                else:
                    figure, answers = _find(model, name, top)
        except (ValueError, TypeError, OSError, ArithmeticError, MemoryError) as error:
            sentence = str(error) or type(error).__name__
            numbers.append({"file": name, "error": sentence})
            _complain(sentence if name in sentence else f"{name}: {sentence}")
            continue
        path = _save(figure, Path(out) / f"{Path(name).stem}_labels.png", used)
        say(*(f"{name}: {answer}" for answer in answers), f"{name}: drawn in {path}")
        found = [answer.summary() for answer in answers]
        numbers.append({"file": name, "picture": str(path), "answers": found})
    write_numbers(json_file, numbers)
    if failed := sum("error" in entry for entry in numbers):
        say(f"{failed} of {len(image)} files could not be classified", to=errors)
        raise typer.Exit(1)


@dataclass
class Answer:
    """What a model makes of a graph.

    Args:
        probabilities: Of the classes that are most likely, by name, from the largest on.
        unlike: What is unlike the training images, and why the answer is uncertain.
        box: Where the digit is in the picture: left, top, right and bottom in pixels.
        pixels: Number of pixels that are nodes, of a picture as it is.
        agreeing: Share of them around which the states say the same.
        inverted: Whether its grey levels were inverted.
    """

    probabilities: dict[str, float]
    unlike: list[str]
    box: tuple[int, int, int, int] | None = None
    pixels: int | None = None
    agreeing: float | None = None
    inverted: bool | None = None

    @property
    def label(self) -> int:
        """The most likely class."""
        return int(next(iter(self.probabilities)))

    def summary(self) -> dict[str, Any]:
        """What is known, for JSON."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {"label": self.label, **known}

    def __str__(self) -> str:
        ranked = ", ".join(f"{name}: {p:.1%}" for name, p in self.probabilities.items())
        words = f"{self.label} ({ranked})"
        if self.box:
            words += " at ({}, {})–({}, {})".format(*self.box)
        if self.agreeing is not None:
            words += f"; {self.agreeing:.0%} of {self.pixels} pixels say so"
        if self.inverted:
            words += "; inverted"
        if self.unlike:
            words += f"; WARNING, unlike the training images: {', '.join(self.unlike)}"
        return words


def _find(model: ImageClassifier, name: str, top: int) -> tuple[Figure, list[Answer]]:
    """Classify each digit of a picture."""
    import torch

    from gncadeq.models.inputs import doubts
    from gncadeq.transforms import FindDigits
    from gncadeq.viz.found_digits import found_digits_figure
    from gncadeq.viz.images import read_image

    expect(name, "picture")
    picture = read_image(name, channels=3)
    digits = FindDigits.from_card(model.card)(picture)
    images = torch.stack([digit.image for digit in digits])
    images = images.expand(-1, model.in_channels, -1, -1)
    batch = model.to_graph.batch(images)
    z, pooled, logits = _solve(model, batch)
    answers = []
    for k, digit in enumerate(digits):
        unlike = doubts(model.card["inputs"], model.to_graph, digit.image, pooled[k], logits[k])
        least = model.card["inputs"]["size"] / 2
        high = max(digit.box[2] - digit.box[0], digit.box[3] - digit.box[1])
        if high < least:
            unlike.insert(0, f"only {high} pixels large")
        answers.append(Answer(_most_likely(logits[k], top), unlike, box=digit.box))
    graphs = batch.to_data_list()
    states = torch.split(z, [graph.num_nodes for graph in graphs])
    labels, doubtful = [a.label for a in answers], [bool(a.unlike) for a in answers]
    return found_digits_figure(picture, digits, labels, doubtful, graphs, states), answers


def _as_is(
    model: ImageClassifier,
    name: str,
    top: int,
    invert: bool | None,
    radius: int | None,
    floor: float | None,
    size: int | None,
) -> tuple[Figure, list[Answer]]:
    """Classify a picture as one graph."""
    from torch_geometric.data import Batch

    from gncadeq.models.inputs import doubts
    from gncadeq.viz.figures import label_map_figure
    from gncadeq.viz.images import read_image

    expect(name, "picture")
    picture = read_image(name, channels=model.in_channels, size=size)
    flip = bool(picture.mean() > 0.5) if invert is None else invert
    if flip:
        picture = 1 - picture
    noise = LOSSY if Path(name).suffix.lower() in (".jpg", ".jpeg", ".webp") else 0.0
    picture = picture * (picture > (noise if floor is None else floor))
    living = int(model.to_graph.living(picture.unsqueeze(0)).sum())
    if living > MOST_LIVING:
        raise ValueError(
            f"Expected a picture with at most {MOST_LIVING:,} living pixels as it is (got "
            f"{living:,}). Use --size, --floor, or leave out --as-is"
        )
    data = model.to_graph(picture)
    z, pooled, logits = _solve(model, Batch.from_data_list([data]))
    figure, label = label_map_figure(model, data, z, 14 if radius is None else radius)
    unlike = []
    if "inputs" in model.card:
        unlike = doubts(model.card["inputs"], model.to_graph, picture, pooled[0], logits[0])
    answer = Answer(_most_likely(logits[0], top), unlike, pixels=len(label), inverted=flip)
    answer.agreeing = float((label == answer.label).float().mean())
    return figure, [answer]


def _solve(model: ImageClassifier, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """States, what the readout sees of them, and the logits of every graph.

    Raises:
        ArithmeticError: If a graph has no equilibrium, or not a finite one.
    """
    import torch

    from gncadeq.device import beside
    from gncadeq.dynamics import ConvergenceWarning, Status

    batch = beside(batch, model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an error here
        z, partition, solution = model.settle(
            batch.x, batch.edge_index, batch.edge_attr, batch.batch, batch_size=batch.num_graphs
        )
        pooled = model.pool(z, partition, batch.edge_index, batch.edge_attr)
        logits = model.readout.decode(pooled)
    bad = ~(solution.converged & logits.isfinite().all(1))
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise ArithmeticError(
            f"Expected an equilibrium (got status {Status(int(solution.status[k])).name} with "
            f"residual {float(solution.residual[k]):.1e} for graph {k}). Train with a bound "
            "(--contraction 0.99), or check the weights for NaN"
        )
    return z.cpu(), pooled.cpu(), logits.cpu()


def _most_likely(logits: Tensor, top: int) -> dict[str, float]:
    probability = logits.softmax(0)
    order = probability.argsort(descending=True)[:top].tolist()
    return {str(i): float(probability[i]) for i in order}


def _complain(message: str) -> None:
    errors.print("[red]Error:[/red]", end=" ")
    say(message, to=errors)


def _save(figure: Figure, path: Path, used: set[Path]) -> Path:
    """Save a figure by a name that no other file of this call has taken."""
    from gncadeq.viz.figures import save_figure

    free, number = path, 2
    while free in used:
        free, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    used.add(free)
    return save_figure(figure, free)


EXAMPLES = (
    "gncadeq predict mnist seven.png",
    "gncadeq predict mnist *.jpg --out maps",
    "gncadeq predict mnist panorama.png --as-is",
)
