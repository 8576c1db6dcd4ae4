"""What a file is, so that a command that can't take it names one that can."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

Kind = Literal["picture", "shape", "graph", "colored", "trajectory", "growth", "classifier"]

_SURFACE = (
    "'gncadeq render {0} OUT.png' draws it, 'gncadeq grow spots --on {0}' grows a pattern on it"
)
_KINDS: dict[Kind, tuple[str, str]] = {
    "picture": (
        "a picture",
        "'gncadeq predict mnist {0}' reads its digits, 'gncadeq grow {0}' grows it",
    ),
    "shape": ("a mesh or points", _SURFACE),
    "graph": ("a graph", _SURFACE),
    "colored": ("a graph with colours", "'gncadeq grow color --on {0}' grows them"),
    "trajectory": ("a trajectory", "'gncadeq render {0} OUT.png' draws it"),
    "growth": ("a run of 'gncadeq grow'", "'gncadeq run {0}' grows, injures and draws it"),
    "classifier": (
        "weights of a classifier",
        "'gncadeq predict {0} IMAGE' uses them; evaluate, show, analyze and export take them, too",
    ),
}


def expect(path: str, *kinds: Kind) -> None:
    """Refuse a file, or a run's folder, of a known kind that isn't one of those.

    What isn't known is left to its reader.

    Raises:
        ValueError: If it is of another kind; the error names a command that takes it.
    """
    kind = kind_of(Path(path))
    if kind is None or kind in kinds:
        return
    name, remedy = _KINDS[kind]
    place = Path(path).parent if kind == "growth" and Path(path).is_file() else path
    wanted = " or ".join(_KINDS[k][0] for k in kinds)
    raise ValueError(f"Expected {wanted} (got {path}, {name}). {remedy.format(place)}")


def kind_of(path: Path) -> Kind | None:
    """The kind of a file or of a run's folder; ``None`` where it isn't known."""
    try:
        if path.is_dir():
            return _of_weights(path / "model.safetensors")
        return _of_file(path) if path.is_file() else None
    except (ValueError, TypeError, OSError, SyntaxError):  # a damaged file is its reader's to name
        return None


def _of_file(path: Path) -> Kind | None:
    from PIL import Image

    from gncadeq.datasets import graph_files, mesh_files
    from gncadeq.files.content import suffix_of

    suffix = suffix_of(path)
    if suffix == ".safetensors":
        return _of_weights(path)
    if suffix in graph_files.READABLE and not graph_files.holds_points(path):
        return "graph"
    if suffix in mesh_files.SHAPES:
        return "shape"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its reader will warn
        try:
            with Image.open(path):
                return "picture"
        except Image.DecompressionBombError:
            return "picture"


def _of_weights(path: Path) -> Kind | None:
    from gncadeq.files.tensors import read_header

    shapes, header = read_header(path, "a safetensors file")
    if "architecture" in header:
        growing = header["architecture"] in ("GrowingCell", "SweepGrower")
        return "growth" if growing else "classifier"
    if "z" in shapes:
        return "trajectory"
    return "colored" if "color" in shapes else None
