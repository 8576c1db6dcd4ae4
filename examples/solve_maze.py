"""Solve a maze of any size with the shipped weights, as an equilibrium and step by step.

    python examples/solve_maze.py                          # 59 × 59, 10 % of the walls opened
    python examples/solve_maze.py --size 201 --loops 0     # a tree
    python examples/solve_maze.py --smoke                  # seconds

The weights ``mazes`` were trained on mazes of 9 × 9. Prints how many nodes are right, the steps and
the residual of the solve, and how many nodes an automaton of the same weights has right after some
steps. Draws these in ``runs/solve_maze/maze.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq import GraphNCA
from gncadeq.datasets import maze
from gncadeq.models import MazeSolver
from gncadeq.transforms import graph_to_image


@torch.no_grad()
def solve(model: MazeSolver, data: Data) -> Tensor:
    """The probability of each node to be on the way; prints what the solve says of itself."""
    logits, solution = model(data.x, data.edge_index, return_solution=True)
    wrong = int((logits.argmax(1) != data.y).sum())
    print(
        f"{data.num_nodes:,} nodes, a way of {int(data.y.sum()):,}: {wrong:,} wrong at equilibrium,"
        f" after {int(solution.num_steps):,} steps, residual {float(solution.residual):.1e}"
    )
    return logits.softmax(1)[:, 1]


@torch.no_grad()
def step_by_step(model: MazeSolver, data: Data, counts: list[int]) -> dict[str, Tensor]:
    """The same after some steps of the automaton, from zeros."""
    found, z, done, deq = {}, None, 0, model.dynamics
    for count in counts:
        model.dynamics = GraphNCA(deq.cell, count - done)
        z, partition, _ = model.settle(data.x, data.edge_index, z0=z)
        logits, done = model.read(data.x, z, data.edge_index, partition), count
        wrong = int((logits.argmax(1) != data.y).sum())
        print(f"{wrong:,} wrong after {count:,} steps of the automaton")
        found[f"step {count:,}, {wrong:,} wrong"] = logits.softmax(1)[:, 1]
    model.dynamics = deq
    return found


def draw(data: Data, values: dict[str, Tensor], path: Path) -> None:
    """Beliefs as pictures, with the start in green and the goal in blue."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import save_figure

    colors = LinearSegmentedColormap.from_list("way", ["#e8e8e8", "#f5b971", "#d1495b"])
    figure = Figure(figsize=(3 * len(values), 3.3))
    for axis, (title, value) in zip(figure.subplots(1, len(values)), values.items(), strict=True):
        image = graph_to_image(value[:, None], data, fill=float("nan"))[0]
        axis.set_facecolor("#222222")
        axis.imshow(image, cmap=colors, vmin=0, vmax=1, interpolation="nearest")
        for k, color in ((1, "#2a9d3a"), (2, "#1f5fbf")):
            axis.plot(*data.pos[data.x[:, k].argmax()].tolist(), "o", ms=6, color=color, mec="w")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10)
    figure.tight_layout()
    save_figure(figure, path)


def main() -> None:
    """Make a maze, solve it, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=59)
    parser.add_argument("--loops", type=float, default=0.1, help="share of walls that are opened")
    parser.add_argument("--seed", type=int, default=0, help="of the maze")
    parser.add_argument("--weights", default="mazes")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 150, 400])
    parser.add_argument("--out", default="runs/solve_maze")
    parser.add_argument("--smoke", action="store_true", help="a small maze")
    args = parser.parse_args()
    if args.smoke:
        args.size, args.steps = 15, [10, 60]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="solve_maze_")
    data = maze(args.size, torch.Generator().manual_seed(args.seed), args.loops)
    model = MazeSolver.from_pretrained(args.weights)
    values = step_by_step(model, data, args.steps) | {"equilibrium": solve(model, data)}
    draw(data, values, Path(args.out) / "maze.png")


if __name__ == "__main__":
    main()
