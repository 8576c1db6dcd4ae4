"""Equilibria as layers of GraphGym, by name: ``import gncadeq.graphgym`` registers them.

``layer_type: deq_gcnconv`` in a configuration is the equilibrium of a :class:`GCNConv`;
``deq_sageconv`` and ``deq_gatconv`` are those of the others.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.graphgym.register import layer_dict, register_layer

from gncadeq.dynamics import GraphDEQ


class DEQLayer(nn.Module):
    r"""The equilibrium of a conv, from ``dim_in`` to ``dim_out`` channels, on GraphGym's batches.

    Args:
        conv: The class of the conv.
        layer_config: GraphGym's configuration of a layer; of it ``dim_in``, ``dim_out`` and
            ``has_bias`` are used.
        options: Of :meth:`gncadeq.GraphDEQ.from_conv`.
    """

    def __init__(self, conv: type[nn.Module], layer_config: Any, **options: Any) -> None:
        super().__init__()
        width, bias = layer_config.dim_out, layer_config.has_bias
        self.model = GraphDEQ.from_conv(
            partial(conv, bias=bias), layer_config.dim_in, channels=width, bias=bias, **options
        )

    def forward(self, batch: Batch) -> Batch:
        """Replace ``batch.x`` by the equilibrium."""
        batch.x = self.model(batch.x, batch.edge_index, batch=getattr(batch, "batch", None))
        return batch


class GCNConvDEQ(DEQLayer):
    """The equilibrium of :class:`torch_geometric.nn.GCNConv`."""

    def __init__(self, layer_config: Any, **options: Any) -> None:
        super().__init__(pyg.GCNConv, layer_config, **options)


class SAGEConvDEQ(DEQLayer):
    """The equilibrium of :class:`torch_geometric.nn.SAGEConv`."""

    def __init__(self, layer_config: Any, **options: Any) -> None:
        super().__init__(pyg.SAGEConv, layer_config, **options)


class GATConvDEQ(DEQLayer):
    """The equilibrium of :class:`torch_geometric.nn.GATConv`."""

    def __init__(self, layer_config: Any, **options: Any) -> None:
        super().__init__(pyg.GATConv, layer_config, **options)


for _name, _layer in (
    ("deq_gcnconv", GCNConvDEQ),
    ("deq_sageconv", SAGEConvDEQ),
    ("deq_gatconv", GATConvDEQ),
):
    if _name not in layer_dict:  # a reloaded module registers once
        register_layer(_name, _layer)
