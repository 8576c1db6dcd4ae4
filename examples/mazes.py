"""Mazes: a rule trained on 9 × 9 solves 59 × 59, if its end doesn't depend on its start.

    python examples/mazes.py                      # all ways of training
    python examples/mazes.py --models independent fixed --reuse examples/mazes   # measured weights
    python examples/mazes.py --task chains        # train on 20 nodes, test on 100 and 400
    python examples/mazes.py --smoke              # seconds

After Anil et al. 2022 (path independence) and Bansal et al. 2022 (mazes). A pixel knows whether
it is open, start or goal; each learns whether it lies on the way from start to goal. (Chains:
whether the first node is of class A or B.) One ``ConvCell`` and a linear readout, trained on the
smallest size

- ``independent``: backpropagation through the last of a random number of steps, from Gaussian
  starts and from other mazes' end states, with a pressure to be at rest there (``rest_loss``),
- ``restless``: the same without that pressure,
- ``fixed``: through the last 20 of 60 steps from zeros, always: the control,
- ``deq``: as ``GraphDEQ`` with the implicit gradient.

All are then run for ``--test-steps`` steps as an automaton, from zeros and from noise. *nodes* and
*graphs* are the shares of right nodes and of graphs right everywhere; *AA* is the
asymptotic-alignment score, its mean over the graphs; *residual* the median relative residual after
the last step; *settled* the share of graphs that reach ``--tol`` and *steps* the median and largest
number of steps they take. Prints a Markdown table, writes ``runs/mazes/table.json``, weights, and a
picture.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from gncadeq import ConvCell, GraphDEQ, GraphNCA
from gncadeq.analysis import asymptotic_alignment
from gncadeq.analysis.independence import cosine, shuffled
from gncadeq.datasets import maze
from gncadeq.dynamics import Partition, solve
from gncadeq.files.json_files import write_json
from gncadeq.training.losses import check_gradients, rest_loss
from gncadeq.transforms import ImageToGraph, graph_to_image

MODELS = ("independent", "restless", "fixed", "deq")


def chain(length: int, generator: torch.Generator | None = None) -> Data:
    """A row of pixels, the first of class A or B; whether it is B is the target of all."""
    kind = int(torch.randint(2, (), generator=generator))
    image = torch.zeros(3, 1, length)
    image[0], image[1 + kind, 0, 0] = 1, 1
    data = ImageToGraph("von_neumann")(image)
    data.y = torch.full((length,), kind == 1)
    return data


# How a graph of a size is made; the sizes of training and test; test graphs a size; steps without
# and with gradient, drawn from such ranges; those of the control.
TASKS = {
    "mazes": (maze, 9, (9, 25, 59), (64, 32, 8), (30, 90), (8, 30), (40, 20)),
    "chains": (chain, 20, (20, 100, 400), (16, 16, 16), (10, 60), (8, 30), (20, 20)),
}


class Model(nn.Module):
    """A cell and its linear readout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cell = ConvCell(3, channels)
        self.readout = nn.Linear(channels, 2)


def final_state(model: Model, way: str, batch: Batch, last: Tensor, task: str, generator) -> Tensor:
    """The state that a training step looks at; ``last`` is that of the step before."""
    graph = batch.x, batch.edge_index, batch.edge_attr, batch.batch
    before, through, fixed = TASKS[task][4:]
    if way == "deq":
        deq = GraphDEQ(model.cell, "picard", max_steps=100, on_failure="ignore")
        return deq(*graph, batch_size=batch.num_graphs)
    nca = GraphNCA(model.cell)
    if way == "fixed":
        z, count = torch.zeros_like(last), fixed
    else:
        scale = 2 * torch.rand(batch.num_graphs, 1, generator=generator)[batch.batch]
        z = scale * torch.randn(last.shape, generator=generator)
        hostile = torch.rand(batch.num_graphs, 1, generator=generator)[batch.batch] < 0.5
        z = torch.where(hostile, shuffled(last, generator), z)
        count = [int(torch.randint(*span, (), generator=generator)) for span in (before, through)]
    with torch.no_grad():
        z = nca(*graph, z0=z, steps=count[0])
    return nca(*graph, z0=z, steps=count[1])


def train(way: str, args: argparse.Namespace, seed: int) -> Model:
    """Train one model on graphs of the smallest size."""
    make, size = TASKS[args.task][:2]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    graphs = [make(size, generator) for _ in range(args.graphs)]
    model = Model(args.channels)
    z = torch.zeros(args.batch_size * graphs[0].num_nodes, args.channels)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.iterations + 1, pct_start=0.1
    )
    for i in range(args.iterations):
        index = torch.randint(len(graphs), (args.batch_size,), generator=generator)
        batch = Batch.from_data_list([graphs[k] for k in index.tolist()])
        z = final_state(model, way, batch, z.detach(), args.task, generator)
        loss = F.cross_entropy(model.readout(z), batch.y.long())
        pressure = 0.0
        if way == "independent":
            step = model.cell.prepare(batch.x, batch.edge_index, batch.edge_attr)
            pressure = args.rest * rest_loss(step, z)
        optimizer.zero_grad()
        (loss + pressure).backward()
        check_gradients(model, i)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        if (i + 1) % 200 == 0:
            print(f"{way}, seed {seed}, {i + 1}: loss {float(loss):.4f}", flush=True)
    return model.eval()


@torch.no_grad()
def measure(model: Model, batch: Batch, args: argparse.Namespace) -> dict[str, float]:
    """What becomes of a batch of graphs of one size."""
    graph = batch.x, batch.edge_index, batch.edge_attr, batch.batch
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch.num_nodes, model.cell.channels, generator=generator)
    partition, row = Partition(batch.batch, batch.num_nodes), {}
    for name, z0 in (("", None), (" from noise", noise)):
        z, end = GraphNCA(model.cell)(
            *graph, z0=z0, steps=args.test_steps, return_solution=True
        )  # fmt: skip
        right = model.readout(z).argmax(1) == batch.y
        wrong = partition.sum((~right).float())
        row[f"nodes{name}"] = float(right.float().mean())
        row[f"graphs{name}"] = float((wrong == 0).float().mean())
        if z0 is None:
            row["residual"] = median(end.residual.tolist())
    step = model.cell.prepare(*graph[:3])
    zeros, limits = torch.zeros_like(noise), {"tol": args.tol, "max_steps": args.test_steps}
    found = solve(step, zeros, partition, solver="picard", **limits)
    aligned = asymptotic_alignment(
        step, zeros, batch.batch, solver="picard", generator=generator, **limits
    )
    steps = found.num_steps[found.converged].tolist()
    return row | {
        "AA": float(aligned.mean()), "settled": float(found.converged.float().mean()),
        "steps": median(steps) if steps else float("nan"),
        "most": max(steps, default=float("nan")),
    }  # fmt: skip


@torch.no_grad()
def follow(model: Model, batch: Batch) -> None:
    """Wrong nodes of every graph after some steps, and after as many again from a hostile start."""
    graph, done = (batch.x, batch.edge_index, batch.edge_attr, batch.batch), 0
    partition = Partition(batch.batch, batch.num_nodes)
    z = torch.zeros(batch.num_nodes, model.cell.channels)

    def wrong(z: Tensor) -> list[int]:
        return partition.sum((model.readout(z).argmax(1) != batch.y).long()).tolist()

    print(f"way: {partition.sum(batch.y.long()).tolist()}")
    for steps in (10, 100, 300, 600, 1000, 1500, 2000):
        z, end = GraphNCA(model.cell)(*graph, z0=z, steps=steps - done, return_solution=True)
        done = steps
        print(f"wrong after {steps}: {wrong(z)}", flush=True)
    print(f"residual: {[f'{r:.0e}' for r in end.residual.tolist()]}")
    other = shuffled(z, torch.Generator().manual_seed(1))
    other = GraphNCA(model.cell)(*graph, z0=other, steps=done)
    print(f"wrong from other end states: {wrong(other)}")
    print(f"alignment: {[f'{c:.4f}' for c in cosine(z, other, partition).tolist()]}")


@torch.no_grad()
def draw(model: Model, data: Data, path: Path, shown: tuple[int, ...]) -> None:
    """The belief of every pixel to be on the way, after some steps; the truth beside it."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import save_figure

    colors = LinearSegmentedColormap.from_list("way", ["#e8e8e8", "#f5b971", "#d1495b"])
    figure = Figure(figsize=(2 * len(shown) + 2, 2.2))
    axes = figure.subplots(1, len(shown) + 1)
    z = torch.zeros(data.num_nodes, model.cell.channels)
    done = 0
    for axis, steps in zip(axes, (*shown, None), strict=True):
        if steps is None:
            value, title = data.y.float(), "the right way"
        else:
            z = GraphNCA(model.cell)(
                data.x, data.edge_index, data.edge_attr, z0=z, steps=steps - done
            )
            value, done = model.readout(z).softmax(1)[:, 1], steps
            wrong = int(((value > 0.5) != data.y).sum())
            title = f"step {steps:,}, {wrong:,} wrong"
        image = graph_to_image(value[:, None], data, fill=float("nan"))[0]
        axis.set_facecolor("#222222")
        axis.imshow(image, cmap=colors, vmin=0, vmax=1, interpolation="nearest")
        for k, color in ((1, "#2a9d3a"), (2, "#1f5fbf")):
            axis.plot(*data.pos[data.x[:, k].argmax()].tolist(), "o", ms=4, color=color, mec="w")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title)
    figure.tight_layout()
    save_figure(figure, path)


def main() -> None:
    """Train, measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mazes", choices=list(TASKS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--graphs", type=int, default=1000, help="training graphs")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--rest", type=float, default=1.0, help="weight of the pressure to rest")
    parser.add_argument("--test-steps", type=int, default=2000)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--out", default="runs/mazes")
    parser.add_argument("--reuse", help="a folder of weights to measure instead of training")
    parser.add_argument("--follow", action="store_true", help="every one of the largest graphs")
    parser.add_argument("--smoke", action="store_true", help="two models, ten steps, small mazes")
    args = parser.parse_args()
    make, _, sizes, counts = TASKS[args.task][:4]
    if args.smoke:
        args.models, args.iterations, args.graphs, args.test_steps = MODELS[::3], 10, 32, 50
        sizes, counts = sizes[:2], (4, 4)
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="mazes_")  # a rehearsal leaves the real place free
    generator = torch.Generator().manual_seed(12345)
    tests = {
        size: Batch.from_data_list([make(size, generator) for _ in range(count)])
        for size, count in zip(sizes, counts, strict=True)
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    place = out / "table.json"
    table = json.loads(place.read_text()) if place.exists() else {}
    lines = []
    for way in args.models:
        for seed in args.seeds:
            name = f"{args.task}_{way}_{seed}.safetensors"
            if args.reuse:
                model = Model(args.channels).eval()
                model.load_state_dict(load_file(Path(args.reuse) / name))
            else:
                model = train(way, args, seed)
                save_file(model.state_dict(), out / name)
            if args.follow:
                follow(model, tests[sizes[-1]])
                continue
            for size, batch in tests.items():
                row = measure(model, batch, args)
                table[f"{args.task} {way} {size} seed {seed}"] = row
                lines.append(f"| {way} | {seed} | {size} | {line(row)} |")
                print(lines[-1], flush=True)
            write_json(place, table)
            if args.task == "mazes":
                data = tests[sizes[-1]][0]
                draw(model, data, out / f"{way}_{seed}.png", (10, 100, 1000))
    parameters = sum(p.numel() for p in Model(args.channels).parameters())
    print(f"\n{parameters:,} parameters; from zeros, and from noise\n")
    print("| model | seed | size | nodes | graphs | AA | residual | settled | steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def line(row: dict[str, float]) -> str:
    """The cells of a row of the table."""
    return (
        f"{row['nodes']:.4f}, {row['nodes from noise']:.4f} | {row['graphs']:.2f}, "
        f"{row['graphs from noise']:.2f} | {row['AA']:.4f} | {row['residual']:.1e} | "
        f"{row['settled']:.2f} | {row['steps']:.0f}, {row['most']:.0f}"
    )


if __name__ == "__main__":
    main()
