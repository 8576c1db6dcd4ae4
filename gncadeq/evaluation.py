"""Measure a classifier on a dataset, as an equilibrium or as an automaton."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from gncadeq.check import check_seed
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import GraphNCA, Solution, Status
from gncadeq.models import ImageClassifier
from gncadeq.models.classifier import Classifier
from gncadeq.progress import progress_bar
from gncadeq.stateful import evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """What was measured on every graph of a dataset.

    Attributes:
        label: ``[num_graphs]``, the right classes.
        prediction: ``[num_graphs]``, the classes that the states decode to; −1 for a graph without
            a finite state.
        residual: ``[num_graphs]``, relative residual of the state that was decoded.
        num_steps: ``[num_graphs]``, steps taken.
        converged: ``[num_graphs]``, whether the residual is within the tolerance.
        answered: ``[num_graphs]``, whether the prediction is an answer: that of an equilibrium that
            was reached, or of an automaton's finite state after its steps.
        seconds: Wall time.
    """

    label: Tensor
    prediction: Tensor
    residual: Tensor
    num_steps: Tensor
    converged: Tensor
    answered: Tensor
    seconds: float

    @property
    def right(self) -> Tensor:
        """``[num_graphs]``, whether a graph's answer is right; one without an answer isn't."""
        return (self.prediction == self.label) & self.answered

    @property
    def accuracy(self) -> float:
        """Share of all graphs with a right answer."""
        return float(self.right.double().mean())

    @property
    def without_answer(self) -> int:
        """Number of graphs without an answer."""
        return int((~self.answered).sum())

    def agreement(self, other: Evaluation) -> float:
        """Share of all graphs to which two evaluations give the same answer."""
        both = self.answered & other.answered
        return float(((self.prediction == other.prediction) & both).double().mean())

    def confusion(self, num_classes: int = 10) -> Tensor:
        """``[num_classes, num_classes]`` counts of answers, right classes in rows."""
        flat = (self.label * num_classes + self.prediction)[self.answered]
        return torch.bincount(flat, minlength=num_classes**2).view(num_classes, num_classes)

    def summary(self) -> dict[str, Any]:
        """The figures that matter, as numbers for JSON."""
        return {
            "without_answer": self.without_answer,
            "accuracy": self.accuracy,
            **solve_summary(self),
        }


def solve_summary(found: Any) -> dict[str, Any]:
    """The residuals, steps and time of an evaluation, as numbers for JSON."""
    q = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.double)
    residual = found.residual.double().nan_to_num(nan=float("inf"))
    quantile = residual.sort().values[((len(residual) - 1) * q).ceil().long()].tolist()
    return {
        "graphs": len(residual),
        "converged": float(found.converged.double().mean()),
        "residual_median": quantile[0],
        "residual_p90": quantile[1],
        "residual_p99": quantile[2],
        "residual_max": quantile[3],
        "steps_mean": float(found.num_steps.double().mean()),
        "steps_max": int(found.num_steps.max()),
        "seconds": round(found.seconds, 2),
    }


@torch.no_grad()
def evaluate(
    model: ImageClassifier,
    dataset: PixelGraphs,
    *,
    index: Tensor | None = None,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = True,
    title: str = "evaluate",
) -> Evaluation:
    """Classify a dataset with the model's present dynamics.

    Args:
        model: The classifier; put an automaton into ``model.dynamics`` to measure that.
        dataset: The graphs.
        index: Which of them; all by default.
        batch_size: Graphs at a time.
        seed: Seed of the dynamics' randomness (Gaussian starts, update masks).
        progress: Whether to show a progress bar.
        title: Its label.
    """
    rows: list[tuple[Tensor, ...]] = []
    start = time.perf_counter()
    answers = batch_answers(model, dataset, index, batch_size, seed, progress, title)
    with closing(answers):  # whatever happens here, the model gets its mode back
        for data, logits, solution, settled in answers:
            lost = (solution.status == Status.NON_FINITE) | ~logits.isfinite().all(1)
            rows.append(
                (data.y, logits.argmax(1).masked_fill(lost, -1), solution.residual,
                 solution.num_steps, solution.converged, settled & ~lost)
            )  # fmt: skip
    columns = (torch.cat(c).cpu() for c in zip(*rows, strict=True))
    label, prediction, residual, steps, converged, answered = columns
    seconds = time.perf_counter() - start
    return Evaluation(label, prediction, residual, steps, converged, answered, seconds)


def batch_answers(
    model: Classifier, dataset: PixelGraphs, index: Tensor | None, batch_size: int, seed: int,
    progress: bool, title: str, transform: Callable[[Batch], Batch] | None = None,
) -> Generator[tuple[Batch, Tensor, Solution, Tensor], None, None]:  # fmt: skip
    """Batches with their logits, solutions, and which graphs have come to an answer ``[B]``."""
    is_automaton = isinstance(model.dynamics, GraphNCA)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(check_seed(seed))
    index = torch.arange(len(dataset)) if index is None else index
    if not len(index):
        raise ValueError("Expected at least one graph to evaluate (got none)")
    parts = torch.split(index, batch_size)
    with evaluation_mode(model):
        for part in progress_bar(parts, desc=title, progress=progress, unit="batch", leave=False):
            # Prepared edges stay where they were made, and as they are.
            prepared = device.type == "cpu" and transform is None
            data = dataset.batch(part, prepared=prepared).to(device)
            data = data if transform is None else transform(data)
            logits, solution = model(
                data.x, data.edge_index, data.edge_attr, batch=data.batch,
                batch_size=data.num_graphs, generator=generator, return_solution=True,
            )  # fmt: skip
            # An automaton's answer is its state after so many steps, at rest or not.
            settled = solution.converged
            if is_automaton:
                settled = settled | (solution.status == Status.MAX_STEPS)
            yield data, logits, solution, settled
