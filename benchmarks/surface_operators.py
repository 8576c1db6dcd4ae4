"""Kernels of a surface, not of its mesh: spherical harmonics on spheres from coarse to fine.

    python -m benchmarks surface_operators

On the unit sphere the harmonics of degree ``l`` are eigenfunctions of ``MeshToGraph(scale=…)``'s
Laplacian, with the eigenvalue (Funk and Hecke)

    λ_l - 1,  λ_l = ∫ k(t) P_l(t) dt / ∫ k(t) dt,  t = cos(angle),

and its gradient is ℓ ∇ times a factor of the same kind. The tables compare with these, vertex by
vertex, on icospheres and on random points (twice as dense in the south), triangulated by Delaunay.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from scipy.integrate import quad
from scipy.sparse import csr_matrix
from scipy.spatial import ConvexHull
from scipy.special import eval_legendre, sph_harm_y
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.datasets import primitives
from gncadeq.transforms import MeshToGraph


def uneven_sphere(num_points: int, seed: int = 0) -> Data:
    """Random points on the unit sphere, twice as dense at the south pole, triangulated."""
    generator = np.random.default_rng(seed)
    point = generator.normal(size=(8 * num_points, 3))
    point /= np.linalg.norm(point, axis=1, keepdims=True)
    kept = point[generator.uniform(size=len(point)) < (3 - point[:, 2]) / 4][:num_points]
    for _ in range(3):  # towards their neighbours' mean: no slivers, still uneven
        face = ConvexHull(kept).simplices
        pair = np.concatenate([face[:, [0, 1]], face[:, [1, 2]], face[:, [2, 0]]])
        mean = np.zeros_like(kept)
        for a, b in (pair.T, pair.T[::-1]):
            np.add.at(mean, a, kept[b])
        kept = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    face = ConvexHull(kept).simplices
    a, b, c = (kept[corner] for corner in face.T)
    inward = (np.cross(b - a, c - a) * a).sum(1) < 0
    face[inward] = face[inward][:, ::-1]
    return Data(pos=torch.from_numpy(kept), face=torch.from_numpy(face.T.astype(np.int64)))


def harmonics(pos: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Real spherical harmonics ``[N, 2l + 1]`` and their gradients ``[N, 2l + 1, 3]``."""

    def values(point: Tensor) -> Tensor:
        x, y, z = (point / point.norm(dim=1, keepdim=True)).numpy().T
        polar, azimuth = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
        columns = [
            (y.imag if m < 0 else y.real) * (1 if m == 0 else math.sqrt(2))
            for m in range(-degree, degree + 1)
            for y in [sph_harm_y(degree, abs(m), polar, azimuth)]
        ]
        return torch.from_numpy(np.stack(columns, axis=1))

    h = 1e-5  # extended constantly along rays, so that its gradient is that on the sphere
    slopes = [(values(pos + h * e) - values(pos - h * e)) / (2 * h) for e in torch.eye(3).double()]
    return values(pos), torch.stack(slopes, dim=2)


def exact_factors(degree: int, scale: float) -> tuple[float, float]:
    """The Laplacian's eigenvalue, and the gradient's factor before ℓ ∇."""
    low = 1 - (3 * scale) ** 2 / 2

    def k(t: float) -> float:
        return math.exp(-(1 - t) / scale**2) - math.exp(-4.5)

    def phi(t: float) -> float:  # its derivative is k
        return -(scale**2) * (1 - math.exp(-(1 - t) / scale**2)) + math.exp(-4.5) * (1 - t)

    def integral(f) -> float:  # type: ignore[no-untyped-def]
        return quad(f, low, 1, epsabs=1e-14, epsrel=1e-12)[0]

    legendre = integral(lambda t: k(t) * eval_legendre(degree, t))
    # Beyond the cutoff phi is constant: its integral there comes from that of P_l.
    tail = quad(lambda t: eval_legendre(degree, t), -1, low)[0] * phi(low)
    slope = integral(lambda t: phi(t) * eval_legendre(degree, t)) + tail
    return legendre / integral(k) - 1, slope / (integral(lambda t: k(t) * (1 - t * t)) / 2)


def perceive(data: Data, z: Tensor) -> Tensor:
    """Every kernel of every channel: ``[N, C, K]``."""
    source, target = data.edge_index
    n = z.size(0)
    columns = []
    for weight in data.edge_attr.numpy().T:
        matrix = csr_matrix((weight, (target.numpy(), source.numpy())), shape=(n, n))
        columns.append(torch.from_numpy(matrix @ z.numpy()))
    return torch.stack(columns, dim=2)


def errors(mesh: Data, scale: float, degrees: tuple[int, ...]) -> tuple[Data, list[float]]:
    """The graph, and relative errors (root mean square over vertices), two for each degree."""
    data = MeshToGraph("harmonics", scale=scale)(mesh)
    out = []
    for degree in degrees:
        z, slope = harmonics(data.pos.double(), degree)
        eigenvalue, factor = exact_factors(degree, scale)
        seen = perceive(data, z.to(data.edge_attr.dtype)).double()
        exact = [eigenvalue * z, factor * scale * slope]
        for got, want in zip((seen[:, :, 0], seen[:, :, 1:]), exact, strict=True):
            out.append(float((got - want).norm() / want.norm()))
    return data, out


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--smoke", action="store_true", help="only the two coarsest meshes")
    args = parser.parse_args()
    degrees = (1, 2, 4)
    for name in ("icosphere", "uneven"):
        print(f"\n{name}, scale = {args.scale}: relative errors of Laplacian and gradient")
        heads = "".join(f"   L l={d}   ∇ l={d}" for d in degrees)
        print("vertices  edge/scale      edges  seconds " + heads)
        for subdivisions in (3, 4) if args.smoke else (3, 4, 5, 6):
            mesh = primitives.icosphere(subdivisions)
            if name == "uneven":
                mesh = uneven_sphere(mesh.num_nodes)
            mesh.pos = mesh.pos.float()
            start = time.perf_counter()
            data, error = errors(mesh, args.scale, degrees)
            seconds = time.perf_counter() - start
            edge = math.sqrt(8 * math.pi / mesh.num_nodes / math.sqrt(3)) / args.scale
            head = f"{mesh.num_nodes:8,} {edge:11.2f} {data.num_edges:10,} {seconds:8.1f} "
            print(head + "".join(f" {e:8.1e}" for e in error), flush=True)


if __name__ == "__main__":
    main()
