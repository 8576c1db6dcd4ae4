"""What classifiers of images have in common: a transform, a card, weights in a file."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.graph.partition import Partition
from gncadeq.models.classifier import Classifier
from gncadeq.models.inputs import check_kind
from gncadeq.transforms import ImageToGraph
from gncadeq.typing import Adj, OptTensor


class ImageClassifier(Classifier):
    """A classifier of the graphs that :attr:`to_graph` makes of images.

    Attributes:
        config: The arguments that make a model like this one, without its weights.
        card: What is known of loaded weights: command, accuracy, residuals, versions, and what
            the training images were like, so that graphs of another kind are refused.
        in_channels: Channels of the images.
        to_graph: Makes the graphs that the model is for.
        pooling: What the readout sees of the last level's states, one after the other.
        readout: From pooled states to logits: ``readout.decode(pooled)``.
    """

    config: dict[str, Any]
    card: dict[str, Any]
    in_channels: int
    to_graph: ImageToGraph
    pooling: ClassVar[tuple[Literal["mean", "max"], ...]]
    readout: Any

    @abstractmethod
    def encode(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
        """The injection of pixels ``[num_nodes, in_channels]``."""

    @abstractmethod
    def pool(
        self, z: Tensor, partition: Partition, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Tensor:
        """The input of the readout, pooled from the state of every graph."""

    @abstractmethod
    def pool_around(self, z: Tensor, data: Data, radius: int) -> Tensor:
        """What the readout would see of the window of a radius around every pixel of an image's
        graph, ``[num_pixels, ...]``; 0 is each pixel's own state."""

    @torch.no_grad()
    def local_labels(self, z: Tensor, data: Data, radius: int) -> Tensor:
        """The label of every pixel ``[num_pixels]``, decoded from the states around it.

        Args:
            z: The state of the graph.
            data: What :attr:`to_graph` made of one image.
            radius: Half the window's width in pixels; 0 decodes each pixel's own state.
        """
        label: Tensor = self.readout.decode(self.pool_around(z, data, radius)).argmax(1)
        return label

    @abstractmethod
    def fold(self) -> None:
        """Move normalisations into the weights next to them; eval outputs stay the same."""

    def read(self, u: Tensor, z: Tensor, edges: Adj, partition: Partition) -> Tensor:
        """Logits ``[num_graphs, num_classes]``."""
        logits: Tensor = self.readout.decode(self.pool(z, partition, edges))
        return logits

    def check_inputs(self, x: Tensor, hood: Neighborhood) -> None:
        """Refuse pixel graphs of another kind than those that the weights were trained on."""
        # torch.compile cannot trace a check that depends on values.
        if "inputs" in self.card and not self.training and not torch.compiler.is_compiling():
            check_kind(self.card["inputs"], self.to_graph, x, hood)

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Load shipped weights by name, or a file written by :meth:`save_pretrained`.

        ``ImageClassifier.from_pretrained`` loads those of any image classifier. The file is
        safetensors: loading it executes no code.

        Raises:
            FileNotFoundError: If there is neither such a name nor such a file.
            ValueError: If the file is corrupt, or of another architecture.

        Example:
            >>> from gncadeq import PixelGraphClassifier
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
