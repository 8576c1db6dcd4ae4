"""``gncadeq play``: trained rules that run in a page of the browser."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gncadeq.check import did_you_mean
from gncadeq.commands.kinds import expect, kind_of
from gncadeq.commands.options import folder_name
from gncadeq.commands.printing import busy, say

if TYPE_CHECKING:
    from gncadeq.viz.page import Scene

_RULESTRING = re.compile(r"[bB]\d*/[sS]\d*")


def play(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_OR_WEIGHTS]",
            help="A run of 'gncadeq train' or 'gncadeq grow', weights of a classifier or of a "
            "texture, the name of shipped weights, of a shipped grown rule or texture, 'textures', "
            "a rulestring such as B3/S23, 'voronoi' or 'maze'. By default a gallery.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="A picture to lie on the paper of a classifier; another surface or mesh for a "
            "rule that was grown on a surface; a surface or mesh for textures and 'voronoi'.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="The page to write.", show_default="runs/play/NAME.html"),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Write a page in which a trained rule runs, to draw on and to wound: one file, no network."""
    from gncadeq.viz.page import write_play

    with busy("writing the page"):
        if source is None and on is not None:
            raise ValueError(f"Expected --on together with a rule (got {on!r} for the gallery)")
        scenes = gallery() if source is None else [_scene(source, on)]
        name = "gallery" if source is None else folder_name(source)
        if source is not None and _RULESTRING.fullmatch(source):
            name = source.replace("/", "-")
        title = "gncadeq" if source is None else f"gncadeq: {scenes[0]['name']}"
        path = write_play(out or Path("runs/play") / f"{name}.html", scenes, title)
    say(f"{path} ({path.stat().st_size:,} bytes)")
    if open_page:
        webbrowser.open(path.resolve().as_uri())


def gallery() -> list[Scene]:
    """The shipped rules."""
    from gncadeq.files.weights import pretrained_names

    names = ("mnist", "mnist-pyramid", *pretrained_names("grown"), "textures")
    scenes = [_scene(name, None) for name in names]
    scenes.append(_scene("textures", "torus:96,48") | {"name": "Textures on a ring"})
    return [*scenes, *(_scene(name, None) for name in ("B3/S23", "voronoi", "maze"))]


def _textures(source: str, on: str | None) -> Scene:
    """All shipped textures, or one alone, or the weights of one in a file."""
    from gncadeq.cells import GrowingCell, MicroCell
    from gncadeq.files.weights import load_pretrained, pretrained_names, read_header
    from gncadeq.training.surfaces import read_surface
    from gncadeq.viz.play import texture_scene

    rules: dict[str, MicroCell | GrowingCell]
    if source == "textures":
        rules = {name: load_pretrained(MicroCell, name) for name in pretrained_names(source)}
    else:
        kind: Any = MicroCell if read_header(source)[1] == "MicroCell" else GrowingCell
        rules = {Path(source).stem: load_pretrained(kind, source)}
    surface = None if on is None else read_surface(on)
    kernels: Literal["isotropic", "tangent"]
    kernels = "isotropic" if next(iter(rules.values())).num_kernels == 1 else "tangent"
    return texture_scene(rules, surface, kernels, name=Path(source).stem.capitalize())


def _scene(source: str, on: str | None) -> Scene:
    from gncadeq.files.weights import pretrained_names
    from gncadeq.training import GrowConfig
    from gncadeq.training.shipped import load_shipped
    from gncadeq.viz.play import grown_scene, life_scene, maze_scene, voronoi_scene

    if source == "voronoi":
        from gncadeq.training.surfaces import read_surface

        return voronoi_scene(None if on is None else read_surface(on))
    if source == "maze" or _RULESTRING.fullmatch(source):
        if on is not None:
            raise ValueError(f"Expected no --on for {source!r} (got {on!r})")
        if source == "maze":
            return maze_scene()
        from gncadeq.cells import TotalisticCell

        usual = source.upper() == "B3/S23"
        return life_scene(
            TotalisticCell.from_rulestring(source), name="Life" if usual else source.upper()
        )
    if source in pretrained_names("grown"):
        cell, data, z0, card = load_shipped(source, on)
        config = GrowConfig(**card["config"])
        return grown_scene(
            cell, data, z0, card["fire_rate"], source.capitalize(), config.up,
            config.mesh_kernels(),
        )  # fmt: skip
    if source in ("textures", *pretrained_names("textures")) or _is_texture(source):
        return _textures(source, on)
    if source in pretrained_names():
        return _drawn(source, on)
    if not Path(source).exists():
        raise FileNotFoundError(_unknown(source))
    if kind_of(Path(source)) == "growth":
        return _grown(source, on)
    return _drawn(source, on)


def _unknown(source: str) -> str:
    """What can be named, to one who named something else."""
    from gncadeq.files.weights import pretrained_names

    digits, grown, textures = map(pretrained_names, ("", "grown", "textures"))
    others = ["textures", "voronoi", "maze"]
    hint = did_you_mean(source.lower(), [*digits, *grown, *textures, *others])
    return (
        f"Expected shipped weights of digits {digits}, a grown rule {grown}, a texture {textures}, "
        f"one of {others}, a rulestring such as 'B3/S23', a run's folder, or a .safetensors file "
        f"(got {source!r}, which is none of them){hint}"
    )


def _is_texture(source: str) -> bool:
    """Whether a file holds a rule without seed and injection, in which all nodes live."""
    from gncadeq.files.weights import read_header

    weights = Path(source)
    if weights.suffix != ".safetensors" or not weights.is_file():
        return False
    _, architecture, config, _ = read_header(weights)
    lives = config.get("alive_channel", 3) is not None or config.get("in_channels")
    return architecture == "MicroCell" or (architecture == "GrowingCell" and not lives)


def _grown(run: str, on: str | None) -> Scene:
    """The rule of a run of ``gncadeq grow``."""
    from gncadeq.cells import GrowingCell
    from gncadeq.training import GrowConfig
    from gncadeq.training.grow import load_grown
    from gncadeq.viz.play import grown_scene

    folder = Path(run).parent if Path(run).is_file() else Path(run)
    cell, data, z0, card = load_grown(folder, on)
    config = GrowConfig.load(folder / "config.json")
    senses = (
        config.mesh_kernels() if isinstance(cell, GrowingCell) and config.on_surface() else None
    )
    rate = card.get("fire_rate", 0.5)
    return grown_scene(cell, data, z0, rate, folder.name, config.up, senses)


def _drawn(weights: str, on: str | None) -> Scene:
    """A classifier, with a picture on its paper if ``on`` names one."""
    from gncadeq.commands.run_weights import load_run
    from gncadeq.export.description import packed
    from gncadeq.viz.images import read_image
    from gncadeq.viz.play import digit_scene

    model, _ = load_run(weights)
    names = {"mnist": "Digits", "mnist-pyramid": "Digits, pyramid"}
    scene: dict[str, Any] = digit_scene(model, names.get(weights, Path(weights).name))
    if on is not None:
        expect(on, "picture")
        picture = read_image(on)[0]
        height, width = picture.shape
        size = min(1.0, 400 / max(height, width))
        if size < 1:
            picture = read_image(on, size=round(max(height, width) * size))[0]
        if float(picture.mean()) > 0.5:  # the rule knows bright digits on black
            picture = 1 - picture
        scene["picture"] = packed((picture * 255).round().byte())
    return scene


EXAMPLES = (
    "gncadeq play",
    "gncadeq play mnist --on photo.png",
    "gncadeq play spots --on torus:32,16 -o torus.html",
    "gncadeq play runs/lizard -o lizard.html --no-open",
    "gncadeq play B36/S23",
)
