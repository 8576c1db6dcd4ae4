"""Measure a classifier on a dataset, as an equilibrium or as an automaton."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gncadeq.check import check_seed
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import GraphNCA, Status
from gncadeq.models import ImageClassifier
from gncadeq.progress import progress_bar


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
        q = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.double)
        residual = self.residual.double().nan_to_num(nan=float("inf"))
        quantile = residual.sort().values[((len(residual) - 1) * q).ceil().long()].tolist()
        return {
            "graphs": len(self.label),
            "without_answer": self.without_answer,
            "accuracy": self.accuracy,
            "converged": float(self.converged.double().mean()),
            "residual_median": quantile[0],
            "residual_p90": quantile[1],
            "residual_p99": quantile[2],
            "residual_max": quantile[3],
            "steps_mean": float(self.num_steps.double().mean()),
            "steps_max": int(self.num_steps.max()),
            "seconds": round(self.seconds, 2),
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
    was_training, is_automaton = model.training, isinstance(model.dynamics, GraphNCA)
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(check_seed(seed))
    index = torch.arange(len(dataset)) if index is None else index
    rows: list[tuple[Tensor, ...]] = []
    start = time.perf_counter()
    parts = torch.split(index, batch_size)
    for part in progress_bar(parts, desc=title, progress=progress, unit="batch", leave=False):
        # Prepared edges stay where they were made.
        data = dataset.batch(part, prepared=device.type == "cpu").to(device)
        logits, solution = model(
            data.x, data.edge_index, data.edge_attr, batch=data.batch,
            batch_size=data.num_graphs, generator=generator, return_solution=True,
        )  # fmt: skip
        converged = solution.status == Status.CONVERGED
        lost = (solution.status == Status.NON_FINITE) | ~logits.isfinite().all(1)
        # An automaton's answer is its state after so many steps, at rest or not.
        settled = converged | (solution.status == Status.MAX_STEPS) if is_automaton else converged
        rows.append(
            (data.y, logits.argmax(1).masked_fill(lost, -1), solution.residual,
             solution.num_steps, converged, settled & ~lost)
        )  # fmt: skip
    model.train(was_training)
    columns = (torch.cat(c).cpu() for c in zip(*rows, strict=True))
    label, prediction, residual, steps, converged, answered = columns
    seconds = time.perf_counter() - start
    return Evaluation(label, prediction, residual, steps, converged, answered, seconds)
