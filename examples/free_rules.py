"""Rules that nothing bounds: Jacobian regularisation, the flow, and the inexact gradients.

    python examples/free_rules.py                # three seeds, scikit-learn's digits
    python examples/free_rules.py --smoke        # seconds

A convolution classifies digits at equilibrium (``PixelGraphClassifier``), in the form z' = tanh(K *
[u, z]) without a bound on K. Jacobian regularisation (Bai et al. 2021) adds a weight times the mean
square of the step's Jacobian at the equilibrium (``jacobian_penalty``) to the loss. *bound* is the
same model with ``contraction=0.9`` and no penalty.

Of each trained model, on the test digits:

- accuracy, as an equilibrium (tolerance 1e-4) and as an automaton of 1,000 steps from zeros, also
  with steps of a quarter's length;
- the spectral radius of the step there, the largest of 20 digits;
- the share of graphs solved to 1e-6 in 200 evaluations, and the evaluations of those that are, by
  plain steps (``picard``), by the flow dz/dt = f(z) - z with adaptive steps for every graph
  (``flow``: a continuous DEQ, Pal et al. 2023), by Anderson's method and by ``auto``;
- with ``--skip``, a Skip DEQ (Pal et al. 2023): two convolutions predict the start of every solve
  and are trained along with the model (``start_loss``); evaluations of ``auto`` from zeros and from
  the predicted start, at three tolerances;
- the cosine of the phantom (five steps) and of the one-step gradient to the implicit one.

Writes ``results.json`` and ``solvers.png``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from bars import draw_bars
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import Sequential

from gncadeq import GraphDEQ, GraphNCA, PixelGraphClassifier, StencilConv
from gncadeq.analysis import leading_eigenvalues
from gncadeq.datasets import PixelGraphs
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients, jacobian_penalty, start_loss

GRAPH = "x, edge_index, edge_attr"
SOLVERS = ("picard", "flow", "anderson", "auto")
GRADIENTS = {"phantom": {"gradient": "phantom", "phantom_steps": 5}, "one step": {
    "gradient": "one_step"}}  # fmt: skip


def make(contraction: float | None, seed: int, args: argparse.Namespace) -> PixelGraphClassifier:
    """A fresh model."""
    torch.manual_seed(seed)
    solve = {"tol": 1e-3, "max_steps": 60, "solver": args.solver}
    model = PixelGraphClassifier(
        channels=args.channels, hidden_channels=32, contraction=contraction,
        transform={"living_threshold": 0.1}, deq=solve,
    )  # fmt: skip
    if args.skip:
        c = args.channels
        conv = [(StencilConv(c, c), f"{GRAPH} -> x"), nn.Tanh()]
        start = Sequential(GRAPH, [*conv, (StencilConv(c, c), f"{GRAPH} -> x"), nn.Tanh()])
        model.dynamics = GraphDEQ(model.dynamics.cell, start=start, **solve)
    return model


def train(model: PixelGraphClassifier, weight: float, args: argparse.Namespace) -> float:
    """Train with the penalty; the CPU seconds that it took."""
    data = PixelGraphs(args.data_root, "digits", True, model.to_graph)
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batches = len(data) // args.batch_size if not args.smoke else 3
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-2, total_steps=args.epochs * batches + 1, cycle_momentum=False
    )
    begin = time.process_time()
    for epoch in range(args.epochs):
        for index in torch.randperm(len(data), generator=order).split(args.batch_size)[:batches]:
            batch = data.batch(index)
            graph = batch.x, batch.edge_index, batch.edge_attr
            logits, found = model(*graph, batch.batch, return_solution=True)
            loss = F.cross_entropy(logits, batch.y)
            if weight or args.skip:
                injected = model.inject(*graph)
            if weight:
                step = model.dynamics.cell.prepare(*injected)
                loss = loss + weight * jacobian_penalty(step, found.state)
            if args.skip:
                first = model.dynamics.start(injected[0].detach(), *injected[1:])
                loss = loss + args.skip * start_loss(first, found.state)
            optimizer.zero_grad()
            loss.backward()
            check_gradients(model, epoch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
    return time.process_time() - begin


@torch.no_grad()
def accuracy(model: PixelGraphClassifier, batch: Batch, dynamics: Any) -> float:
    """The share of right labels by a dynamics."""
    before, model.dynamics = model.dynamics, dynamics
    logits = model(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    model.dynamics = before
    return float((logits.argmax(1) == batch.y).float().mean())


def gradient(model: PixelGraphClassifier, batch: Batch, **options: Any) -> torch.Tensor:
    """The gradient of the loss to the cell's parameters."""
    before = model.dynamics
    model.dynamics = GraphDEQ(before.cell, tol=1e-6, max_steps=200, **options)
    model.zero_grad()
    logits = model(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    F.cross_entropy(logits, batch.y).backward()
    model.dynamics = before
    return torch.cat([p.grad.flatten() for p in before.cell.parameters()])


def measure(model: PixelGraphClassifier, args: argparse.Namespace) -> dict[str, Any]:
    """All that is reported of a model."""
    tests = PixelGraphs(args.data_root, "digits", False, model.to_graph)
    count = 20 if args.smoke else len(tests)
    batch, cell = tests.batch(torch.arange(count)), model.dynamics.cell
    row: dict[str, Any] = {
        "accuracy": accuracy(model, batch, GraphDEQ(cell, tol=1e-4, max_steps=200)),
        "as an automaton": accuracy(model, batch, GraphNCA(cell, 1000)),
        "at step size ¼": accuracy(model, batch, GraphNCA(cell, 1000, step_size=0.25)),
    }
    with torch.no_grad():
        injected = model.inject(batch.x, batch.edge_index, batch.edge_attr)
        for solver in SOLVERS:
            deq = GraphDEQ(cell, solver=solver, tol=1e-6, max_steps=200)
            _, found = deq(*injected, batch.batch, batch_size=count, return_solution=True)
            solved = found.converged
            spent = found.num_evaluations[solved].double()
            row[solver] = {
                "solved": float(solved.double().mean()),
                "evaluations": float(spent.mean()) if len(spent) else None,
            }
        if args.skip:
            for tol in (1e-2, 1e-3, 1e-6):
                for name, start in (("zeros", "zeros"), ("predicted", model.dynamics.start)):
                    deq = GraphDEQ(cell, tol=tol, max_steps=200, start=start)
                    _, found = deq(*injected, batch.batch, batch_size=count, return_solution=True)
                    row[f"from {name}, {tol:g}"] = float(found.num_evaluations.double().mean())
    few = tests.batch(torch.arange(20))
    graph = model.inject(few.x, few.edge_index, few.edge_attr)
    deq = GraphDEQ(cell, tol=1e-6, max_steps=400)
    with torch.no_grad():
        z = deq(*graph, few.batch, batch_size=20)
        step = cell.prepare(*graph)
    leading = leading_eigenvalues(step, z, 1)[0]
    row["eigenvalue"] = [float(leading.real), float(leading.imag)]
    exact = gradient(model, few)
    for name, options in GRADIENTS.items():
        other = gradient(model, few, **options)
        row[f"cosine, {name}"] = float(F.cosine_similarity(exact, other, 0))
    return row


def main() -> None:
    """Train with every weight, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0, 10.0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--channels", type=int, default=12)
    parser.add_argument("--solver", default="auto", help="in training")
    parser.add_argument("--skip", type=float, default=0.0, help="weight of the start's loss")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="runs/free_rules")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.seeds, args.weights, args.channels = 1, [0], [0.0, 1.0], 4
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="free_rules_")
    table: dict[str, list[dict[str, Any]]] = {}
    ways = [(f"penalty {w:g}", None, w) for w in args.weights] + [("bound", 0.9, 0.0)]
    for name, contraction, weight in ways:
        for seed in args.seeds:
            model = make(contraction, seed, args)
            seconds = train(model, weight, args)
            row = {"seed": seed, "CPU seconds": seconds, **measure(model.eval(), args)}
            table.setdefault(name, []).append(row)
            print(name, row, flush=True)
        write_json(Path(args.out) / "results.json", table)
    report(table)
    draw(table, Path(args.out) / "solvers.png")


def draw(table: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """How many graphs each solver solves, and by how many evaluations, in means over seeds."""
    solved, spent = {}, {}
    for name, rows in table.items():
        solved[name] = {s: mean(100 * row[s]["solved"] for row in rows) for s in SOLVERS}
        each = {s: [row[s]["evaluations"] for row in rows] for s in SOLVERS}
        spent[name] = {s: mean(e) for s, e in each.items() if None not in e}
    draw_bars({"graphs solved, %": solved, "evaluations of the rule": spent}, path)


def report(table: dict[str, list[dict[str, Any]]]) -> None:
    """Print means over seeds as Markdown."""
    extra = [c for c in next(iter(table.values()))[0] if c.startswith("from ")]
    columns = [
        *extra, "accuracy", "as an automaton", "at step size ¼", "cosine, phantom",
        "cosine, one step", "CPU seconds",
    ]  # fmt: skip
    print("\n| | " + " | ".join(columns) + " | largest modulus | " + " | ".join(SOLVERS) + " |")
    print("|---" * (len(columns) + len(SOLVERS) + 2) + "|")
    for name, rows in table.items():
        cells = [f"{mean(r[c] for r in rows):.4g}" for c in columns]
        cells.append(f"{mean(abs(complex(*r['eigenvalue'])) for r in rows):.3g}")
        for solver in SOLVERS:
            spent = [r[solver]["evaluations"] for r in rows if r[solver]["evaluations"] is not None]
            solved = mean(r[solver]["solved"] for r in rows)
            cells.append(f"{solved:.1%}" + (f", {mean(spent):.1f}" if spent else ""))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
