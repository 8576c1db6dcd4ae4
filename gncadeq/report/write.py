"""One page with all analyses of a trained classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gncadeq.check import check_count
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import ConvergenceError
from gncadeq.files.atomic import write_atomically
from gncadeq.models import ImageClassifier
from gncadeq.progress import progress_bar
from gncadeq.report.page import Section, page
from gncadeq.report.sections import Bench


@dataclass(frozen=True)
class Report:
    """All that was measured of a classifier's rule.

    Attributes:
        title: What was measured.
        facts: The rule, the graphs and what is proven, in words.
        numbers: The same in numbers.
        sections: One for each measurement.
    """

    title: str
    facts: dict[str, str]
    numbers: dict[str, Any]
    sections: list[Section]

    def summary(self) -> dict[str, Any]:
        """All numbers, to be written as JSON; a measurement that failed says why."""
        return {
            **self.numbers,
            "measurements": {
                s.title: {"found": s.sentence, "failed": s.failed, **s.numbers}
                for s in self.sections
            },
        }

    def save(self, path: str | Path) -> Path:
        """Write it as one HTML page, which holds its pictures, loads nothing, and is never half."""
        write_atomically(path, page(self.title, self.facts, self.sections).encode())
        return Path(path)


def measure_report(
    model: ImageClassifier,
    dataset: PixelGraphs,
    *,
    graphs: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Measure how a trained classifier's rule behaves.

    Spectra, Lyapunov exponents, path independence, a census of attractors, a basin and the reach
    of information, each with a sentence, a picture and how it was measured. What can't be measured
    says why.

    Args:
        model: The classifier; its cell is analysed, whichever dynamics it runs.
        dataset: Where graphs are drawn from, usually the test set.
        graphs: How many graphs to draw; some analyses use the first 12 or fewer of them.
        seed: Seed of the draw and of all starts.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If ``graphs`` isn't positive, or if the dataset is empty.

    Example:
        >>> import tempfile
        >>> from gncadeq.models import PixelGraphClassifier
        >>> root = tempfile.mkdtemp()
        >>> dataset = PixelGraphs(root, "digits", train=False)
        >>> model = PixelGraphClassifier(channels=2, contraction=0.9)
        >>> measure_report(model, dataset, graphs=1, progress=False).save(f"{root}/page.html").name
        'page.html'
    """
    graphs = check_count("graphs", graphs, 1)
    if len(dataset) == 0:
        raise ValueError("Expected a dataset with graphs (got an empty one)")
    bench = Bench(model, dataset, min(graphs, len(dataset)), seed)
    stages: list[tuple[str, Callable[[], Section]]] = [
        ("Stability of the equilibrium", bench.stability),
        ("Lyapunov exponents", bench.lyapunov),
        ("Path independence", bench.independence),
        ("Attractors of long rollouts", bench.ash),
        ("Basin of an equilibrium", bench.basin),
        ("How far information travels", bench.reach),
    ]
    sections = []
    bar = progress_bar(stages, desc="analyze", unit="analysis", progress=progress, leave=False)
    for title, measure in bar:
        bar.set_postfix_str(title, refresh=True)
        try:
            sections.append(measure())
        except (ConvergenceError, FloatingPointError, ValueError) as error:
            sections.append(Section(title, f"Not measured: {error}", "", failed=True))
    title = f"How a rule for {dataset.name} behaves"
    return Report(title, bench.facts(), bench.numbers(), sections)
