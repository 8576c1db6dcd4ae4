"""Rules that come to rest by construction, and reach far: mazes, pictures, surfaces and chains.

    python examples/acyclic_rules.py                          # all tasks, 3 seeds
    python examples/acyclic_rules.py --tasks mazes --seeds 0 1 2 3 4
    python examples/acyclic_rules.py --smoke                  # seconds

Each rule reads along edges without a cycle (``SweepCell``): nothing bounds its weights, and one
equilibrium is reached from every start. Each is trained as an equilibrium, by implicit
differentiation from the first step on, and measured as an automaton that updates all nodes at once.

- ``mazes``: is a pixel on the way from start to goal? Messages that don't turn back
  (``NonBacktracking``) on mazes of 9 × 9; tested on 25 × 25, 59 × 59 and, with ``--large``,
  on four of 201 × 201.
- ``loops``: the same where 10 or 20 % of the walls between rooms are open as well, so that there
  are loops. Two distances, to start and goal, are a part of the state (``DistanceCell``); they
  order the nodes for sweeps away from both and back.
- ``picture``: a gecko of 24 × 24 pixels grown from a seed, by sweeps from four corners
  (``Sweeps``).
- ``spots``: a pattern grown on a sphere of 642 vertices, by sweeps from one vertex
  (``SurfaceSweeps``).
- ``chains``: IGNN's benchmark, directed, 10 classes and 400 nodes, in single precision.

*error* is the mean squared error of four colours after so many steps; *cut*, with a third of the
nodes reset; *fire ½*, with every node updated with probability ½ a step, for twice as many steps.
*BPTT* is the same training step through as many steps as rest takes, relative to the implicit one.
Prints Markdown tables and writes ``runs/acyclic_rules/table.json``; CPU seconds are this process's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from gncadeq import GraphDEQ, GraphNCA, SweepCell
from gncadeq.analysis import saved_bytes
from gncadeq.cells import SweepGrower
from gncadeq.datasets import maze, primitives
from gncadeq.files.json_files import write_json
from gncadeq.files.weights import save_pretrained
from gncadeq.models import MazeSolver
from gncadeq.training.run import versions
from gncadeq.training.surfaces import pattern_color
from gncadeq.training.targets import read_rgba
from gncadeq.transforms import ImageToGraph, NonBacktracking, SurfaceSweeps, Sweeps

GECKO = Path(__file__).parents[1] / "datasets" / "gecko.png"


class MessageSolver(nn.Module):
    """A message along every directed edge; a label for every node from those that reach it."""

    def __init__(self, channels: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.dynamics: Any = GraphDEQ(SweepCell(3, channels, gain=1.5, noise=0.3))
        self.of_message = nn.Linear(channels, hidden)
        self.of_node = nn.Linear(3, hidden, bias=False)
        self.readout = nn.Linear(hidden, 2)

    def forward(self, data: Batch) -> tuple[Tensor, Any]:
        """Logits of the nodes, and the solution of the messages."""
        z, solution = self.dynamics(
            data.x, data.edge_index, None, data.batch, batch_size=data.num_graphs,
            return_solution=True,
        )  # fmt: skip
        return self.read(z, data), solution

    def read(self, z: Tensor, data: Batch) -> Tensor:
        """Logits of the nodes, given the messages."""
        sums = z.new_zeros(len(data.node_x), self.of_message.out_features)
        sums = sums.index_add(0, data.target_index, self.of_message(z).tanh())
        logits: Tensor = self.readout((self.of_node(data.node_x) + sums).tanh())
        return logits


def solved(model: nn.Module, data: Batch) -> tuple[Tensor, Any]:
    """Logits of the nodes of mazes, and the solution."""
    if isinstance(model, MessageSolver):
        return model(data)  # type: ignore[no-any-return]
    return model(  # type: ignore[no-any-return]
        data.x, data.edge_index, None, data.batch, batch_size=data.num_graphs,
        return_solution=True,
    )  # fmt: skip


def train(
    loss: Callable[[], Tensor], parameters: list[nn.Parameter], steps: int, lr: float, clip: float,
    warm: float,
) -> float:  # fmt: skip
    """Minimise a loss with Adam and a one-cycle rate; the CPU seconds that it took."""
    optimizer = torch.optim.Adam(parameters, lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps + 1, pct_start=warm, cycle_momentum=False
    )
    begin = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        rate.step()
    return time.process_time() - begin


def against_bptt(
    loss: Callable[[Any], Tensor], deq: GraphDEQ, steps: int, given: list[Tensor]
) -> dict[str, Any]:
    """A training step by the implicit gradient, and through as many steps as rest takes.

    The gradients are the same: what differs is the time, and the memory that autograd keeps.
    """
    ways, cell = {"implicit": deq, "bptt": GraphNCA(deq.cell, steps)}, deq.cell
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gradients: dict[str, Tensor] = {}
    for _ in range(3):
        for name, dynamics in ways.items():
            cell.zero_grad()
            begin = time.process_time()
            loss(dynamics).backward()
            seconds[name].append(time.process_time() - begin)
            gradients[name] = torch.cat([p.grad.flatten() for p in cell.parameters()])
    kept = {name: saved_bytes(lambda d=d: loss(d), given) for name, d in ways.items()}
    first, second = gradients.values()
    time_ = {name: sorted(each)[1] for name, each in seconds.items()}
    return {
        "BPTT: CPU time of a step": f"{time_['bptt'] / time_['implicit']:.1f} times",
        "memory kept": f"{kept['bptt'] / kept['implicit']:.1f} times",
        "gradient, relative difference": float((first - second).norm() / second.norm()),
    }


def mazes(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Mazes that are trees: messages that don't turn back."""
    to_messages = NonBacktracking()
    return ways(seed, args, MessageSolver(), to_messages, (0.0,), (0.0,))


def loops(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Mazes with loops: distances order the nodes."""
    return ways(seed, args, MazeSolver(), lambda data: data, (0.1, 0.2), (0.0, 0.1, 0.2))


def ways(
    seed: int, args: argparse.Namespace, model: nn.Module, prepare: Callable[[Data], Data],
    train_loops: tuple[float, ...], test_loops: tuple[float, ...],
) -> dict[str, Any]:  # fmt: skip
    """Train on mazes of 9 × 9, test on larger ones."""
    generator = torch.Generator().manual_seed(seed)
    kinds = train_loops * (8 if args.smoke else 1000 // len(train_loops))
    examples = [prepare(maze(9, generator, opened)) for opened in kinds]

    def loss() -> Tensor:
        chosen = torch.randint(len(examples), (32,), generator=generator).tolist()
        batch = Batch.from_data_list([examples[k] for k in chosen])
        return F.cross_entropy(solved(model, batch)[0], batch.y.long())

    row: dict[str, Any] = {"parameters": count(model)}
    row["CPU s"] = train(loss, list(model.parameters()), 2 if args.smoke else 1000, 0.01, 1.0, 0.1)
    model.eval()
    if isinstance(model, MazeSolver):
        card = {
            "command": f"python examples/acyclic_rules.py --tasks loops --seeds {seed}",
            "versions": versions(),
        }  # fmt: skip
        save_pretrained(model, Path(args.out) / f"mazes_{seed}.safetensors", card)
    batch = Batch.from_data_list(examples[:32])
    deq, most = model.dynamics, int(solved(model, batch)[1].num_steps.max())

    def by(dynamics: Any) -> Tensor:
        model.dynamics = dynamics
        return F.cross_entropy(solved(model, batch)[0], batch.y.long())

    row |= against_bptt(by, deq, most, [*model.parameters(), batch.x, batch.edge_index])
    model.dynamics = deq
    sizes = ((9, 2),) if args.smoke else ((25, 32), (59, 64), (201, 4))[: 3 if args.large else 2]
    for size, number, opened in ((*s, o) for s in sizes for o in test_loops):
        right, nodes, steps, residual = 0, [], 0, 0.0
        for _ in range(number):
            data = Batch.from_data_list([prepare(maze(size, generator, opened))])
            with torch.no_grad():
                logits, solution = solved(model, data)
            good = logits.argmax(1) == data.y.long()
            right, steps = right + int(good.all()), max(steps, int(solution.num_steps))
            residual = max(residual, float(solution.residual))
            nodes.append(float(good.float().mean()))
        name = f"{size}" if len(test_loops) == 1 else f"{size}, {opened:.0%} open"
        row[f"{name}: mazes right"] = f"{right} of {number}"
        row[f"{name}: nodes right"] = f"{sum(nodes) / number:.5f}"
        row[f"{name}: most steps"], row[f"{name}: residual"] = steps, residual
    return row


def picture(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Grow a picture from a seed in its middle."""
    rgba = read_rgba(GECKO, 8 if args.smoke else 24)
    height, width = rgba.shape[1:]
    data = Sweeps()(ImageToGraph()(torch.zeros(1, height, width)))
    data.x[(height // 2) * width + width // 2] = 1.0
    data.color = rgba.flatten(1).T.contiguous()
    return grow(data, SweepGrower(1, 4, 3, 8), 2 if args.smoke else 2500)


def spots(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Grow spots on a sphere from one vertex."""
    mesh = primitives.icosphere(1 if args.smoke else 3)
    front = int(mesh.pos[:, 2].argmax())
    data = SurfaceSweeps(0.6 if args.smoke else 0.15, [front])(mesh)
    data.color = pattern_color("spots", mesh.pos)
    return grow(data, SweepGrower(1, 1, 4, 16), 2 if args.smoke else 1000)


def grow(data: Data, cell: SweepGrower, steps: int) -> dict[str, Any]:
    """Train a cell to end in the colours of a graph; run it as an automaton."""
    graph = data.x, data.edge_index, data.edge_attr
    deq = GraphDEQ(cell)

    def by(dynamics: Any) -> Tensor:
        return F.mse_loss(dynamics(*graph)[:, :4], data.color)

    def loss() -> Tensor:
        return by(deq)

    row: dict[str, Any] = {"parameters": count(cell)}
    row["CPU s"] = train(loss, list(cell.parameters()), steps, 5e-3, 0.1, 0.15)
    cell.eval()

    def error(z: Tensor) -> float:
        return float(F.mse_loss(z[:, :4], data.color))

    with torch.no_grad():
        end, solution = deq(*graph, return_solution=True)
        row["error"], row["steps to rest"] = error(end), int(solution.num_steps)
    row |= against_bptt(by, deq, row["steps to rest"], [*cell.parameters(), *graph])
    with torch.no_grad():
        for number in (32, 64, 10_000) if steps > 2 else (32,):
            z, found = GraphNCA(cell, number)(*graph, return_solution=True)
            row[f"{number} steps"] = error(z)
        row["residual"] = float(found.residual)
        damaged = z.clone()
        damaged[: len(z) // 3] = 0.0
        row["cut, 70 later"] = error(GraphNCA(cell, 70)(*graph, z0=damaged))
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(z.shape, generator=generator)
        row["noise, 200 later"] = error(GraphNCA(cell, 200)(*graph, z0=noise))
        half = GraphNCA(cell, 400, fire_rate=0.5)(*graph, generator=generator)
        row["fire ½, 400 steps"] = error(half)
        row["largest difference at fire ½"] = float((half - z).abs().max())
    return row


def chains(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The class stands in the first node of a chain; 5 % of the nodes are labelled."""
    classes, length, each = (2, 10, 2) if args.smoke else (10, 400, 20)
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(classes).repeat_interleave(each)
    x = torch.zeros(len(kind), length, classes)
    x[torch.arange(len(kind)), 0, kind] = 1.0
    node = torch.arange(len(kind) * length).view(len(kind), length)
    edge_index = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
    y = kind.repeat_interleave(length)
    batch = torch.arange(len(kind)).repeat_interleave(length)
    order = torch.randperm(len(y), generator=generator)
    labelled, test = order[: len(y) // 20], order[len(y) // 20 :]
    deq = GraphDEQ(SweepCell(classes, 16, gain=2.0, init="identity", noise=0.1))
    readout = nn.Linear(16, classes)
    x = x.view(-1, classes)

    def logits(dynamics: Any = deq) -> Tensor:
        out: Tensor = readout(dynamics(x, edge_index, None, batch, batch_size=len(kind)))
        return out

    def loss(dynamics: Any = deq) -> Tensor:
        return F.cross_entropy(logits(dynamics)[labelled], y[labelled])

    parameters = [*deq.parameters(), *readout.parameters()]
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in parameters)}
    row["CPU s"] = train(loss, parameters, 2 if args.smoke else 100, 0.01, 1.0, 0.3)
    deq.eval()
    row |= against_bptt(loss, deq, length, [*parameters, x, edge_index])
    with torch.no_grad():
        right = logits().argmax(1) == y
    row["test accuracy"] = float(right[test].float().mean())
    row["last ten nodes"] = float(right.view(len(kind), length)[:, -10:].float().mean())
    return row


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


TASKS = {"mazes": mazes, "loops": loops, "picture": picture, "spots": spots, "chains": chains}


def shown(value: Any) -> str:
    """A cell of the table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="runs/acyclic_rules")
    parser.add_argument("--large", action="store_true", help="also test mazes of 201 × 201")
    parser.add_argument("--smoke", action="store_true", help="two training steps")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(prefix="acyclic_")
    table: dict[str, list[dict[str, Any]]] = {}
    for name in args.tasks:
        rows = []
        for seed in args.seeds[:1] if args.smoke else args.seeds:
            torch.manual_seed(seed)
            rows.append({"seed": seed, **TASKS[name](seed, args)})
            if len(rows) == 1:
                print(f"\n**{name}**\n")
                print("| " + " | ".join(rows[0]) + " |")
                print("|" + "---|" * len(rows[0]))
            print("| " + " | ".join(map(shown, rows[-1].values())) + " |", flush=True)
        table[name] = rows
    write_json(Path(args.out) / "table.json", table)


if __name__ == "__main__":
    main()
