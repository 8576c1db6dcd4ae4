"""The essay's classifier: encoder, cell, dynamics, readout, on pixel graphs."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from gncadeq.cells.base import check_graph
from gncadeq.cells.conv import ConvCell
from gncadeq.cells.stencil import StencilConv, prepare_neighborhood
from gncadeq.choices import Injection, Update
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition, Solution
from gncadeq.models.inputs import check_kind
from gncadeq.models.readout import MeanReadout
from gncadeq.transforms import ImageToGraph
from gncadeq.typing import Adj, OptTensor

_TRANSFORM = {"neighborhood": "moore", "periodic": False, "living_threshold": None}


class PixelGraphClassifier(nn.Module):
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

    Attributes:
        card: What is known of loaded weights: command, accuracy, residuals, versions, and what
            the training images were like, so that graphs of another kind are refused.
        dynamics: The :class:`GraphDEQ`, or an automaton put in its place:
            ``model.dynamics = model.dynamics.as_nca(steps=500)``.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F)`, edge indices
          :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`, batch vector
          :math:`(|\mathcal{V}|)`
        - **output:** logits :math:`(|\mathcal{G}|, \text{num\_classes})`

    Example:
        >>> model = PixelGraphClassifier().eval()
        >>> data = model.to_graph(torch.rand(1, 28, 28))
        >>> model(data.x, data.edge_index, data.edge_attr).shape
        torch.Size([1, 10])
    """

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
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "channels": channels, "hidden_channels": hidden_channels,
            "num_classes": num_classes, "update": update, "injection": injection,
            "contraction": contraction, "standardize": standardize,
            "transform": {**_TRANSFORM, **(transform or {})}, "deq": dict(deq or {}),
        }  # fmt: skip
        self.card: dict[str, Any] = {}
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

    @overload
    def forward(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = ..., batch: OptTensor = ...,
        *, z0: OptTensor = ..., batch_size: int | None = ...,
        generator: torch.Generator | None = ..., return_solution: Literal[False] = ...,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def forward(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = ..., batch: OptTensor = ...,
        *, z0: OptTensor = ..., batch_size: int | None = ...,
        generator: torch.Generator | None = ..., return_solution: Literal[True],
    ) -> tuple[Tensor, Solution]: ...  # fmt: skip

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        *,
        z0: OptTensor = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        return_solution: bool = False,
    ) -> Tensor | tuple[Tensor, Solution]:
        """Classify every graph of a batch.

        Raises:
            ValueError: If the card of loaded weights states what their training images were like,
                and the graphs are of another kind; see :func:`gncadeq.models.inputs.check_kind`.

        Args:
            x: Pixels ``[num_nodes, in_channels]``.
            edge_index: Edge indices.
            edge_attr: The relation of every edge.
            batch: Ascending graph index of every node; ``None`` for a single graph.
            z0: The start of the dynamics.
            batch_size: Number of graphs, which spares a device synchronisation.
            generator: The source of randomness of the dynamics.
            return_solution: Also return the :class:`Solution`.
        """
        z, partition, solution = self.settle(
            x,
            edge_index,
            edge_attr,
            batch,
            z0=z0,
            batch_size=batch_size,
            generator=generator,
        )
        logits = self.readout(z, partition)
        return (logits, solution) if return_solution else logits

    def settle(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        *,
        z0: OptTensor = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Partition, Solution]:
        """The state that the dynamics end in, before the readout; arguments as for a call.

        Returns:
            The state ``[num_nodes, channels]``, with its gradient, the nodes of each graph, and
            the solution.
        """
        check_graph(x, edge_index, self.encoder.in_channels)
        partition = Partition(batch, x.size(0), batch_size, like=x)
        hood = prepare_neighborhood(edge_index, edge_attr, x.size(0), 9)
        # torch.compile cannot trace a check that depends on values.
        if "inputs" in self.card and not self.training and not torch.compiler.is_compiling():
            check_kind(self.card["inputs"], self.to_graph, x, hood)
        z, solution = self.dynamics(
            self.encode(x, hood),
            hood,
            None,
            partition.batch,
            z0=z0,
            batch_size=partition.num_graphs,
            generator=generator,
            return_solution=True,
        )
        return z, partition, solution

    def fold(self) -> None:
        """Move the readout's standardisation into its first layer; eval outputs stay the same."""
        self.readout.fold()
        self.config["standardize"] = False

    @classmethod
    def from_pretrained(cls, name: str) -> PixelGraphClassifier:
        """Load shipped weights by name, or a file written by :meth:`save_pretrained`.

        The file is safetensors: loading it executes no code.

        Raises:
            FileNotFoundError: If there is neither such a name nor such a file.
            ValueError: If the file is corrupt, or of another architecture.

        Example:
            >>> model = PixelGraphClassifier.from_pretrained("mnist")
            >>> sum(p.numel() for p in model.parameters())
            15122
        """
        from gncadeq.files.weights import load_pretrained

        return load_pretrained(cls, name)

    def save_pretrained(self, path: str, card: dict[str, Any] | None = None) -> None:
        """Write weights, configuration and model card to one safetensors file, atomically.

        Raises:
            ValueError: If the dynamics start from a module, which the file has no place for.
        """
        if isinstance(self.dynamics.start, nn.Module):
            raise ValueError(
                "Expected dynamics that start from 'zeros' or 'normal' to save (got "
                f"{type(self.dynamics.start).__name__}). Save the predictor's state_dict() apart, "
                "and set model.dynamics = GraphDEQ(model.dynamics.cell)"
            )
        from gncadeq.files.weights import save_pretrained

        save_pretrained(self, path, card)


__all__ = ["PixelGraphClassifier"]
