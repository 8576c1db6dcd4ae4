"""The hierarchy of coarser graphs, and equilibria on it."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import grid, to_undirected

from gncadeq import GraphDEQ, GraphNCA, RelationCell
from gncadeq.dynamics import Partition
from gncadeq.transforms import Coarsen, ImageToGraph


def chain(length: int) -> Data:
    node = torch.arange(length - 1)
    edge_index = to_undirected(torch.stack([node, node + 1]), num_nodes=length)
    return Data(x=torch.rand(length, 2), edge_index=edge_index, num_nodes=length)


def sizes(data) -> list[int]:
    return [data[name].x.size(0) for name in data.node_types]


def test_matchings_of_a_chain_are_pairs():
    data = Coarsen(levels=4)(chain(16))
    assert sizes(data) == [16, 8, 4, 2]
    up = data["level0", "up", "level1"].edge_index
    assert torch.equal(up[0], torch.arange(16))
    pairs = torch.stack([up[1, ::2], up[1, 1::2]])
    assert torch.equal(pairs[0], pairs[1])  # neighbours along the chain
    assert data["level1", "to", "level1"].edge_index.size(1) == 14  # a chain again
    assert torch.equal(data["level1", "down", "level0"].edge_index, up.flip(0))
    assert sizes(Coarsen(levels=3, factor=4)(chain(64))) == [64, 16, 4]


def test_pixels_are_pooled_two_by_two():
    image = torch.rand(1, 6, 8)
    data = Coarsen(levels=3, method="voxel", size=2.0)(ImageToGraph("von_neumann")(image))
    assert sizes(data) == [48, 12, 4]
    pooled = torch.nn.functional.avg_pool2d(image, 2)[0]
    pos = data["level1"].pos  # (column, row) of the middle
    found = pooled[((pos[:, 1] - 0.5) / 2).long(), ((pos[:, 0] - 0.5) / 2).long()]
    torch.testing.assert_close(data["level1"].x[:, 0], found)
    edges, _ = grid(3, 4)
    assert data["level1", "to", "level1"].edge_index.size(1) == 2 * (3 * 3 + 2 * 4)
    assert edges.size(1) > 34  # of which the diagonals are not ours
    assert data["level0", "to", "level0"].edge_attr.numel() == 2 * (6 * 7 + 5 * 8)


def test_boxes_nest_for_any_factor():
    """Where a division by 0.1 and one by 0.9 round differently, no box is left without nodes."""
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        pos = torch.randint(0, 30, (40, 2), generator=g) * 0.1
        graph = Data(x=pos, pos=pos, edge_index=torch.zeros(2, 0).long())
        data = Coarsen(4, "voxel", factor=3, size=0.1)(graph)
        for level in range(3):
            holder = data[f"level{level}", "up", f"level{level + 1}"].edge_index[1]
            assert holder.unique().numel() == data[f"level{level + 1}"].num_nodes


def test_boxes_of_all_levels_nest():
    torch.manual_seed(0)
    pos = torch.rand(300, 3)
    edge_index = torch.randint(0, 300, (2, 900))
    data = Coarsen(4, "voxel", factor=2, size=0.11)(Data(x=pos, pos=pos, edge_index=edge_index))
    holder = torch.arange(300)
    for level in range(3):
        holder = data[f"level{level}", "up", f"level{level + 1}"].edge_index[1][holder]
        box = (pos - pos.amin(0)).div(0.11 * 2**level).floor()
        for cluster in range(int(holder.max()) + 1):
            assert bool((box[holder == cluster] == box[holder == cluster][0]).all())
        assert int(holder.max()) + 1 == box.unique(dim=0).size(0) == sizes(data)[level + 1]


@pytest.mark.parametrize("kind", ["star", "random", "isolated", "loops", "empty"])
def test_every_matching_halves_and_joins_neighbours_alone(kind):
    torch.manual_seed(1)
    n = 30
    edge_index = {
        "star": torch.stack([torch.zeros(n - 1).long(), torch.arange(1, n)]),
        "random": torch.randint(0, n, (2, 60)),
        "isolated": torch.randint(0, n - 5, (2, 60)),
        "loops": torch.arange(n).repeat(2, 1),
        "empty": torch.zeros(2, 0).long(),
    }[kind]
    if kind == "empty":
        n = 0
    data = Coarsen(2)(Data(x=torch.rand(n, 1), edge_index=edge_index))
    cluster = data["level0", "up", "level1"].edge_index[1]
    linked = torch.zeros(n, n, dtype=torch.bool)
    linked[edge_index[0], edge_index[1]] = True
    linked = linked | linked.T
    linked.fill_diagonal_(False)
    alone = ~linked.any(1)
    assert sizes(data)[1] <= (n - int(alone.sum())) // 2 + int(alone.sum())
    for node in range(n):
        mates = (cluster == cluster[node]).sum()
        near = linked[node] & (cluster == cluster[node])
        assert (mates == 1) == bool(alone[node])
        assert bool(near.any()) != bool(alone[node])
    if kind == "isolated":
        assert int(alone.sum()) >= 5


def test_what_belongs_to_nodes_and_edges_stays_with_level_0():
    data = chain(8)
    data.y, data.train_mask = torch.arange(8), torch.ones(8).bool()
    data.edge_attr, data.name = torch.rand(14, 3), "chain"
    out = Coarsen(2)(data)
    assert torch.equal(out["level0"].y, data.y)
    assert "y" not in out["level1"]
    assert out["level0", "to", "level0"].edge_attr.shape == (14, 3)
    assert out.name == "chain"
    x = data.x[out["level0", "up", "level1"].edge_index[1] == 0].mean(0)
    torch.testing.assert_close(out["level1"].x[0], x)


def test_a_level_carries_a_signal_further():
    """What a multi-scale rule is for: fewer steps from one end of a chain to the other."""
    data = chain(64)
    data.x = data.x.double()
    reached = {}
    for levels in (1, 3):
        graph = Coarsen(levels, factor=4)(data)
        torch.manual_seed(0)
        names = graph.node_types
        cell = RelationCell(dict.fromkeys(names, 2), 4, graph.edge_types, activation="tanh")
        nca = GraphDEQ(cell.double()).as_nca()
        other = {name: value.clone() for name, value in graph.x_dict.items()}
        other["level0"][0] += 1
        for steps in range(1, 64):
            a, b = (nca(x, graph.edge_index_dict, steps=steps) for x in (graph.x_dict, other))
            if not torch.equal(a["level0"][-1], b["level0"][-1]):
                break
        reached[levels] = steps
    assert reached[1] == 64 - 1 or reached[1] == 63
    assert reached[3] <= 3 + 2 * 2 + 1 + 1


def test_the_way_down_has_nodes_of_its_own():
    data = Coarsen(levels=3, factor=4, descend=True)(chain(64))
    assert data.node_types == ["level0", "level1", "level2", "down1", "down0"]
    assert sizes(data) == [64, 16, 4, 16, 64]
    up = data["level1", "up", "level2"].edge_index
    assert torch.equal(data["level2", "down", "down1"].edge_index, up.flip(0))
    assert torch.equal(data["level1", "over", "down1"].edge_index, torch.arange(16).repeat(2, 1))
    for kind in ("x", "edge_index"):
        own, copy = (
            data[name][kind] if kind == "x" else data[name, "to", name][kind]
            for name in ("level0", "down0")
        )
        assert torch.equal(own, copy)
    assert not [t for t in data.edge_types if t[0].startswith("down") and t[2].startswith("level")]
    assert Coarsen(levels=1, descend=True)(chain(4)).node_types == ["level0"]


def descending(free: float) -> tuple:
    """A hierarchy, and a cell whose matrices between levels are so many times as large."""
    torch.manual_seed(0)
    data = Coarsen(levels=3, factor=4, descend=True)(chain(40))
    widths = dict.fromkeys(data.node_types, 2)
    cell = RelationCell(widths, 4, data.edge_types, 0.8, "tanh", bound="cycles").double()
    with torch.no_grad():
        for (source, _, target), weight in zip(cell.edge_types, cell.weight, strict=True):
            weight.mul_(free if source != target else 30.0)
    x = {name: value.double() for name, value in data.x_dict.items()}
    return data, x, cell


@pytest.mark.parametrize("free", [0.5, 20.0])
def test_levels_that_only_drive_each_other_need_no_bound(free):
    """One equilibrium from every start and at a fire rate of ½, however strong they are."""
    data, x, cell = descending(free)
    graph = cell.flatten(x, data.edge_index_dict, None, None, {})
    found = cell.certificate(
        graph.edge_index, None, num_nodes=graph.x.size(0), batch=graph.batch, **graph.context
    )
    assert found.kind == "structure"
    assert float(found.rate) == pytest.approx(0.8)
    assert len(found.parts) == 5
    assert float(cell.lipschitz_bound()) > 1.0
    deq = GraphDEQ(cell, tol=1e-12, max_steps=2000)
    z, solution = deq(x, data.edge_index_dict, return_solution=True)
    assert bool(solution.converged.all())
    start = {name: 5 * torch.randn_like(value) for name, value in z.items()}
    draw = torch.Generator().manual_seed(0)
    other = GraphNCA(cell, 800, fire_rate=0.5)(x, data.edge_index_dict, z0=start, generator=draw)
    for name in z:
        torch.testing.assert_close(other[name], z[name], atol=1e-8, rtol=0)
    step = cell.prepare(graph.x, graph.edge_index, **graph.context)
    size = graph.layout.pack(z)
    jacobian = torch.autograd.functional.jacobian(lambda y: step(y), size).view(size.numel(), -1)
    assert float(torch.linalg.eigvals(jacobian).abs().max()) <= 0.8 + 1e-9
    # The bound on the error holds, and is of use where what levels tell each other is small.
    near = size + 1e-4 * torch.randn_like(size)
    one = Partition(None, size.size(0))
    bound = found.error_bound(near, step(near), one)
    assert float((near - size).norm() / step(near).norm()) <= float(bound) < float("inf")


def test_types_that_all_read_each_other_share_the_bound():
    data = Coarsen(levels=3)(chain(16))
    outputs = []
    for bound in ("all", "cycles"):
        torch.manual_seed(0)
        cell = RelationCell(
            dict.fromkeys(data.node_types, 2), 4, data.edge_types, bound=bound, init="identity"
        )
        assert float(cell.lipschitz_bound()) == pytest.approx(0.95)
        outputs.append(GraphDEQ(cell)(data.x_dict, data.edge_index_dict)["level0"])
    assert torch.equal(*outputs)


def test_batches_of_hierarchies_are_solved_as_alone():
    torch.manual_seed(0)
    graphs = [Coarsen(3)(chain(n)) for n in (9, 16, 5)]
    batch = Batch.from_data_list(graphs)
    cell = RelationCell(dict.fromkeys(batch.node_types, 2), 6, batch.edge_types)
    deq = GraphDEQ(cell, tol=1e-6, max_steps=200)
    with torch.no_grad():
        z = deq(batch.x_dict, batch.edge_index_dict, None, batch.batch_dict)
        for k, data in enumerate(graphs):
            alone = deq(data.x_dict, data.edge_index_dict)
            for name, value in alone.items():
                mine = z[name][batch[name].batch == k]
                torch.testing.assert_close(mine, value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "'levels' to be"),
        ({"method": "nearest"}, "'matching' or 'voxel'"),
        ({"factor": 3}, "power of two"),
        ({"factor": 1}, "at least 2"),
        ({"method": "voxel"}, "Expected 'size'"),
        ({"size": 1.0}, "with method='voxel' alone"),
        ({"method": "voxel", "size": -1.0}, "'size' to be .*edge of a box$"),
    ],
)
def test_unknown_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Coarsen(**options)


def test_missing_attributes_are_refused():
    with pytest.raises(ValueError, match="'x' and 'edge_index'"):
        Coarsen()(Data(edge_index=torch.zeros(2, 0).long()))
    with pytest.raises(ValueError, match="'pos'"):
        Coarsen(method="voxel", size=2.0)(chain(4))
    graph = chain(4)
    with pytest.raises(ValueError, match="single graph"):
        Coarsen()(Batch.from_data_list([graph, graph]))
    with pytest.raises(ValueError, match=r"'edge_index' in \[0, 4\)"):
        Coarsen()(Data(x=graph.x, edge_index=graph.edge_index + 1))
    graph.pos = torch.tensor([[0.0], [1.0], [float("nan")], [2.0]])
    with pytest.raises(ValueError, match="finite 'pos'"):
        Coarsen(method="voxel", size=2.0)(graph)
