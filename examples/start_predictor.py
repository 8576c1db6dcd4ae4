"""What a better start saves: zeros, the solution of the frame before, or a trained predictor.

    python examples/start_predictor.py --data-root DATA
    python examples/start_predictor.py --smoke           # seconds, random images

The shipped ``mnist`` model is left as it is; a predictor ``z0 = h(u)`` of the equilibrium learns
from its solutions (``start_loss``, after Skip DEQ, Pal et al. 2023) and is put in as
``GraphDEQ(start=h)``:

- ``pixel``: each pixel by itself, two linear maps with a tanh between them,
- ``conv``: one convolution and a tanh, like a step of the cell,
- ``two convs``: a convolution, tanh, a convolution.

*before* starts from the solution of another frame: the same digits under Gaussian pixel noise of
that standard deviation. *distance* is that of the start from the solution, relative to it;
*evaluations* are those of the cell, on average over test graphs; *cost* what the start itself costs
(its multiplications a pixel over those of a step); *most* the evaluations of the slowest graph.
Writes ``runs/start_predictor/table.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import Sequential

from gncadeq import GraphDEQ, PixelGraphClassifier, StencilConv
from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import Solution
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients, start_loss

GRAPH = "x, edge_index, edge_attr"


def predictor(name: str, channels: int) -> nn.Module:
    """A map of the injection and the graph to a start."""
    conv = StencilConv(channels, channels), f"{GRAPH} -> x"
    layers = {
        "pixel": [(nn.Linear(channels, 2 * channels), "x -> x"), nn.Tanh(),
                  nn.Linear(2 * channels, channels)],
        "conv": [conv, nn.Tanh()],
        "two convs": [conv, nn.Tanh(), (StencilConv(channels, channels), f"{GRAPH} -> x")],
    }  # fmt: skip
    return Sequential(GRAPH, layers[name])


def cost(start: nn.Module, deq: GraphDEQ) -> float:
    """Multiplications of a start a pixel, in those of a step."""
    weights = [p.numel() for p in start.parameters() if p.dim() > 1]
    return sum(weights) / deq.cell.weight_z.numel()


@torch.no_grad()
def solution(model: PixelGraphClassifier, data: Batch, tol: float, z0=None, start="zeros"):
    """The injection of a batch, and its solution."""
    u = model.encode(data.x, data.edge_index, data.edge_attr)
    deq = GraphDEQ(model.dynamics.cell, tol=tol, max_steps=100, start=start)
    graph = data.edge_index, data.edge_attr, data.batch
    return u, deq(u, *graph, z0=z0, batch_size=data.num_graphs, return_solution=True)[1]


def train(name: str, model: PixelGraphClassifier, known: list, iterations: int) -> nn.Module:
    """A predictor of known solutions (injection, batch, state)."""
    torch.manual_seed(0)
    start = predictor(name, model.dynamics.cell.channels)
    optimizer = torch.optim.Adam(start.parameters(), lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=iterations + 1)
    for i in range(iterations):
        u, data, z = known[i % len(known)]
        optimizer.zero_grad()
        loss = start_loss(start(u, data.edge_index, data.edge_attr), z)
        loss.backward()
        check_gradients(start, i)
        optimizer.step()
        cycle.step()
    print(f"{name}: start_loss {float(loss):.4f} after {iterations} steps", flush=True)
    return start.eval()


def frame_before(data: Batch, noise: float) -> Batch:
    """The same digits in a noisy frame."""
    before = data.clone()
    draw = torch.randn(data.x.shape, generator=torch.Generator().manual_seed(0))
    before.x = (data.x + noise * draw).clamp(0, 1)
    return before


def row(found: list[Solution], starts: list[Tensor], price: float) -> dict[str, float]:
    """What is reported of the solves of all batches."""
    count = torch.cat([s.num_evaluations for s in found]).double()
    gap = [float(start_loss(z0, s.state)) ** 0.5 for z0, s in zip(starts, found, strict=True)]
    return {
        "start": sum(gap) / len(gap), "evaluations": float(count.mean()), "cost": price,
        "sum": float(count.mean()) + price, "most": int(count.max()),
        "converged": float(torch.cat([s.converged for s in found]).double().mean()),
    }  # fmt: skip


def main() -> None:
    """Train the predictors, solve from every start, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--graphs", type=int, default=500, help="test graphs")
    parser.add_argument("--train-graphs", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=300, help="training steps a predictor")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--tol", type=float, nargs="*", default=[1e-3, 1e-6])
    parser.add_argument("--out", default="runs/start_predictor")
    parser.add_argument("--smoke", action="store_true", help="a few random images")
    args = parser.parse_args()
    model = PixelGraphClassifier.from_pretrained("mnist")
    if args.smoke:
        args.iterations = 3
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="start_predictor_")
        tests = [model.to_graph.batch(torch.rand(4, 1, 28, 28))]
        trains = [model.to_graph.batch(torch.rand(4, 1, 28, 28))]
    else:
        parts = [torch.arange(n).split(args.batch_size) for n in (args.train_graphs, args.graphs)]
        trains, tests = (
            [PixelGraphs(args.data_root, "mnist", is_train, model.to_graph).batch(i) for i in part]
            for is_train, part in zip((True, False), parts, strict=True)
        )
    known = []
    for data in trains:
        u, found = solution(model, data, 1e-4)
        known.append((u, data, found.state))
    starts = {
        name: train(name, model, known, args.iterations) for name in ("pixel", "conv", "two convs")
    }
    table: dict[str, dict[str, float]] = {}
    print("\n| tol | start from | distance | evaluations | cost | sum | most | converged |")
    print("|---|---|---|---|---|---|---|---|")
    for tol in args.tol:
        for name in ("zeros", "before, 0.1", "before, 0.02", *starts):
            found, firsts, price = [], [], 0.0
            for data in tests:
                z0, start = None, starts.get(name, "zeros")
                if name.startswith("before"):
                    z0 = solution(model, frame_before(data, float(name.split()[1])), tol)[1].state
                u, one = solution(model, data, tol, z0, start)
                if isinstance(start, nn.Module):
                    price = cost(start, model.dynamics)
                    z0 = start(u, data.edge_index, data.edge_attr).detach()
                found.append(one)
                firsts.append(torch.zeros_like(one.state) if z0 is None else z0)
            table[f"{tol:g} {name}"] = r = row(found, firsts, price)
            print(
                f"| {tol:g} | {name} | {r['start']:.3f} | {r['evaluations']:.1f} | "
                f"{r['cost']:.1f} | {r['sum']:.1f} | {r['most']} | {r['converged']:.0%} |",
                flush=True,
            )
    place = Path(args.out) / "table.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, table)


if __name__ == "__main__":
    main()
