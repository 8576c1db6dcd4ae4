"""A classifier of nodes: what each is, from its own features and the equilibrium around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MLP

from gncadeq.cell import Cell
from gncadeq.check import check_count, check_options
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition
from gncadeq.models.classifier import Classifier
from gncadeq.typing import Adj, OptTensor


class NodeClassifier(Classifier):
    r"""A label for every node, read off its own features and its own state at the equilibrium.

    .. math::
        \mathbf{u}_i = \mathrm{ReLU}(\mathrm{MLP}_1(\mathbf{x}_i)), \qquad
        \mathbf{z}^\star = f(\mathbf{z}^\star, \mathbf{u}; \mathcal{G}), \qquad
        \mathbf{y}_i = \mathrm{MLP}_2 \big( \mathbf{u}_i \, \Vert \,
        \mathrm{norm}(\mathbf{z}_i^\star) \big)

    Encoder and readout look at one node at a time; what a node knows of others came through the
    cell. The layer norm makes the readout see the proportions of a state: signals in a contraction
    fade with distance, and which of two is the stronger outlasts how strong they are.

    Args:
        cell: The rule, of which ``in_channels`` is the encoder's width.
        in_channels: Channels of the node features.
        num_classes: Number of labels, or of outputs for any other task on nodes.
        hidden_channels: Width of the hidden layers of both MLPs.
        deq: Arguments of :class:`GraphDEQ`.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F)`, edge indices
          :math:`(2, |\mathcal{E}|)`, what the cell wants of edges, batch vector
          :math:`(|\mathcal{V}|)`
        - **output:** logits :math:`(|\mathcal{V}|, \text{num\_classes})`

    Raises:
        ValueError: If a size isn't positive, or the features are of another width.

    Example:
        >>> from gncadeq import IGNNCell
        >>> model = NodeClassifier(IGNNCell(8, 16), in_channels=3, num_classes=5)
        >>> model(torch.rand(4, 3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        cell: Cell,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 32,
        deq: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        num_classes = check_count("num_classes", num_classes, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        injected = check_count("cell.in_channels", cell.in_channels, 1)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.encoder = MLP([in_channels, hidden_channels, injected], norm=None)
        self.dynamics: GraphDEQ | GraphNCA = GraphDEQ(cell, **check_options("deq", deq, GraphDEQ))
        self.norm = nn.LayerNorm(cell.channels)
        self.readout = MLP([injected + cell.channels, hidden_channels, num_classes], norm=None)

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        for module in (self.encoder, self.dynamics, self.norm, self.readout):
            module.reset_parameters()

    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """Encode the features; see :class:`gncadeq.models.classifier.Classifier`."""
        return self.encode(x), edge_index, edge_attr

    def read(self, u: Tensor, z: Tensor, edges: Adj, partition: Partition) -> Tensor:
        """Logits ``[num_nodes, num_classes]``."""
        return self.decode(u, z)

    def encode(self, x: Tensor) -> Tensor:
        """The injection ``u`` ``[num_nodes, cell.in_channels]``."""
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(
                f"Expected 'x' of shape [num_nodes, in_channels] = [*, {self.in_channels}] "
                f"(got {list(x.shape)})"
            )
        out: Tensor = self.encoder(x)
        return out.relu()

    def decode(self, u: Tensor, z: Tensor) -> Tensor:
        """Logits ``[num_nodes, num_classes]`` of nodes with injection ``u`` and state ``z``."""
        out: Tensor = self.readout(torch.cat([u, self.norm(z)], dim=1))
        return out
