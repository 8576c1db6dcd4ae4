"""Mazes: trees of open pixels, and the one way from start to goal."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.utils import to_networkx

from gncadeq.certificate import StructuralCertificate
from gncadeq.datasets import maze
from gncadeq.files.weights import load_pretrained, save_pretrained
from gncadeq.models import ImageClassifier, MazeSolver


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


def mazes(size, loops, count=3):
    generator = torch.Generator().manual_seed(7)
    return Batch.from_data_list([maze(size, generator, loops) for _ in range(count)])


@pytest.mark.parametrize(("size", "loops"), [(9, 0.2), (35, 0.0), (35, 0.1), (35, 0.2)])
def test_the_shipped_weights_solve_mazes_of_any_size(size, loops):
    model, data = MazeSolver.from_pretrained("mazes"), mazes(size, loops)
    assert sum(p.numel() for p in model.parameters()) == 994
    with torch.no_grad():
        logits, solution = model(data.x, data.edge_index, batch=data.batch, return_solution=True)
        assert torch.equal(logits.argmax(1).bool(), data.y)
        assert bool(solution.converged.all())
        alone = data[1]
        own = model(alone.x, alone.edge_index)
    assert torch.allclose(own, logits[data.batch == 1], atol=1e-6)


def test_the_shipped_weights_mend_and_need_no_order_of_updates():
    """From noise, and with every node updated with probability ½, the labels are the same."""
    model, data = MazeSolver.from_pretrained("mazes"), mazes(15, 0.2, 1)
    cell = model.dynamics.cell
    found = cell.certificate(data.edge_index, num_nodes=data.num_nodes)
    assert isinstance(found, StructuralCertificate)
    assert found.promises
    for options in ({"start": "normal"}, {"fire_rate": 0.5}):
        model.dynamics = model.dynamics.as_nca(steps=400, **options)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            logits = model(data.x, data.edge_index, generator=generator)
        assert torch.equal(logits.argmax(1).bool(), data.y)
        model = MazeSolver.from_pretrained("mazes")


def test_a_solver_is_written_and_read(tmp_path):
    torch.manual_seed(0)
    model, data = MazeSolver(4, 8).eval(), mazes(9, 0.1)
    model.reset_parameters()
    save_pretrained(model, tmp_path / "m.safetensors", {"a": 1})
    again = MazeSolver.from_pretrained(str(tmp_path / "m.safetensors"))
    assert again.card == {"a": 1}
    graph = data.x, data.edge_index, None, data.batch
    with torch.no_grad():
        assert torch.equal(again(*graph), model(*graph))


def test_what_is_no_maze_is_refused():
    data = mazes(9, 0.0, 1)
    model = MazeSolver()
    with pytest.raises(ValueError, match=r"a start and a goal.*\(got \[0, 1\] of them\)"):
        model(data.x * torch.tensor([1.0, 0.0, 1.0]), data.edge_index)
    both = mazes(9, 0.0, 2)
    both.x[both.batch == 1, 2] = 0.0
    with pytest.raises(ValueError, match=r"in every graph \(got none in graphs \[1\], of 2"):
        model(both.x, both.edge_index, None, both.batch)
    with pytest.raises(TypeError, match=r"x\.float\(\)"):
        model(data.x.double(), data.edge_index)
    with pytest.raises(ValueError, match="'channels'"):
        MazeSolver(channels=0)
    with pytest.raises(ValueError, match=r"got MazeSolver in .*zoo mazes"):
        load_pretrained(ImageClassifier, "mazes")


def test_a_name_that_is_nearly_that_of_the_weights_gets_a_hint():
    with pytest.raises(FileNotFoundError, match="Did you mean 'mazes'"):
        MazeSolver.from_pretrained("maze")
