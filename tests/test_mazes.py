"""Mazes: trees of open pixels, and the one way from start to goal."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch_geometric.utils import to_networkx

from gncadeq.datasets import maze


@pytest.mark.parametrize("size", [3, 9, 25])
def test_a_maze_is_a_tree_and_its_target_the_shortest_way(size):
    data = maze(size, torch.Generator().manual_seed(size))
    rooms = (size + 1) // 2
    assert data.num_nodes == 2 * rooms**2 - 1
    graph = to_networkx(data, to_undirected=True)
    assert nx.is_tree(graph)
    start, goal = (int(data.x[:, k].argmax()) for k in (1, 2))
    way = nx.shortest_path(graph, start, goal)
    assert sorted(way) == data.y.nonzero().flatten().tolist()
    assert (data.pos[way] % 2 == 0)[[0, -1]].all()  # both ends are rooms
    # The relation of an edge is where its source lies.
    offset = (data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]).long()
    assert torch.equal(data.edge_attr, 4 + offset[:, 0] + 3 * offset[:, 1])


def test_the_generator_decides():
    a, b, c = (maze(9, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a.edge_index, b.edge_index)
    assert torch.equal(a.y, b.y)
    assert a.edge_index.tolist() != c.edge_index.tolist()


@pytest.mark.parametrize("size", [1, 8, -3])
def test_sizes_without_rooms_are_refused(size):
    with pytest.raises(ValueError, match=f"'size' to be an odd number .* \\(got {size}\\)"):
        maze(size)
