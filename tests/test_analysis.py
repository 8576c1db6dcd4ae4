from __future__ import annotations

import base64
import io
import json
import math
import re

import pytest
import torch

from gncadeq import ConvCell, ConvergenceError, GraphDEQ, PixelGraphClassifier
from gncadeq.analysis import (
    Attractor,
    asymptotic_alignment,
    basin_map,
    classify_attractor,
    hop_distance,
    influence_by_hop,
    leading_eigenvalues,
    lyapunov_exponents,
    operator_norm,
    path_independence,
    sensitivity,
    spectral_radius,
)
from gncadeq.analysis.jacobian import Jacobian
from gncadeq.datasets import PixelGraphs
from gncadeq.report import write_report
from gncadeq.transforms import ImageToGraph

GOLDEN = math.pi * (math.sqrt(5) - 1)  # the turn that comes back least well


def linear(matrix):
    """A map of the whole flattened state, of any coupling between nodes."""
    return lambda z: (matrix @ z.reshape(-1)).view_as(z)


def rotation(angle, size=1.0):
    c, s = math.cos(angle), math.sin(angle)
    return size * torch.tensor([[c, -s], [s, c]], dtype=torch.double)


def with_radius(matrix, radius=0.9):
    return matrix * (radius / torch.linalg.eigvals(matrix).abs().max())


def non_normal(n):
    """Triangular with large off-diagonal entries: norm far above the radius."""
    diagonal = torch.linspace(-0.9, 0.8, n, dtype=torch.double)
    return torch.diag(diagonal) + 3 * torch.diag(torch.ones(n - 1, dtype=torch.double), 1)


def prepared(cell, data):
    return cell.prepare(data.x, data.edge_index, data.edge_attr)


@pytest.fixture
def equilibrium(ragged):
    cell = ConvCell(2, 6, contraction=0.95, scale_spread=1.0).double()
    deq = GraphDEQ(cell, tol=1e-10, max_steps=500)
    with torch.no_grad():
        z = deq(ragged.x, ragged.edge_index, ragged.edge_attr, ragged.batch)
        return cell, prepared(cell, ragged), z


# Spectra


@pytest.mark.parametrize("nodes", [1, 30, 300])
def test_rotations_have_their_radius(nodes):
    """A Rayleigh quotient would say zero."""
    turn = rotation(math.pi / 2, 0.9)
    z = torch.zeros(nodes, 2, dtype=torch.double)
    for f in (lambda z: z @ turn, lambda z: torch.sin(z @ turn)):
        assert float(spectral_radius(f, z)) == pytest.approx(0.9, abs=1e-9)
        assert float(operator_norm(f, z)) == pytest.approx(0.9, abs=1e-9)


@pytest.mark.parametrize("n", [3, 40, 240, 400])
def test_random_matrices_have_their_radius_and_norm(n):
    a = with_radius(torch.randn(n, n, dtype=torch.double))
    z = torch.zeros(n, 1, dtype=torch.double)
    assert float(spectral_radius(linear(a), z)) == pytest.approx(0.9, abs=1e-7)
    expected = float(torch.linalg.matrix_norm(a, 2))
    assert float(operator_norm(linear(a), z)) == pytest.approx(expected, rel=1e-7)
    found = leading_eigenvalues(linear(a), z, k=3)
    modulus = torch.linalg.eigvals(a).abs().sort(descending=True).values[:3]
    torch.testing.assert_close(found.abs(), modulus, atol=1e-6, rtol=0)


def test_non_normal_matrices_have_their_radius_and_norm():
    a = non_normal(12)
    z = torch.zeros(6, 2, dtype=torch.double)
    assert float(spectral_radius(linear(a), z)) == pytest.approx(0.9, abs=1e-6)
    assert float(operator_norm(linear(a), z)) == pytest.approx(
        float(torch.linalg.matrix_norm(a, 2)), rel=1e-9
    )
    large = torch.block_diag(*[non_normal(3) * (1 - 0.01 * i) for i in range(100)])
    z = torch.zeros(300, 1, dtype=torch.double)
    assert float(spectral_radius(linear(large), z)) == pytest.approx(0.9, abs=1e-6)
    expected = float(torch.linalg.matrix_norm(large, 2))
    assert float(operator_norm(linear(large), z)) == pytest.approx(expected, rel=1e-6)


def test_orthogonal_matrices_whose_eigenvalues_all_are_as_large():
    """Arnoldi's method cannot tell them apart; the growth of vectors need not."""
    q, _ = torch.linalg.qr(torch.randn(600, 600, dtype=torch.double))
    z = torch.zeros(200, 3, dtype=torch.double)
    assert float(spectral_radius(linear(0.9 * q), z)) == pytest.approx(0.9, abs=1e-7)
    assert float(operator_norm(linear(0.9 * q), z)) == pytest.approx(0.9, abs=1e-7)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (4, 2), (500, 2)])
def test_zero_jacobians(shape):
    z = torch.ones(shape)
    for f in (lambda z: 0 * z, torch.ones_like, lambda z: z**2 - 2 * z):
        assert float(spectral_radius(f, z)) == 0.0
        assert float(operator_norm(f, z)) == 0.0


def test_nilpotent_jacobians():
    f = lambda z: torch.cat([torch.zeros_like(z[:1]), z[:-1]])  # noqa: E731
    assert float(spectral_radius(f, torch.zeros(20, 1))) == 0.0
    assert float(operator_norm(f, torch.zeros(20, 1))) == pytest.approx(1.0)


def test_a_batch_has_the_radii_of_its_graphs(ragged, equilibrium):
    cell, step, z = equilibrium
    radii, norms = (f(step, z, ragged.batch) for f in (spectral_radius, operator_norm))
    held = spectral_radius(lambda z: step(z), z, ragged.batch)  # cannot be restricted
    torch.testing.assert_close(held, radii, atol=1e-7, rtol=0)
    for i, data in enumerate(ragged.to_data_list()):
        if data.num_nodes > 100:
            continue  # its matrix takes long
        alone = Jacobian(prepared(cell, data), z[ragged.batch == i]).dense()
        expected = torch.linalg.eigvals(alone).abs().max()
        torch.testing.assert_close(radii[i], expected, atol=1e-7, rtol=0)
        torch.testing.assert_close(norms[i], torch.linalg.matrix_norm(alone, 2))
    torch.testing.assert_close(spectral_radius(step, z), radii.max(), atol=1e-7, rtol=0)
    certified = operator_norm(step, z, ragged.batch, scale=cell.scale)
    assert bool((certified <= 0.95 + 1e-6).all())
    assert bool((radii <= certified + 1e-7).all())


def test_float32_is_as_good_as_float32(ragged, equilibrium):
    cell, step, z = equilibrium
    expected = spectral_radius(step, z)
    data = ragged.clone().apply(lambda t: t.float() if t.is_floating_point() else t)
    rough = spectral_radius(prepared(cell.float(), data), z.float())
    assert rough.dtype == torch.float
    assert float(rough) == pytest.approx(float(expected), rel=1e-3)


class Square(torch.autograd.Function):
    """Without a forward mode."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z**2

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return 2 * z * grad


def test_steps_without_forward_mode():
    z = torch.tensor([[0.25, 0.4], [0.1, -0.3]], dtype=torch.double)
    assert float(spectral_radius(Square.apply, z)) == pytest.approx(0.8)
    assert float(operator_norm(Square.apply, z)) == pytest.approx(0.8)
    fixed = torch.ones(2, 2, dtype=torch.double)
    assert float(lyapunov_exponents(Square.apply, fixed, 10)[0]) == pytest.approx(math.log(2))


def test_jacobian_products_agree_with_the_matrix(equilibrium):
    _, step, z = equilibrium
    jacobian = Jacobian(step, z)
    u, v = torch.randn(2, *z.shape, dtype=torch.double)
    expected = torch.autograd.functional.jvp(step, z, v)[1]
    torch.testing.assert_close(jacobian.jvp(v), expected)
    torch.testing.assert_close((u * jacobian.jvp(v)).sum(), (jacobian.vjp(u) * v).sum())


def test_what_has_no_spectrum_is_refused():
    z = torch.ones(3, 2)

    def hidden(z):
        with torch.no_grad():
            return 2 * z

    for f in (hidden, lambda z: hidden(z) + z):
        with pytest.raises(ValueError, match=r"Remove torch.no_grad\(\)"):
            spectral_radius(f, z)
    with pytest.raises(ValueError, match=r"detach\(\)"):
        operator_norm(lambda z: z.detach() * 2, z)
    with pytest.raises(ValueError, match="keeps the state's shape"):
        spectral_radius(lambda z: z[:2], z)
    with pytest.raises(ValueError, match="finite step's result"):
        spectral_radius(lambda z: z / 0, z)
    with pytest.raises(ValueError, match=r"\[num_nodes, channels\]"):
        spectral_radius(lambda z: z, z[0])
    with pytest.raises(ValueError, match=r"'scale' of shape \[channels\] = \[2\]"):
        operator_norm(lambda z: z, z, scale=torch.ones(3))
    with pytest.raises(ValueError, match="'k' to be a whole number of at least 1"):
        leading_eigenvalues(lambda z: z, z, k=0)
    with pytest.raises(RuntimeError, match="of my own"):
        spectral_radius(lambda z: (_ for _ in ()).throw(RuntimeError("of my own")), z)


# Lyapunov exponents


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues():
    values = torch.tensor([1.2, 0.7, -0.4, 0.1], dtype=torch.double)
    basis = torch.randn(4, 4, dtype=torch.double)
    a = basis @ torch.diag(values) @ torch.linalg.inv(basis)
    z = torch.zeros(2, 2, dtype=torch.double)
    found = lyapunov_exponents(linear(a), z, steps=50, k=4, warmup=100)
    torch.testing.assert_close(found, values.abs().log(), atol=1e-9, rtol=0)


def test_a_rotation_neither_grows_nor_shrinks():
    turn = rotation(1.0)
    z = torch.randn(5, 2, dtype=torch.double)
    found = lyapunov_exponents(lambda z: z @ turn, z, steps=100, k=10)
    torch.testing.assert_close(found, torch.zeros(10, dtype=torch.double), atol=1e-12, rtol=0)


def logistic(z):
    return 4 * z * (1 - z)


def test_the_logistic_map_has_ln_2():
    z = torch.full((1, 1), 0.3, dtype=torch.double)
    found = lyapunov_exponents(logistic, z, steps=1000)
    assert float(found[0]) == pytest.approx(math.log(2), abs=0.03)


def test_synchronous_coupled_maps_have_known_exponents():
    """Of z' = A f(z) on the diagonal: ln 2 + log|eigenvalues of A|."""
    a = torch.tensor([[0.6, 0.4], [0.4, 0.6]], dtype=torch.double)  # eigenvalues 1 and 0.2
    z = torch.full((2, 1), 0.3, dtype=torch.double)
    found = lyapunov_exponents(lambda z: a @ logistic(z), z, steps=600, k=2)
    expected = torch.tensor([math.log(2), math.log(2) + math.log(0.2)], dtype=torch.double)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_exponents_at_an_equilibrium_are_the_radii(ragged, equilibrium):
    _, step, z = equilibrium
    found = lyapunov_exponents(step, z, 100, batch=ragged.batch, warmup=100)
    assert found.shape == (4, 1)
    expected = spectral_radius(step, z, ragged.batch).log()
    torch.testing.assert_close(found[:, 0], expected, atol=0.02, rtol=0)


def test_bad_exponents():
    z = torch.ones(3, 1)
    with pytest.raises(FloatingPointError, match=r"graphs \[0\] left the finite"):
        lyapunov_exponents(lambda z: 3 * z**2, z, steps=50)
    with pytest.raises(ValueError, match="'k' to be"):
        lyapunov_exponents(lambda z: z, z, 5, k=2, batch=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="'steps' to be a whole number of at least 1"):
        lyapunov_exponents(lambda z: z, z, 0)
    assert float(lyapunov_exponents(torch.zeros_like, z, 5)[0]) == -math.inf


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


# Path independence


def two_wells(z):
    return torch.tanh(3 * z)


def test_a_contraction_is_path_independent(ragged, equilibrium):
    _, step, _ = equilibrium
    z0 = torch.zeros(ragged.num_nodes, 6, dtype=torch.double)
    report = path_independence(step, z0, ragged.batch, starts=3, tol=1e-8)
    assert bool(report.independent(1e-5).all())
    assert report.residual.shape == (4, 4)
    assert bool((report.alignment > 1 - 1e-9).all())
    score = asymptotic_alignment(step, z0, ragged.batch, tol=1e-8)
    torch.testing.assert_close(score, torch.ones_like(score))


def test_two_attractors_are_told_apart():
    z0 = torch.tensor([[0.5], [0.5], [0.5], [0.5]])
    batch = torch.tensor([0, 0, 1, 1])
    other = torch.tensor([[-0.5], [-0.5], [0.5], [-0.5]])
    score = asymptotic_alignment(two_wells, z0, batch, other=other, solver="picard")
    torch.testing.assert_close(score, torch.tensor([-1.0, 0.0]), atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(0)
    report = path_independence(two_wells, z0, batch, starts=8, solver="picard", generator=generator)
    assert bool((report.converged == 1).all())
    assert bool((report.distance > 1.9).any())
    assert not bool(report.independent().any())
    assert "starts=9" in repr(report)


def test_zero_equilibria_are_aligned():
    score = asymptotic_alignment(torch.zeros_like, torch.ones(3, 2), other=torch.ones(3, 2))
    assert score.tolist() == [1.0]
    report = path_independence(torch.zeros_like, torch.ones(3, 2))
    assert report.distance.tolist() == [0.0]


def test_what_does_not_converge_is_not_independent():
    report = path_independence(lambda z: -z + 1, torch.zeros(3, 1), solver="picard", max_steps=5)
    assert float(report.converged) < 1
    assert not bool(report.independent().any())


def test_bad_independence():
    with pytest.raises(ValueError, match=r"state's shape \[3, 1\]"):
        asymptotic_alignment(torch.clone, torch.ones(3, 1), other=torch.ones(2, 1))
    with pytest.raises(ValueError, match="'scale' to be"):
        path_independence(torch.clone, torch.ones(3, 1), scale=0.0)


# Basins and sensitivity


def test_a_basin_of_two_wells_is_a_quadrant():
    z = torch.full((1, 2), 0.99505, dtype=torch.double)
    z = classify_attractor(two_wells, z, transient=50).state
    plane = torch.eye(2, dtype=torch.double).view(2, 1, 2)
    basin = basin_map(two_wells, z, directions=plane, resolution=10, radius=1.0)
    # A start returns if both entries stay positive: z + |z| a > 0, that is a > -0.707.
    inside = basin.offset > -math.sqrt(0.5)
    assert torch.equal(basin.returned, inside[:, None] & inside[None, :])
    assert "returned=64%" in repr(basin)


def test_a_contractions_basin_is_everything(equilibrium):
    cell = ConvCell(1, 3, contraction=0.8).double()
    data = ImageToGraph()(torch.rand(1, 4, 4, dtype=torch.double))
    z = GraphDEQ(cell, tol=1e-10, max_steps=300)(data.x, data.edge_index, data.edge_attr).detach()
    basin = basin_map(prepared(cell, data), z, resolution=5, radius=50.0)
    assert bool(basin.returned.all())
    assert int(basin.num_steps[2, 2]) == 0
    assert int(basin.num_steps[0, 0]) > 0


def test_bad_basins():
    z = torch.ones(2, 1)
    with pytest.raises(ValueError, match="parallel"):
        basin_map(torch.clone, z, directions=torch.ones(2, 2, 1))
    with pytest.raises(ValueError, match="at least two entries"):
        basin_map(torch.clone, z[:1])
    with pytest.raises(ValueError, match="'resolution' to be a whole number of at least 2"):
        basin_map(torch.clone, z, resolution=1)


def test_sensitivity_is_the_inverse_of_the_linearised_map(ragged, equilibrium):
    cell, _, z = equilibrium
    data, z = ragged.to_data_list()[1], z[ragged.batch == 1]
    step = prepared(cell, data)
    matrix = Jacobian(step, z).dense()
    response = torch.linalg.inv(torch.eye(len(matrix), dtype=torch.double) - matrix)
    blocks = response.view(z.size(0), 6, z.size(0), 6)
    for node in (0, 7, -1):
        expected = blocks[node].square().sum((0, 2)).sqrt()
        found = sensitivity(step, z, node, tol=1e-9)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_information_travels_one_hop_a_step(ragged, equilibrium):
    cell, _, z = equilibrium
    data = ragged.to_data_list()[2]
    step, z = prepared(cell, data), torch.zeros(data.num_nodes, 6, dtype=torch.double)
    node = 11
    hops = hop_distance(data.edge_index, node, data.num_nodes)
    for steps in (0, 1, 3):
        found = sensitivity(step, z, node, steps=steps)
        near = (hops >= 0) & (hops <= steps)
        assert torch.equal(found > 0, near)
    matrix = torch.autograd.functional.jacobian(lambda z: step(step(step(z)))[node], z)
    torch.testing.assert_close(found, matrix.square().sum((0, 2)).sqrt())
    profile = influence_by_hop(found, hops)
    assert len(profile) == int(hops.max()) + 1
    assert float(profile[0]) == pytest.approx(float(found[node]))


def test_bad_sensitivity():
    z = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="'node' to be"):
        sensitivity(torch.clone, z, 2)
    with pytest.raises(ConvergenceError):
        sensitivity(lambda z: z @ torch.tensor([[1.0]]), z, 0, max_steps=20)
    with pytest.raises(ValueError, match="'steps' to be a whole number of at least 0"):
        sensitivity(torch.clone, z, 0, steps=-1)


def test_negative_nodes_count_from_the_end():
    f = lambda z: 0.5 * z.roll(1, dims=0)  # noqa: E731
    z = torch.zeros(4, 1)
    assert torch.equal(sensitivity(f, z, -1), sensitivity(f, z, 3))


# Pictures and the page


def test_every_analysis_has_a_picture():
    from gncadeq.viz import analysis as draw

    z = torch.randn(6, 2, dtype=torch.double)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    maps = (lambda z: 0.5 * z, lambda z: z.roll(1, dims=0))
    step = lambda z: torch.cat([f(y) for f, y in zip(maps, z.split(3), strict=True)])  # noqa: E731
    turn = lambda z: z @ rotation(1.0, 0.9)  # noqa: E731
    value, hops = torch.tensor([1.0, 0.1, 0.0]), torch.tensor([0, 1, -1])
    pos = torch.tensor([[0, 0], [1, 0], [2, 0]])
    figures = [
        draw.spectrum_figure([torch.zeros(2, dtype=torch.cfloat)], {"ρ": torch.zeros(1)}),
        draw.lyapunov_figure(torch.full((3, 1), -math.inf)),
        draw.independence_figure(path_independence(turn, z, batch)),
        draw.census_figure(classify_attractor(step, z, batch, transient=60, max_period=8)),
        draw.basin_figure(basin_map(two_wells, torch.full((1, 2), 0.995), resolution=4)),
        draw.basin_figure(basin_map(lambda z: 2 * z, z, resolution=3, max_steps=4)),
        draw.sensitivity_figure(value, hops, pos, (2, 3), [(value, hops)]),
    ]
    for figure in figures:
        save = io.BytesIO()
        figure.savefig(save, format="png", dpi=20)
        assert save.getvalue().startswith(b"\x89PNG")


def test_the_page_is_self_contained(tmp_path):
    dataset = PixelGraphs(tmp_path, "digits", train=False)
    model = PixelGraphClassifier(channels=3, contraction=0.9).train()
    path = write_report(model, dataset, tmp_path / "page.html", graphs=2, progress=False)
    text = path.read_text()
    assert model.training
    assert not list(tmp_path.glob("*.tmp"))
    assert not re.search(r"https?://|<link|src=\"(?!data:)", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 6
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert "Not measured" not in text
    numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', text)[1])
    assert numbers["Attractors of long rollouts"]["counts"] == {"fixed point": 2}


def test_the_page_says_what_cannot_be_measured(tmp_path):
    dataset = PixelGraphs(tmp_path, "digits", train=False)
    model = PixelGraphClassifier(channels=4)
    with torch.no_grad():
        model.dynamics.cell.weight_z.mul_(math.nan)
    text = write_report(model, dataset, tmp_path / "p.html", graphs=2, progress=False).read_text()
    assert "Not measured: Expected a finite state (got NaN or infinity)" in text
    assert "diverged (2)" in text
    with pytest.raises(ValueError, match="'graphs' to be a whole number of at least 1"):
        write_report(model, dataset, tmp_path / "p.html", graphs=0)
