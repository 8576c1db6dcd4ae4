"""Sudokus as equilibria of a local rule: random starts, and the least residual chooses.

    python examples/sudoku.py --size 4           # a minute
    python examples/sudoku.py                    # 9 × 9
    python examples/sudoku.py --smoke            # seconds

The graph of a puzzle has a node for every digit in every cell (``sudoku_puzzles.py``); the rule is
the same everywhere (``sudoku_rule.py``). As in Equilibrium Reasoners (Huang et al. 2026) it is
trained from random starts with noise along the path, through its last steps; at test more steps
(depth) and more starts (breadth) are taken, and of several starts the one of least residual counts.
Puzzles are generated from seeds, each with one solution; test puzzles come from other grids than
those of training. Measured: puzzles that are right in every cell. Writes ``results.json`` and
``sudoku.png``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sudoku_puzzles import (
    RELATIONS,
    Boxes,
    by_singles,
    core,
    edges,
    jigsaw,
    squares,
    to_graph,
    varied,
)
from sudoku_rule import PuzzleCell
from torch import Tensor, nn

from gncadeq import GraphNCA
from gncadeq.dynamics import best_of
from gncadeq.files.json_files import write_json

_TEST = 1_000_000  # the first seed of test grids


class Puzzles:
    """A batch of puzzles with the same boxes, whose edges are made once.

    Args:
        boxes: The box of every cell.
        count: Puzzles of a batch.
    """

    def __init__(self, boxes: Boxes, count: int) -> None:
        size = int(len(boxes) ** 0.5)
        one, kind = edges(boxes)
        nodes = size**3
        shift = nodes * torch.arange(count)[:, None]
        self.edge_index = (one[:, None] + shift).flatten(1)
        self.kind, self.batch = kind.repeat(count), torch.arange(count).repeat_interleave(nodes)
        self.boxes, self.size, self.count = boxes, size, count
        self.singles, self.least = 0.0, 0

    def fill(self, puzzles: list[tuple[Tensor, Tensor]]) -> Puzzles:
        """With these puzzles: the clues, and the digit of every cell."""
        graphs = [to_graph(*puzzle, self.boxes) for puzzle in puzzles]
        self.x = torch.cat([g.x for g in graphs])
        self.y = torch.cat([g.y for g in graphs]).view(-1, self.size).argmax(1)
        return self

    def run(self, nca: GraphNCA, **options: Any) -> Any:
        """The automaton on all of them."""
        return nca(*self.graph, batch_size=self.count, **options)

    @property
    def graph(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What dynamics take."""
        return self.x, self.edge_index, self.kind, self.batch

    def right(self, scores: Tensor) -> Tensor:
        """``[count]``, which puzzles are right in every cell."""
        return (scores.view(-1, self.size).argmax(1) == self.y).view(self.count, -1).all(1)


class Reasoner(nn.Module):
    """Rule and readout.

    Args:
        channels: Channels of a state.
        hidden: Hidden units.
        noise: Noise along the path in training.
        start: Where it starts, ``"normal"`` or ``"zeros"``.
    """

    def __init__(self, channels: int, hidden: int, noise: float, start: str = "normal") -> None:
        super().__init__()
        self.start = start
        self.cell = PuzzleCell(channels, hidden, len(RELATIONS), noise)
        self.readout = nn.Linear(channels, 1)

    def automaton(self, steps: int, **options: Any) -> GraphNCA:
        """The rule, step by step."""
        return GraphNCA(self.cell, steps, start=self.start, **options)

    def scores(self, z: Tensor) -> Tensor:
        """Of every digit in every cell."""
        size = (z.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.readout(z / size).squeeze(1)


def train(args: argparse.Namespace) -> tuple[Reasoner, float]:
    """Train, and say the CPU seconds that it took."""
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    model = Reasoner(args.channels, args.hidden, args.noise, args.start)
    boxes = squares(args.size)
    cores = [core(boxes, seed) for seed in range(args.grids)]
    puzzles = Puzzles(boxes, args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps + 1, pct_start=0.1, cycle_momentum=False
    )
    begin = time.process_time()
    for step in range(args.steps):
        drawn = rng.choices(cores, k=args.batch)
        puzzles.fill([varied(*c, rng.randint(*args.clues), rng) for c in drawn])
        before, last = rng.randint(0, args.free), rng.randint(2, args.through)
        with torch.no_grad():
            z = puzzles.run(model.automaton(before))
        middle = puzzles.run(model.automaton(args.through - last), z0=z)
        end = puzzles.run(model.automaton(last), z0=middle)
        loss = sum(
            F.cross_entropy(model.scores(z).view(-1, args.size), puzzles.y) for z in (middle, end)
        )
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % args.every == 0 or step + 1 == args.steps:
            right = puzzles.right(model.scores(end.detach())).float().mean()
            print(f"step {step}: loss {loss.item():.4f}, gradient {float(norm):.2f}, right "
                  f"{right:.1%}, {time.process_time() - begin:.0f} CPU s", flush=True)  # fmt: skip
    return model.eval(), time.process_time() - begin


def tests(boxes: Boxes, clues: int, count: int) -> Puzzles:
    """Test puzzles; those of unusual boxes are not moved."""
    rng, usual = random.Random(clues), boxes == squares(int(len(boxes) ** 0.5))
    cores = [core(boxes, _TEST + k) for k in range(count)]
    drawn = [varied(*c, clues, rng, move=usual) for c in cores]
    puzzles = Puzzles(boxes, count).fill(drawn)
    puzzles.singles = sum(by_singles(given, boxes) for given, _ in drawn) / count
    puzzles.least = max(int((torch.tensor(c[0]) > 0).sum()) for c in cores)
    return puzzles


@torch.no_grad()
def measure(
    model: Reasoner, puzzles: Puzzles, args: argparse.Namespace, hard: bool
) -> dict[str, Any]:
    """Shares of the puzzles that are right in every cell, by steps and, if hard, by starts."""
    row: dict[str, Any] = {"singles": puzzles.singles}
    for steps in args.depths:
        z = puzzles.run(model.automaton(steps))
        right = puzzles.right(model.scores(z))
        row[f"{steps} steps"] = float(right.float().mean())
    for starts in args.starts if hard and model.start == "normal" else []:
        nca = model.automaton(args.depths[-1])
        z, best = best_of(nca, *puzzles.graph, starts=starts, batch_size=puzzles.count)
        good = puzzles.right(model.scores(z))
        row[f"{starts} starts"] = float(good.float().mean())
        row["residual where right"] = float(best.residual[good].median())
        row["residual where wrong"] = float(best.residual[~good].median())
    return row


@torch.no_grad()
def rest(model: Reasoner, puzzles: Puzzles, steps: int) -> dict[str, Any]:
    """After many steps, all nodes at once and each with probability ½: right, residual."""
    row = {}
    for fire_rate in (1.0, 0.5):
        nca = model.automaton(steps, fire_rate=fire_rate)
        z, found = puzzles.run(nca, return_solution=True)
        good = puzzles.right(model.scores(z))
        row[f"{steps} steps, fire rate {fire_rate}"] = {
            "right": float(good.float().mean()),
            "residual where right": float(found.residual[good].median()),
        }
    return row


@torch.no_grad()
def draw(model: Reasoner, puzzles: Puzzles, path: Path) -> None:
    """The first puzzle on its way: clues black, right digits blue, wrong ones orange."""
    moments, n = (0, 2, 4, 8, 16, 32), puzzles.size
    figure, axes = plt.subplots(1, len(moments), figsize=(15, 2.8), layout="constrained")
    torch.manual_seed(0)
    _, way = puzzles.run(model.automaton(moments[-1]), return_trajectory=True)
    clue = puzzles.x[: n**3].view(-1, n).argmax(1).where(
        (puzzles.x[: n**3].view(-1, n) > 0).any(1), torch.tensor(-1))  # fmt: skip
    for axis, step in zip(axes, moments, strict=True):
        digit = model.scores(way[step, : n**3]).view(-1, n).argmax(1)
        for k in range(n * n):
            color = "#e67319" if digit[k] != puzzles.y[k] else "#2969b3"
            shown = int(digit[k] if clue[k] < 0 else clue[k]) + 1
            axis.text(k % n + 0.5, k // n + 0.5, str(shown), ha="center", va="center",
                      color="black" if clue[k] >= 0 else color, fontsize=9,
                      weight="bold" if clue[k] >= 0 else "normal")  # fmt: skip
        axis.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xticks=[], yticks=[],
                 title="start" if step == 0 else f"{step} steps")  # fmt: skip
        for k in range(1, n):
            wide = 1.4 if k % int(n**0.5) == 0 else 0.3
            axis.axhline(k, color="#444444", linewidth=wide)
            axis.axvline(k, color="#444444", linewidth=wide)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=9, choices=[4, 9])
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--grids", type=int, default=400, help="grids of training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--free", type=int, default=12, help="most steps without gradient")
    parser.add_argument("--through", type=int, default=8, help="steps to train through")
    parser.add_argument("--steps", type=int, default=1200, help="training steps")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="measure these weights, model.safetensors, train nothing")
    parser.add_argument("--train-only", action="store_true", help="measure nothing")
    parser.add_argument("--start", default="normal", choices=["normal", "zeros"])
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--starts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tests", type=int, default=50, help="test puzzles for each number")
    parser.add_argument("--boxes", nargs="+", default=["squares", "jigsaw"])
    parser.add_argument("--long", type=int, default=2000, help="steps of the run at rest")
    parser.add_argument("--every", type=int, default=50, help="training steps between lines")
    parser.add_argument("--out", default="runs/sudoku")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    args.clues, counts = ((4, 8), (0, 6)) if args.size == 4 else ((24, 40), (0, 28, 32, 40))
    if args.smoke:
        args.size, args.clues, counts = 4, (4, 8), (6,)
        args.steps, args.grids, args.tests, args.long = 3, 4, 4, 8
        args.depths, args.starts = [4, 8], [1, 2]
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="sudoku_")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.model:
        model, seconds = Reasoner(args.channels, args.hidden, args.noise, args.start), 0.0
        model.load_state_dict(load_file(args.model))
        model.eval()
    else:
        model, seconds = train(args)
        save_file(model.state_dict(), out / "model.safetensors")
    if args.train_only:
        return
    used = sum(p.numel() for p in model.parameters())
    print(f"{used} parameters, {seconds:.0f} CPU s", flush=True)
    table: dict[str, Any] = {"parameters": used, "CPU s": seconds}
    for kind in args.boxes:
        boxes = squares(args.size) if kind == "squares" else jigsaw(args.size, 0)
        for clues in counts:
            puzzles = tests(boxes, clues, args.tests)
            name = f"{kind}, {clues or 'fewest'} clues"
            table[name] = measure(
                model, puzzles, args, hard=clues == counts[0] and kind == args.boxes[0]
            )
            table[name] |= {"most clues": max(clues, puzzles.least)}
            print(name, {k: round(v, 6) for k, v in table[name].items()}, flush=True)
            write_json(out / "results.json", table)
    few = tests(squares(args.size), counts[-1], min(8, args.tests))
    draw(model, tests(squares(args.size), counts[min(2, len(counts) - 1)], 1), out / "sudoku.png")
    table["long"] = rest(model, few, args.long)
    print(table["long"])
    write_json(out / "results.json", table)


if __name__ == "__main__":
    main()
