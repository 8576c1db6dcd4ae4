"""Every conv of PyTorch Geometric, how to build it with eight channels, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq import WrappedConvCell

C = 8


def mlp(in_channels: int, out_channels: int = C) -> nn.Module:
    return nn.Sequential(nn.Linear(in_channels, C), nn.Tanh(), nn.Linear(C, out_channels))


@dataclass(frozen=True)
class Works:
    """How to build a conv, what its edges carry, what else it takes, what is to be known of it."""

    build: Callable[[], nn.Module]
    edge: str | None = None  # weight, attr, pseudo, type
    extras: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Refused:
    """How to build a conv that has no equilibrium here, and why. ``None`` if it can't be built."""

    build: Callable[[], nn.Module] | None
    reason: str


HELD = "attention held for a solve, then proven on directed graphs, too"
SUMS = "sum or mean, `nn` of linear maps, ReLU, tanh; proven on directed graphs, too"
KINK = "aggregates by a maximum: a map with kinks"
CLUSTER = "needs pyg-lib or torch-cluster; its edges jump with the state"
CUGRAPH = "needs cugraph"
HETERO = "runs on several kinds of nodes: see `HeteroConvCell`"
GRID = ["mean", "max", "std"], ["identity"], torch.tensor([0, 4, 4, 4])

CONVS: dict[str, Works | Refused] = {
    "SimpleConv": Works(lambda: pyg.SimpleConv("mean"), "weight"),
    "GCNConv": Works(lambda: pyg.GCNConv(C, C), "weight"),
    "ChebConv": Works(lambda: pyg.ChebConv(C, C, 3), "weight"),
    "SAGEConv": Works(lambda: pyg.SAGEConv(C, C)),
    "CuGraphSAGEConv": Refused(None, CUGRAPH),
    "GraphConv": Works(
        lambda: pyg.GraphConv(C, C), "weight", note="sum or mean; proven on directed graphs, too"
    ),
    "GravNetConv": Refused(None, CLUSTER),
    "GatedGraphConv": Works(lambda: pyg.GatedGraphConv(C, 2), "weight"),
    "ResGatedGraphConv": Works(lambda: pyg.ResGatedGraphConv(C, C, edge_dim=3), "attr"),
    "GATConv": Works(lambda: pyg.GATConv(C, C // 2, heads=2, edge_dim=3), "attr", note=HELD),
    "CuGraphGATConv": Refused(None, CUGRAPH),
    "FusedGATConv": Refused(None, "needs dgNN, and takes CSR and CSC instead of edges"),
    "GATv2Conv": Works(lambda: pyg.GATv2Conv(C, C // 2, heads=2, edge_dim=3), "attr", note=HELD),
    "TransformerConv": Works(
        lambda: pyg.TransformerConv(C, C // 2, heads=2, edge_dim=3), "attr",
        note=f"{HELD}; with `beta=True` measured",
    ),
    "AGNNConv": Works(pyg.AGNNConv),
    "TAGConv": Works(lambda: pyg.TAGConv(C, C), "weight"),
    "GINConv": Works(lambda: pyg.GINConv(mlp(C)), note=SUMS),
    "GINEConv": Works(lambda: pyg.GINEConv(mlp(C), edge_dim=3), "attr", note=SUMS),
    "ARMAConv": Works(lambda: pyg.ARMAConv(C, C, 2, 2), "weight"),
    "SGConv": Works(lambda: pyg.SGConv(C, C, 2), "weight"),
    "SSGConv": Works(lambda: pyg.SSGConv(C, C, 0.2, 2), "weight"),
    "APPNP": Works(lambda: pyg.APPNP(3, 0.2), "weight"),
    "MFConv": Works(lambda: pyg.MFConv(C, C)),
    "RGCNConv": Works(lambda: pyg.RGCNConv(C, C, 3), "type"),
    "FastRGCNConv": Works(lambda: pyg.FastRGCNConv(C, C, 3), "type"),
    "CuGraphRGCNConv": Refused(None, CUGRAPH),
    "RGATConv": Works(lambda: pyg.RGATConv(C, C, 3, edge_dim=3), "attr", ("edge_type",)),
    "SignedConv": Refused(
        lambda: pyg.SignedConv(C, C, True), "two sets of edges and two halves of the state"
    ),
    "DNAConv": Refused(lambda: pyg.DNAConv(C), "its state is the history of all layers"),
    "PointNetConv": Works(lambda: pyg.PointNetConv(mlp(C + 3)), None, ("pos",), KINK),
    "GMMConv": Works(lambda: pyg.GMMConv(C, C, 2, 3), "pseudo"),
    "SplineConv": Refused(None, "needs pyg-lib"),
    "NNConv": Works(lambda: pyg.NNConv(C, C, mlp(3, C * C)), "attr"),
    "CGConv": Works(lambda: pyg.CGConv(C, 3), "attr"),
    "EdgeConv": Works(lambda: pyg.EdgeConv(mlp(2 * C)), note=KINK),
    "DynamicEdgeConv": Refused(None, CLUSTER),
    "XConv": Refused(None, CLUSTER),
    "PPFConv": Works(lambda: pyg.PPFConv(mlp(C + 4)), None, ("pos", "normal"), KINK),
    "FeaStConv": Works(lambda: pyg.FeaStConv(C, C, 2)),
    "PointTransformerConv": Works(lambda: pyg.PointTransformerConv(C, C), None, ("pos",)),
    "HypergraphConv": Works(
        lambda: pyg.HypergraphConv(C, C), note="edge_index holds (node, hyperedge)"
    ),
    "LEConv": Works(lambda: pyg.LEConv(C, C), "weight"),
    "PNAConv": Works(lambda: pyg.PNAConv(C, C, *GRID, edge_dim=3), "attr", (), KINK),
    "ClusterGCNConv": Works(lambda: pyg.ClusterGCNConv(C, C)),
    "GENConv": Works(lambda: pyg.GENConv(C, C, edge_dim=3), "attr"),
    "GCN2Conv": Works(lambda: pyg.GCN2Conv(C, 0.2), "weight", note="x_0 is U x + b"),
    "PANConv": Refused(lambda: pyg.PANConv(C, C, 2), "needs torch-sparse"),
    "WLConv": Refused(lambda: pyg.WLConv(), "colours nodes by hashing: no derivative"),
    "WLConvContinuous": Works(pyg.WLConvContinuous, "weight"),
    "FiLMConv": Works(lambda: pyg.FiLMConv(C, C, 3), "type"),
    "SuperGATConv": Works(
        lambda: pyg.SuperGATConv(C, C // 2, heads=2),
        note="in training it samples negative edges, for a loss of its own, at every step",
    ),
    "FAConv": Works(
        lambda: pyg.FAConv(C), note="x_0 is U x + b; edge_weight with normalize=False alone"
    ),
    "EGConv": Works(lambda: pyg.EGConv(C, C, num_heads=4)),
    "PDNConv": Works(lambda: pyg.PDNConv(C, C, 3, 4), "attr"),
    "GeneralConv": Works(lambda: pyg.GeneralConv(C, C, 3), "attr"),
    "HGTConv": Refused(None, HETERO),
    "HEATConv": Works(
        lambda: pyg.HEATConv(C, C, 2, 3, 4, 3, 4), "attr", ("node_type", "edge_type")
    ),
    "HeteroConv": Refused(None, HETERO),
    "HANConv": Refused(None, HETERO),
    "LGConv": Works(pyg.LGConv, "weight"),
    "PointGNNConv": Works(
        lambda: pyg.PointGNNConv(mlp(C, 3), mlp(C + 3), mlp(C)), None, ("pos",), KINK
    ),
    "GPSConv": Works(
        lambda: pyg.GPSConv(C, pyg.GATConv(C, C, edge_dim=3), heads=2), "attr",
        note="its attention sees the whole graph; the inner conv's arguments",
    ),
    "AntiSymmetricConv": Works(
        lambda: pyg.AntiSymmetricConv(C), "weight", note="the inner conv's arguments"
    ),
    "DirGNNConv": Works(lambda: pyg.DirGNNConv(pyg.SAGEConv(C, C))),
    "MixHopConv": Works(lambda: pyg.MixHopConv(C, C // 2, [0, 1]), "weight"),
    "MeshCNNConv": Refused(
        lambda: pyg.MeshCNNConv(C, C), "its nodes are a mesh's edges, with four ordered neighbours"
    ),
}  # fmt: skip

MODELS: dict[str, Works | Refused] = {
    "GCN": Works(lambda: pyg.GCN(C, C, 2), "weight"),
    "GraphSAGE": Works(lambda: pyg.GraphSAGE(C, C, 2)),
    "GIN": Works(lambda: pyg.GIN(C, C, 2)),
    "GAT": Works(lambda: pyg.GAT(C, C, 2, edge_dim=3), "attr"),
    "PNA": Works(
        lambda: pyg.PNA(C, C, 2, aggregators=GRID[0], scalers=GRID[1], deg=GRID[2]), note=KINK
    ),
    "EdgeCNN": Works(lambda: pyg.EdgeCNN(C, C, 2), note=KINK),
    "RECT_L": Works(lambda: pyg.RECT_L(C, C), "weight"),
    "DeepGCNLayer": Works(
        lambda: pyg.DeepGCNLayer(pyg.GENConv(C, C), nn.LayerNorm(C), nn.Tanh(), dropout=0.0),
        note="the inner conv's arguments",
    ),
    "Sequential": Works(
        lambda: pyg.Sequential(
            "x, edge_index",
            [(pyg.GCNConv(C, C), "x, edge_index -> x"), nn.Tanh(),
             (pyg.SAGEConv(C, C), "x, edge_index -> x")],
        ),
        note="what its signature names",
    ),
    "LabelPropagation": Refused(
        lambda: pyg.LabelPropagation(2, 0.5), "spreads labels without a gradient"
    ),
    "LINKX": Refused(
        lambda: pyg.LINKX(12, C, C, C, 1), "has a weight for every node: one graph, in one order"
    ),
    "GraphUNet": Works(
        lambda: pyg.GraphUNet(C, C, C, 2),
        note="picks nodes anew in every step: the map jumps, and may have no fixed point",
    ),
    "MLP": Refused(lambda: pyg.MLP([C, C, C]), "has no edges"),
}  # fmt: skip


def graph(entry: Works, num_nodes: int, seed: int = 0) -> Data:
    """A connected undirected graph, with what the conv needs, in float64."""
    g = torch.Generator().manual_seed(seed)
    chain = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    i, j = torch.randint(0, num_nodes, (2, num_nodes), generator=g)
    edges = torch.cat([chain, torch.stack([i, j])[:, (i - j).abs() > 1]], 1).unique(dim=1)
    edge_index = torch.cat([edges, edges.flip(0)], 1).unique(dim=1)
    one_way = edge_index[0] < edge_index[1]

    def both_ways(value: Tensor) -> Tensor:
        twin = edge_index.flip(0)
        back = (twin[0] * num_nodes + twin[1]).argsort()
        return torch.where(one_way.view(-1, *[1] * (value.dim() - 1)), value, value[back])

    num_edges = edge_index.size(1)
    draw = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.double)  # noqa: E731
    integers = lambda most, n: torch.randint(0, most, (n,), generator=g)  # noqa: E731
    edge_attr = {
        None: lambda: None,
        "weight": lambda: both_ways(0.5 + draw(num_edges)),
        "attr": lambda: draw(num_edges, 3),
        "pseudo": lambda: draw(num_edges, 2),
        "type": lambda: integers(3, num_edges),
    }[entry.edge]()
    more = {
        "pos": lambda: draw(num_nodes, 3),
        "normal": lambda: nn.functional.normalize(draw(num_nodes, 3), dim=1),
        "node_type": lambda: integers(2, num_nodes),
        "edge_type": lambda: integers(3, num_edges),
    }
    extras = {name: more[name]() for name in entry.extras}
    x = torch.randn(num_nodes, 3, generator=g, dtype=torch.double)
    return Data(x=x, edge_index=edge_index, edge_attr=edge_attr, **extras)


def weighted() -> Data:
    return graph(Works(lambda: None, "weight"), 12, seed=3)


def plain() -> Data:
    return graph(Works(lambda: None), 8, seed=4)


def cell_of(conv: nn.Module, **options) -> WrappedConvCell:
    return WrappedConvCell(conv, 3, **{"channels": 4, **options}).double().eval()


def with_loops(data):
    from torch_geometric.utils import add_self_loops

    return (add_self_loops(data.edge_index, num_nodes=data.num_nodes)[0],)
