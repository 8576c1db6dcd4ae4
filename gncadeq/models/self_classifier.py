"""Every pixel tells the class of its image, from its neighbours' states alone."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from gncadeq.cells.cascade import CascadeCell, Part
from gncadeq.cells.max_propagation import MaxPropagationCell
from gncadeq.cells.propagation import PropagationCell
from gncadeq.check import check_number, check_options, check_type
from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition
from gncadeq.graph.levels import UP, Pyramid
from gncadeq.models.classifier import Classifier
from gncadeq.models.image_classifier import ImageClassifier
from gncadeq.transforms import ImageToGraph
from gncadeq.typing import Adj, OptTensor

_REACH = 32.0  # pixels
_STEPS = 30  # of each part of the classifier, before the averages start


class EvidenceStart(nn.Module):
    """Start the averages at what they are of: the classifier's own parts after a few steps.

    The mean is right from there, and has only to spread: the solver needs fewer steps.

    Args:
        cell: The cascade.
        last: The part whose state is averaged.
    """

    def __init__(self, cell: CascadeCell, last: int) -> None:
        super().__init__()
        self.last = last
        self._cell = [cell]  # whose parameters are counted once

    @torch.no_grad()
    def forward(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
        """The start ``[num_nodes, channels]``."""
        cascade = self._cell[0].prepare(x, edge_index, edge_attr)
        states: list[Tensor] = []
        zeros = x.new_zeros(x.size(0), self._cell[0].channels)
        for stage in cascade.stages[: self.last + 1]:
            step, z = stage.bind(states), stage.take(zeros)
            for _ in range(_STEPS):
                z = step(z)
            states.append(z)
        return cascade.join(states + states[-1:] * (len(cascade.stages) - len(states)))


class SelfClassifier(Classifier):
    r"""A trained classifier of images whose every pixel decides alone, as in `"Self-classifying
    MNIST Digits" <https://distill.pub/2020/selforg/mnist>`_ (Randazzo et al. 2020).

    A classifier of images pools its state :math:`\mathbf{h}` over the nodes of its last level, by
    their mean and maximum. Here two more parts of one :class:`gncadeq.CascadeCell` spread the state
    from neighbour to neighbour instead, and the classifier's own readout decides at every node:

    .. math::
        \mathbf{c}_i' &= (1 - \alpha) \sum_j P_{ij} \, \mathbf{c}_j + \alpha \, \mathbf{h}_i , \\
        \mathbf{m}_i' &= \max \big( \mathbf{h}_i, (1 - \alpha) \max_j \mathbf{m}_j \big) , \\
        \mathbf{y}_i &= \mathrm{readout} (\mathbf{c}_i, \mathbf{m}_i)

    with the Metropolis weights :math:`P` of :class:`gncadeq.PropagationCell`. As :math:`\alpha \to
    0`, :math:`\mathbf{c}_i` is the mean and :math:`\mathbf{m}_i` the maximum over the connected
    part in which :math:`i` is, so nothing is left to train. The whole has a certificate: there is
    one equilibrium, which every start reaches at every fire rate.

    Of pyramids the top level agrees, and a pixel has the label of the node above it.

    Args:
        model: The classifier, whose weights are shared.
        alpha: :math:`\alpha` in (0, 1). By default the average reaches :math:`2^l / \sqrt{2 \alpha}
            = 32` pixels far on the level :math:`l`: 0.00049 on pixels, 0.0078 on the third level.
        deq: Arguments of :class:`gncadeq.GraphDEQ`; by default ``tol`` is :math:`\alpha / 100`, as
            errors of the average may be :math:`1 / \alpha` times its residual, and solves start
            where averages do (:class:`EvidenceStart`).

    Shapes:
        - **input:** as of the classifier. Edges of pixels may have further relations, such as
          those of :class:`gncadeq.transforms.AddShortcuts`: averages use them, the classifier's own
          rule does not.
        - **output:** logits :math:`(|\mathcal{V}|, \text{num\_classes})`

    Example:
        >>> model = SelfClassifier.from_pretrained("mnist-pyramid")
        >>> image = torch.zeros(1, 28, 28)
        >>> image[0, 5:23, 13:16] = 1.0  # a one
        >>> data = model.to_graph(image)
        >>> model(data.x, data.edge_index, data.edge_attr).argmax(1).unique()
        tensor([1])
    """

    def __init__(
        self,
        model: ImageClassifier,
        alpha: float | None = None,
        deq: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_type("model", model, ImageClassifier)
        self.model = model
        own = model.dynamics.cell
        parts: list[Part] = (
            list(own.parts) if isinstance(own, CascadeCell)
            else [Part(own, reads=["x"], relations=range(UP))]
        )  # fmt: skip
        last, level = len(parts) - 1, parts[-1].level
        width = parts[-1].cell.channels
        if alpha is None:
            alpha = (2**level / _REACH) ** 2 / 2
        self.alpha = check_number("alpha", alpha, above=0.0, below=1.0)
        for how in model.pooling:
            cell = (
                PropagationCell(width, alpha, "metropolis") if how == "mean"
                else MaxPropagationCell(width, alpha)
            )  # fmt: skip
            parts.append(Part(cell, reads=[last], level=level, relations="all"))
        self.places = slice(-len(model.pooling), None)
        cascade = CascadeCell(parts, own.in_channels)
        defaults = {
            "tol": alpha / 100, "max_steps": 1000, "start": EvidenceStart(cascade, last),
        }  # fmt: skip
        options = {**defaults, **check_options("deq", deq, GraphDEQ)}
        self.dynamics: GraphDEQ | GraphNCA = GraphDEQ(cascade, **options)

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Self:
        """Of the shipped weights of a classifier, or of a file; see
        :meth:`ImageClassifier.from_pretrained`."""
        return cls(ImageClassifier.from_pretrained(name), **options).eval()

    @property
    def to_graph(self) -> ImageToGraph:
        """Makes the graphs that the classifier is for."""
        return self.model.to_graph

    @property
    def card(self) -> dict[str, Any]:
        """What is known of the classifier's weights."""
        return self.model.card

    @property
    def cell(self) -> CascadeCell:
        """The cascade of the classifier's own parts and of those that spread their state."""
        cell = self.dynamics.cell
        assert isinstance(cell, CascadeCell)
        return cell

    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """What the classifier injects, and all edges."""
        further = None
        if self.cell.levels == 1 and isinstance(edge_index, Tensor) and edge_attr is not None:
            further = edge_attr >= UP
        if further is None or not bool(further.any()):
            return self.model.inject(x, edge_index, edge_attr)
        assert isinstance(edge_index, Tensor)
        assert edge_attr is not None
        u, _, _ = self.model.inject(x, edge_index[:, ~further], edge_attr[~further])
        return u, edge_index, edge_attr

    def read(self, u: Tensor, z: Tensor, edges: Adj, partition: Partition) -> Tensor:
        """Logits of every node ``[num_nodes, num_classes]``."""
        spread = self.cell.places[self.places]
        if self.cell.levels == 1:
            logits: Tensor = self.model.readout.decode(torch.cat([z[:, at] for at in spread], 1))
            return logits
        assert isinstance(edges, Pyramid)
        top = z[edges.levels[-1].rows]
        logits = self.model.readout.decode(torch.cat([top[:, at] for at in spread], 1))
        return logits[edges.top()]
