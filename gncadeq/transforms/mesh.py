"""Meshes to graphs whose edges carry the geometry as kernel weights."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_count, check_number, check_type, check_value
from gncadeq.choices import Kernels
from gncadeq.transforms.surface_balls import surface_balls
from gncadeq.transforms.surface_operators import (
    Weights,
    least_squares_gradient,
    mean_lengths,
    mesh_edges,
    neighbor_weights,
    normalized_rows,
    tangent_frames,
    vertex_areas,
    vertex_normals,
    with_self_loops,
)

_CUTOFF = 3.0
"""Where the Gaussian ends, in units of the scale; it is lowered to end at zero."""


class MeshToGraph(BaseTransform):  # type: ignore[misc]
    r"""Turn a triangle mesh into a graph that a cell perceives through kernels.

    .. math::
        y_i^k = \sum_{(j \to i) \in \mathcal{E}} a_{ij}^k \, z_j, \qquad \sum_j a_{ij}^k = 0

    The weights :math:`a` (``edge_attr``) hold all of the geometry. The kernels are

    - ``"isotropic"``: ``[Laplacian]``, blind to direction;
    - ``"tangent"``: ``[∂east, ∂north, Laplacian]`` in a tangent frame of every vertex, whose north
      is ``up`` projected onto the surface (see :func:`tangent_frames`);
    - ``"gradient"``: the first two of these;
    - ``"harmonics"``: ``[Laplacian, ∂x, ∂y, ∂z]``, the gradient along the surface as a vector in
      world axes: real spherical harmonics of degree 0 and 1, which turn with the mesh.

    Without a ``scale`` they are dimensionless one-ring operators: the Laplacian is :math:`\sum_j
    \hat w_{ij} (z_j - z_i)` with :math:`\hat w_{ij} \ge 0, \sum_j \hat w_{ij} = 1` (spectrum in
    [-2, 0]), the gradient a least squares fit in units of the vertex's mean edge length, damped
    where the triangles are needles, so that its rows are bounded on every mesh
    (:func:`gncadeq.testing.assert_bounded_perception`). With ``scale=ℓ`` they are the surface's:

    .. math::
        \mathbf{G}_\ell - \mathbf{I} \;\text{ and }\; \ell \nabla, \quad (\mathbf{G}_\ell z)_i =
        \frac{\sum_j A_j \, k(\lVert \mathbf{x}_i - \mathbf{x}_j \rVert) z_j}
        {\sum_j A_j \, k(\lVert \mathbf{x}_i - \mathbf{x}_j \rVert)}, \quad
        k(d) = e^{-d^2 / 2 \ell^2} - e^{-9/2}, \; d < 3 \ell

    over the vertices that are joined within the ball by edges, each with its area :math:`A_j`. A
    finer mesh has the same kernels, more exactly, and about :math:`9 \pi \ell^2 N^2 / A` edges.

    Args:
        kernels: ``"isotropic"``, ``"tangent"``, ``"gradient"`` or ``"harmonics"``.
        weights: Of the one ring: ``"cotangent"`` (the default; negative ones count as zero),
            ``"distance"`` or ``"uniform"``. Not for a ``scale``.
        scale: The length ℓ in the units of ``pos``, or ``None`` for the one ring. Take at least the
            mean edge's length; half of it is refused.
        up: The axis that gives tangent frames their north.
        max_edges: Refuse a ``scale`` that would need more edges, before they fill the memory.

    Returns (when called with ``Data`` of ``pos`` ``[N, 3]`` and ``face`` ``[3, F]``):
        The same with ``edge_index`` ``[2, E]`` sorted by target, loops included, ``edge_attr``
        ``[E, K]``, unit ``normal`` ``[N, 3]``, ``area`` ``[N]`` (a third of the faces around), and
        ``frame`` ``[N, 2, 3]`` for ``"tangent"`` and ``"gradient"``. A vertex without an edge has
        weights of zero.

    Raises:
        ValueError: On an unknown option, a missing or wrong attribute, coordinates that are no
            finite numbers, or a ``scale`` too small or too large for the mesh.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> MeshToGraph("harmonics")(primitives.icosphere(1))
        Data(pos=[42, 3], face=[3, 80], normal=[42, 3], area=[42], edge_index=[2, 282],
             edge_attr=[282, 4])
    """

    def __init__(
        self,
        kernels: Kernels = "isotropic",
        weights: Weights | None = None,
        scale: float | None = None,
        up: tuple[float, float, float] = (0.0, 0.0, 1.0),
        max_edges: int = 50_000_000,
    ) -> None:
        check_choice("kernels", kernels, get_args(Kernels))
        check_choice("weights", weights, (*get_args(Weights), None))
        scale = check_value("scale", scale, float | None, above=0.0)
        max_edges = check_count("max_edges", max_edges, 1)
        if scale is not None and weights is not None:
            raise ValueError(
                f"Expected no 'weights' beside a 'scale', whose weights are Gaussian (got "
                f"{weights!r}). Leave one of them out"
            )
        check_type("up", up, (tuple, list))
        axis = tuple(check_number("up", part) for part in up)
        if len(axis) != 3 or not any(axis):
            raise ValueError(f"Expected an axis 'up' of three numbers, not all zero (got {up})")
        self.kernels, self.weights, self.scale = kernels, weights, scale
        self.up, self.max_edges = axis, max_edges

    def forward(self, data: Data) -> Data:
        """Add edges, kernel weights, normals and areas to ``data``."""
        check_mesh(data)
        pos, face, n = data.pos, data.face, data.pos.size(0)
        data.normal = vertex_normals(pos, face)
        area = vertex_areas(pos.double(), face)  # squares of lengths leave float32's range first
        data.area = area.to(pos.dtype)
        frame = tangent_frames(data.normal, self.up) if self.kernels != "isotropic" else None
        edges = mesh_edges(face, n)
        if self.scale is None:
            parts = [(edges, self._one_ring(pos, face, edges, frame))]
        else:
            parts = self._balls(pos, edges, area, frame)
        edge_index = torch.cat([edge for edge, _ in parts], dim=1)
        edge_attr = torch.cat([attr for _, attr in parts])
        data.edge_index, data.edge_attr = with_self_loops(edge_index, edge_attr, n, pos.dtype)
        if self.kernels in ("tangent", "gradient") and frame is not None:
            data.frame = frame.to(pos.dtype)
        return data

    def _one_ring(self, pos: Tensor, face: Tensor, edges: Tensor, frame: Tensor | None) -> Tensor:
        source, target = edges
        n = pos.size(0)
        weight = neighbor_weights(pos, edges, self.weights or "cotangent", face)
        laplacian = normalized_rows(weight, target, n)
        if frame is None:
            return laplacian[:, None]
        # Cotangents may vanish where a derivative is well defined: the fit weighs by distance.
        uniform = self.weights == "uniform"
        fit = neighbor_weights(pos, edges, "uniform" if uniform else "distance")
        offset = pos.double()[source] - pos.double()[target]
        length, unit = mean_lengths(offset, target, n)
        return self._kernels(laplacian, offset, length, fit, target, unit, frame)

    def _balls(
        self, pos: Tensor, edges: Tensor, area: Tensor, frame: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        assert self.scale is not None
        n, radius = pos.size(0), _CUTOFF * self.scale
        length = (pos.double()[edges[0]] - pos.double()[edges[1]]).norm(dim=1)
        if edges.numel() and self.scale < 0.5 * float(length.mean()):
            raise ValueError(
                "Expected a 'scale' of at least the mean edge's length, "
                f"{float(length.mean()):.3g} (got {self.scale:.3g}, less than half of it). Enlarge "
                "it, refine the mesh, or use scale=None"
            )
        total = max(float(area.sum()), 1e-300)
        balls = max(1.0, min(n, math.pi * radius**2 * n / total))  # vertices in a ball, on average
        if n * balls > self.max_edges:
            raise ValueError(
                f"Expected at most max_edges={self.max_edges:,} (got about {int(n * balls):,} of "
                f"them for scale={self.scale:.3g}). Lower the scale, simplify the mesh, or raise "
                "max_edges: making them takes some 150 bytes each"
            )
        place, floor, parts = pos.double(), math.exp(-(_CUTOFF**2) / 2), []
        rows = max(1, int(2_000_000 / balls))
        for first, (pairs, distance) in enumerate(surface_balls(pos, edges, radius, rows)):
            (source, target), distance = pairs.to(pos.device), distance.to(pos.device)
            own = slice(first * rows, min((first + 1) * rows, n))
            local = target - own.start
            kernel = torch.exp(-distance.square() / (2 * self.scale**2)) - floor
            weight = kernel.clamp_min(0.0) * area[source]
            sums = area[own] * (1 - floor)
            sums = sums.index_add(0, local, weight).clamp_min(1e-300)
            laplacian = weight / sums[local]
            attr = laplacian[:, None]
            if frame is not None:
                offset, unit = place[source] - place[target], torch.full_like(sums, self.scale)
                parts_of = laplacian, offset, distance, laplacian, local, unit, frame[own]
                attr = self._kernels(*parts_of)
            parts.append((torch.stack([source, target]), attr.to(pos.dtype)))
        return parts

    def _kernels(
        self, laplacian: Tensor, offset: Tensor, length: Tensor, fit: Tensor, target: Tensor,
        unit: Tensor, frame: Tensor,
    ) -> Tensor:  # fmt: skip
        flat = torch.einsum("ekd,ed->ek", frame[target], offset)
        gradient = least_squares_gradient(flat, length, fit, target, unit)
        if self.kernels == "gradient":
            return gradient
        if self.kernels == "tangent":
            return torch.cat([gradient, laplacian[:, None]], dim=1)
        world = torch.einsum("ek,ekd->ed", gradient, frame[target])
        return torch.cat([laplacian[:, None], world], dim=1)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(kernels={self.kernels!r}, weights={self.weights!r}, "
            f"scale={self.scale}, up={self.up})"
        )


def check_mesh(data: Data) -> None:
    """Raise what is wrong with ``data`` as a mesh.

    Raises:
        TypeError: If it is of a wrong dtype.
        ValueError: If an attribute is missing, of a wrong shape or range, or not finite.
    """
    if getattr(data, "face", None) is None:
        raise ValueError(
            f"Expected a mesh with 'face' [3, num_faces] (got {data}). Use PointsToGraph for points"
        )
    check_positions(data, (3,))
    check_type("face", data.face, Tensor)
    face, n = data.face, data.pos.size(0)
    if face.dim() != 2 or face.size(0) != 3:
        raise ValueError(f"Expected 'face' of shape [3, num_faces] (got {list(face.shape)})")
    if face.dtype != torch.long:
        raise TypeError(f"Expected 'face' of torch.long (got {face.dtype}). Use face.long()")
    if face.numel() and (int(face.min()) < 0 or int(face.max()) >= n):
        raise ValueError(
            f"Expected 'face' of the vertices 0 … {n - 1} (got {int(face.min())} … "
            f"{int(face.max())})"
        )


def check_positions(data: Data, dims: tuple[int, ...]) -> None:
    """Raise what is wrong with the positions of a single graph.

    Raises:
        TypeError: If they are of a wrong dtype.
        ValueError: If they are missing, of a wrong shape, no finite numbers, or those of a batch.
    """
    pos = data.pos
    if pos is not None:
        check_type("pos", pos, Tensor)
    if pos is None or pos.dim() != 2 or pos.size(1) not in dims or pos.size(0) == 0:
        got = None if pos is None else list(pos.shape)
        raise ValueError(
            f"Expected 'pos' of shape [num_nodes, {' or '.join(map(str, dims))}] with a node at "
            f"least (got {got})"
        )
    if pos.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"Expected 'pos' of float32 or float64 (got {pos.dtype}). Use pos.float()")
    bad = ~pos.isfinite().all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"Expected finite 'pos' (got {int(bad.sum())} nodes with NaN or infinity). Remove them"
        )
    if getattr(data, "batch", None) is not None and int(data.num_graphs) > 1:
        raise ValueError(
            f"Expected a single graph (got a batch of {data.num_graphs}). Transform, then batch"
        )
