"""Labels of single nodes, measured as those of whole graphs: right, and agreed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from gncadeq.datasets import PixelGraphs
from gncadeq.evaluation import batch_answers, solve_summary
from gncadeq.models import SelfClassifier


@dataclass(frozen=True)
class CellLabels:
    """What was measured on the nodes of many graphs that each decide for their graph.

    The measures of `"Self-classifying MNIST Digits" <https://distill.pub/2020/selforg/mnist>`_, and
    two more. Graphs without nodes that count are left out of all but the first.

    Attributes:
        prediction: ``[num_cells]``, the class that each node decides for; −1 for none.
        graph: ``[num_cells]``, its graph, ascending.
        label: ``[num_graphs]``, the right classes.

    Example:
        >>> prediction, graph = torch.tensor([3, 3, 5, 5, 7]), torch.tensor([0, 0, 1, 1, 1])
        >>> labels = CellLabels(prediction, graph, label=torch.tensor([3, 5]))
        >>> labels.accuracy, labels.agreement, labels.majority, labels.right_and_agreed
        (0.8, 0.5, 1.0, 0.5)
    """

    prediction: Tensor
    graph: Tensor
    label: Tensor

    @property
    def accuracy(self) -> float:
        """Share of the nodes of all graphs together that decide for the right class."""
        return float((self.prediction == self.label[self.graph]).double().mean())

    @property
    def agreement(self) -> float:
        """Share of the graphs all of whose nodes decide for the same class, right or wrong."""
        return self._share(self._votes().amax(1) == self._sizes())

    @property
    def majority(self) -> float:
        """Share of the graphs whose most frequent class is the right one; the smallest of those
        that are as frequent counts."""
        return self._share(self._votes().argmax(1) == self.label)

    @property
    def right_and_agreed(self) -> float:
        """Share of the graphs all of whose nodes decide for the right class."""
        own = self._votes().gather(1, self.label.unsqueeze(1)).squeeze(1)
        return self._share(own == self._sizes())

    def same(self, other: CellLabels) -> float:
        """Share of the nodes that decide for the same class in both."""
        both = (self.prediction == other.prediction) & (self.prediction >= 0)
        return float(both.double().mean())

    def summary(self) -> dict[str, float]:
        """The four measures by name."""
        return {
            "cell_accuracy": self.accuracy, "total_agreement": self.agreement,
            "majority": self.majority, "right_and_agreed": self.right_and_agreed,
        }  # fmt: skip

    @classmethod
    def join(cls, found: Sequence[CellLabels]) -> CellLabels:
        """Those of several batches as one."""
        before, graph = 0, []
        for labels in found:
            graph.append(labels.graph + before)
            before += len(labels.label)
        prediction = torch.cat([labels.prediction for labels in found])
        return cls(prediction, torch.cat(graph), torch.cat([labels.label for labels in found]))

    def _votes(self) -> Tensor:
        """``[num_graphs, classes]``, the nodes of each graph that decide for each class."""
        classes = 1 + int(torch.cat([self.prediction, self.label, self.label.new_zeros(1)]).max())
        counted = self.prediction >= 0
        flat = (self.graph * classes + self.prediction)[counted]
        return torch.bincount(flat, minlength=classes * len(self.label)).view(-1, classes)

    def _sizes(self) -> Tensor:
        return torch.bincount(self.graph, minlength=len(self.label))

    def _share(self, of: Tensor) -> float:
        return float(of[self._sizes() > 0].double().mean())


def cell_labels(
    output: Tensor, batch: Tensor | None, y: Tensor, mask: Tensor | None = None
) -> CellLabels:
    """The decisions of nodes, to be measured.

    Args:
        output: Classes ``[num_nodes]``, or logits ``[num_nodes, classes]``, of which the largest
            counts; a node without a finite logit decides for none.
        batch: The graph of every node, ascending; ``None`` for one graph.
        y: The right class of every graph ``[num_graphs]``.
        mask: Which nodes count; all by default.

    Raises:
        ValueError: If shapes don't fit.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
        >>> cell_labels(logits, None, torch.tensor([1]), torch.tensor([True, False, True])).accuracy
        1.0
    """
    nodes = output.size(0) if output.dim() else 0
    shapes = {"batch": batch, "mask": mask}
    wrong = [n for n, v in shapes.items() if v is not None and list(v.shape) != [nodes]]
    if output.dim() not in (1, 2) or wrong:
        got = {n: None if v is None else list(v.shape) for n, v in shapes.items()}
        raise ValueError(
            "Expected labels [num_nodes] or logits [num_nodes, classes], and 'batch' and 'mask' of "
            f"shape [num_nodes] (got output {list(output.shape)}, {got})"
        )
    if output.dim() == 2:
        output = output.argmax(1).masked_fill(~output.isfinite().all(1), -1)
    graph = output.new_zeros(nodes) if batch is None else batch
    if graph.numel() and int(graph.max()) >= len(y):
        raise ValueError(
            f"Expected a class in 'y' for each graph of 'batch', {int(graph.max()) + 1} (got "
            f"{len(y)})"
        )
    if mask is not None:
        output, graph = output[mask], graph[mask]
    return CellLabels(output.long().cpu(), graph.cpu(), y.view(-1).cpu())


@dataclass(frozen=True)
class CellEvaluation:
    """What :func:`evaluate_cells` measured.

    Attributes:
        labels: The decisions of all living pixels.
        residual: ``[num_graphs]``, relative residual of the state that was decoded.
        num_steps: ``[num_graphs]``, steps taken, those of the parts added up.
        converged: ``[num_graphs]``, whether the residual is within the tolerance.
        seconds: Wall time.
    """

    labels: CellLabels
    residual: Tensor
    num_steps: Tensor
    converged: Tensor
    seconds: float

    @property
    def without_answer(self) -> int:
        """Number of graphs that are not at rest."""
        return int((~self.converged).sum())

    def summary(self) -> dict[str, Any]:
        """The figures that matter, as numbers for JSON."""
        return {**self.labels.summary(), **solve_summary(self)}


@torch.no_grad()
def evaluate_cells(
    model: SelfClassifier,
    dataset: PixelGraphs,
    *,
    index: Tensor | None = None,
    grey: float = 0.1,
    transform: Callable[[Batch], Batch] | None = None,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = True,
    title: str = "evaluate",
) -> CellEvaluation:
    """Let every pixel of every image decide, with the model's present dynamics.

    Pixels of a graph whose equilibrium was not reached, or whose state isn't finite, decide for no
    class.

    Args:
        model: The classifier; put an automaton into ``model.dynamics`` to measure that.
        dataset: The graphs.
        index: Which of them; all by default.
        grey: Pixels brighter than this count; 0.1 is the publication's.
        transform: Applied to each batch, such as :class:`gncadeq.transforms.AddShortcuts`.
        batch_size: Graphs at a time.
        seed: Seed of the dynamics' randomness (Gaussian starts, update masks).
        progress: Whether to show a progress bar.
        title: Its label.
    """
    found: list[CellLabels] = []
    rows: list[tuple[Tensor, ...]] = []
    start = time.perf_counter()
    answers = batch_answers(model, dataset, index, batch_size, seed, progress, title, transform)
    with closing(answers):  # whatever happens here, the model gets its mode back
        for data, logits, solution, settled in answers:
            logits = logits.masked_fill(~settled[data.batch].unsqueeze(1), float("nan"))
            counts = data.x.amax(1) > grey
            if "level" in data:
                counts &= data.level == 0
            found.append(cell_labels(logits, data.batch, data.y, counts))
            rows.append((solution.residual, solution.num_steps, solution.converged))
    residual, steps, converged = (torch.cat(c).cpu() for c in zip(*rows, strict=True))
    seconds = time.perf_counter() - start
    return CellEvaluation(CellLabels.join(found), residual, steps, converged, seconds)
