"""Fixed-point maps on which other libraries test their solvers, with what is known of them.

Each is written from its mathematical definition. A root problem ``F(z) = 0`` of a library is the
map ``z + F(z)`` here, or ``z - F(z)`` where that is what its tests iterate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Map:
    """A map of vectors, in double precision.

    Attributes:
        name: What it is.
        source: The library, paper or book whose tests have it.
        f: The map.
        z0: The start.
        solution: The fixed points, if they are known in closed form: any of these is right.
    """

    name: str
    source: str
    f: Callable[[Tensor], Tensor]
    z0: Tensor
    solution: tuple[Tensor, ...] = ()


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def _laplacian(n: int) -> Tensor:
    ones = torch.ones(n - 1, dtype=torch.double)
    return torch.diag(ones, 1) + torch.diag(ones, -1) - 2 * torch.eye(n, dtype=torch.double)


def _scipy() -> list[Map]:
    c = _t(0.75, 1.0, 1.25)
    ks, kl, m, n0 = 2.0, 6.0, 1.3, 1.001
    i0 = ((m - 1) / m) * (kl / ks / m) ** (1 / (m - 1))
    d = _t(3, 2, 1.5, 1, 0.5)
    a3, b3 = _laplacian(3), _t(1, 2, 3)
    j0 = torch.tensor([[-4.256, 14.7], [0.8394989, 0.59964207]], dtype=torch.double)

    def powell(x: Tensor) -> Tensor:
        return torch.stack([1e4 * x[0] * x[1] - 1, (-x[0]).exp() + (-x[1]).exp() - (1 + 1e-4)])

    def f6(x: Tensor) -> Tensor:
        v = torch.stack([(x[0] + 3) * (x[1] ** 5 - 7) + 18, (x[1] * x[0].exp() - 1).sin()])
        return -torch.linalg.solve(j0, v)

    s = "SciPy fixed_point"
    n = "SciPy nonlin"
    return [
        Map("2 z", s, lambda z: 2 * z, _t(1.0), (_t(0.0),)),
        Map("z² from 1.05", s, lambda z: z**2, _t(1.05), (_t(1.0), _t(0.0))),
        Map("√z", s, lambda z: z**0.5, _t(1.05), (_t(1.0),)),
        Map("2 z, two", s, lambda z: 2 * z, _t(0.3, 0.15), (_t(0.0, 0.0),)),
        Map("c z²", s, lambda z: c * z**2, _t(1.1, 1.15, 0.9)),
        Map("c √z", s, lambda z: c * z**0.5, _t(0.8, 1.1, 1.1), (c**2,)),
        Map("exp(-2 z) / 2", s, lambda z: (-2 * z).exp() / 2, _t(1.0), (_t(0.2835716452048919),)),
        Map(
            "log map", s,
            lambda z: (kl / ks / z).log() / (i0 * z / (z - 1)).log() + 1, _t(n0), (_t(m),),
        ),
        Map("cubic, five", n, lambda x: x - d * x - 0.01 * (x @ x) * x, torch.ones(5).double(),
            (torch.zeros(5).double(),)),
        Map("tridiagonal, three", n, lambda x: x + a3 @ x - b3, b3.clone(),
            (torch.linalg.solve(a3, b3),)),
        Map("Powell badly scaled", n, lambda x: x - powell(x), _t(-1, -2)),
        Map("two equations", n, lambda x: x + f6(x), _t(-0.5, 1.4)),
    ]  # fmt: skip


def _jaxopt() -> list[Map]:
    theta = math.pi / _t(2, 3, 4, 5, 6, 1.27, 1.73)
    turn = torch.block_diag(
        *[
            torch.stack([torch.stack([t.cos(), -t.sin()]), torch.stack([t.sin(), t.cos()])])
            for t in theta
        ]
    )
    centre = torch.arange(1, 15, dtype=torch.double)
    affine = 2 * _random(200, 200) - 1
    affine = affine + affine.T
    affine = affine / (2 * torch.linalg.eigvalsh(affine)[-1] + 1e-4)
    b = _random(200, seed=1)

    def powers(z: Tensor) -> Tensor:
        return torch.cat([z[:3].sin() * z[:3] ** 2, z[3:5] ** 3, -z[5:]])

    s = "jaxopt"
    rates = _t(0.9, 0.99, 0.999)
    return [
        Map("three rates to 0.999", s, lambda z: rates * z, _t(1.0, 0.4, -0.2), (_t(0, 0, 0),)),
        Map("z / 2 + 1 / 2", s, lambda z: 0.5 * z + 0.5, _t(0.0), (_t(1.0),)),
        Map("powers and sines", s, powers, _t(0.6, 0, -0.1, 0.7, 0.5, -1 / 3, 0, 2 / 3, -0.4 / 3)),
        Map("cos z + θ", s, lambda z: z.cos() + _t(0, math.pi / 2), _t(0.3, math.pi / 4),
            (_t(0.7390851332151607, math.pi / 2),)),
        Map("seven rotations", s, lambda z: turn @ (z - centre) + centre, _random(14), (centre,)),
        Map("symmetric, 200", s, lambda z: affine @ z + b, torch.zeros(200).double(),
            (torch.linalg.solve(torch.eye(200).double() - affine, b),)),
    ]  # fmt: skip


def _optimistix() -> list[Map]:
    s = "Optimistix"
    w = [2 * _random(5, 5, seed=k) - 1 for k in range(3)]

    def mlp(z: Tensor) -> Tensor:
        for weight in w[:2]:
            z = (weight @ z).relu()
        return 0.1 * (w[2] @ z) + 1.0

    n = 20
    diagonal = 1 + _random(n, seed=4)
    return [
        Map("network of ReLUs", s, mlp, torch.ones(5).double()),
        Map("sine and cosine", s, lambda z: torch.stack([z[1].sin(), 0.5 * z[0].cos()]),
            _t(1.0, 1.0)),
        Map("diagonal bowl", s, lambda z: z - 0.5 * diagonal * (z - 1), torch.zeros(n).double(),
            (torch.ones(n).double(),)),
        Map("exp(-z)", s, lambda z: (-z).exp(), _t(0.0), (_t(0.5671432904097838),)),
    ]  # fmt: skip


def _nonlinear_solve() -> list[Map]:
    s = "NonlinearSolve"
    n = 32
    h = 1 / (n + 1)
    green = torch.linalg.inv(-_laplacian(n) / h**2)

    def bratu(z: Tensor) -> Tensor:
        return z + h**2 * (_laplacian(n) @ z / h**2 + 3.0 * z.exp())

    def boundary(z: Tensor) -> Tensor:
        return z + 0.5 * (_laplacian(10) @ z - (1 / 11) ** 2 * (z + t10 + 1) ** 3 / 2)

    t10 = torch.arange(1, 11, dtype=torch.double) / 11

    def integral(z: Tensor) -> Tensor:
        cube = (z + t10 + 1) ** 3
        lower = torch.tril(torch.ones(10, 10).double())
        first = (1 - t10) * (lower @ (t10 * cube))
        second = t10 * ((1 - lower) @ ((1 - t10) * cube))
        return -(first + second) / 11 / 2

    def rosenbrock(z: Tensor) -> Tensor:
        return z - torch.stack([10 * (z[1] - z[0] ** 2), 1 - z[0]])

    def singular(z: Tensor) -> Tensor:
        f = [z[0] + 10 * z[1], 5**0.5 * (z[2] - z[3]), (z[1] - 2 * z[2]) ** 2,
             10**0.5 * (z[0] - z[3]) ** 2]  # fmt: skip
        return z - torch.stack(f)

    def tridiagonal(z: Tensor) -> Tensor:
        left = torch.cat([z.new_zeros(1), z[:-1]])
        right = torch.cat([z[1:], z.new_zeros(1)])
        return z - ((3 - 2 * z) * z - left - 2 * right + 1)

    def banded(z: Tensor) -> Tensor:
        count = len(z)
        near = torch.zeros(count, count).double()
        for i in range(count):
            for j in range(max(0, i - 5), min(count, i + 2)):
                near[i, j] = float(i != j)
        return z - (z * (2 + 5 * z**2) + 1 - near @ (z * (1 + z)))

    def trigonometric(z: Tensor) -> Tensor:
        count = len(z)
        i = torch.arange(1, count + 1).double()
        return z - (count - z.cos().sum() + i * (1 - z.cos()) - z.sin())

    def linear(z: Tensor) -> Tensor:
        f = z + z.sum() - (len(z) + 1)
        return z - torch.cat([f[:-1], (z.prod() - 1).reshape(1)])

    return [
        Map("z² = 2", s, lambda z: z - (z**2 - 2), _t(1.0), (_t(2**0.5),)),
        Map("Bratu", s, bratu, torch.zeros(n).double()),
        Map("Bratu, Green's operator", s, lambda z: 3.0 * (green @ z.exp()),
            torch.zeros(n).double()),
        Map("Rosenbrock", s, rosenbrock, _t(-1.2, 1.0), (_t(1.0, 1.0),)),
        Map("Powell singular", s, singular, _t(3, -1, 0, 1), (_t(0, 0, 0, 0),)),
        Map("Broyden tridiagonal", s, tridiagonal, -torch.ones(20).double()),
        Map("Broyden banded", s, banded, -torch.ones(20).double()),
        Map("discrete boundary values", s, boundary, t10 * (t10 - 1)),
        Map("discrete integral equation", s, integral, t10 * (t10 - 1)),
        Map("trigonometric", s, trigonometric, torch.full((10,), 0.1).double()),
        Map("Brown almost linear", s, linear, torch.full((10,), 0.5).double()),
    ]  # fmt: skip


def _anderson() -> list[Map]:
    s = "Anderson packages"
    jordan = 0.9 * torch.eye(10).double() + torch.diag(torch.ones(9).double(), 1)
    values = torch.linspace(-0.999, 0.999, 60).double()
    basis = torch.linalg.qr(_random(60, 60, seed=5) - 0.5)[0]
    slow = basis @ torch.diag(values) @ basis.T
    b = _random(60, seed=6)
    n = 40
    mu = (torch.arange(n).double() + 0.5) / n
    kernel = mu[:, None] / (mu[:, None] + mu) / n
    links = _random(50, 50, seed=7)
    links = (links > 0.9).double() + 1e-9
    links = links / links.sum(0)
    anomaly = torch.arange(1, 101, dtype=torch.double)
    side = 12
    grid = torch.eye(side**2).double() + 0.25 * (
        torch.kron(_laplacian(side), torch.eye(side).double())
        + torch.kron(torch.eye(side).double(), _laplacian(side))
    )

    def chandrasekhar(c: float) -> Callable[[Tensor], Tensor]:
        return lambda z: 1 / (1 - c / 2 * (kernel @ z))

    one = torch.eye(10).double()
    return [
        Map("Jordan block 0.9", s, lambda z: jordan @ z + 1, torch.zeros(10).double(),
            (torch.linalg.solve(one - jordan, torch.ones(10).double()),)),
        Map("symmetric, radius 0.999", s, lambda z: slow @ z + b, torch.zeros(60).double(),
            (torch.linalg.solve(torch.eye(60).double() - slow, b),)),
        Map("Chandrasekhar, c = 0.5", s, chandrasekhar(0.5), torch.ones(n).double()),
        Map("Chandrasekhar, c = 0.99", s, chandrasekhar(0.99), torch.ones(n).double()),
        Map("page rank", s, lambda z: 0.85 * (links @ z) + 0.15 / 50,
            torch.full((50,), 1 / 50).double()),
        Map("Kepler, e = 0.95", "GEMSEO", lambda z: anomaly + 0.95 * z.sin(),
            torch.ones(100).double()),
        Map("Jacobi's method, 12 × 12", s, lambda z: grid @ z + 0.01, torch.zeros(side**2).double(),
            (torch.linalg.solve(torch.eye(side**2).double() - grid,
                                torch.full((side**2,), 0.01).double()),)),
        Map("logistic, r = 3.5", s, lambda z: 3.5 * z * (1 - z), _t(0.2), (_t(5 / 7), _t(0.0))),
        Map("log z + 2", s, lambda z: z.log() + 2, _t(0.5),
            (_t(3.1461932206205825), _t(0.15859433956303937))),
        Map("chain of weight 3", s, _chain, torch.zeros(21).double()),
    ]  # fmt: skip


def _chain(z: Tensor) -> Tensor:
    return torch.cat([z.new_ones(1), 3 * z[:-1]])


MAPS = [*_scipy(), *_jaxopt(), *_optimistix(), *_nonlinear_solve(), *_anderson()]

__all__ = ["MAPS", "Map"]
