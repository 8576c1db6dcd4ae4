"""Sudokus with one solution each, drawn from a seed, and the graph of one.

A puzzle of size ``n`` (4 or 9) is filled at random by backtracking. Clues are then taken away in a
random order, each if the solution stays unique, until none can go: its *core*. Clues that are given
back to a core keep the solution unique. Exchanges of rows in a band, of bands, the same of columns,
a reflection and an exchange of digits make other puzzles of it.

Boxes may be of any shape (:func:`jigsaw`), where only digits are exchanged.

The graph of a puzzle has a node for every digit in every cell. Two nodes are neighbours if at most
one of them can be true: in one cell, or of one digit in one row, column or box.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import Tensor
from torch_geometric.data import Data

RELATIONS = ("cell", "row", "column", "box")


Boxes = tuple[int, ...]
"""The box of every cell."""


def squares(n: int) -> Boxes:
    """The usual boxes."""
    side = int(n**0.5)
    return tuple(k // n // side * side + k % n // side for k in range(n * n))


def jigsaw(n: int, seed: int, moves: int = 14) -> Boxes:
    """Boxes of other shapes: cells on borders are exchanged at random, and boxes stay whole."""
    rng, boxes = random.Random(f"jigsaw {n} {seed}"), list(squares(n))

    def near(k: int) -> list[int]:
        steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
        places = [(k // n + a, k % n + b) for a, b in steps]
        return [r * n + c for r, c in places if 0 <= r < n and 0 <= c < n]

    def whole(box: int) -> bool:
        inside = [k for k in range(n * n) if boxes[k] == box]
        seen, todo = {inside[0]}, [inside[0]]
        while todo:
            new = [m for m in near(todo.pop()) if boxes[m] == box and m not in seen]
            seen.update(new)
            todo += new
        return len(seen) == n

    done = 0
    while done < moves:
        a, b = rng.sample(range(n * n), 2)
        one, other = boxes[a], boxes[b]
        if one == other or not any(boxes[m] == other for m in near(a)):
            continue
        if not any(boxes[m] == one for m in near(b)):
            continue
        boxes[a], boxes[b] = other, one
        if whole(one) and whole(other):
            done += 1
        else:
            boxes[a], boxes[b] = one, other
    return tuple(boxes)


def solutions(
    grid: list[int], boxes: Boxes, most: int, rng: random.Random | None = None
) -> list[list[int]] | None:
    """Up to ``most`` solutions of a grid in which 0 is an empty cell, by backtracking.

    ``None`` if they are not found within 5,000 guesses.
    """
    n = int(len(boxes) ** 0.5)
    place = [(k // n, k % n, box) for k, box in enumerate(boxes)]
    used = [[0] * n for _ in range(3)]  # digits of every row, column and box, as bits
    grid, found, free = list(grid), [], []
    for k, digit in enumerate(grid):
        if digit:
            for kind, unit in enumerate(place[k]):
                if used[kind][unit] >> digit & 1:
                    return []
                used[kind][unit] |= 1 << digit
        else:
            free.append(k)
    everything, guesses = (1 << n + 1) - 2, 0

    def search() -> bool:
        nonlocal guesses
        guesses += 1
        best, options = -1, 0
        for at, k in enumerate(free):
            r, c, b = place[k]
            left = everything & ~(used[0][r] | used[1][c] | used[2][b])
            if best < 0 or left.bit_count() < options.bit_count():
                best, options = at, left
                if left.bit_count() < 2:
                    break
        if best < 0:
            found.append(list(grid))
            return len(found) >= most
        if guesses > 5000:
            return True
        k = free.pop(best)
        digits = [d for d in range(1, n + 1) if options >> d & 1]
        if rng is not None:
            rng.shuffle(digits)
        for digit in digits:
            grid[k] = digit
            for kind, unit in enumerate(place[k]):
                used[kind][unit] |= 1 << digit
            over = search()
            for kind, unit in enumerate(place[k]):
                used[kind][unit] &= ~(1 << digit)
            if over:
                return True
        grid[k] = 0
        free.insert(best, k)
        return False

    search()
    return None if guesses > 5000 else found


def core(boxes: Boxes, seed: int) -> tuple[list[int], list[int]]:
    """A puzzle none of whose clues can go, as far as 5,000 guesses tell, and its solution."""
    rng, found = random.Random(f"{boxes} {seed}"), None
    while not found:  # a new try for each start that leads nowhere
        found = solutions([0] * len(boxes), boxes, 1, rng)
    solution = found[0]
    puzzle = list(solution)
    for k in rng.sample(range(len(boxes)), len(boxes)):
        puzzle[k] = 0
        if solutions(puzzle, boxes, 2) != [solution]:
            puzzle[k] = solution[k]
    return puzzle, solution


def by_singles(given: Tensor, boxes: Boxes) -> bool:
    """Is a puzzle solved by singles alone: cells for one digit, digits with one cell in a unit?"""
    n = int(len(boxes) ** 0.5)
    place = torch.tensor([(k // n, k % n, box) for k, box in enumerate(boxes)])
    inside = torch.cat([place[:, kind] == torch.arange(n)[:, None] for kind in range(3)])
    near = (place[:, None] == place).any(2).fill_diagonal_(False)
    digit = given.clone()
    while True:
        known = digit[:, None] == torch.arange(1, n + 1)
        open_ = ~(near.float() @ known.float() > 0) & (digit == 0)[:, None]
        naked = open_ & (open_.sum(1, keepdim=True) == 1)
        alone = inside.float() @ open_.float() == 1
        hidden = open_ & (inside.t().float() @ alone.float() > 0)
        found = (naked | hidden).any(1)
        if not found.any():
            return bool((digit > 0).all())
        digit[found] = (naked | hidden)[found].float().argmax(1) + 1


def varied(
    puzzle: list[int], solution: list[int], clues: int, rng: random.Random, move: bool = True
) -> tuple[Tensor, Tensor]:
    """A puzzle of a core, with as many clues (those of the core at least), renamed and moved."""
    size = len(puzzle)
    n = int(size**0.5)
    side = int(n**0.5)
    empty = [k for k in range(size) if puzzle[k] == 0]
    back = set(rng.sample(empty, max(0, clues - (size - len(empty)))))
    given = torch.tensor([solution[k] if puzzle[k] or k in back else 0 for k in range(size)])

    def order() -> Tensor:
        bands = rng.sample(range(side), side)
        return torch.tensor([side * b + k for b in bands for k in rng.sample(range(side), side)])

    digits = torch.tensor([0, *rng.sample(range(1, n + 1), n)])
    grids = [digits[g.view(n, n)] for g in (given, torch.tensor(solution))]
    if move:
        rows, columns, turned = order(), order(), rng.random() < 0.5
        grids = [g[rows][:, columns] for g in grids]
        grids = [g.t() for g in grids] if turned else grids
    return grids[0].flatten(), grids[1].flatten()


@cache
def edges(boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Edge indices of the graph, and the relation of every edge."""
    n = int(len(boxes) ** 0.5)
    place = torch.tensor([(k // n, k % n, box) for k, box in enumerate(boxes)])
    cell = torch.arange(n * n).repeat_interleave(n)
    digit = torch.arange(n).repeat(n * n)
    found, kinds = [], []
    for kind in range(4):
        unit, same = (cell, None) if kind == 0 else (place[cell, kind - 1], digit)
        joined = unit[:, None] == unit
        joined &= True if same is None else same[:, None] == same
        pairs = joined.fill_diagonal_(False).nonzero().t()
        found.append(pairs)
        kinds.append(torch.full((pairs.size(1),), kind))
    return torch.cat(found, 1), torch.cat(kinds)


def to_graph(given: Tensor, solution: Tensor, boxes: Boxes) -> Data:
    """The graph of a puzzle: ``x`` is 1 for a clue, −1 for what a clue rules out in its cell."""
    n = int(given.numel() ** 0.5)
    edge_index, kind = edges(boxes)
    digit = torch.arange(1, n + 1)
    is_clue = (given[:, None] == digit).float()
    x = is_clue - ((given[:, None] > 0) & (given[:, None] != digit)).float()
    y = solution[:, None] == digit
    return Data(x=x.view(-1, 1), edge_index=edge_index, edge_attr=kind, y=y.float().flatten())
