"""Where the time of a training step goes, operator by operator (torch.profiler).

    python -m benchmarks training_profile --data-root DATA

Forward and backward of 64 living-pixel graphs of MNIST through the shipped model, to a residual of
1e-3; the share of each operator's own CPU time.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    dataset = PixelGraphs(args.data_root, "mnist", True, model.to_graph)
    model.dynamics = GraphDEQ(model.dynamics.cell, "picard", tol=1e-3)

    def step() -> None:
        data = dataset.batch(torch.arange(64))
        logits = model(data.x, data.edge_index, data.edge_attr, data.batch, batch_size=64)
        F.cross_entropy(logits, data.y).backward()

    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(10):
            step()
    table = found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12)
    print(table)


if __name__ == "__main__":
    main()
