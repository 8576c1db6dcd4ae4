"""Spectral radii, operator norms and Lyapunov exponents of maps whose are known."""

from __future__ import annotations

import math

import pytest
import torch
from known_maps import linear, logistic, prepared, rotation

from gncadeq.analysis import (
    leading_eigenvalues,
    lyapunov_exponents,
    operator_norm,
    spectral_radius,
)
from gncadeq.analysis.jacobian import Jacobian


def with_radius(matrix, radius=0.9):
    return matrix * (radius / torch.linalg.eigvals(matrix).abs().max())


def non_normal(n):
    """Triangular with large off-diagonal entries: norm far above the radius."""
    diagonal = torch.linspace(-0.9, 0.8, n, dtype=torch.double)
    return torch.diag(diagonal) + 3 * torch.diag(torch.ones(n - 1, dtype=torch.double), 1)


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
