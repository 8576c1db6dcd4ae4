"""Graphs from files that networkx reads."""

from __future__ import annotations

import gzip
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from gncadeq.files.content import FileError, bad, read_bytes, suffix_of
from gncadeq.files.graphs import are_points, read_edges, read_gml, read_graphml, table_rows

if TYPE_CHECKING:
    import networkx as nx

READABLE = (".graphml", ".gml", ".edgelist", ".edges", ".txt", ".csv")


class GraphWarning(UserWarning):
    """A graph was read that has self-loops or repeated edges; the message counts them."""


def load_graph(path: str | Path, weight: str = "weight") -> Data:
    r"""Read a graph from a GraphML, GML or edge-list file.

    An edge list (``.edgelist``, ``.edges``, ``.txt``, ``.csv``) has a line for each edge, two names
    and maybe a number, its weight, between spaces, tabs, commas or semicolons; ``#`` starts a
    comment, and so does ``%`` at the start of a line. The first line may name the columns
    (``source,target,weight``). An edge list is undirected, as is what GraphML or GML call so: both
    directions of every edge are there. Nodes whose names are all whole numbers are numbered in
    their order, others in the file's. Other attributes are not read: for those, use
    ``torch_geometric.utils.from_networkx(networkx.read_graphml(path), group_node_attrs=[…])``.
    ``docs/files.md`` says more.

    Args:
        path: The file; its ending says what it is, and may be followed by ``.gz``.
        weight: The edges' attribute that becomes ``edge_attr`` (GraphML and GML).

    Returns:
        ``Data`` with ``edge_index`` ``[2, E]``, ``num_nodes``, ``node_name`` (a list of N strings),
        ``edge_attr`` ``[E]`` if the edges have weights, and ``pos`` ``[N, 2 or 3]`` if the nodes
        have numbers ``x``, ``y`` (and ``z``).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, the file is unreadable or without nodes, if it holds
            points, or if only some edges have weights, or weights that float32 cannot hold.

    Warns:
        GraphWarning: If there are self-loops, which are kept, or repeated edges. Those of an edge
            list become one, with the last weight; those of a multigraph are kept.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "path.edgelist"
        ...     _ = path.write_text("0 1 0.5\n1 2 2\n")
        ...     load_graph(path)
        Data(edge_index=[2, 4], edge_attr=[4], num_nodes=3, node_name=[3])
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in READABLE:
        raise ValueError(
            f"Expected a graph file ending in {', '.join(READABLE)}, maybe with .gz (got {path}). "
            "Write it with networkx.write_graphml"
        )
    content = read_bytes(path, "a graph file")
    try:
        if suffix in (".graphml", ".gml"):
            graph = (read_graphml if suffix == ".graphml" else read_gml)(content, path)
            counts = _repeated(graph)
        else:
            graph, counts = read_edges(content, path)
    except FileError:
        raise
    except Exception as error:  # whatever a damaged file brings about
        raise bad(path, "a readable graph", f"{error}", "Mend or export it again") from error
    if graph.number_of_nodes() == 0:
        raise ValueError(f"Expected a graph with nodes (got none in {path})")
    data = _to_data(graph, path, weight)
    if counts:
        told = ", ".join(f"{name}: {count:,}" for name, count in counts.items())
        warnings.warn(
            f"Expected a graph without loops and repeated edges in {path} (got {told})",
            GraphWarning, stacklevel=2,
        )  # fmt: skip
    return data


def holds_points(path: str | Path) -> bool:
    r"""Whether a table, ``.txt`` or ``.csv``, holds points rather than edges.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cloud.csv"
        ...     _ = path.write_text("x,y,z\n0,0,1\n")
        ...     holds_points(path)
        True
    """
    path = Path(path)
    if suffix_of(path) not in (".txt", ".csv") or not path.is_file():
        return False
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        begin = file.read(1 << 16)
    return are_points(table_rows(begin)[1][:100])


def _repeated(graph: nx.Graph) -> dict[str, int]:
    import networkx as nx

    pairs = len({(u, v) if graph.is_directed() else frozenset((u, v)) for u, v in graph.edges()})
    counts = {
        "self-loops": nx.number_of_selfloops(graph),
        "repeated edges": graph.number_of_edges() - pairs,
    }
    return {name: count for name, count in counts.items() if count}


def _to_data(graph: nx.Graph, path: Path, weight: str) -> Data:
    import networkx as nx

    names = list(graph.nodes)
    try:
        names.sort(key=int)
    except (TypeError, ValueError):
        names = list(graph.nodes)
    # A copy without the attributes that only some nodes may have.
    bare = nx.MultiDiGraph() if graph.is_directed() else nx.MultiGraph()
    bare.add_nodes_from(names)
    values = [value for _, _, value in graph.edges(data=weight)]
    if not values or all(value is None for value in values):
        bare.add_edges_from((u, v) for u, v in graph.edges())
    else:
        strength = _numbers(values, f"'{weight}' of every edge", path)
        bare.add_edges_from(
            (u, v, {"edge_attr": s})
            for (u, v), s in zip(graph.edges(), strength.tolist(), strict=True)
        )
    data = from_networkx(bare)
    data.num_nodes = len(names)
    data.edge_index = data.edge_index.long()
    if getattr(data, "edge_attr", None) is not None:
        data.edge_attr = _float32(data.edge_attr, f"'{weight}' of every edge", path)
    data.node_name = [str(graph.nodes[n].get("label", n)) for n in names]
    present = [axis for axis in "xyz" if all(axis in graph.nodes[n] for n in names)]
    if present[:2] == ["x", "y"]:
        columns = [
            _numbers([graph.nodes[n][axis] for n in names], f"'{axis}' of every node", path)
            for axis in present
        ]
        data.pos = _float32(torch.stack(columns, dim=1), "the place of every node", path)
    return data


def place_nodes(data: Data) -> Data:
    """A copy in which every node has a place in space, ``pos`` ``[N, 3]``, to draw it at.

    What lies in a plane gets a third coordinate of zero; nodes without a place are laid out by
    springs along the edges (:func:`networkx.spring_layout`, always alike).

    Example:
        >>> place_nodes(Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)).pos.shape
        torch.Size([2, 3])
    """
    import networkx as nx

    out, pos = data.clone(), data.pos
    if pos is None:
        graph = nx.Graph()
        graph.add_nodes_from(range(int(data.num_nodes)))
        graph.add_edges_from(data.edge_index.t().tolist())
        found = nx.spring_layout(graph, seed=0)
        pos = torch.tensor([found[node].tolist() for node in graph], dtype=torch.float)
    out.pos = torch.cat([pos, pos.new_zeros(len(pos), 3 - pos.size(1))], 1)
    return out


def _numbers(values: list[Any], what: str, path: Path) -> Tensor:
    wrong = [v for v in values if not _is_finite(v)]
    if wrong:
        raise ValueError(
            f"Expected a finite number as {what} (got {wrong[0]!r}, and {len(wrong)} of "
            f"{len(values)} like it, in {path})"
        )
    return torch.tensor([float(value) for value in values], dtype=torch.double)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def _float32(value: Tensor, what: str, path: Path) -> Tensor:
    small: Tensor = value.float()
    if not bool(small.isfinite().all()):
        largest = float(value.abs().max())
        raise bad(
            path, f"numbers within the range of float32 as {what}", f"{largest:g}", "Scale them"
        )
    return small
