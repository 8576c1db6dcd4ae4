"""How far information travels in the shipped models, and in how many steps, as images grow.

    python -m benchmarks reach --data-root DATA

Test images of MNIST, enlarged by bilinear interpolation to 28, 56 and 112 pixels. *steps*: of the
solver to the relative residual 1e-5, the mean of ``--graphs`` images. *radius*: the largest
spectral radius of a step at an equilibrium, of three images. *reach*: the largest distance in
pixels' hops from which a change is felt with at least 1 % of the strength of the nearest, by the
implicit function theorem, the median of three images. A pyramid's steps are those of all levels
together, and its reach is that of a central node of the top level. Writes
``runs/benchmarks/reach.json``.
"""

from __future__ import annotations

import argparse

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from benchmarks._measure import save, show
from gncadeq.analysis import influence_by_hop, leading_eigenvalues
from gncadeq.datasets import PixelGraphs
from gncadeq.models import ImageClassifier
from gncadeq.report.sections import Bench, pixels_of

_FEW = 3


class Enlarged:
    """Test images, enlarged."""

    def __init__(self, dataset: PixelGraphs, model: ImageClassifier, side: int) -> None:
        self.dataset, self.model, self.side, self.name = dataset, model, side, dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor) -> Batch:
        """The graphs of some images."""
        images = self.dataset.images[index].float() / 255
        images = F.interpolate(images, (self.side, self.side), mode="bilinear")
        return self.model.to_graph.batch(images)


def measure(name: str, dataset: PixelGraphs, side: int, graphs: int) -> dict[str, float]:
    """Steps, spectral radius and reach of a shipped model on images of a size."""
    model = ImageClassifier.from_pretrained(name).eval()
    bench = Bench(model, Enlarged(dataset, model, side), graphs, seed=0)
    solved = bench.solved(_FEW)
    radius = max(float(leading_eigenvalues(*bench.one(i), k=4).abs().max()) for i in solved)
    profiles = [influence_by_hop(*bench.felt(i, pixels_of(bench.graphs[i]))) for i in solved]
    reach = sorted(int((p >= 0.01 * p.max()).nonzero().max()) for p in profiles)
    return {
        "nodes": len(bench.z0) / graphs, "converged": int(bench.solution.converged.sum()),
        "steps": float(bench.solution.num_steps.double().mean()), "radius": radius,
        "reach": reach[len(reach) // 2],
    }  # fmt: skip


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--models", nargs="*", default=["mnist", "mnist-tiny", "mnist-pyramid"])
    parser.add_argument("--sides", type=int, nargs="*", default=[28, 56, 112])
    parser.add_argument("--graphs", type=int, default=12)
    args = parser.parse_args()
    rows = []
    for name in args.models:
        model = ImageClassifier.from_pretrained(name)
        dataset = PixelGraphs(args.data_root, "mnist", train=False, to_graph=model.to_graph)
        for side in args.sides:
            row = measure(name, dataset, side, args.graphs)
            rows.append({"weights": f"`{name}`", "side": side, **row})
    show(f"Reach, {args.graphs} images", rows)
    save("reach", rows)


if __name__ == "__main__":
    main()
