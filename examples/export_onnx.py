"""A trained classifier as an automaton in onnxruntime: the same labels as in PyTorch?

    python examples/export_onnx.py --data-root DATA     # DATA/MNIST/raw
    python examples/export_onnx.py --smoke               # seconds, on scikit-learn's digits

Writes the shipped weights to ONNX, once taking edges and once a table of neighbours, and runs them
on test images. Compared are labels and logits with the automaton in PyTorch after as many steps,
and labels with the equilibrium. Writes ``runs/export_onnx/table.json`` and, of how both runtimes
settle step by step, ``settling.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch_geometric.data import Batch

from gncadeq import GraphNCA, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.export import graph_inputs, to_onnx
from gncadeq.files.json_files import write_json

FORMS = ("scatter", "gather")
MOMENTS = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300)


class Runtime:
    """A file in onnxruntime, on as many threads as PyTorch."""

    def __init__(self, path: Path, form: str, channels: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.form, self.channels = form, channels

    def __call__(self, data: Batch, steps: int) -> tuple[Tensor, Tensor, float]:
        """Return the state, the logits and the last step's largest change."""
        feed = graph_inputs(data, self.form)
        feed["z"] = np.zeros((data.num_nodes, self.channels), np.float32)
        feed |= {"steps": np.array(steps), "tol": np.zeros((), np.float32)}
        z, change, logits = self.session.run(["z_last", "change", "logits"], feed)
        return torch.from_numpy(z), torch.from_numpy(logits), float(change)


@torch.no_grad()
def compare(
    model: PixelGraphClassifier, runtimes: dict[str, Runtime], test_set: PixelGraphs, args: Any
) -> dict[str, Any]:
    """Labels and logits of the first test images, by three ways to run the same weights."""
    equilibrium = model.dynamics
    automaton = GraphNCA(equilibrium.cell, steps=args.steps)
    ways: dict[str, list[Tensor]] = {name: [] for name in ("automaton", "equilibrium", *FORMS)}
    for index in torch.arange(args.images).split(args.batch_size):
        data = test_set.batch(index)
        graph = data.x, data.edge_index, data.edge_attr, data.batch
        for name, dynamics in (("automaton", automaton), ("equilibrium", equilibrium)):
            model.dynamics = dynamics
            ways[name].append(model(*graph))
        for form, runtime in runtimes.items():
            ways[form].append(runtime(data, args.steps)[1])
    logits = {name: torch.cat(parts) for name, parts in ways.items()}
    label = {name: value.argmax(1) for name, value in logits.items()}
    truth = test_set.labels[: args.images]
    size = logits["automaton"].abs().max()
    return {
        name: {
            "accuracy": share(label[name] == truth),
            "same_label_as_automaton": share(label[name] == label["automaton"]),
            "same_label_as_equilibrium": share(label[name] == label["equilibrium"]),
            "logit_difference_to_automaton": float(
                (value - logits["automaton"]).abs().max() / size
            ),
        }
        for name, value in logits.items()
    }  # fmt: skip


def share(same: Tensor) -> float:
    """The mean of booleans."""
    return float(same.double().mean())


@torch.no_grad()
def settle(model: PixelGraphClassifier, runtime: Runtime, data: Batch) -> list[dict[str, float]]:
    """How far apart the runtimes are, and how far they still move, step by step."""
    cell = model.dynamics.cell
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    rows = []
    for steps in MOMENTS:
        z, _, change = runtime(data, steps)
        there = GraphNCA(cell, steps=steps)(u, data.edge_index, data.edge_attr, data.batch)
        rows.append(
            {"steps": steps, "change": change, "difference": float((z - there).abs().max())}
        )
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Both on a logarithmic axis."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import open_axes, save_figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    moved = [row for row in rows if row["steps"] > 0]
    steps = [row["steps"] for row in moved]
    axes.plot(steps, [row["change"] for row in moved], "o-", label="largest change in a step")
    axes.plot(
        steps, [row["difference"] for row in moved], "s-",
        label="largest difference, onnxruntime to PyTorch",
    )  # fmt: skip
    axes.legend(frameon=False, loc="best")
    open_axes(axes, xscale="log", yscale="log", xlabel="steps of the automaton", ylabel="state")
    save_figure(figure, path)


def main() -> None:
    """Export, run and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--weights", default="mnist", help="shipped weights, or a file")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", default="runs/export_onnx")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    dataset = "mnist"
    if args.smoke:
        args.weights, dataset, args.images, args.steps = "digits", "digits", 40, 100
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="export_onnx_")
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    model = PixelGraphClassifier.from_pretrained(args.weights)
    test_set = PixelGraphs(args.data_root, dataset, False, model.to_graph)
    channels = model.dynamics.cell.channels
    runtimes, sizes = {}, {}
    for form in FORMS:
        path = to_onnx(model, folder / f"{args.weights}-{form}.onnx", form=form)
        runtimes[form], sizes[form] = Runtime(path, form, channels), path.stat().st_size
    rows = compare(model, runtimes, test_set, args)
    settling = settle(model, runtimes["scatter"], test_set.batch(torch.arange(20)))
    table = {
        "weights": args.weights, "images": args.images, "steps": args.steps, "bytes": sizes,
        "ways": rows, "settling": settling,
    }  # fmt: skip
    write_json(folder / "table.json", table)
    draw(settling, folder / "settling.png")
    print(f"{'':12s} accuracy  label as automaton  as equilibrium  logits differ by")
    for name, row in rows.items():
        print(
            f"{name:12s} {row['accuracy']:8.2%} {row['same_label_as_automaton']:19.2%} "
            f"{row['same_label_as_equilibrium']:15.2%} {row['logit_difference_to_automaton']:17.1e}"
        )
    print(f"{args.images} images, {args.steps} steps; bytes: {sizes}; written to {folder}")


if __name__ == "__main__":
    main()
