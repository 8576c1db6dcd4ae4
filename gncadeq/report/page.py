"""A self-contained HTML page of numbers and pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from gncadeq.files.json_files import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-size: .9rem; }
td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; } td:first-child { color: #666; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0; }
.how { color: #666; font-size: .85rem; } .failed { color: #b3261e; }
"""


@dataclass(frozen=True)
class Section:
    """One measurement on the page.

    Attributes:
        title: The heading.
        sentence: What was found, with the number.
        how: How it was measured.
        figure: The picture, if there is one.
        numbers: The numbers, for programs that read the page.
        failed: Whether nothing could be measured; the sentence says why.
    """

    title: str
    sentence: str
    how: str
    figure: Figure | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


def page(title: str, facts: dict[str, str], sections: Sequence[Section]) -> str:
    """The page as one HTML text: pictures inline, no script to run, nothing loaded.

    Example:
        >>> text = page("A < B", {"nodes": "5"}, [Section("Size", "It has 5 nodes.", "Counted.")])
        >>> "<h1>A &lt; B</h1>" in text, "http" in text
        (True, False)
    """
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items())
    summary = "".join(
        f'<li><a href="#s{i}">{escape(s.title)}</a>: {escape(s.sentence)}</li>'
        for i, s in enumerate(sections)
    )
    body = "".join(_render(i, s) for i, s in enumerate(sections))
    numbers = json.dumps(plain({s.title: s.numbers for s in sections}), allow_nan=False)
    data = numbers.replace("<", "\\u003c")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n<table>{rows}</table>\n<ul>{summary}</ul>\n{body}"
        f'<script type="application/json" id="numbers">{data}</script>\n</body></html>\n'
    )


def _render(number: int, section: Section) -> str:
    kind = ' class="failed"' if section.failed else ""
    picture = ""
    if section.figure is not None:
        from gncadeq.viz.figures import encode_figure

        alt = escape(f"{section.title}: {section.sentence}", quote=True)
        source = base64.b64encode(encode_figure(section.figure)).decode()
        picture = f'<img alt="{alt}" src="data:image/png;base64,{source}">\n'
    return (
        f'<h2 id="s{number}">{escape(section.title)}</h2>\n<p{kind}>{escape(section.sentence)}</p>'
        f'\n{picture}<p class="how">{escape(section.how)}</p>\n'
    )
