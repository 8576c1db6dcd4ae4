"""Graphs, cells and dense matrices that several tests look at."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from gncadeq import (
    GrowingCell,
    HopfieldCell,
    IGNNCell,
    MaxPropagationCell,
    MonotoneCell,
    PropagationCell,
    WrappedConvCell,
)
from gncadeq.cells import Cell
from gncadeq.transforms import ImageToGraph

CELLS = {
    "ignn-sym": lambda: IGNNCell(2, 4, kappa=0.8),
    "ignn-row": lambda: IGNNCell(2, 4, kappa=0.8, normalization="row", activation="tanh"),
    "ignn-none": lambda: IGNNCell(2, 4, kappa=0.8, normalization=None),
    "ignn-neighbors": lambda: IGNNCell(2, 4, kappa=0.8, injection="neighbors"),
    "propagation": lambda: PropagationCell(2, 0.2),
    "metropolis": lambda: PropagationCell(2, 0.2, "metropolis"),
    "max": lambda: MaxPropagationCell(2, 0.2),
    "hopfield": lambda: HopfieldCell(2, 3),
    "monotone": lambda: MonotoneCell(2, 4),
    "monotone-wide": lambda: MonotoneCell(2, 2, kernel_size=5),
}
LAW_CELLS = (
    "ignn-sym", "ignn-row", "ignn-none", "ignn-neighbors", "propagation", "metropolis", "max",
    "hopfield", "monotone",
)  # fmt: skip
ADJOINT_CELLS = tuple(name for name in LAW_CELLS if name not in ("max", "hopfield"))


def make_cell(name: str) -> Cell:
    torch.manual_seed(1)
    cell = CELLS[name]().double()
    with torch.no_grad():  # off the start and the bounds, on both sides
        if isinstance(cell, IGNNCell):
            cell.weight_z.uniform_(-0.5, 0.5)
        for p in cell.parameters():
            p.add_(0.3 * p.abs().mean() * torch.randn_like(p))
    return cell


def weighted_graph(num_nodes: int, seed: int = 0) -> Data:
    """A directed graph with weights of both signs, loops, parallel edges and a lonely node."""
    g = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, num_nodes - 1, (2, 3 * num_nodes), generator=g)
    weight = torch.randn(3 * num_nodes, dtype=torch.double, generator=g)
    x = torch.randn(num_nodes, 2, dtype=torch.double, generator=g)
    return Data(x=x, edge_index=edge_index, edge_attr=weight, num_nodes=num_nodes)


def pixel_graphs() -> dict[str, Data]:
    image = torch.rand(2, 7, 6, dtype=torch.double)
    return {
        "full": ImageToGraph()(image),
        "periodic": ImageToGraph(periodic=True)(image),
        "living": ImageToGraph(living_threshold=0.6)(image),
    }


def dense(linear, num_nodes: int, channels: int) -> torch.Tensor:
    """The matrix of a linear map of states, [num_nodes · channels] to itself."""
    basis = torch.eye(num_nodes * channels, dtype=torch.double)
    return torch.stack([linear(e.view(num_nodes, channels)).flatten() for e in basis], 1)


def growing(**options) -> GrowingCell:
    torch.manual_seed(2)
    cell = GrowingCell(8, num_kernels=3, hidden_channels=16, **options)
    torch.nn.init.normal_(cell.weight_out, std=0.2)
    return cell


def graph_of_kind(kind: str, n: int, e: int, dtype=torch.double) -> Data:
    """A graph with loops, parallel edges and lonely nodes."""
    g = torch.Generator().manual_seed(n + e)
    edge_index = torch.randint(0, max(1, n - 1), (2, e), generator=g)
    edge_attr = {
        "relation": lambda: torch.randint(0, 9, (e,), generator=g),
        "wide": lambda: torch.randint(0, 25, (e,), generator=g),
        "kernels": lambda: torch.randn(e, 3, generator=g, dtype=dtype),
        "weight": lambda: torch.randn(e, generator=g, dtype=dtype),
        "positive": lambda: torch.rand(e, generator=g, dtype=dtype),
        "none": lambda: None,
    }[kind]()
    x = torch.randn(n, 2, generator=g, dtype=dtype)
    return Data(x=x, edge_index=edge_index, edge_attr=edge_attr, num_nodes=n)


def measured(cell: WrappedConvCell) -> WrappedConvCell:
    data = graph_of_kind("none", 12, 40, torch.float)
    cell.measure(data.x, data.edge_index)
    return cell


def living_pixels(seed: int) -> Data:
    data = ImageToGraph(living_threshold=0.4)(
        torch.rand(1, 7, 9, generator=torch.Generator().manual_seed(seed))
    )
    return Data(x=data.x.double(), edge_index=data.edge_index, edge_attr=data.edge_attr)


def path_edges(n: int) -> torch.Tensor:
    return to_undirected(torch.stack([torch.arange(n - 1), torch.arange(1, n)]))
