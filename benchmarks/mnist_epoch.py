"""An epoch of MNIST, forward and backward: living pixels, all pixels, and plain TorchDEQ.

    python -m benchmarks mnist_epoch --data-root DATA

The same 15,122 parameters (the shipped weights), the same batches of 64 digits, a relative residual
of 1e-3 in the forward and the backward solve; a training step without the optimiser's. TorchDEQ is
used as its documentation does: a state ``[B, C, H, W]``, ``get_deq(ift=True)``, with Broyden (the
essay's) and with plain iteration. Every way sees the same batch in turn; an epoch is 937 times the
median. That the three dense ways solve the same equation is checked before anything is timed.

Time to 97 % of the test set at true convergence is that of
``gncadeq train mnist --recipe conv --epochs 2``.
Writes ``runs/benchmarks/mnist_epoch.json``.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._measure import alternate, save, show
from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.transforms import ImageToGraph

BATCHES = 937  # of 64, in an epoch of 60,000


class DenseDEQ(nn.Module):
    """The essay's classifier with conv2d and TorchDEQ, around a classifier's own parameters."""

    def __init__(self, model: PixelGraphClassifier, solver: str) -> None:
        super().__init__()
        import torchdeq

        self.model, self.cell = model, model.dynamics.cell
        self.deq = torchdeq.get_deq(
            ift=True, f_solver=solver, b_solver=solver, f_tol=1e-3, b_tol=1e-3, f_max_iter=60,
            b_max_iter=60, f_stop_mode="rel", b_stop_mode="rel",
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images`` ``[B, 1, H, W]``."""
        encoder, cell = self.model.encoder, self.cell
        u = F.conv2d(images, _conv_weight(encoder.weight), encoder.bias, padding=1).relu()
        kx, kz = _conv_weight(cell.weight_x), _conv_weight(cell.state_weight())
        drive = F.conv2d(u, kx, cell.bias, padding=1)

        def step(z: Tensor) -> Tensor:
            return torch.tanh(F.conv2d(z, kz, padding=1) + drive)

        (z,), _ = self.deq(step, torch.zeros_like(drive))
        return self.model.readout.decode(z.mean((2, 3)))


def _conv_weight(stencil: Tensor) -> Tensor:
    weight = stencil.view(3, 3, *stencil.shape[1:]).permute(3, 2, 0, 1)
    return weight.contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    model.card = {}  # which would refuse all pixels, as the weights are those of living ones
    cell = model.dynamics.cell
    living = PixelGraphs(args.data_root, "mnist", True, model.to_graph)
    index = torch.arange(64)
    y = living.labels[index]
    images = living.images[index].float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    full = PixelGraphs(args.data_root, "mnist", True, ImageToGraph())

    def train(logits: Any) -> Any:
        def run() -> None:
            model.zero_grad()
            F.cross_entropy(logits(), y).backward()

        return run

    def ours(dataset: PixelGraphs) -> Any:
        def logits() -> Tensor:
            model.dynamics = GraphDEQ(cell, "picard", tol=1e-3, on_failure="ignore")
            data = dataset.batch(index)  # making the graphs is part of it
            return model(data.x, data.edge_index, data.edge_attr, data.batch, batch_size=64)

        return logits

    dense = {
        f"TorchDEQ {name}, all pixels": DenseDEQ(model, solver)
        for name, solver in (("Broyden", "broyden"), ("fixed_point_iter", "fixed_point_iter"))
    }
    ways = {
        "gncadeq, living pixels": ours(living), "gncadeq, all pixels": ours(full),
        **{name: (lambda d=d: d(images)) for name, d in dense.items()},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for d in dense.values():
            torch.testing.assert_close(d(images), ways["gncadeq, all pixels"](), atol=0.1, rtol=0.1)
        ms = alternate({n: train(w) for n, w in ways.items()}, args.rounds, seconds=120)
    first = ms["gncadeq, living pixels"]
    rows = [
        {"way": name, "ms a batch": t, "minutes an epoch": t * BATCHES / 60_000,
         "times ours": t / first}
        for name, t in ms.items()
    ]  # fmt: skip
    show("MNIST, forward and backward to a residual of 1e-3", rows)
    save("mnist_epoch", rows)


if __name__ == "__main__":
    main()
