"""The essay's classifier: encoder, cell, dynamics, readout, on pixel graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cell import check_graph
from gncadeq.cells.conv import ConvCell
from gncadeq.cells.stencil import StencilConv, prepare_neighborhood
from gncadeq.check import check_count, check_options, check_value
from gncadeq.choices import Injection, Update
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition
from gncadeq.models.image_classifier import ImageClassifier
from gncadeq.models.readout import MeanReadout
from gncadeq.transforms import ImageToGraph, window_mean
from gncadeq.typing import Adj, OptTensor

_TRANSFORM = {"neighborhood": "moore", "periodic": False, "living_threshold": None}


class PixelGraphClassifier(ImageClassifier):
    r"""The classifier of `"Neural Cellular Automata and Deep Equilibrium Models"
    <https://arxiv.org/abs/2501.03573>`_, eqs. (1) and (2), on pixel graphs of any size.

    .. math::
        \mathbf{u} = \mathrm{ReLU}(\mathbf{K}_1 * \mathbf{x}), \qquad
        \mathbf{z}^\star = f(\mathbf{z}^\star, \mathbf{u}), \qquad
        \mathbf{y} = \mathrm{MLP}\Big( \frac{1}{|\mathcal{V}|} \sum_i \mathbf{z}_i^\star \Big)

    with a :class:`ConvCell` :math:`f`. The default sizes give 15,122 parameters.

    Args:
        in_channels: Channels of the image.
        channels: Channels of encoder and state.
        hidden_channels: Width of the MLP.
        num_classes: Number of classes.
        update: The cell's form, ``"direct"`` or ``"residual"``.
        injection: ``"superposed"`` or ``"additive"``.
        contraction: The cell's bound, or ``None``.
        standardize: Standardise the pooled state in training, see :class:`MeanReadout`.
        transform: Arguments of the :class:`ImageToGraph` that makes the graphs the model is for.
        deq: Arguments of :class:`GraphDEQ`.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F)`, edge indices
          :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`, batch vector
          :math:`(|\mathcal{V}|)`
        - **output:** logits :math:`(|\mathcal{G}|, \text{num\_classes})`

    Example:
        >>> import torch
        >>> model = PixelGraphClassifier().eval()
        >>> data = model.to_graph(torch.rand(1, 28, 28))
        >>> model(data.x, data.edge_index, data.edge_attr).shape
        torch.Size([1, 10])
    """

    pooling = ("mean",)

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 24,
        hidden_channels: int = 128,
        num_classes: int = 10,
        update: Update = "direct",
        injection: Injection = "superposed",
        contraction: float | None = None,
        standardize: bool = True,
        transform: dict[str, Any] | None = None,
        deq: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        channels = check_count("channels", channels, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        num_classes = check_count("num_classes", num_classes, 1)
        contraction = check_value("contraction", contraction, float | None, above=0.0)
        transform = check_options("transform", transform, ImageToGraph)
        deq = check_options("deq", deq, GraphDEQ)
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "channels": channels, "hidden_channels": hidden_channels,
            "num_classes": num_classes, "update": update, "injection": injection,
            "contraction": contraction, "standardize": standardize,
            "transform": {**_TRANSFORM, **transform}, "deq": deq,
        }  # fmt: skip
        self.in_channels, self.card = in_channels, {}
        self.to_graph = ImageToGraph(**self.config["transform"])
        self.encoder = StencilConv(in_channels, channels)
        cell = ConvCell(channels, channels, update, injection, contraction)
        self.dynamics: GraphDEQ | GraphNCA = GraphDEQ(cell, **self.config["deq"])
        self.readout = MeanReadout(channels, hidden_channels, num_classes, standardize)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        self.encoder.reset_parameters(gain=3.0)  # grey pixels are dark: wake the ReLUs up
        self.dynamics.reset_parameters()
        self.readout.reset_parameters()

    def encode(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
        """The injection ``u`` ``[num_nodes, channels]``."""
        out: Tensor = self.encoder(x, edge_index, edge_attr)
        return out.relu()

    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """Encode the pixels, whose neighbourhood is prepared once for encoder and cell."""
        check_graph(x, edge_index, self.in_channels)
        hood = prepare_neighborhood(edge_index, edge_attr, x.size(0), 9)
        self.check_inputs(x, hood)
        return self.encode(x, hood), hood, None

    def pool(
        self, z: Tensor, partition: Partition, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Tensor:
        """The mean state ``[num_graphs, channels]``."""
        return partition.mean(z)

    def pool_around(self, z: Tensor, data: Data, radius: int) -> Tensor:
        """The mean state of the pixels in the window."""
        return window_mean(z, data, radius)

    def fold(self) -> None:
        """Move the readout's standardisation into its first layer; eval outputs stay the same."""
        self.readout.fold()
        self.config["standardize"] = False
