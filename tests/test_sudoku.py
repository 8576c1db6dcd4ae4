"""Puzzles with one solution, and the graph of a puzzle."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
import sudoku_puzzles as puzzles
import torch
from sudoku_rule import PuzzleCell


def by_force(given, boxes):
    """All solutions of a puzzle of four digits, by trying all rows."""
    rows = list(permutations(range(1, 5)))
    found = []
    for a in rows:
        for b in rows:
            for c in rows:
                d = tuple(10 - x - y - z for x, y, z in zip(a, b, c, strict=True))
                grid = a + b + c + d
                if any(g and g != x for g, x in zip(given, grid, strict=True)):
                    continue
                columns = all(len({grid[4 * r + k] for r in range(4)}) == 4 for k in range(4))
                inside = [{x for x, box in zip(grid, boxes, strict=True) if box == k}
                          for k in range(4)]  # fmt: skip
                if columns and sorted(d) == [1, 2, 3, 4] and all(len(s) == 4 for s in inside):
                    found.append(list(grid))
    return found


@pytest.mark.parametrize("boxes", [puzzles.squares(4), puzzles.jigsaw(4, 1)])
def test_cores_have_one_solution_and_no_clue_too_many(boxes):
    given, solution = puzzles.core(boxes, 3)
    assert by_force(given, boxes) == [solution]
    for k in range(16):
        if given[k]:
            assert len(by_force([*given[:k], 0, *given[k + 1 :]], boxes)) > 1


def test_jigsaw_boxes_are_whole_and_others_than_squares():
    boxes = torch.tensor(puzzles.jigsaw(9, 0)).view(9, 9)
    assert torch.bincount(boxes.flatten()).tolist() == [9] * 9
    assert int((boxes.flatten() != torch.tensor(puzzles.squares(9))).sum()) > 10


def test_moved_puzzles_are_sudokus_with_as_many_clues():
    rng, boxes = random.Random(0), puzzles.squares(9)
    for clues in (30, 40):
        given, solution = puzzles.varied(*puzzles.core(boxes, 0), clues, rng)
        assert int((given > 0).sum()) == clues
        assert bool((given[given > 0] == solution[given > 0]).all())
        assert puzzles.solutions(given.tolist(), boxes, 2) == [solution.tolist()]


def test_a_solution_marks_one_node_of_all_neighbours():
    boxes = puzzles.squares(9)
    given, solution = puzzles.varied(*puzzles.core(boxes, 0), 40, random.Random(1))
    data = puzzles.to_graph(given, solution, boxes)
    assert data.num_nodes == 729
    assert torch.bincount(data.edge_attr).tolist() == [729 * 8] * 4
    source, target = data.edge_index
    assert float((data.y[source] * data.y[target]).max()) == 0.0
    assert float(data.y.sum()) == 81
    assert bool((data.y[data.x.flatten() == 1] == 1).all())
    assert bool((data.y[data.x.flatten() == -1] == 0).all())


def test_singles_solve_easy_puzzles_and_never_guess():
    rng, boxes = random.Random(2), puzzles.squares(9)
    easy, _solution = puzzles.varied(*puzzles.core(boxes, 1), 60, rng)
    assert puzzles.by_singles(easy, boxes)
    assert not puzzles.by_singles(torch.zeros(81, dtype=torch.long), boxes)


def test_digits_may_change_their_names():
    """The rule knows no digit: exchanging two exchanges their nodes."""
    boxes = puzzles.squares(4)
    data = puzzles.to_graph(*puzzles.varied(*puzzles.core(boxes, 0), 8, random.Random(0)), boxes)
    torch.manual_seed(0)
    cell = PuzzleCell(6, 8, 4).eval()
    z = torch.randn(64, 6)
    order = torch.arange(64).view(16, 4)[:, [1, 0, 2, 3]].flatten()
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    other = PuzzleCell(6, 8, 4).eval()
    other.load_state_dict(cell.state_dict())
    moved = other.prepare(data.x[order], data.edge_index, data.edge_attr)
    torch.testing.assert_close(moved(z[order]), step(z)[order])
