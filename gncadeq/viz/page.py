"""Pages of one file: what all of them have, and what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any


def fill_page(
    body: str, title: str, scene: dict[str, Any], scripts: Sequence[str], data: str = ""
) -> str:
    """A page of one file, which loads nothing: ``page.html``, and a style and a body in it.

    Args:
        body: The name of the file of style and body, in this folder.
        title: The heading, which is escaped.
        scene: What the scripts read, as JSON, which is escaped.
        scripts: The names of the scripts, besides those that every page has.
        data: Further blocks of data, which are not escaped.
    """
    here = files("gncadeq.viz")

    def read(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    heading = escape(title)
    parts = {
        "title": heading, "body": read(body).replace("{{title}}", heading), "data": data,
        "scene": json.dumps(scene, allow_nan=False).replace("<", "\\u003c"),
        "script": "\n".join(map(read, ("page.js", *scripts))),
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], read("page.html"))
