"""General graphs from files."""

import networkx as nx
import pytest
import torch
from PIL import Image
from torch_geometric.utils import to_networkx

import gncadeq
from gncadeq.datasets import load_graph
from gncadeq.datasets.graph_files import place_nodes
from gncadeq.viz import render_file


def edges(data):
    weight = [None] * data.num_edges if data.edge_attr is None else data.edge_attr.tolist()
    return sorted(zip(*data.edge_index.tolist(), weight, strict=True), key=str)


def test_graphml_with_weights_and_places(tmp_path):
    graph = nx.DiGraph()
    for name, (x, y) in {"b": (0.0, 1.0), "a": (2.0, 3.0), "c": (4.0, 5.0)}.items():
        graph.add_node(name, x=x, y=y)
    graph.add_edge("b", "a", weight=0.5)
    graph.add_edge("c", "b", weight=2)
    nx.write_graphml(graph, tmp_path / "g.graphml")
    data = gncadeq.load_graph(tmp_path / "g.graphml")
    assert data.node_name == ["b", "a", "c"]
    assert data.pos.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert edges(data) == [(0, 1, 0.5), (2, 0, 2.0)]
    assert data.edge_attr.dtype == data.pos.dtype == torch.float32


@pytest.mark.parametrize("suffix", ["graphml", "gml"])
def test_round_trip_through_networkx(suffix, tmp_path):
    graph = nx.karate_club_graph()
    getattr(nx, f"write_{suffix}")(graph, tmp_path / f"g.{suffix}")
    data = load_graph(tmp_path / f"g.{suffix}")
    assert (data.num_nodes, data.num_edges) == (34, 2 * 78)
    back = to_networkx(data, edge_attrs=["edge_attr"], to_undirected=True)
    assert {frozenset(e) for e in back.edges} == {frozenset(e) for e in graph.edges}
    for u, v, strength in graph.edges(data="weight"):
        assert back.edges[u, v]["edge_attr"] == strength


def test_numbers_stay_what_they_are_and_names_keep_their_order(tmp_path):
    (tmp_path / "a.edgelist").write_text("# a path\n2 10\n10 0\n\n0 0 # a loop\n")
    data = load_graph(tmp_path / "a.edgelist")
    assert data.node_name == ["0", "2", "10"]
    assert edges(data) == [(0, 0, None), (0, 2, None), (1, 2, None), (2, 0, None), (2, 1, None)]
    (tmp_path / "b.csv").write_text("rome, paris, 1.5\nparis, oslo, 2\n")
    data = load_graph(tmp_path / "b.csv")
    assert data.node_name == ["rome", "paris", "oslo"]
    assert edges(data) == [(0, 1, 1.5), (1, 0, 1.5), (1, 2, 2.0), (2, 1, 2.0)]


def test_parallel_edges_and_lonely_nodes_stay(tmp_path):
    graph = nx.MultiDiGraph()
    graph.add_nodes_from("abc")
    graph.add_edge("a", "b", weight=1.0)
    graph.add_edge("a", "b", weight=3.0)
    nx.write_graphml(graph, tmp_path / "g.graphml")
    data = load_graph(tmp_path / "g.graphml")
    assert data.num_nodes == 3
    assert edges(data) == [(0, 1, 1.0), (0, 1, 3.0)]
    lonely = nx.empty_graph(4)
    nx.write_graphml(lonely, tmp_path / "h.graphml")
    assert list(load_graph(tmp_path / "h.graphml").edge_index.shape) == [2, 0]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.dot", "", ValueError, "ending in .graphml"),
        ("gone.gml", None, FileNotFoundError, "no such file"),
        ("a.graphml", "<graphml", ValueError, "readable"),
        ("a.gml", "graph [ node", ValueError, "readable"),
        ("a.txt", "0 1\n0 1 2 3\n", ValueError, "line 2 is not"),
        ("a.txt", "0 1 heavy\n", ValueError, "heavy"),
        ("a.txt", "0 1 nan\n", ValueError, "finite number"),
        ("a.txt", "0 1 2\n1 2\n", ValueError, "'weight' of every edge .got None"),
        ("a.csv", "0,,1\n", ValueError, "line 1 is not"),
        ("a.txt", "# nothing\n", ValueError, "with nodes"),
    ],
)
def test_errors_name_the_file(name, content, error, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message) as caught:
        load_graph(path)
    assert str(path) in str(caught.value)


def test_a_loaded_graph_is_solved(tmp_path):
    nx.write_weighted_edgelist(nx.karate_club_graph(), tmp_path / "g.edgelist")
    data = load_graph(tmp_path / "g.edgelist")
    cell = gncadeq.IGNNCell(2, 4)
    z = gncadeq.GraphDEQ(cell)(torch.rand(34, 2), data.edge_index, data.edge_attr)
    assert z.shape == (34, 4)


def test_nodes_are_placed_to_be_drawn(tmp_path):
    nx.write_edgelist(nx.path_graph(9), tmp_path / "path.edgelist", data=False)
    data = load_graph(tmp_path / "path.edgelist")
    placed = place_nodes(data)
    assert data.pos is None
    assert placed.pos.shape == (9, 3)
    assert torch.equal(placed.pos, place_nodes(data).pos)
    ends = (placed.pos[0] - placed.pos[8]).norm()
    assert float(ends) > 3 * float((placed.pos[0] - placed.pos[1]).norm())
    data.pos = torch.rand(9, 2)
    assert torch.equal(place_nodes(data).pos[:, :2], data.pos)
    path = render_file(tmp_path / "path.edgelist", tmp_path / "path.png", size=64)
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(64 * 64)) > 20
