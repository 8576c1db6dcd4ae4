"""The essay's eq. (2) to the letter: what does its equilibrium reach?

    python examples/residual_form.py --data-root DATA
    python examples/residual_form.py --smoke         # seconds, on scikit-learn's digits

At a fixed point of ``z + tanh(K * [u, z])`` the tanh vanishes: the equilibrium solves a linear
system, and on a full grid its mean depends on little more than the mean of ``u``. This trains the
residual form on all pixels and on living pixels, and then measures the same weights

- at true equilibrium (relative residual 1e-3),
- stopped after the solver steps of training, as the essay's solver does, and
- against the same model without any dynamics: an MLP on the mean of ``u``.

Writes ``runs/residual_form/table.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from gncadeq.cells import StencilConv
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import GraphDEQ, Partition
from gncadeq.evaluation import evaluate
from gncadeq.files.json_files import write_json
from gncadeq.models import MeanReadout
from gncadeq.training import TrainConfig
from gncadeq.training.data import EpochBatches, batch_loader
from gncadeq.training.losses import check_gradients
from gncadeq.training.run import train
from gncadeq.transforms import ImageToGraph


def linear_baseline(
    root: str | None, dataset: str, living: float | None, epochs: int, limit: int | None
) -> float:
    """The MLP on the mean of ``u = ReLU(K1 * x)``: the model without its equilibrium."""
    torch.manual_seed(0)
    to_graph = ImageToGraph(living_threshold=living)
    train_set = PixelGraphs(root, dataset, True, to_graph)
    test_set = PixelGraphs(root, dataset, False, to_graph)
    encoder, readout = StencilConv(1, 24), MeanReadout(24, 128, 10)
    encoder.reset_parameters(gain=3.0)
    parameters = [*encoder.parameters(), *readout.parameters()]
    sampler = EpochBatches(torch.arange(len(train_set))[:limit], 64, 0)
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * len(sampler) + 1)

    def logits(data):
        u = encoder(data.x, data.edge_index, data.edge_attr).relu()
        return readout(u, Partition(data.batch, data.num_nodes, data.num_graphs))

    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for data in batch_loader(train_set, sampler):
            optimizer.zero_grad()
            F.cross_entropy(logits(data), data.y).backward()
            check_gradients(readout, epoch)
            optimizer.step()
            cycle.step()
    readout.eval()
    right = 0
    with torch.no_grad():
        for part in torch.arange(len(test_set)).split(250):
            data = test_set.batch(part)
            right += int((logits(data).argmax(1) == data.y).sum())
    return right / len(test_set)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", default="runs/residual_form")
    parser.add_argument("--train-steps", type=int, default=30, help="solver steps in training")
    parser.add_argument("--pixels", nargs="+", default=["living", "all"])
    parser.add_argument("--limit", type=int, help="use only so many training images")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(
            prefix="residual_form_"
        )  # a rehearsal leaves the real place free
    dataset = "digits" if args.smoke else "mnist"
    rows: dict[str, dict[str, float]] = {}
    for pixels in args.pixels:
        living = 0.02 if pixels == "living" else None
        config = TrainConfig(
            dataset=dataset, data_root=args.data_root, out=f"{args.out}/{pixels}",
            epochs=args.epochs, update="residual", contraction=0.9, living_threshold=living,
            solver="anderson", tol=1e-3, max_steps=args.train_steps, start="normal",
            train_limit=args.limit,
        )  # fmt: skip
        began = time.perf_counter()
        model, _ = train(config)
        test_set = PixelGraphs(args.data_root, dataset, False, model.to_graph)
        row: dict[str, float] = {"seconds": time.perf_counter() - began}
        cell = model.dynamics.cell
        for name, solver, steps in (
            ("at equilibrium", "anderson", 600),
            ("stopped as in training", "anderson", args.train_steps),
            ("essay's Broyden, 30 steps", "broyden", 30),
        ):
            model.dynamics = GraphDEQ(
                cell, solver, tol=1e-3, max_steps=steps, start="normal", on_failure="ignore"
            )
            result = evaluate(model, test_set, title=name)
            # Of the state where the solve ended, whether it had converged or not.
            row[name] = float((result.prediction == result.label).double().mean())
            row[f"{name}, converged"] = float(result.converged.double().mean())
        row["mean of u alone"] = linear_baseline(
            args.data_root, dataset, living, args.epochs, args.limit
        )
        rows[pixels] = row
        print(pixels, json.dumps(row, indent=2), flush=True)
    write_json(Path(args.out) / "table.json", rows)


if __name__ == "__main__":
    main()
