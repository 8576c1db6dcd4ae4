"""The systems that ``gncadeq zoo`` lists, read from ``systems.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class System:
    """A published system, and what it reaches here.

    Attributes:
        name: What ``gncadeq zoo`` calls it.
        title: What it is.
        source: Who published it.
        here: The result here, as its page has it.
        page: The page of the documentation with conditions, seeds and baselines, and after a ``#``
            its section.
        commands: They train or load, measure and draw. ``DATA`` is a folder of data.
        url: Where it was published.
        published: The published result, or a dash.
        minutes: The CPU minutes of the commands, on one thread, or None if not measured; text,
            ``≥`` and those of the training, where nothing else was timed.
        smoke: The same in seconds; by default the commands with ``--smoke``.
    """

    name: str
    title: str
    source: str
    here: str
    page: str
    commands: Sequence[str]
    url: str = ""
    published: str = "–"
    minutes: float | str | None = None
    smoke: Sequence[str] = ()

    @property
    def duration(self) -> str:
        """The minutes as text, or a dash."""
        return "–" if self.minutes is None else str(self.minutes)

    @property
    def where(self) -> str:
        """The page as a path in the repository, with its section."""
        page, *section = self.page.split("#")
        return "#".join((f"docs/{page}.md", *section))

    def to_run(self, smoke: bool) -> tuple[str, ...]:
        """The commands, or their short forms."""
        if not smoke:
            return tuple(self.commands)
        return tuple(self.smoke or (f"{command} --smoke" for command in self.commands))


_TEXT = files("gncadeq.commands").joinpath("systems.toml").read_text(encoding="utf-8")
SYSTEMS = tuple(System(name=name, **fields) for name, fields in tomllib.loads(_TEXT).items())
"""In the order in which they are listed."""


def system(name: str) -> System:
    """The system of a name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> system("life").source
        'Gilpin 2019'
    """
    from gncadeq.check import check_choice

    check_choice("name", name, tuple(s.name for s in SYSTEMS))
    return next(s for s in SYSTEMS if s.name == name)
