"""Graphs from files that networkx reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

if TYPE_CHECKING:
    import networkx as nx

READABLE = (".graphml", ".gml", ".edgelist", ".edges", ".txt", ".csv")


def load_graph(path: str | Path, weight: str = "weight") -> Data:
    r"""Read a graph from a GraphML, GML or edge-list file.

    An edge list (``.edgelist``, ``.edges``, ``.txt``, or ``.csv`` with commas) has a line for each
    edge, two names and maybe a number, its weight; ``#`` starts a comment. It is undirected, as is
    what GraphML or GML call so: both directions of every edge are there. Nodes whose names are all
    whole numbers are numbered in their order, so that the names 0 … N-1 stay what they are; others
    in the file's. Other attributes are not read: for those, use
    ``torch_geometric.utils.from_networkx(networkx.read_graphml(path), group_node_attrs=[…])``. The
    way back is :func:`torch_geometric.utils.to_networkx`.

    Args:
        path: The file; its ending says what it is.
        weight: The edges' attribute that becomes ``edge_attr`` (GraphML and GML).

    Returns:
        ``Data`` with ``edge_index`` ``[2, E]``, ``num_nodes``, ``node_name`` (a list of N strings),
        ``edge_attr`` ``[E]`` if the edges have weights, and ``pos`` ``[N, 2 or 3]`` if the nodes
        have numbers ``x``, ``y`` (and ``z``).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, the file is unreadable or without nodes, or if only
            some edges have weights, or weights that are no finite numbers.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "path.edgelist"
        ...     _ = path.write_text("0 1 0.5\n1 2 2\n")
        ...     load_graph(path)
        Data(edge_index=[2, 4], edge_attr=[4], num_nodes=3, node_name=[3])
    """
    path = Path(path)
    if path.suffix.lower() not in READABLE:
        raise ValueError(
            f"Expected a graph file ending in {', '.join(READABLE)} (got {path}). Write it with "
            "networkx.write_graphml"
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected a graph file (got no such file: {path})")
    try:
        graph = _read(path)
    except Exception as error:
        raise ValueError(f"Expected a readable graph (got {path}: {error})") from error
    if graph.number_of_nodes() == 0:
        raise ValueError(f"Expected a graph with nodes (got none in {path})")
    return _to_data(graph, path, weight)


def _read(path: Path) -> nx.Graph:
    import networkx as nx

    if path.suffix.lower() == ".graphml":
        return nx.read_graphml(path)
    if path.suffix.lower() == ".gml":
        return nx.read_gml(path, label=None)
    graph = nx.Graph()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.partition("#")[0]
        words = (
            [w.strip() for w in line.split(",")] if path.suffix.lower() == ".csv" else line.split()
        )
        if not any(words):
            continue
        if len(words) not in (2, 3) or not all(words):
            raise ValueError(f"line {number} is not two names and maybe a weight: {line[:60]!r}")
        if len(words) == 3:
            graph.add_edge(words[0], words[1], weight=float(words[2]))
        else:
            graph.add_edge(*words)
    return graph


def _to_data(graph: nx.Graph, path: Path, weight: str) -> Data:
    import networkx as nx

    names = list(graph.nodes)
    try:
        names.sort(key=int)
    except (TypeError, ValueError):
        names = list(graph.nodes)
    # A bare copy: attributes that only some nodes have are none of our business.
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
        data.edge_attr = data.edge_attr.float()
    data.node_name = [str(graph.nodes[n].get("label", n)) for n in names]
    present = [axis for axis in "xyz" if all(axis in graph.nodes[n] for n in names)]
    if present[:2] == ["x", "y"]:
        columns = [
            _numbers([graph.nodes[n][axis] for n in names], f"'{axis}' of every node", path)
            for axis in present
        ]
        data.pos = torch.stack(columns, dim=1).float()
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
    wrong = [
        v for v in values
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v)
    ]  # fmt: skip
    if wrong:
        raise ValueError(
            f"Expected a finite number as {what} (got {wrong[0]!r}, and {len(wrong)} of "
            f"{len(values)} like it, in {path})"
        )
    return torch.tensor(values, dtype=torch.double)


__all__ = ["READABLE", "load_graph", "place_nodes"]
