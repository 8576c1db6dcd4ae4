"""What the laws are tried on: graphs, their parts, and what a cell takes of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells import Cell
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.graph.rows import Part, declared_rows
from gncadeq.typing import OptTensor

Dynamics = GraphDEQ | GraphNCA


def graph_of(data: Data) -> tuple[Tensor, Tensor, OptTensor]:
    """The arguments ``(x, edge_index, edge_attr)`` of cells and dynamics.

    Example:
        >>> import torch
        >>> data = Data(x=torch.rand(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> [None if value is None else list(value.shape) for value in graph_of(data)]
        [[2, 1], [2, 1], None]
    """
    return data.x, data.edge_index, data.edge_attr


def context_of(cell: Cell, data: Data) -> dict[str, Tensor]:
    """What else the cell takes by name (:attr:`gncadeq.Cell.context`), as far as the data have it.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import PointTransformerConv
        >>> from gncadeq import WrappedConvCell
        >>> cell = WrappedConvCell(PointTransformerConv(4, 4), in_channels=1)
        >>> list(context_of(cell, Data(x=torch.rand(2, 1), pos=torch.rand(2, 3))))
        ['pos']
    """
    return {name: data[name] for name in cell.context if name != "batch" and name in data}


def graphs_of(batch: Data, cell: Cell | None = None) -> list[Data]:
    """Every graph of a batch alone, those without nodes included.

    Args:
        batch: The batch.
        cell: The cell that declares what the rows of further tensors belong to.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Batch
        >>> a = Data(x=torch.rand(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> [data.num_nodes for data in graphs_of(Batch.from_data_list([a, a]))]
        [2, 2]
    """
    if getattr(batch, "batch", None) is None:
        return [batch]
    declared = {} if cell is None else declared_rows(cell.context)
    graphs = []
    for k in range(batch.num_graphs):
        part = Part(batch.batch == k, batch.edge_index, batch.batch)
        graph = Data(edge_index=part.edges())
        for name, value in batch.to_dict().items():
            if isinstance(value, Tensor) and name not in ("edge_index", "batch", "ptr"):
                rows = declared.get(name)
                if rows is None:
                    of_edge = batch.is_edge_attr(name)
                    rows = "edge" if of_edge else "node" if batch.is_node_attr(name) else "all"
                graph[name] = part.take(value, rows)
        graphs.append(graph)
    return graphs


def batch_of(data: Data) -> tuple[OptTensor, int | None]:
    """The graph of every node, and the number of graphs, of a batch."""
    batch = getattr(data, "batch", None)
    return batch, None if batch is None else int(data.num_graphs)


def solve_on(dynamics: Dynamics, data: Data, **options: Any) -> Any:
    """What a call of dynamics on data returns."""
    batch, size = batch_of(data)
    context = context_of(dynamics.cell, data)
    return dynamics(*graph_of(data), batch, batch_size=size, **context, **options)
