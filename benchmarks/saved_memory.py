"""Bytes that a training step keeps for its backward pass: implicit against unrolled.

    python -m benchmarks saved_memory --data-root DATA

A batch of 64 living-pixel graphs of MNIST through the shipped model; the bytes of the distinct
tensors that autograd saves between forward and backward.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from gncadeq import GraphDEQ, GraphNCA, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs


def saved_megabytes(model: PixelGraphClassifier, data) -> float:
    """Distinct storages that autograd keeps for one loss, the model's parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(data.x, data.edge_index, data.edge_attr, data.batch)
        loss = F.cross_entropy(logits, data.y)
    megabytes = sum(sizes.values()) / 1e6
    loss.backward()
    return megabytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    data = PixelGraphs(args.data_root, "mnist", True, model.to_graph).batch(torch.arange(64))
    cell = model.dynamics.cell
    ways = {
        "IFT, 10 solver steps": GraphDEQ(cell, "picard", tol=1e-30, max_steps=10),
        "IFT, 1000 solver steps": GraphDEQ(cell, "picard", tol=1e-30, max_steps=1000),
        "phantom, 5 steps": GraphDEQ(cell, gradient="phantom", phantom_steps=5),
        "BPTT, 32 steps": GraphNCA(cell, 32),
        "BPTT, 64 steps": GraphNCA(cell, 64),
        "BPTT, 64 steps, checkpoint_every='sqrt'": GraphNCA(cell, 64, checkpoint_every="sqrt"),
    }
    for name, dynamics in ways.items():
        if isinstance(dynamics, GraphDEQ):
            dynamics.on_failure = "ignore"
        model.dynamics = dynamics
        print(f"{name:42s} {saved_megabytes(model, data):7.1f} MB")


if __name__ == "__main__":
    main()
