"""How far a state is from being a fixed point, for every graph of a batch."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from gncadeq.certificate import Certificate
from gncadeq.check import check_choice
from gncadeq.choices import Criterion
from gncadeq.dynamics.solvers.base import Numbers, on_device, read
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

    Attributes:
        first: ``[num_graphs]``, the norms of the start of a solve.
    """

    first: Numbers

    def __init__(
        self,
        criterion: Criterion,
        floor: float | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.criterion = check_choice("criterion", criterion, get_args(Criterion))
        if criterion == "error" and (certificate is None or not certificate.promises):
            raise ValueError(
                f"Expected a certificate below 1 for criterion='error' (got {certificate}): "
                "nothing is proven of this cell on this graph. Use another criterion, or a cell "
                "with a 'contraction'"
            )
        self.certificate = certificate
        self.floor: Any = floor  # a number, or tensors of parts, or numbers of graphs
        self._start: Tensor | None = None

    def start(self, z0: Tensor, partition: Partition) -> None:
        """Take in the start of a solve, whose norms :attr:`first` has after the next call."""
        self._start = z0
        if self.floor is None and self.criterion != "graph":
            size, kind = self._sizes(z0, partition), torch.finfo(z0.dtype)
            floor = (kind.eps * size).nan_to_num(nan=0.0, posinf=0.0)
            # Signals may fade into what is too small for a relative difference.
            self.floor = floor.clamp(min=kind.tiny / kind.eps)

    @np.errstate(invalid="ignore", divide="ignore", over="ignore")
    def __call__(self, z: Tensor, fz: Tensor, partition: Partition) -> Numbers:
        """Measure a state.

        Returns:
            ``[3, num_graphs]``: the relative residual, infinite where anything isn't finite;
            ``‖f(z) − z‖``; and ``‖f(z)‖``.
        """
        change, start, self._start = fz - z, self._start, None
        diff, size, *first = partition.norms(change, fz, start=start)
        if start is not None:
            self.first = first[0]
            if self.floor is None:
                floor = torch.finfo(z.dtype).eps * self.first
                self.floor = np.where(np.isfinite(floor), floor, 0.0).astype(floor.dtype)
        if self.criterion == "graph":
            rel = diff / (size if self.floor is None else np.maximum(size, self.floor))
            rel = np.where(np.isnan(rel), 0.0, rel)  # 0 / 0 is at rest
        else:
            rel = read(self._largest(change, fz, partition))
        finite = np.maximum(diff, size) < np.inf  # a maximum with NaN is NaN
        return np.stack([np.where(finite, rel, np.inf).astype(diff.dtype), diff, size])

    def _largest(self, change: Tensor, fz: Tensor, partition: Partition) -> Tensor:
        """The relative residuals of parts, of which the largest of a graph counts."""
        diff, scale = self._sizes(change, partition), self._sizes(fz, partition)
        scale = scale.clamp(min=self.floor)  # type: ignore[arg-type, type-var]
        if self.criterion == "error" and self.certificate is not None:
            return self.certificate.from_residual(diff, scale)
        rel = (diff / scale).nan_to_num(nan=0.0, posinf=float("inf"))  # 0 / 0 is at rest
        return partition.largest(rel) if self.criterion == "node" else rel.amax(1)

    def restrict(self, nodes: Tensor, graphs: Numbers) -> None:
        """Keep ``nodes`` (indices) of ``graphs`` (a mask)."""
        if isinstance(self.floor, np.ndarray):
            self.floor = self.floor[graphs]
        elif isinstance(self.floor, Tensor):
            kept = nodes if self.criterion == "node" else on_device(graphs, nodes)
            self.floor = self.floor[kept]
        if self.certificate is not None:
            self.certificate = self.certificate.restrict(nodes, on_device(graphs, nodes))

    def _sizes(self, value: Tensor, partition: Partition) -> Tensor:
        if self.criterion == "error" and self.certificate is not None:
            return self.certificate.norm(value, partition)
        if self.criterion == "channel":
            return partition.channel_norm(value)
        largest = value.abs().amax(1, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        size: Tensor = torch.linalg.vector_norm(value / scale, dim=1)
        return scale.squeeze(1) * size
