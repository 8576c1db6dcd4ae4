"""The Laplacian of any graph, and small worlds."""

import networkx as nx
import pytest
import torch
from small_worlds import RewireEdges
from torch_geometric.data import Batch, Data
from torch_geometric.utils import is_undirected, to_dense_adj

from gncadeq.graph.perception import Perception
from gncadeq.transforms import GraphLaplacian, ImageToGraph


def grid(side: int, neighborhood: str = "von_neumann") -> Data:
    data = ImageToGraph(neighborhood)(torch.zeros(1, side, side))
    return Data(pos=data.pos, edge_index=data.edge_index)


def lattice(graph: nx.Graph) -> Data:
    number = {node: i for i, node in enumerate(graph)}
    pairs = torch.tensor([[number[a], number[b]] for a, b in graph.edges]).t()
    pos = torch.tensor([graph.nodes[node]["pos"] for node in graph], dtype=torch.float)
    return Data(pos=pos, edge_index=torch.cat([pairs, pairs.flip(0)], 1), num_nodes=len(number))


@pytest.mark.parametrize(
    "data",
    [
        grid(9), grid(9, "moore"), lattice(nx.triangular_lattice_graph(10, 18)),
        lattice(nx.hexagonal_lattice_graph(8, 8)),
    ],
)  # fmt: skip
def test_it_is_a_quarter_of_the_plane_laplacian_on_every_even_lattice(data):
    """Of x² + y², whose Laplacian is 4: the mean square edge, wherever no neighbour is missing."""
    a, b = data.edge_index
    square = (data.pos[a] - data.pos[b]).square().sum(1)
    graph = GraphLaplacian()(data.clone())
    y = Perception(graph.edge_index, graph.edge_attr, graph.num_nodes)(
        data.pos.square().sum(1, keepdim=True)
    ).flatten()
    degree = data.edge_index[1].bincount()
    deep = degree == degree.max()
    assert int(deep.sum()) > 20
    expected = square[degree[b] == degree.max()].mean().expand(int(deep.sum()))
    torch.testing.assert_close(y[deep], expected, atol=1e-4, rtol=0)


def test_weights_and_a_lonely_node():
    data = Data(
        edge_index=torch.tensor([[0, 1, 2, 1], [1, 1, 1, 0]]), num_nodes=4,
        edge_weight=torch.tensor([1.0, 5.0, 3.0, 2.0]),
    )  # fmt: skip
    graph = GraphLaplacian()(data)
    dense = to_dense_adj(graph.edge_index, edge_attr=graph.edge_attr[:, 0], max_num_nodes=4)[0].t()
    expected = torch.tensor([[-1.0, 1.0, 0, 0], [0.25, -1.0, 0.75, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(dense, expected)
    assert "edge_weight" not in graph


def test_weights_that_are_wrong():
    with pytest.raises(ValueError, match="non-negative 'edge_weight'"):
        GraphLaplacian()(
            Data(edge_index=torch.tensor([[0], [1]]), edge_weight=torch.tensor([-1.0]))
        )
    with pytest.raises(ValueError, match="'edge_index'"):
        GraphLaplacian()(Data(x=torch.ones(3, 1)))


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_rewiring_keeps_the_number_of_edges(p):
    data = grid(12)
    new = RewireEdges(p, seed=1)(data.clone())
    assert new.edge_index.shape == data.edge_index.shape
    assert is_undirected(new.edge_index)
    assert not new.has_self_loops()
    assert new.edge_index.unique(dim=1).size(1) == new.num_edges
    before = set(map(tuple, data.edge_index.t().tolist()))
    kept = sum(tuple(e) in before for e in new.edge_index.t().tolist()) / len(before)
    assert kept == pytest.approx(1 - p, abs=0.05)  # a random edge is hardly ever an old one
    assert torch.equal(RewireEdges(p, seed=1)(data.clone()).edge_index, new.edge_index)


def test_rewiring_shortens_the_way():
    """What makes the world small (Watts & Strogatz 1998)."""

    def length(data):
        graph = nx.Graph(data.edge_index.t().tolist())
        part = graph.subgraph(max(nx.connected_components(graph), key=len))
        return nx.average_shortest_path_length(part)

    assert length(RewireEdges(0.1)(grid(14))) < 0.6 * length(grid(14))


def test_a_complete_graph_stays():
    edges = torch.combinations(torch.arange(5)).t()
    data = Data(edge_index=torch.cat([edges, edges.flip(0)], 1), num_nodes=5)
    new = RewireEdges(1.0)(data.clone())
    assert set(map(tuple, new.edge_index.t().tolist())) == set(
        map(tuple, data.edge_index.t().tolist())
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2), "undirected"),
        (Data(edge_index=torch.tensor([[0, 1, 1], [1, 0, 1]])), "without loops"),
        (ImageToGraph()(torch.rand(1, 3, 3)), "no attributes of edges"),
    ],
)
def test_graphs_that_cannot_be_rewired(data, message):
    with pytest.raises(ValueError, match=message):
        RewireEdges(0.5)(data)
    with pytest.raises(ValueError, match="'p' to be"):
        RewireEdges(1.5)


def test_integer_weights_are_weights():
    edge_index, weight = torch.tensor([[0, 2, 1], [1, 1, 0]]), torch.tensor([1, 3, 2])
    whole = GraphLaplacian()(Data(edge_index=edge_index, edge_weight=weight, num_nodes=3))
    real = GraphLaplacian()(Data(edge_index=edge_index, edge_weight=weight.float(), num_nodes=3))
    assert whole.edge_attr.dtype == torch.float32
    assert torch.equal(whole.edge_attr, real.edge_attr)
    assert whole.edge_attr.flatten().tolist() == [-1.0, 1.0, 0.25, -1.0, 0.75, 0.0]


def test_infinite_weights_are_refused():
    data = Data(edge_index=torch.tensor([[0], [1]]), edge_weight=torch.tensor([float("inf")]))
    with pytest.raises(ValueError, match=r"Expected finite, non-negative .* \(got \[inf\]\)"):
        GraphLaplacian()(data)


def test_rewiring_refuses_what_would_not_follow():
    cycle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
    weighted = Data(edge_index=cycle, edge_weight=torch.rand(6), num_nodes=5)
    with pytest.raises(ValueError, match="no attributes of edges"):
        RewireEdges(1.0)(weighted)
    parallel = Data(edge_index=torch.cat([cycle, cycle], 1), num_nodes=9)
    with pytest.raises(ValueError, match="parallel edges"):
        RewireEdges(1.0)(parallel)
    graph = Data(edge_index=cycle, num_nodes=5)
    with pytest.raises(ValueError, match="Expected a single graph"):
        RewireEdges(1.0)(Batch.from_data_list([graph, graph]))
