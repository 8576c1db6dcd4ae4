"""Lyapunov exponents of a rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.analysis.jacobian import check_state, push_forward
from gncadeq.check import check_count, check_seed
from gncadeq.dynamics import Partition
from gncadeq.typing import OptTensor, Step


def lyapunov_exponents(
    step: Step,
    z: Tensor,
    steps: int,
    k: int = 1,
    batch: OptTensor = None,
    *,
    warmup: int = 0,
    seed: int = 0,
) -> Tensor:
    r"""The largest Lyapunov exponents of a rollout, by the method of Benettin et al. (1980).

    .. math::
        \mathbf{Q}_{t+1} \mathbf{R}_{t+1} = \mathbf{J}(\mathbf{z}^t) \, \mathbf{Q}_t, \qquad
        \lambda_j = \frac{1}{T} \sum_{t=1}^{T} \log (\mathbf{R}_t)_{jj}

    over the nodes of each graph by itself. A positive exponent means chaos; at a fixed point, the
    largest is :math:`\log \rho(\mathbf{J})`. The error falls as :math:`1/T` on regular rollouts, as
    :math:`1/\sqrt{T}` on chaotic ones.

    Args:
        step: Any deterministic map of states ``[num_nodes, channels]``.
        z: The first state; start on the attractor, or let ``warmup`` lead there.
        steps: Number of steps :math:`T` to average over.
        k: How many exponents.
        batch: Ascending graph index of every node, for the exponents of each graph.
        warmup: Steps before, in which the tangents turn to the leading directions.
        seed: Seed of the first tangents.

    Returns:
        ``[k]``, or ``[num_graphs, k]`` with a ``batch``; per step, the largest first, minus
        infinity where all change dies out.

    Raises:
        FloatingPointError: If the rollout of a graph leaves the finite numbers.
        ValueError: If ``steps``, ``warmup`` or ``k`` is out of range.

    Example:
        >>> growth = torch.tensor([2.0, 0.5])
        >>> lyapunov_exponents(lambda z: z * growth, torch.zeros(1, 2), steps=50, k=2, warmup=20)
        tensor([ 0.6931, -0.6931])
    """
    check_state(z)
    partition = Partition(batch, z.size(0), like=z)
    nodes = partition.sum(torch.ones_like(partition.batch))
    least = int(nodes.min()) * z.size(1) if partition.num_graphs else k
    k = check_count("k", k, 1, least, "The smallest graph's state has so many entries")
    steps = check_count("steps", steps, 1)
    warmup = check_count("warmup", warmup)
    seed = check_seed(seed)
    exponents = follow_tangents(step, z, partition, steps, k, warmup, seed)
    broken = exponents.isnan().any(1).nonzero().flatten().tolist()
    if broken:
        raise FloatingPointError(
            f"Expected a finite rollout (graphs {broken[:5]} left the finite numbers within "
            f"{warmup + steps} steps). Take fewer steps, or start closer to the attractor"
        )
    return exponents[0] if batch is None else exponents


@torch.no_grad()
def follow_tangents(
    step: Step, z: Tensor, partition: Partition, steps: int, k: int, warmup: int, seed: int
) -> Tensor:
    """The exponents ``[num_graphs, k]``, NaN for the graphs that leave the finite numbers."""
    generator = torch.Generator().manual_seed(seed)
    tangents = [
        torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device) for _ in range(k)
    ]
    tangents, _ = _orthonormalise(tangents, partition)
    total = z.new_zeros(partition.num_graphs, k)
    z = z.detach()
    for t in range(warmup + steps):
        z, tangents = push_forward(step, z, tangents)
        tangents, sizes = _orthonormalise(tangents, partition)
        if t >= warmup:
            total += sizes.log()
    finite = partition.norm(z).isfinite().unsqueeze(1) & (total < float("inf"))
    exponents = torch.where(finite, total / steps, float("nan"))
    return exponents.sort(dim=1, descending=True).values


def _orthonormalise(tangents: list[Tensor], partition: Partition) -> tuple[list[Tensor], Tensor]:
    """Gram-Schmidt over the nodes of each graph, twice for the sake of rounding."""
    out: list[Tensor] = []
    sizes = []
    for v in tangents:
        for q in out + out:
            along = partition.sum((q * v).sum(1))
            v = v - along[partition.batch].unsqueeze(1) * q
        size = partition.norm(v)
        sizes.append(size)
        inverse = torch.where(size > 0, 1.0 / size, 0.0)
        out.append(v * inverse[partition.batch].unsqueeze(1))
    return out, torch.stack(sizes, dim=1)
