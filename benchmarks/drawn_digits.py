"""Digits as people draw them, in the page of ``gncadeq play``.

Every digit is drawn from polylines in one of several habits, bent, slanted, stretched and shaken by
a seed, with strokes of many widths, sizes and places; nothing of MNIST is in them. The strokes go
onto the page's own paper, which fits its cells to them, and the rule takes some steps from zeros in
the page's own kernel, under node.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from benchmarks._measure import save, show
from benchmarks._node import run_node
from gncadeq.models import ImageClassifier
from gncadeq.viz.play import digit_scene

# Habits of each digit, in a box of 10 × 20; a pen lifts between lists.
_HABITS: dict[int, list[list[list[tuple[float, float]]]]] = {
    0: [
        [[(5, 0), (2, 2), (0, 7), (0, 13), (2, 18), (5, 20), (8, 18), (10, 13), (10, 7), (8, 2),
          (5, 0)]],
        [[(7, 1), (4, 0), (1, 3), (0, 9), (1, 16), (4, 20), (7, 19), (9, 14), (9, 7), (8, 3),
          (5, 1)]],
    ],
    1: [
        [[(5, 0), (5, 7), (5, 14), (5, 20)]],
        [[(7, 0), (6, 7), (4, 14), (3, 20)]],
        [[(3, 4), (6, 0), (6, 10), (6, 20)]],
    ],
    2: [
        [[(1, 5), (2, 1), (5, 0), (8, 1), (9, 5), (7, 10), (4, 15), (0, 20), (5, 20), (10, 20)]],
        [[(1, 4), (4, 0), (8, 1), (9, 5), (6, 11), (2, 17), (1, 20), (3, 18), (6, 19), (10, 20)]],
    ],
    3: [
        [[(1, 2), (4, 0), (8, 1), (9, 5), (7, 9), (4, 10), (8, 11), (10, 15), (8, 19), (4, 20),
          (0, 18)]],
        [[(0, 1), (5, 0), (9, 2), (8, 7), (4, 9), (8, 11), (9, 16), (6, 20), (1, 19)]],
    ],
    4: [
        [[(2, 0), (1, 6), (0, 11), (5, 11), (10, 11)], [(8, 2), (7, 10), (7, 20)]],
        [[(7, 20), (7, 10), (7, 0), (3, 7), (0, 13), (5, 13), (10, 13)]],
    ],
    5: [
        [[(9, 0), (5, 0), (1, 0), (1, 8), (5, 7), (9, 10), (9, 16), (6, 20), (0, 19)]],
        [[(1, 1), (1, 8), (5, 7), (9, 11), (8, 17), (4, 20), (0, 18)], [(1, 1), (5, 0), (9, 0)]],
    ],
    6: [
        [[(8, 0), (4, 4), (1, 10), (0, 15), (3, 20), (7, 19), (9, 15), (7, 11), (3, 12), (1, 15)]],
        [[(5, 0), (2, 6), (0, 13), (2, 19), (6, 20), (9, 17), (9, 13), (5, 11), (1, 14)]],
    ],
    7: [
        [[(0, 1), (5, 1), (10, 0), (7, 7), (5, 14), (3, 20)]],
        [[(0, 1), (5, 1), (10, 0), (7, 8), (5, 14), (4, 20)], [(3, 10), (6, 10), (9, 10)]],
    ],
    8: [
        [[(8, 2), (5, 0), (1, 2), (1, 6), (5, 9), (9, 13), (9, 18), (5, 20), (1, 18), (1, 13),
          (5, 9), (9, 6), (8, 2)]],
        [[(5, 0), (1, 2), (1, 7), (5, 10), (9, 7), (9, 2), (5, 0)],
         [(5, 10), (0, 13), (1, 19), (5, 20), (9, 19), (10, 13), (5, 10)]],
    ],
    9: [
        [[(9, 4), (6, 0), (2, 1), (0, 5), (2, 9), (6, 9), (9, 5), (9, 12), (8, 20)]],
        [[(8, 2), (4, 0), (1, 3), (1, 8), (5, 10), (8, 6), (9, 2), (8, 11), (6, 20)]],
    ],
}  # fmt: skip

DRIVER = """
const lines = require("fs").readFileSync(0, "utf8").split("\\n"), info = JSON.parse(lines[0]);
info.columns = 42;
const scene = new DigitScene(info);
for (const line of lines.slice(1)) if (line) {
  const { strokes, width } = JSON.parse(line);
  scene.clear();
  for (const stroke of strokes) for (let k = 1; k < stroke.length; k++) {
    scene.paper.stroke(stroke[k - 1], stroke[k], width);
  }
  scene.edited = true;
  scene.reset();
  for (let t = 0; t < info.steps; t++) scene.step(1);
  const cells = scene.beliefs().label.filter(v => v >= 0);
  console.log(JSON.stringify({ votes: scene.votes(), cells }));
}
"""


def drawing(digit: int, rng: np.random.Generator, side: float = 28.0) -> dict[str, Any]:
    """The strokes of a digit, in cells of a paper of 28 × 42, and their width."""
    habits = _HABITS[digit]
    habit = habits[rng.integers(len(habits))]
    height = rng.uniform(0.3, 0.85) * side
    scale = height / 20 * np.array([rng.uniform(0.75, 1.35), 1.0])
    slant, turn = rng.uniform(-0.25, 0.3), rng.uniform(-0.12, 0.12)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    bend = rng.normal(0, 0.5, (2, 2, 2))
    strokes = []
    for line in habit:
        points = np.array(line, float) + rng.normal(0, 0.35, (len(line), 2))
        points = _smooth(points)
        u = points / [10, 20]
        points = (
            points + np.sin(np.pi * u[:, :1]) * bend[0, 0] + np.sin(np.pi * u[:, 1:]) * bend[1, 0]
        )
        points[:, 0] += slant * (10 - points[:, 1])
        strokes.append((points - [5, 10]) * scale @ rotation.T)
    every = np.concatenate(strokes)
    width = rng.uniform(0.04, 0.2) * height
    low, high = every.min(0) - width, every.max(0) + width
    room = np.array([1.5 * side, side]) - (high - low)
    place = rng.random(2) * np.maximum(room, 0) - low
    return {"digit": digit, "width": width, "strokes": [(s + place).tolist() for s in strokes]}


def _smooth(points: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Corners cut off (Chaikin), as a hand does."""
    for _ in range(rounds):
        inner = np.stack([0.75 * points[:-1] + 0.25 * points[1:],
                          0.25 * points[:-1] + 0.75 * points[1:]], 1).reshape(-1, 2)  # fmt: skip
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points


def read(weights: str, drawings: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """What the page makes of drawings."""
    scene = {**digit_scene(ImageClassifier.from_pretrained(weights)), "steps": steps}
    lines = [json.dumps(scene), *(json.dumps(d) for d in drawings)]
    answers = run_node(DRIVER, "\n".join(lines))
    return [json.loads(line) for line in answers.splitlines()]


def main() -> None:
    """Draw, read, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["mnist", "mnist-pyramid"])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    drawings = [drawing(k % 10, rng) for k in range(args.count)]
    rows = []
    for weights in args.weights:
        answers = read(weights, drawings, args.steps)
        one = [len(a["votes"]) == 1 for a in answers]
        label = [int(np.argmax(a["votes"][0])) if a["votes"] else -1 for a in answers]
        right = [o and b == d["digit"] for o, b, d in zip(one, label, drawings, strict=True)]
        cells = [np.mean(np.array(list(a["cells"].values())) == d["digit"])
                 for a, d in zip(answers, drawings, strict=True)]  # fmt: skip
        by_digit = [100 * float(np.mean(right[k::10])) for k in range(10)]
        rows.append({
            "weights": weights, "drawings": len(drawings), "right %": 100 * float(np.mean(right)),
            "one digit found %": 100 * float(np.mean(one)),
            "cells right %": 100 * float(np.mean(cells)),
            "worst digit": int(np.argmin(by_digit)), "of it right %": min(by_digit),
        })  # fmt: skip
    show("digits drawn by strokes", rows, {name: ".1f" for name in rows[0] if name.endswith("%")})
    save("drawn_digits", rows, seed=args.seed, steps=args.steps)


if __name__ == "__main__":
    main()
