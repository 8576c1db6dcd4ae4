"""The page: one file of scenes, which loads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from gncadeq.export.description import packed
from gncadeq.files.atomic import write_atomically
from gncadeq.viz.colors import LABEL_COLORS, color_table

Scene = dict[str, Any]
COLORMAPS = ("viridis", "magma", "cividis", "coolwarm", "twilight", "gray")
_BASICS = ("basics.js", "play_gif.js")
_OF_RULES = (
    "play_product.js", "play_kernel.js", "play_cascade.js", "play_automaton.js", "play_graph.js",
    "play_mesh.js", "play_files.js", "play_weights.js", "play_paper.js", "play_scenes.js",
    "play_digits.js", "play_textures.js", "play_voronoi.js",
)  # fmt: skip
SCRIPTS = (*_BASICS, *_OF_RULES)
"""Those that run under node as well."""
_OF_BROWSERS = (
    "play_gl.js", "play_camera.js", "play_stages.js", "play_frames.js", "play_record.js", "play.js"
)  # fmt: skip


def write_play(path: str | Path, scenes: Sequence[Scene], title: str = "gncadeq") -> Path:
    """Write a page in which rules run, to be drawn on, wounded and watched in any browser.

    The page is one file and loads nothing. Its steps are those of PyTorch up to rounding.

    Args:
        path: The HTML file, which is written atomically.
        scenes: What :func:`digit_scene`, :func:`grown_scene`, :func:`texture_scene`,
            :func:`life_scene`, :func:`voronoi_scene`, :func:`maze_scene` and
            :func:`recording_scene` return, one or more.
        title: Heading of the page.

    Raises:
        ValueError: If there is no scene.

    Example:
        >>> import tempfile
        >>> from gncadeq.viz import life_scene, maze_scene
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_play(f"{folder}/a.html", [life_scene(), maze_scene()]).read_text()
        >>> "http:" in page or "https:" in page
        False
    """
    if not scenes:
        raise ValueError("Expected at least one scene (got none)")
    recorded = all(scene["kind"] == "recording" for scene in scenes)  # then no rule has to run
    rules = () if recorded else (*_OF_RULES, "play_webgl.js")
    scripts = ("page.js", *_BASICS, *rules, *_OF_BROWSERS)
    data = {
        "scenes": list(scenes), "labels": list(LABEL_COLORS),
        "colormaps": {
            name: packed((color_table(name) * 255).round().to(torch.uint8)) for name in COLORMAPS
        },
    }  # fmt: skip
    here = files("gncadeq.viz")

    def read(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    script = re.sub(r"(?m)^[ \t]*(?://.*\n)?", "", "\n".join(map(read, scripts)))  # no comments
    parts = {
        "title": escape(title), "script": script,
        "scene": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }  # fmt: skip
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], read("page.html"))
    write_atomically(path, page.encode())
    return Path(path)
