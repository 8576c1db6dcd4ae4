"""General graphs from files."""

import gzip

import networkx as nx
import pytest
import torch
from PIL import Image
from torch_geometric.utils import to_networkx

import gncadeq
from gncadeq.datasets import load_graph
from gncadeq.datasets.graph_files import GraphWarning, place_nodes
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
    with pytest.warns(GraphWarning, match="self-loops: 1"):
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
    with pytest.warns(GraphWarning, match="repeated edges: 1"):
        data = load_graph(tmp_path / "g.graphml")
    assert data.num_nodes == 3
    assert edges(data) == [(0, 1, 1.0), (0, 1, 3.0)]
    lonely = nx.empty_graph(4)
    nx.write_graphml(lonely, tmp_path / "h.graphml")
    assert list(load_graph(tmp_path / "h.graphml").edge_index.shape) == [2, 0]


PATH = [(0, 1, None), (1, 0, None), (1, 2, None), (2, 1, None)]
WEIGHTED = [(0, 1, 0.5), (1, 0, 0.5), (1, 2, 2.0), (2, 1, 2.0)]
GML = 'graph [ node [ id 0 label "{}" ] node [ id 1 label "b" ] edge [ source 0 target 1 ] ]'
XML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{}</graphml>'

TABLES = {  # the name of a file: its feature, its content, its edges, the names of its nodes
    "a.edgelist": ("spaces", "0 1\n1 2\n", PATH),
    "b.edgelist": ("byte order mark", b"\xef\xbb\xbf0 1\n1 2\n", PATH),
    "c.edgelist": ("UTF-16", "0 1\n1 2\n".encode("utf-16"), PATH),
    "d.edgelist": ("CRLF, no end", "0 1 0.5\r\n1 2 2", WEIGHTED),
    "e.edges": ("KONECT's comments", "% sym weighted\n% 2 3 3\n0 1 0.5\n1 2 2\n", WEIGHTED),
    "f.txt": ("SNAP's comments and tabs", "# FromNodeId\tToNodeId\n0\t1\n1\t2\n", PATH),
    "g.txt": ("commas", "0,1,0.5\n1,2,2\n", WEIGHTED),
    "h.csv": ("commas and spaces", "0, 1, 0.5\n1, 2, 2\n", WEIGHTED),
    "i.csv": ("semicolons", "0;1;0.5\n1;2;2\n", WEIGHTED),
    "j.csv": ("tabs", "0\t1\t0.5\n1\t2\t2\n", WEIGHTED),
    "k.csv": ("names of columns", "source,target,weight\n0,1,0.5\n1,2,2\n", WEIGHTED),
    "l.csv": ("names of columns after a mark", b"\xef\xbb\xbfSource,Target\n0,1\n1,2\n", PATH),
    "m.csv": ("more columns", ",weight,kind,target,source\n0,0.5,a,0,1\n1,2,b,1,2\n", WEIGHTED),
    "n.csv": ("unknown names before numbers", "person,friend\n0,1\n1,2\n", PATH),
    "o.csv": ("unknown names before weights", "person,friend,since\nx,y,0.5\ny,z,2\n", WEIGHTED),
    "p.csv": ("names of nodes alone", "source,target\nx,y\ny,z\n", PATH),
    "q.csv": ("quotes", '"a, b","c"\n"c","d"\n', PATH),
    "r.csv": ("a third column of words", "source,target,kind\n0,1,friend\n1,2,foe\n", PATH),
    "s.csv": ("a cell of spaces and a comment", "0, 1 # first\n\n 1 , 2\n", PATH),
    "t.txt.gz": ("packed", gzip.compress(b"0 1\n1 2\n"), PATH),
    "u.gml": ("GML in UTF-8", GML.format("é"), PATH[:2]),
    "v.gml": ("GML in Latin-1", GML.format("é").encode("latin-1"), PATH[:2]),
    "w.gml": ("GML after a byte order mark", b"\xef\xbb\xbf" + GML.format("a").encode(), PATH[:2]),
    "x.graphml": (
        "GraphML in UTF-16",
        XML.format('<graph edgedefault="undirected"><node id="é"/><node id="b"/>'
                   '<edge source="é" target="b"/></graph>').encode("utf-16"), PATH[:2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES, ids=[f"{n}: {row[0]}" for n, row in TABLES.items()])
def test_features_are_read_right(name, tmp_path):
    _, content, right = TABLES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    data = load_graph(tmp_path / name)
    assert edges(data) == right
    assert data.num_nodes == 1 + max(u for u, _, _ in right)
    assert not any("\ufeff" in node or '"' in node for node in data.node_name)


BOMB = '<!DOCTYPE g [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.dot", "", ValueError, "ending in .graphml"),
        ("gone.gml", None, FileNotFoundError, "no such file"),
        ("a.txt", "", ValueError, "empty file"),
        ("a.graphml", "<graphml", ValueError, "readable"),
        ("a.graphml", XML.format("<graph/><graph/>"), ValueError, "one graph .*got 2"),
        ("a.graphml", BOMB + XML.format("<graph>&b;</graph>"), ValueError, "entity 'a'"),
        ("a.graphml", (BOMB + XML.format("")).encode("utf-16"), ValueError, "entity 'a'"),
        ("a.graphml", '<!DOCTYPE g [<!ENTITY x SYSTEM "/etc/passwd">]>' + XML.format("&x;"),
         ValueError, "entity 'x'"),
        ("a.gml", "graph [ node", ValueError, "readable"),
        ("a.gml", "graph " + "[ a " * 5000, ValueError, "readable"),
        ("a.txt", "0 1\n0 1 2 3\n", ValueError, "'0 1 2 3' in line 2"),
        ("a.txt", "0 1\n2\n", ValueError, "'2' in line 2"),
        ("a.txt", "0 1 heavy\n", ValueError, "'heavy' in line 1"),
        ("a.txt", "0 1 nan\n", ValueError, "finite number"),
        ("a.txt", "0 1 1e300\n", ValueError, "within the range of float32"),
        ("a.gml", GML.format("a").replace("1 ] ]", "1 weight " + "9" * 400 + " ] ]"), ValueError,
         "finite number"),
        ("a.txt", "0 1 2\n1 2\n", ValueError, "'weight' of every edge .got None"),
        ("a.csv", "0,,1\n", ValueError, "in line 1"),
        ("a.txt", "# nothing\n", ValueError, "with nodes"),
        ("a.txt", "0.5 0.25 1\n0 1 2\n", ValueError, "coordinates.*load_points"),
        ("a.csv", "x,y,z\n0,0,1\n", ValueError, "coordinates.*load_points"),
        ("a.txt.gz", "0 1\n", ValueError, "gzip"),
    ],
)  # fmt: skip
def test_errors_name_the_file(name, content, error, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=message) as caught:
        load_graph(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "0 0\n0 1\n", "got self-loops: 1"),
        ("a.txt", "0 1\n1 0\n", "got repeated edges: 1"),
        ("a.txt", "0 1 2\n1 0 3\n", "repeated edges: 1, of these with another weight: 1"),
        ("a.gml", GML.format("a").replace("graph [", "graph [ multigraph 1").replace(
            "edge", "edge [ source 0 target 1 ] edge"), "got repeated edges: 1"),
    ],
)  # fmt: skip
def test_loops_and_repeated_edges_are_told(name, content, told, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.warns(GraphWarning, match=told):
        load_graph(tmp_path / name)


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
