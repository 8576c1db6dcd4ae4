"""One graph in several processes is the graph in one: its equilibrium, its steps, its gradient."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch_geometric import typing
from torch_geometric.data import Data
from torch_geometric.nn import (
    ARMAConv,
    ChebConv,
    GATConv,
    GCNConv,
    GraphConv,
    SAGEConv,
    TAGConv,
)
from torch_geometric.utils import to_undirected

from gncadeq import (
    ConvCell,
    GraphDEQ,
    GraphNCA,
    GrowingCell,
    Halo,
    NodeClassifier,
    PropagationCell,
    SweepCell,
    TotalisticCell,
    WrappedConvCell,
)
from gncadeq.datasets import primitives
from gncadeq.training.processes import launch
from gncadeq.transforms import ImageToGraph, MeshToGraph, partition, split_graph

CHANNELS = 4
EXACT = {"tol": 1e-11, "max_steps": 500, "on_failure": "raise"}


def pixels() -> Data:
    """Living pixels: a graph with holes."""
    torch.manual_seed(0)
    return ImageToGraph(living_threshold=0.3)(torch.rand(1, 14, 14))


def scattered() -> Data:
    """An undirected graph with hubs, whose degrees differ by a factor of thirty."""
    torch.manual_seed(1)
    ends = (torch.rand(2, 300).square() * 90).long()
    ends = ends[:, ends[0] != ends[1]]
    return Data(x=torch.randn(90, 1), edge_index=to_undirected(ends, num_nodes=90))


def surface() -> Data:
    data = MeshToGraph("tangent")(primitives.icosphere(2))
    data.x = torch.rand(data.num_nodes, 1)
    return data


def alive(data: Data) -> Data:
    data = data.clone()
    data.x, data.z0 = data.x[:, :0], (torch.rand(data.num_nodes, 1) < 0.4).double()
    return data


def convs() -> dict[str, nn.Module]:
    c = CHANNELS
    return {
        "GCNConv": GCNConv(c, c), "SAGEConv": SAGEConv(c, c), "GraphConv": GraphConv(c, c),
        "GATConv": GATConv(c, c), "TAGConv": TAGConv(c, c, K=2), "ChebConv": ChebConv(c, c, K=3),
    }  # fmt: skip


def cases() -> dict[str, tuple[nn.Module, Data]]:
    """Dynamics and graphs, with everything drawn alike in every process."""
    torch.manual_seed(2)
    image = pixels()
    found: dict[str, tuple[nn.Module, Data]] = {
        "plain": (GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), "picard", **EXACT), image),
        "conv": (GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), **EXACT), image),
        "node": (
            GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), criterion="node", **EXACT), image,
        ),
        "broyden": (GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), "broyden", **EXACT), image),
        "newton": (GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), "newton", **EXACT), image),
        "phantom": (
            GraphDEQ(ConvCell(1, CHANNELS, contraction=0.8), gradient="phantom", **EXACT), image,
        ),
        "propagation": (GraphDEQ(PropagationCell(1), **EXACT), scattered()),
        "nca": (GraphNCA(ConvCell(1, CHANNELS), steps=5), image),
        "life": (GraphNCA(TotalisticCell(), steps=3), alive(image)),
    }  # fmt: skip
    growing = GrowingCell(CHANNELS, 3, in_channels=1, alive_channel=3, alive_threshold=0.4)
    nn.init.normal_(list(growing.parameters())[-1], std=0.1)
    sphere = surface()
    sphere.z0 = torch.rand(sphere.num_nodes, CHANNELS).pow(6).double()
    found["growing"] = GraphNCA(growing, steps=4), sphere
    for name, conv in convs().items():
        found[name] = GraphDEQ(WrappedConvCell(conv, 1), **EXACT), scattered()
    return {name: (model.double(), data) for name, (model, data) in found.items()}


def learn(model: nn.Module, data: Data, halo: Halo | None) -> tuple[torch.Tensor, ...]:
    """State, gradient to the injection and step count; parameters keep theirs."""
    x = data.x.double().requires_grad_()
    attr = data.edge_attr
    attr = attr.double() if attr is not None and attr.is_floating_point() else attr
    given = {"z0": data.z0 if "z0" in data else None, "halo": halo}
    z, solution = model(x, data.edge_index, attr, return_solution=True, **given)
    if z.requires_grad:
        z.pow(2).sum().backward()
    if halo is not None:
        halo.sum_gradients(model.parameters())
    grad = torch.zeros_like(x) if x.grad is None else x.grad
    return z.detach(), grad, solution.num_steps, solution.residual


def in_processes(folder: str, names: list[str]) -> None:
    """What each process does; the files in ``folder`` say what came of it."""
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    result = {}
    for name, (model, data) in cases().items():
        if name in names:
            hops = model.cell.hops
            method = "breadth-first" if count == 2 else "auto"
            part = split_graph(data, count, hops, method)[rank]
            found = learn(model, part, Halo(part))
            grads = {n: p.grad for n, p in model.named_parameters()}
            result[name] = (part.node, *found, grads)
    torch.save(result, Path(folder) / f"{rank}.pt")


def check(folder: Path, count: int, names: list[str]) -> None:
    launch(in_processes, count, str(folder), names)
    results = [torch.load(folder / f"{rank}.pt") for rank in range(count)]
    for name, (model, data) in cases().items():
        if name not in names:
            continue
        z, grad, steps, residual = learn(model, data, None)
        node = torch.cat([r[name][0] for r in results])
        assert torch.equal(node.sort().values, torch.arange(data.num_nodes)), name
        mine, back = (torch.empty_like(v) for v in (z, grad))
        mine[node] = torch.cat([r[name][1] for r in results])
        back[node] = torch.cat([r[name][2] for r in results])
        if name in ("life", "growing"):  # something lives, and something doesn't
            assert 0.02 < float((z != 0).any(1).float().mean()) < 0.98, name
        # A product of other rows may be rounded otherwise in the last place.
        close = 1e-14 if name in ("plain", "nca", "life") else 1e-8
        torch.testing.assert_close(mine, z, atol=close, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(back, grad, atol=1e-7, rtol=1e-7)
        for n, p in model.named_parameters():
            for r in results:  # every process has the sum
                assert (p.grad is None) == (r[name][5][n] is None), (name, n)
                if p.grad is not None:
                    torch.testing.assert_close(r[name][5][n], p.grad, atol=1e-7, rtol=1e-6)
        for r in results:  # all stop together, where one process does
            assert torch.equal(r[name][3], results[0][name][3])
            assert torch.equal(r[name][4], results[0][name][4])
            if name in ("plain", "conv", "GCNConv"):
                assert torch.equal(r[name][3], steps), name
    assert float(residual) >= 0


def test_two_processes_solve_one_graph(tmp_path):
    check(tmp_path, 2, ["plain", "conv", "propagation", "GCNConv", "growing", "nca"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_every_solver_and_conv_in_processes(tmp_path, count):
    check(tmp_path, count, list(cases()))


def test_a_classifier_of_nodes_takes_a_halo():
    data = scattered()
    part = split_graph(data, 1)[0]
    model = NodeClassifier(WrappedConvCell(GCNConv(4, 4), 4), 1, 3)
    whole = model(data.x, data.edge_index)
    torch.testing.assert_close(model(part.x, part.edge_index, halo=Halo(part)), whole)


def test_one_part_is_the_graph():
    for model, data in (cases()["conv"], cases()["GATConv"]):
        halo = Halo(split_graph(data, 1)[0])
        part = split_graph(data, 1)[0]
        for mine, whole in zip(learn(model, part, halo), learn(model, data, None), strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("hops", [1, 2])
def test_a_part_has_its_halo_and_all_degrees(hops):
    data = scattered()
    data.edge_attr = torch.arange(data.num_edges)
    data.face = torch.zeros(3, 1, dtype=torch.long)
    data.title = "kept"
    parts = split_graph(data, 3, hops)
    for rank, part in enumerate(parts):
        n, k = part.num_nodes, part.halo_from.numel()
        assert torch.equal(part.x, data.x[part.node])
        assert part.title == "kept"
        assert "face" not in part
        halo = torch.full((k,), -1)
        for owner, other in enumerate(parts):  # who sends what arrives in order
            halo[part.halo_from == owner] = other.node[other.send_row[other.send_to == rank]]
        local = torch.cat([part.node, halo, torch.tensor([-1])])
        original = data.edge_index[:, part.edge_attr]
        ends = local[part.edge_index]
        assert bool(((ends == original) | (ends == -1)).all())
        for row in (0, 1):  # all edges into, and out of, own nodes and the halo
            degree = torch.bincount(data.edge_index[row], minlength=90)
            mine = torch.bincount(part.edge_index[row], minlength=n + k + 1)[:-1]
            assert torch.equal(mine, degree[local[:-1]])
        seen = torch.isin(torch.arange(90), part.node)
        for _ in range(hops):
            seen[data.edge_index[0, seen[data.edge_index[1]]]] = True
        assert torch.equal(seen.nonzero().flatten(), local[:-1].sort().values)


def test_parts_by_coordinates_and_by_metis(monkeypatch):
    torch.manual_seed(0)
    pos = torch.rand(50, 2) * torch.tensor([10.0, 1.0])
    edges = torch.tensor([[0], [1]])
    for count in (1, 2, 3, 7):
        parts = partition(edges, 50, count, pos, "auto")
        sizes = [p.numel() for p in parts]
        assert sum(sizes) == 50
        assert max(sizes) - min(sizes) <= 1
    left, right = partition(edges, 50, 2, pos, "coordinates")
    a, b = pos[left, 0], pos[right, 0]
    assert a.max() < b.min() or b.max() < a.min()
    for bad in (None, torch.zeros(50, 0), torch.full((50, 2), float("nan"))):
        with pytest.raises(ValueError, match="Expected finite 'pos' of shape"):
            partition(edges, 50, 2, bad, "coordinates")
    monkeypatch.setattr(typing, "WITH_METIS", False)
    with pytest.raises(ImportError, match="pyg-lib or torch-sparse"):
        partition(edges, 50, 2, None, "metis")
    monkeypatch.setattr(typing, "WITH_METIS", True)
    perm = torch.randperm(50)

    def cluster(data, num_parts, log):
        assert (data.num_nodes, num_parts, log) == (50, 2, False)
        return SimpleNamespace(
            partition=SimpleNamespace(partptr=torch.tensor([0, 20, 50]), node_perm=perm)
        )

    monkeypatch.setattr("torch_geometric.loader.ClusterData", cluster)
    parts = partition(edges, 50, 2, pos, "auto")
    assert {tuple(p.tolist()) for p in parts} == {
        tuple(sorted(perm[:20].tolist())), tuple(sorted(perm[20:].tolist()))
    }  # fmt: skip


def test_parts_take_lists_and_short_integers():
    line = Data(
        x=torch.arange(4.0)[:, None], edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]).int(),
        names=list("abcd"), kinds=["first", "second", "third"],
    )  # fmt: skip
    parts = split_graph(line, 2)
    for part in parts:
        assert part.names == ["abcd"[k] for k in part.node.tolist()]
        assert part.edge_index.dtype == torch.long
        assert len(part.kinds) == part.num_edges
    assert sorted(n for part in parts for n in part.names) == list("abcd")


def test_what_cannot_run_in_parts_is_refused():
    data = scattered()
    part = split_graph(data, 1)[0]
    halo, graph = Halo(part), (part.x, part.edge_index)

    def run(model, *more, **options):
        model(*graph, *more, halo=halo, **options)

    def of(conv, **options):
        return GraphDEQ.from_conv(conv, 1, **options)

    with pytest.raises(ValueError, match="view of the whole graph"):
        run(of(ARMAConv(4, 4)))
    with pytest.raises(ValueError, match="view of the whole graph"):
        run(of(GCNConv(4, 4), norm="BatchNorm"))
    with pytest.raises(ValueError, match="view of the whole graph"):
        run(GraphDEQ(SweepCell(1, 4)))
    with pytest.raises(ValueError, match=r"halo of 3 hops .*num_parts, hops=3"):
        run(of(TAGConv(4, 4, K=3)))
    with pytest.raises(ValueError, match="without dropout"):
        run(of(GATConv(4, 4, dropout=0.5)))
    with pytest.raises(ValueError, match="one of TorchDEQ's"):
        run(of(GCNConv(4, 4), solver="torchdeq:anderson"))
    with pytest.raises(ValueError, match=r"got 'batch'\). Leave it out"):
        run(of(GCNConv(4, 4)), batch=torch.zeros(90, dtype=torch.long))
    for model in (of(GCNConv(4, 4)), of(GCNConv(4, 4)).as_nca()):
        with pytest.raises(ValueError, match=r"got 'batch_size=3'\). Leave it out"):
            run(model, batch_size=3)
    with pytest.raises(ValueError, match="no certificate of the whole"):
        run(of(GCNConv(4, 4), criterion="error"))
    with pytest.raises(ValueError, match="a row for each of 90 nodes"):
        of(GCNConv(4, 4))(part.x[:5], part.edge_index, halo=halo)
    with pytest.raises(ValueError, match=r"Expected part 0 of 1 .*got part 1 of 2"):
        Halo(split_graph(data, 2)[1])
    with pytest.raises(ValueError, match="without"):
        Halo(data)
    with pytest.raises(ValueError, match="got a batch"):
        split_graph(Data(edge_index=data.edge_index, batch=torch.zeros(90)), 2)
