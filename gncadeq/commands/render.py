"""``gncadeq render``: a graph, mesh or trajectory to a picture, a page or a coloured mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from gncadeq.choices import Up
from gncadeq.commands.kinds import expect
from gncadeq.commands.options import explicit
from gncadeq.commands.printing import busy, say


def render(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A file of a mesh or of points; a graph (GraphML, GML, a list of edges); or a "
            "trajectory, as 'gncadeq run' writes it."
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="What to write: .png, .gif, .html (a page to turn it), or the last step as a "
            "mesh with colours, .ply, .glb or .obj.",
        ),
    ],
    channel: Annotated[
        int | None, typer.Option(help="The channel to draw.", show_default="colours")
    ] = None,
    colormap: Annotated[str, typer.Option(help="Colours of a single channel.")] = "viridis",
    up: Annotated[Up, typer.Option(help="The axis that points up.")] = "y",
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 640,
    azimuth: Annotated[float, typer.Option(help="Degrees to the right around it.")] = 30.0,
    elevation: Annotated[float, typer.Option(help="Degrees above it.")] = 15.0,
    ms: Annotated[int, typer.Option(help="Milliseconds a frame of an animation.")] = 120,
) -> None:
    """Draw a mesh, points, a graph or a trajectory."""
    expect(source, "shape", "graph", "trajectory")
    from gncadeq.viz import render_file

    options = explicit(ctx)
    with busy("drawing"):
        path = render_file(options.pop("source"), options.pop("target"), **options)
    say(path)


EXAMPLES = (
    "gncadeq render mesh.ply mesh.png --up z",
    "gncadeq render graph.graphml graph.html",
    "gncadeq render runs/spots/trajectory.safetensors spots.glb",
    "gncadeq render runs/spots/trajectory.safetensors spots.gif --azimuth 120",
)
