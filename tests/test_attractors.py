"""Fixed points, periods, quasi-periodic and chaotic orbits are told apart."""

from __future__ import annotations

import math

import pytest
import torch
from known_maps import GOLDEN, logistic, rotation

from gncadeq.analysis import (
    Attractor,
    classify_attractor,
)

# Attractors


def label_of(f, z, **options):
    census = classify_attractor(f, z, **options)
    return Attractor(int(census.label[0])), int(census.period[0]), census


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_a_contraction_has_a_fixed_point(dtype):
    for f in (lambda z: 0.5 * z + 1, lambda z: 0.5 * z, torch.zeros_like, torch.clone):
        label, period, census = label_of(f, torch.randn(4, 2, dtype=dtype), transient=200)
        assert (label, period) == (Attractor.FIXED_POINT, 1)
        assert float(census.lyapunov) <= 1e-6
    assert census.names() == ["fixed point"]


@pytest.mark.parametrize("k", [2, 3, 7, 60])
def test_permutations_have_their_period(k):
    label, period, census = label_of(
        lambda z: z.roll(1, dims=0), torch.randn(k, 2), transient=50, max_period=64
    )
    assert (label, period, float(census.recurrence)) == (Attractor.PERIODIC, k, 0.0)


def test_attracting_cycles_have_their_period():
    """Of the logistic map: 2 at r = 3.2, 4 at 3.5, 3 at 3.83."""
    for r, k in ((3.2, 2), (3.5, 4), (3.83, 3)):
        z = torch.full((1, 1), 0.3)
        label, period, census = label_of(lambda z, r=r: r * z * (1 - z), z, transient=500)
        assert (label, period) == (Attractor.PERIODIC, k)
        assert float(census.lyapunov) < -0.01
    turn = rotation(2 * math.pi / 5)
    z = torch.randn(3, 2, dtype=torch.double)
    assert label_of(lambda z: z @ turn, z)[:2] == (Attractor.PERIODIC, 5)


@pytest.mark.parametrize("angle", [GOLDEN, 1.0, math.sqrt(2)])
def test_irrational_rotations_are_quasi_periodic(angle):
    turn = rotation(angle)
    for dtype in (torch.float, torch.double):
        z = torch.randn(3, 2, dtype=dtype)
        label, period, census = label_of(lambda z: z @ turn.to(z), z, transient=100)
        assert (label, period) == (Attractor.QUASI_PERIODIC, 0)
        assert abs(float(census.lyapunov)) < 1e-5
        assert 1e-4 < float(census.recurrence) < 0.1


def test_a_near_miss_is_no_period():
    """355 / 113 is nearly pi: a turn by one radian nearly comes back after 710 steps."""
    turn = rotation(1.0)
    z = torch.randn(1, 2, dtype=torch.double)
    options = {"transient": 10, "max_period": 720, "lyapunov_steps": 10}
    label, _, census = label_of(lambda z: z @ turn, z, **options)
    assert label is Attractor.QUASI_PERIODIC
    assert float(census.recurrence) < 1e-4


def test_the_logistic_map_is_chaotic():
    z = torch.full((1, 1), 0.3, dtype=torch.double)
    label, _, census = label_of(logistic, z, transient=100)
    assert label is Attractor.CHAOTIC
    assert float(census.lyapunov) == pytest.approx(math.log(2), abs=0.1)


def test_growth_diverges():
    for f in (lambda z: 2 * z, lambda z: z**3 + 2, lambda z: z / 0, lambda z: z * math.nan):
        options = {"transient": 30, "max_period": 16, "lyapunov_steps": 16}
        label, _, census = label_of(f, torch.ones(3, 1), **options)
        assert label is Attractor.DIVERGED
        assert math.isinf(float(census.residual))
        assert bool(census.state.isfinite().all())


def test_what_is_too_slow_to_tell_is_said_to_be():
    for f in (lambda z: 0.999 * z + 1, lambda z: z + 1, lambda z: z @ rotation(1e-4)):
        z = torch.ones(1, 2, dtype=torch.double)
        assert label_of(f, z, transient=10)[0] is Attractor.UNSETTLED


def test_a_census_of_a_batch():
    """One graph of each kind, and each as it is alone; the fast bad ones don't spoil the others."""
    maps = [
        lambda z: 0.5 * z + 1,
        lambda z: z.roll(1, dims=0),
        lambda z: z @ rotation(GOLDEN),
        lambda z: 4 * z * (1 - z),
        lambda z: z**3 + 2,
    ]
    batch = torch.arange(5).repeat_interleave(3)

    def step(z):
        return torch.cat([f(y) for f, y in zip(maps, z.split(3), strict=True)])

    z0 = torch.rand(15, 2, dtype=torch.double)
    census = classify_attractor(step, z0, batch, transient=100, lyapunov_steps=128)
    assert census.label.tolist() == [0, 1, 2, 3, 4]
    assert census.names() == ["fixed point", "period 3", "quasi periodic", "chaotic", "diverged"]
    assert "chaotic=1" in repr(census)
    for i, f in enumerate(maps):
        alone = classify_attractor(f, z0[batch == i], transient=100, lyapunov_steps=128)
        assert int(alone.label) == i
        torch.testing.assert_close(alone.residual[0], census.residual[i])
        torch.testing.assert_close(alone.state, census.state[batch == i])


def test_bad_censuses():
    with pytest.raises(ValueError, match="'max_period' to be a whole number of at least 2"):
        classify_attractor(torch.clone, torch.ones(2, 1), max_period=1)
    empty = classify_attractor(torch.clone, torch.ones(0, 1), torch.zeros(0, dtype=torch.long))
    assert empty.counts() == {}
