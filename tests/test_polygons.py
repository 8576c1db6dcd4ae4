"""Polygons become triangles of their orientation that cover them once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gncadeq.files.polygons import strip, triangulate


def area(flat):
    x, y = flat.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def check(flat, turn=None):
    """Triangles of a polygon in the plane: none is flipped, and their areas add up to its own."""
    pos = np.c_[flat, np.zeros(len(flat))]
    if turn is not None:
        pos = pos @ np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))[0] + 100
    face, small = triangulate(pos, np.arange(len(flat)), np.array([len(flat)]))
    assert (len(face), small) == (len(flat) - 2, 0)
    signed = np.array([area(flat[corner]) for corner in face]) * np.sign(area(flat))
    assert signed.min() > -1e-9 * np.abs(area(flat))
    assert np.isclose(signed.sum(), abs(area(flat)))
    return face


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40), st.integers(0, 10**6), st.booleans(), st.integers(0, 40))
def test_star_shaped_polygons(n, seed, backwards, shift):
    random = np.random.default_rng(seed)
    angle = (np.arange(n) + random.uniform(0.1, 0.9, n)) / n * 2 * np.pi
    flat = random.uniform(0.2, 2, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    if n == 3 and area(flat) < 1e-3:
        return
    flat = np.roll(flat, shift, axis=0)
    check(flat[::-1] if backwards else flat, seed)


def spiral(turns=3, n=60):
    t = np.linspace(0, turns * 2 * np.pi, n)
    arm = np.stack([np.cos(t), np.sin(t)], 1)
    return np.concatenate([(1 + t)[:, None] * arm, ((0.5 + t)[:, None] * arm)[::-1]])[::-1]


SHAPES = {
    "comb": [(0, 0), (7, 0), (7, 5), (6, 1), (5, 5), (4, 1), (3, 5), (2, 1), (0, 5)],
    "a midpoint on a side": [(0, 0), (1, 0), (2, 0), (2, 2), (0, 2)],
    "midpoints on all sides": [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)],
    "a hole, by a bridge": [
        (0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1),
    ],
    "an L": [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)],
    "a tiny arrow": [(0, 0), (2e-6, 1e-6), (0, 2e-6), (1e-6, 1e-6)],
    "spiral": spiral(),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turn", [None, 1, 2])
def test_shapes(name, turn):
    flat = np.array(SHAPES[name], dtype=float)
    for shift in range(min(len(flat), 12)):
        check(np.roll(flat, shift, axis=0), turn)


def test_a_midpoint_gets_triangles_of_its_own():
    face = check(np.array(SHAPES["a midpoint on a side"], dtype=float))
    corners = np.array(SHAPES["a midpoint on a side"], dtype=float)[face]
    assert min(abs(area(corner)) for corner in corners) > 0.1


@pytest.mark.parametrize(
    "flat",
    [
        [(0, 0), (1, 1), (1, 0), (0, 1)],  # crosses itself
        [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],  # a line
        [(0, 0)] * 6,
        [(np.cos(4 * np.pi * k / 5), np.sin(4 * np.pi * k / 5)) for k in range(5)],  # a pentagram
    ],
)
def test_what_is_no_polygon_still_ends(flat):
    pos = np.c_[np.array(flat, dtype=float), np.zeros(len(flat))]
    face, _ = triangulate(pos, np.arange(len(flat)), np.array([len(flat)]))
    assert len(face) == len(flat) - 2
    assert all(len(set(corner)) == 3 for corner in face.tolist())


def test_the_order_of_polygons_is_kept():
    pos = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 2, 0]], dtype=float)
    corner = np.array([0, 1, 2, 3, 0, 1, 1, 2, 4, 0, 1, 2, 3])
    face, small = triangulate(pos, corner, np.array([4, 2, 3, 0, 4]))
    assert face.tolist() == [[0, 1, 2], [0, 2, 3], [1, 2, 4], [0, 1, 2], [0, 2, 3]]
    assert small == 2


def test_a_large_concave_polygon_is_refused_and_a_convex_one_is_not():
    angle = np.arange(6000) / 6000 * 2 * np.pi
    flat = np.stack([np.cos(angle), np.sin(angle)], 1)
    check(flat)
    flat[::2] *= 0.9
    with pytest.raises(ValueError, match=r"at most 1,000 corners.*6,000.*Triangulate"):
        check(flat)


def test_strips_alternate():
    assert strip(np.arange(5)).tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4]]
    assert strip(np.arange(2)).tolist() == []
