"""The parts of a rule that is made of a conv: what its step reads."""

from __future__ import annotations

from torch import nn

from gncadeq.cells.pyg.conv_signature import ConvSignature
from gncadeq.cells.pyg.measured import MeasuredCell
from gncadeq.graph.rows import Rows


class ConvRule(MeasuredCell):
    """A cell around a conv of PyTorch Geometric.

    Attributes:
        conv: The conv.
        signature: What its forward takes.
        conv_names: The names of the tensors that it takes beside state and edges.
        rows: What the rows of each belong to; ``None`` where that isn't known.
        norm: The norm over its output, if there is one.
        norm_batch: Whether the norm takes the graph of every node.
        activation: The activation.
        inject: The map of the injection.
    """

    conv: nn.Module
    signature: ConvSignature
    conv_names: tuple[str, ...]
    rows: dict[str, Rows | None]
    norm: nn.Module | None
    norm_batch: bool
    activation: nn.Module
    inject: nn.Linear
