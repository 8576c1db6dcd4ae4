"""What a cell promises about its equilibrium, and the norm in which the promise holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gncadeq.graph.precision import widest
from gncadeq.typing import OptTensor


@dataclass(frozen=True)
class Certificate:
    r"""A proven contraction: one step multiplies distances by at most :math:`\kappa < 1`.

    .. math::
        \lVert f(\mathbf{y}) - f(\mathbf{z}) \rVert \le \kappa \lVert \mathbf{y} - \mathbf{z} \rVert
        \quad \Rightarrow \quad
        \lVert \mathbf{z} - \mathbf{z}^\star \rVert \le
        \frac{\lVert f(\mathbf{z}) - \mathbf{z} \rVert}{1 - \kappa}

    There is one equilibrium, and every start reaches it (Banach's fixed-point theorem). The norm is
    made of three choices, which cover all bounds of this package: a state is multiplied
    by ``node_weight`` and ``channel_weight``; the channels of a node are taken in ``groups``, each
    with its Euclidean norm, of which the largest counts; and over nodes these are summed as
    squares, or the largest counts.

    Attributes:
        rate: :math:`\kappa`, of all graphs or ``[num_graphs]`` of each; 1 or more promises nothing.
        over_nodes: ``"sum"`` (Euclidean) or ``"max"``.
        groups: Number of groups of channels: 1 is the Euclidean norm of a node, the number of
            channels its largest entry.
        node_weight: ``[num_nodes]``, or ``None`` for ones.
        channel_weight: ``[channels]``, or ``None`` for ones.

    Example:
        >>> from gncadeq.dynamics import Partition
        >>> z = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> Certificate(0.9).norm(z, Partition(None, 2))
        tensor([5.0990])
        >>> Certificate(0.9, "max", groups=2).norm(z, Partition(None, 2))
        tensor([4.])
    """

    rate: float | Tensor
    over_nodes: Literal["sum", "max"] = "sum"
    groups: int = 1
    node_weight: OptTensor = None
    channel_weight: OptTensor = None

    kind: ClassVar[str] = "norm"

    @property
    def promises(self) -> bool:
        """Whether anything is proven, at least of one graph."""
        return bool((self.rate < 1.0).any() if isinstance(self.rate, Tensor) else self.rate < 1.0)

    def rates(self, like: Tensor) -> Tensor:
        """The rate of every graph, in the shape ``[num_graphs]`` of ``like``.

        It is zero for the graphs without nodes at the end of a batch.
        """
        if not isinstance(self.rate, Tensor):
            return torch.full_like(like, self.rate, dtype=widest(like.device))
        rate = self.rate.to(widest(like.device)).to(like.device)
        return F.pad(rate, (0, like.numel() - rate.numel()))

    def norm(self, value: Tensor, partition: Any) -> Tensor:
        """The norm of ``value`` ``[num_nodes, channels]`` on each graph of a
        :class:`~gncadeq.dynamics.Partition`: ``[num_graphs]``."""
        if self.channel_weight is not None:
            value = value * self.channel_weight.to(value.dtype)
        if self.node_weight is not None:
            value = value * self.node_weight.to(value.dtype).unsqueeze(1)
        if self.over_nodes == "sum" and self.groups == 1:
            size: Tensor = partition.norm(value)
            return size
        parts = value.view(value.size(0), self.groups, value.size(1) // self.groups)
        size = torch.linalg.vector_norm(parts, dim=2).amax(1)
        if self.over_nodes == "sum":
            size = partition.norm(size.unsqueeze(1))
            return size
        largest: Tensor = partition.largest(size)
        return largest

    def error_bound(self, z: Tensor, fz: Tensor, partition: Any) -> Tensor:
        r"""How far states are from the equilibrium at most, relative to :math:`\lVert f(\mathbf{z})
        \rVert`: ``[num_graphs]``, infinite where nothing is promised."""
        return self.from_residual(self.norm(fz - z, partition), self.norm(fz, partition))

    def from_residual(self, diff: Tensor, size: Tensor) -> Tensor:
        r"""The bound on the relative error that follows from norms of a residual and a state.

        The computed :math:`f(\mathbf{z})` is taken to be exact to :math:`\epsilon \lVert
        f(\mathbf{z}) \rVert`, the rounding error of its numbers. So the bound is not zero where the
        computed residual is.

        .. math::
            \Big( \frac{\lVert f(\mathbf{z}) - \mathbf{z} \rVert}{\lVert f(\mathbf{z}) \rVert} +
            \epsilon \Big) \frac{1}{1 - \kappa}

        Args:
            diff: ``[num_graphs]``, :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert`.
            size: ``[num_graphs]``, :math:`\lVert f(\mathbf{z}) \rVert`.

        Example:
            >>> Certificate(0.5).from_residual(torch.zeros(2), torch.tensor([0.0, 1.0]))
            tensor([0.0000e+00, 2.3842e-07])
        """
        rates = self.rates(diff)
        relative = diff / size + torch.finfo(diff.dtype).eps
        bound = torch.where((diff == 0) & (size == 0), 0.0, relative / (1.0 - rates).to(diff.dtype))
        return torch.where(rates < 1.0, bound, float("inf")).nan_to_num(
            nan=float("inf"), posinf=float("inf")
        )

    def restrict(self, nodes: Tensor, graphs: Tensor) -> Certificate:
        """The certificate for ``nodes`` (indices) of ``graphs`` (a mask)."""
        weight = self.node_weight
        return replace(
            self, rate=self.rates(graphs)[graphs] if isinstance(self.rate, Tensor) else self.rate,
            node_weight=None if weight is None else weight[nodes],
        )  # fmt: skip

    def __repr__(self) -> str:
        rates = self.rate.tolist() if isinstance(self.rate, Tensor) else [self.rate]
        shown = ", ".join(f"{rate:.3g}" for rate in rates)
        return f"{self.__class__.__name__}(rate={shown})"


@dataclass(frozen=True)
class CertifiedPart:
    """What is proven of a part of a cascade.

    Attributes:
        certificate: Of its own step.
        take: From the state of all parts to its own.
        rows: Which rows those are, ``None`` for all.
        drives: The parts that drive it, by number, with how much a change of their states, in
            Euclidean norms over a graph, changes the part's injection, times how much that changes
            its next state.
    """

    certificate: Certificate | StructuralCertificate
    take: Callable[[Tensor], Tensor]
    rows: OptTensor
    drives: dict[int, float]


@dataclass(frozen=True)
class StructuralCertificate:
    r"""A proof by structure: parts in an order, each at rest by itself once those before are.

    The Jacobian of a step is block-triangular. By induction over the parts there is one
    equilibrium, and every start reaches it when all nodes are updated at once. So it does with
    probability one at any fire rate :math:`p`: in the norm of a part the squared error shrinks by
    :math:`1 - p + p \kappa_p^2` in the mean, or more. Where the parts' norms are the largest of
    the nodes', or edges are acyclic, every order of updates in which each node comes again and
    again reaches it. Along acyclic edges the state is exactly at rest after ``steps`` steps; else
    distances shrink, in the end, by any rate above the largest of the parts'.

    With the residual :math:`r_p` of part :math:`p`, its rate :math:`\kappa_p` and the bounds
    :math:`L_{pq}` on what part :math:`q` does to it, errors are at most

    .. math::
        e_p = \frac{r_p + \sum_{q < p} L_{pq} \, e_q}{1 - \kappa_p} .

    Attributes:
        rate: ``[num_graphs]`` or a number, the largest rate of a part; 1 where nothing is promised.
        steps: ``[num_graphs]``, plain steps from any start to exact rest; ``None`` if that takes
            infinitely many.
        parts: What is proven of each part; empty for a rule along acyclic edges, which is a part
            for each node.
    """

    rate: float | Tensor
    steps: OptTensor = None
    parts: tuple[CertifiedPart, ...] = ()
    kind: ClassVar[str] = "structure"

    @property
    def promises(self) -> bool:
        """Whether it promises anything, of any graph."""
        return bool((self.rate < 1.0).any() if isinstance(self.rate, Tensor) else self.rate < 1.0)

    def error_bound(self, z: Tensor, fz: Tensor, partition: Any) -> Tensor:
        r"""How far states are from the equilibrium at most, relative to :math:`\lVert f(\mathbf{z})
        \rVert`: ``[num_graphs]``, infinite where that is not known, as along acyclic edges."""
        infinite = z.new_full((partition.num_graphs,), float("inf"))
        errors: list[Tensor] = []
        for part in self.parts:
            own = partition if part.rows is None else partition.part(part.rows)
            if not isinstance(part.certificate, Certificate):
                return infinite
            errors.append(self._error(part, part.take(z), part.take(fz), own, errors))
        if not errors:
            return infinite
        total = torch.stack(errors).square().sum(0).sqrt()
        size = partition.norm(fz)
        return torch.where((total == 0) & (size == 0), 0.0, total / size).nan_to_num(
            nan=float("inf"), posinf=float("inf")
        )

    def _error(
        self, part: CertifiedPart, z: Tensor, fz: Tensor, own: Any, errors: list[Tensor]
    ) -> Tensor:
        c = part.certificate
        assert isinstance(c, Certificate)
        weight = torch.ones(1) if c.channel_weight is None else c.channel_weight
        if c.node_weight is not None:
            return torch.full_like(own.norm(fz), float("inf"))
        # The largest of n norms is at most the Euclidean norm, which is at most √n times that.
        nodes = own.sum(z.new_ones(z.size(0), 1)).flatten() if c.over_nodes == "max" else 1.0
        nodes = nodes * c.groups
        low, high = float(weight.min()), float(weight.max())
        residual = c.norm(fz - z, own) + torch.finfo(z.dtype).eps * c.norm(fz, own)
        for q, gain in part.drives.items():
            residual = residual + high * gain * errors[q]
        rates = c.rates(residual)
        bound = residual / (1.0 - rates).to(residual.dtype) / low * nodes**0.5
        return torch.where(rates < 1.0, bound, float("inf"))

    def __repr__(self) -> str:
        rest = "" if self.steps is None else f", steps={int(self.steps.max())}"
        rates = torch.as_tensor(self.rate)
        worst = float(rates.max()) if rates.numel() else 0.0
        return f"{self.__class__.__name__}(rate={worst:.3g}{rest})"


@dataclass(frozen=True)
class OrderCertificate:
    r"""A proof by order: a step is increasing in the state, and bounded.

    .. math::
        \mathbf{y} \le \mathbf{z} \;\Rightarrow\; f(\mathbf{y}) \le f(\mathbf{z}) , \qquad
        \mathbf{\bot} \le f(\mathbf{\bot})

    From the bottom :math:`\bot` states only rise, and end in the least equilibrium, in every order
    of updates in which each node is updated again and again (`Tarski 1955
    <https://doi.org/10.2140/pjm.1955.5.285>`_; `Bertsekas 1983
    <https://doi.org/10.1007/BF01581967>`_). Nothing is promised of other starts, which may end in
    equilibria above it, nor how many steps it takes.

    Attributes:
        bottom: The value of every entry of the bottom.
    """

    bottom: float = 0.0
    kind: ClassVar[str] = "order"
    promises: ClassVar[bool] = True

    def error_bound(self, z: Tensor, fz: Tensor, partition: Any) -> Tensor:
        """Infinite: how far the least equilibrium is isn't known."""
        return z.new_full((partition.num_graphs,), float("inf"))


@dataclass(frozen=True)
class EnergyCertificate:
    r"""A proof by energy: whichever nodes are updated, an energy falls until they are at rest.

    .. math::
        E(\mathbf{z}) - E(\mathbf{z}') \ge c \, \lVert \mathbf{z}' - \mathbf{z} \rVert^2

    The energy is bounded from below, so changes become arbitrarily small: no start in [-1, 1] ends
    in a cycle. There may be many equilibria (`Cohen & Grossberg 1983
    <https://doi.org/10.1109/TSMC.1983.6313075>`_). The step has a method ``energy``.

    Attributes:
        decrease: :math:`c`, per squared change of the state.
    """

    decrease: float
    kind: ClassVar[str] = "energy"

    @property
    def promises(self) -> bool:
        """Whether it promises anything."""
        return self.decrease > 0.0

    def error_bound(self, z: Tensor, fz: Tensor, partition: Any) -> Tensor:
        """Infinite: how far the next equilibrium is isn't known."""
        return z.new_full((partition.num_graphs,), float("inf"))


AnyCertificate = Certificate | StructuralCertificate | OrderCertificate | EnergyCertificate
