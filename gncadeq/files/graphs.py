"""Graphs as networkx has them, from GraphML, GML and tables of edges."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from gncadeq.files.content import bad, plain_text
from gncadeq.files.text import is_number

if TYPE_CHECKING:
    import networkx as nx

_SOURCES = {"source", "src", "from", "fromnodeid", "node1", "node_1", "id_1", "id1", "u", "head"}
_TARGETS = {"target", "dst", "to", "tonodeid", "node2", "node_2", "id_2", "id2", "v", "tail"}
_MARKS = ("\t", ";", ",")


def read_graphml(content: bytes, path: Path) -> nx.Graph:
    """A GraphML file; one that declares entities is refused.

    Raises:
        ValueError: If it cannot be read.
    """
    import networkx as nx

    graphs = 0

    def refuse(name: str, *_: object) -> None:
        raise bad(
            path, "GraphML without entities", f"the entity {name[:20]!r}",
            "Remove them: a few lines of entities can fill the memory",
        )  # fmt: skip

    def count(name: str, *_: object) -> None:
        nonlocal graphs
        graphs += name.rpartition(" ")[2] == "graph"

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.EntityDeclHandler, parser.StartElementHandler = refuse, count
    parser.Parse(content, True)
    if graphs > 1:
        raise bad(path, "one graph in a GraphML file", f"{graphs}", "Write each to its own file")
    return nx.read_graphml(io.BytesIO(content))


def read_gml(content: bytes, path: Path) -> nx.Graph:
    """A GML file, in ASCII as the format has it, in UTF-8 or Latin-1.

    Raises:
        ValueError: If it cannot be read.
    """
    import networkx as nx

    content = plain_text(content)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return nx.parse_gml(text.splitlines(), label=None)


def read_edges(content: bytes, path: Path) -> tuple[nx.Graph, dict[str, int]]:
    """A table of edges: a line for each, two names and maybe a weight.

    Tabs, semicolons, commas or spaces separate the columns. A first line that names them is
    recognised by its words (``source``, ``target``, ``weight`` and their like), or since it holds
    no numbers where all other lines do.

    Returns:
        The graph, without repeated edges, and how often what was repeated.

    Raises:
        ValueError: If a line cannot be read, or holds points rather than edges.
    """
    import networkx as nx

    numbers, rows = table_rows(content)
    if are_points(rows):
        got = f"coordinates, {' '.join(rows[0])[:40]!r},"
        remedy = "Read points with gncadeq.load_points, or let the file end in .xyz"
        raise bad(path, "the names of two nodes in every line", got, remedy)
    columns = _header(rows)
    if columns is not None:
        rows, numbers = rows[1:], numbers[1:]
    graph, counts = nx.Graph(), Counter[str]()
    for number, row in zip(numbers, rows, strict=True):
        words = row if columns is None else [row[k] for k in columns if k < len(row)]
        if len(words) not in (2, 3) or not all(words):
            got = f"{' '.join(row)[:60]!r} in line {number}"
            raise bad(path, "two names and maybe a weight", got, "Mend the line")
        u, v = words[:2]
        weight: dict[str, float] = {}
        if len(words) == 3:
            try:
                weight = {"weight": float(words[2])}
            except ValueError as error:
                got = f"{words[2][:20]!r} in line {number}"
                raise bad(path, "a number as weight", got, "Mend the line") from error
        counts["self-loops"] += u == v
        if graph.has_edge(u, v):
            counts["repeated edges"] += 1
            counts["of these with another weight"] += graph.edges[u, v] != weight
        graph.add_edge(u, v, **weight)
    return graph, {name: count for name, count in counts.items() if count}


def table_rows(content: bytes) -> tuple[list[int], list[list[str]]]:
    """The lines of a table with their numbers: fields without quotes, no comment, no empty line.

    Example:
        >>> table_rows(b'# edges\\n"a b";1\\n')
        ([2], [['a b', '1']])
    """
    lines = plain_text(content).decode(errors="replace").splitlines()
    kept = [(number, line) for number, line in enumerate(lines, 1) if _plain(line)]
    first = [_plain(line) for _, line in kept[:20]]
    # The mark that is in all of the first lines; commas may be in names between tabs.
    mark = next((mark for mark in _MARKS if first and all(mark in line for line in first)), None)
    mark = mark or next((mark for mark in _MARKS if any(mark in line for line in first)), None)
    numbers, rows = [], []
    for number, line in kept:
        if mark is None:
            row = _plain(line).split()
        else:
            row = [word.strip() for word in next(csv.reader([_plain(line)], delimiter=mark))]
        numbers.append(number)
        rows.append(row)
    return numbers, rows


def _plain(line: str) -> str:
    return "" if line.lstrip().startswith("%") else line.partition("#")[0].strip()


def are_points(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table holds coordinates: names x, y and z, or fractions where edges have names.

    Example:
        >>> are_points([["0.5", "1", "2"]]), are_points([["0", "1", "0.5"]])
        (True, False)
    """
    if rows and {"x", "y", "z"} <= {word.lower() for word in rows[0]}:
        return True
    few = [row for row in rows[:100] if len(row) >= 3]
    return (
        bool(few)
        and all(map(is_number, few[0]))
        and any(is_number(word) and not _is_whole(word) for row in few for word in row[:2])
    )


def _header(rows: list[list[str]]) -> list[int] | None:
    """The columns of source, target and maybe weight, if the first line names them."""
    if not rows:
        return None
    names = [word.strip("\"'").lower() for word in rows[0]]
    source = next((k for k, name in enumerate(names) if name in _SOURCES), None)
    target = next((k for k, name in enumerate(names) if name in _TARGETS), None)
    if source is not None and target is not None:
        weight = names.index("weight") if "weight" in names else None
        if weight is None and len(names) == 3:
            weight = 3 - source - target
        if weight is None or not any(
            is_number(word) for row in rows[1:] for word in row[weight : weight + 1]
        ):
            return [source, target]  # a third column of words is no weight
        return [source, target, weight]
    if len(rows) < 2 or any(map(is_number, rows[0])):
        return None
    whole = all(_is_whole(word) for row in rows[1:] for word in row[:2])
    weights = len(names) == 3 and all(is_number(word) for row in rows[1:] for word in row[2:3])
    return list(range(min(len(names), 3))) if whole or weights else None


def _is_whole(word: str) -> bool:
    return word.lstrip("+-").isdigit()
