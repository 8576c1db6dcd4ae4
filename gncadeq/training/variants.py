"""Variants of a surface to train on: rougher, coarser, finer and stretched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_seed
from gncadeq.choices import Kernels, Up
from gncadeq.training.surfaces import surface_target
from gncadeq.transforms.damage import ball
from gncadeq.transforms.surface_operators import mesh_edges


def draw_variants(
    mesh: Data,
    count: int,
    kernels: Kernels = "tangent",
    scale: float | None = None,
    up: Up = "y",
    seed: int = 0,
) -> list[Data]:
    """Targets like :func:`gncadeq.training.surfaces.surface_target`'s on variants of a mesh.

    In turn: jittered; coarser; with a hole and stretched; finer and jittered; all but the hole;
    with a hole and coarser; stretched and jittered.

    Args:
        mesh: ``pos`` ``[N, 3]``, ``face`` ``[3, F]``, ``color`` ``[N, 4]``, ``seed_node`` ``[1]``.
        count: How many.
        kernels: As of :class:`gncadeq.transforms.MeshToGraph`, and so is ``scale``: what is too
            coarse for it is left out.
        scale: The kernels' length.
        up: The axis that points up.
        seed: Seed of the draws.

    Example:
        >>> from gncadeq.training.targets import load_target
        >>> data = load_target("spots", on="icosphere:2")
        >>> [graph.edge_attr.size(1) for graph in draw_variants(data, 3)]
        [3, 3, 3]
    """
    draw = torch.Generator().manual_seed(check_seed(seed))
    chains = (
        (jitter,), (collapse, collapse), (puncture, stretch), (split, jitter),
        (collapse, stretch, split, jitter), (puncture, collapse), (stretch, jitter),
    )  # fmt: skip
    graphs = []
    for k in range(count):
        variant = mesh
        for change in chains[k % len(chains)]:
            variant = change(variant, generator=draw)
        source, target = mesh_edges(variant.face, variant.num_nodes)
        length = float((variant.pos[source] - variant.pos[target]).norm(dim=1).mean())
        if scale is None or length <= 2 * scale:
            graph = surface_target(variant, variant.color, kernels, scale, up)
            graph.seed_node = variant.seed_node
            graphs.append(graph)
    return graphs


def stretch(mesh: Data, most: float = 2.0, generator: torch.Generator | None = None) -> Data:
    """Stretch or compress along three random axes, each by a factor between ``1 / most`` and it.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> stretch(primitives.icosphere(1))
        Data(pos=[42, 3], face=[3, 80])
    """
    axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.double))[0]
    factor = most ** (2 * torch.rand(3, generator=generator, dtype=torch.double) - 1)
    out = mesh.clone()
    out.pos = (mesh.pos.double() @ (axes * factor) @ axes.t()).to(mesh.pos)
    return out


def jitter(mesh: Data, share: float = 0.2, generator: torch.Generator | None = None) -> Data:
    """Move every vertex by Gaussian noise of ``share`` times the mean length of its edges.

    Args:
        mesh: ``pos`` ``[N, 3]`` and ``face`` ``[3, F]``; all else is kept.
        share: The standard deviation, along each axis.
        generator: Source of the noise.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> jitter(primitives.icosphere(1))
        Data(pos=[42, 3], face=[3, 80])
    """
    source, target = mesh_edges(mesh.face, mesh.pos.size(0))
    length = (mesh.pos[source] - mesh.pos[target]).norm(dim=1)
    total = length.new_zeros(mesh.pos.size(0)).index_add_(0, target, length)
    mean = total / torch.bincount(target, minlength=total.numel()).clamp_min(1)
    noise = torch.randn(mesh.pos.shape, generator=generator).to(mesh.pos)
    out = mesh.clone()
    out.pos = mesh.pos + share * mean[:, None] * noise
    return out


def collapse(mesh: Data, generator: torch.Generator | None = None) -> Data:
    """Collapse random edges, no two of which share a vertex: about a quarter of the vertices go.

    Of the two ends of an edge one stays where it is, with what it carries; faces that lose their
    area go.

    Args:
        mesh: ``pos`` ``[N, 3]``, ``face`` ``[3, F]``, and maybe ``color`` ``[N, 4]`` and a
            ``seed_node`` ``[1]``, which is kept.
        generator: Source of the draws.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> generator = torch.Generator().manual_seed(0)
        >>> collapse(primitives.icosphere(2), generator).num_nodes < 140
        True
    """
    n = mesh.pos.size(0)
    edge = _undirected(mesh.face, n)
    chosen = _independent(edge.t(), n, generator)
    gone, kept = edge[:, chosen]
    seed = mesh.get("seed_node")
    if seed is not None:
        swap = gone == seed
        gone, kept = torch.where(swap, kept, gone), torch.where(swap, gone, kept)
    into = torch.arange(n, device=edge.device)
    into[gone] = kept
    stays = into == torch.arange(n, device=edge.device)
    number = stays.cumsum(0) - 1
    face = number[into[mesh.face]]
    proper = (face != face.roll(1, 0)).all(0)
    more: dict[str, Any] = {"color": mesh.color[stays]} if mesh.get("color") is not None else {}
    if seed is not None:
        more["seed_node"] = number[seed]
    return Data(pos=mesh.pos[stays], face=face[:, proper], **more)


def puncture(mesh: Data, generator: torch.Generator | None = None) -> Data:
    """Cut a hole: all vertices in a ball of a quarter of the extent go, the seed excepted.

    Args:
        mesh: ``pos`` ``[N, 3]``, ``face`` ``[3, F]``, and maybe ``color`` ``[N, 4]`` and a
            ``seed_node`` ``[1]``, whose neighbourhood is spared.
        generator: Source of the place.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> puncture(primitives.icosphere(2)).num_nodes < 160
        True
    """
    extent = (mesh.pos.amax(0) - mesh.pos.amin(0)).max()
    seed = mesh.get("seed_node")
    far = torch.ones_like(mesh.pos[:, 0], dtype=torch.bool)
    if seed is not None:
        far = (mesh.pos - mesh.pos[seed]).norm(dim=1) > 0.6 * extent
    stays = ~ball(mesh.pos, 0.25, generator, far)
    face = mesh.face[:, stays[mesh.face].all(0)]
    used = torch.zeros_like(stays)
    used[face.flatten()] = True
    if seed is not None:
        used[seed] = True
    number = used.cumsum(0) - 1
    more: dict[str, Any] = {"color": mesh.color[used]} if mesh.get("color") is not None else {}
    if seed is not None:
        more["seed_node"] = number[seed]
    return Data(pos=mesh.pos[used], face=number[face], **more)


def split(mesh: Data, generator: torch.Generator | None = None) -> Data:
    """Split random edges at their middle, no two of one face: over half as many vertices again.

    Args:
        mesh: ``pos`` ``[N, 3]``, ``face`` ``[3, F]``, and maybe ``color`` ``[N, 4]``, of which new
            vertices get the mean, and a ``seed_node`` ``[1]``.
        generator: Source of the draws.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> generator = torch.Generator().manual_seed(0)
        >>> split(primitives.icosphere(2), generator).num_nodes > 220
        True
    """
    n = mesh.pos.size(0)
    edge = _undirected(mesh.face, n)
    key = edge[0] * n + edge[1]
    a, b = mesh.face, mesh.face.roll(-1, 0)  # side k of a face leads from corner k to the next
    side = torch.searchsorted(key, torch.minimum(a, b) * n + torch.maximum(a, b))
    proper = (a != b).all(0)
    fresh = torch.rand(edge.size(1), generator=generator).to(mesh.pos)
    least = fresh[side].amin(0)
    # An edge is split if it comes first in all of its faces.
    wins = torch.ones_like(fresh, dtype=torch.bool)
    for k in range(3):
        wins[side[k, (fresh[side[k]] > least) | ~proper]] = False
    number = n + wins.cumsum(0) - 1
    parts = [mesh.face[:, ~wins[side].any(0)]]
    for k in range(3):
        hit = wins[side[k]]
        corner, opposite = mesh.face[:, hit].roll(-k, 0), number[side[k, hit]]
        parts.append(torch.stack([corner[0], opposite, corner[2]]))
        parts.append(torch.stack([opposite, corner[1], corner[2]]))
    ends = edge[:, wins]

    def extended(value: Tensor) -> Tensor:
        return torch.cat([value, value[ends].mean(0)])

    more: dict[str, Any] = {}
    if mesh.get("color") is not None:
        more["color"] = extended(mesh.color)
    if mesh.get("seed_node") is not None:
        more["seed_node"] = mesh.seed_node
    return Data(pos=extended(mesh.pos), face=torch.cat(parts, dim=1), **more)


def _undirected(face: Tensor, num_nodes: int) -> Tensor:
    """Every edge once, ``[2, E]``, its smaller end first, in ascending order."""
    low, high = mesh_edges(face, num_nodes).flip(0)
    return torch.stack([low, high])[:, low < high]


def _independent(pairs: Tensor, num_nodes: int, generator: torch.Generator | None) -> Tensor:
    """Rows of ``pairs`` ``[E, 2]`` that share no node: those drawn before all that do."""
    rank = torch.randperm(len(pairs), generator=generator).to(pairs.device)
    first = torch.full((num_nodes,), len(pairs), device=pairs.device)
    for end in pairs.t():
        first = first.scatter_reduce(0, end, rank, "amin")
    return (first[pairs] == rank[:, None]).all(1)
