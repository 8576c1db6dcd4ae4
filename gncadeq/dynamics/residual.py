"""How far a state is from being a fixed point, for every graph of a batch."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from gncadeq.certificate import Certificate
from gncadeq.check import check_choice
from gncadeq.choices import Criterion
from gncadeq.graph.partition import Partition


class Residual:
    r"""The relative residual of every graph, by a criterion.

    .. math::
        r = \max_s \frac{\lVert f(\mathbf{z})_s - \mathbf{z}_s \rVert}
        {\max(\lVert f(\mathbf{z})_s \rVert, \epsilon \lVert \mathbf{z}^0_s \rVert)}

    over the parts :math:`s` of a state: all of it, its nodes, or its channels. The bound from below
    by the start, :math:`\epsilon` being the rounding error of a number near one, is what lets a
    state come to rest at zero.

    With ``"error"`` it is the bound of a :class:`~gncadeq.certificate.Certificate` on the distance
    from the equilibrium, :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert / (1 - \kappa)` and what
    rounding adds to it, in the certificate's norm.

    Args:
        criterion: ``"graph"``, ``"node"``, ``"channel"`` or ``"error"``.
        floor: The bound from below instead.
        certificate: That of ``"error"``.
    """

    def __init__(
        self,
        criterion: Criterion,
        floor: float | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.criterion = check_criterion(criterion)
        if criterion == "error" and (certificate is None or not certificate.promises):
            raise ValueError(
                f"Expected a certificate below 1 for criterion='error' (got {certificate}): "
                "nothing is proven of this cell on this graph. Use another criterion, or a cell "
                "with a 'contraction'"
            )
        self.certificate = certificate
        self.floor: float | Tensor | None = floor

    def start(self, z0: Tensor, partition: Partition) -> None:
        """Take in the start of a solve."""
        if self.floor is None:
            size = self._sizes(z0, partition)
            kind = torch.finfo(z0.dtype)
            self.floor = (kind.eps * size).nan_to_num(nan=0.0, posinf=0.0)
            if self.criterion != "graph":
                # Signals may fade into what is too small for a relative difference.
                self.floor = self.floor.clamp(min=kind.tiny / kind.eps)

    def __call__(
        self, z: Tensor, fz: Tensor, partition: Partition
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure a state.

        Returns:
            Each ``[num_graphs]``: the relative residual, infinite where anything isn't finite;
            ``‖f(z) − z‖``; and ``‖f(z)‖``.
        """
        diff, size = partition.distance(z, fz), partition.norm(fz)
        parts = (diff, size) if self.criterion == "graph" else (
            self._sizes(fz - z, partition), self._sizes(fz, partition))  # fmt: skip
        scale = parts[1] if self.floor is None else parts[1].clamp(min=self.floor)
        if self.criterion == "error" and self.certificate is not None:
            rel = self.certificate.from_residual(parts[0], scale)
        else:
            rel = (parts[0] / scale).nan_to_num(nan=0.0, posinf=float("inf"))  # 0 / 0 is at rest
        if self.criterion == "node":
            rel = partition.largest(rel)
        elif self.criterion == "channel":
            rel = rel.amax(1)
        finite = torch.maximum(diff, size) < float("inf")  # a maximum with NaN is NaN
        return torch.where(finite, rel, float("inf")), diff, size

    def restrict(self, nodes: Tensor, graphs: Tensor) -> None:
        """Keep ``nodes`` (indices) of ``graphs`` (a mask)."""
        if isinstance(self.floor, Tensor):
            self.floor = self.floor[nodes if self.criterion == "node" else graphs]
        if self.certificate is not None:
            self.certificate = self.certificate.restrict(nodes, graphs)

    def _sizes(self, value: Tensor, partition: Partition) -> Tensor:
        if self.criterion == "graph":
            return partition.norm(value)
        if self.criterion == "error" and self.certificate is not None:
            return self.certificate.norm(value, partition)
        if self.criterion == "channel":
            return partition.channel_norm(value)
        largest = value.abs().amax(1, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        size: Tensor = torch.linalg.vector_norm(value / scale, dim=1)
        return scale.squeeze(1) * size


def check_criterion(value: Criterion) -> Criterion:
    """Return ``value`` if it is a known criterion, else raise ``ValueError``."""
    return check_choice("criterion", value, get_args(Criterion))
