"""``gncadeq predict``: image files classified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gncadeq.commands.options import RunArgument
from gncadeq.commands.printing import say
from gncadeq.commands.weights import load_run

LOSSY = 0.1  # the noise of JPEG around a digit


def predict(
    run: RunArgument,
    image: Annotated[list[str], typer.Argument(help="Image files of any size.")],
    out: Annotated[str, typer.Option("--out", help="Folder for the label maps.")] = "maps",
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Invert the grey levels; by default "
            "where most of the image is bright, since the training digits "
            "are bright on black.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        int,
        typer.Option(
            help="Decode the mean state of a window of this radius around each "
            "pixel; 0 decodes each pixel's own state."
        ),
    ] = 14,
    floor: Annotated[
        float | None,
        typer.Option(
            help="Blacken pixels below this grey level; by default 0.1 for lossy formats, whose "
            "noise would live, and 0 for the others.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Shrink or enlarge every picture until its longer side has so many pixels; by "
            "default none. The weights know strokes as wide as those they were trained on: "
            "28 for one digit drawn large and MNIST's weights.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many probabilities to print.")] = 3,
) -> None:
    """Classify image files, and draw what the states around each pixel decode to."""
    from gncadeq.viz import figures as draw
    from gncadeq.viz.images import read_image

    model, _ = load_run(run)
    for name in image:
        picture = read_image(name, channels=model.encoder.in_channels, size=size)
        flip = bool(picture.mean() > 0.5) if invert is None else invert
        if flip:
            picture = 1 - picture
        noise = LOSSY if Path(name).suffix.lower() in (".jpg", ".jpeg", ".webp") else 0.0
        picture = picture * (picture > (noise if floor is None else floor))
        data = model.to_graph(picture)
        figure, label, probability = draw.label_map_figure(model, data, radius)
        path = draw.save_figure(figure, Path(out) / f"{Path(name).stem}_labels.png")
        order = probability.argsort(descending=True)[:top].tolist()
        listed = ", ".join(f"{i}: {float(probability[i]):.1%}" for i in order)
        share = float((label == order[0]).float().mean())
        say(
            f"{name}: {order[0]} ({listed}); {share:.0%} of {len(label)} pixels say so"
            f"{'; inverted' if flip else ''}; {path}"
        )


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Examples:\n\n    gncadeq predict mnist seven.png\n\n"
        "    gncadeq predict mnist photo.jpg --size 28\n\n"
        "    gncadeq predict runs/mnist *.png --out maps"
    )(predict)


__all__ = ["register"]
