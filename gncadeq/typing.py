"""Type aliases shared by every module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from gncadeq.graph.neighborhood import Neighborhood

Adj: TypeAlias = Tensor | Neighborhood
"""Edge indices ``[2, num_edges]``, or the neighbourhood prepared from them."""

OptTensor: TypeAlias = Tensor | None

EdgeType: TypeAlias = tuple[str, str, str]
"""Source type, relation, target type, as in PyG."""

Step: TypeAlias = Callable[[Tensor], Tensor]
"""One application of a cell to a state ``[num_nodes, channels]``, with its graph bound."""


class _AnyStep(Protocol):
    def __call__(self, z: Tensor, /) -> Tensor:
        """Return the next state."""
        ...


@runtime_checkable
class RestrictableStep(_AnyStep, Protocol):
    """A step that can be cut down to some graphs of its batch (what compaction needs)."""

    def restrict(self, nodes: Tensor) -> RestrictableStep:
        """Return the same step on ``nodes``, the ascending indices of whole graphs."""
        ...


@runtime_checkable
class AdjointStep(_AnyStep, Protocol):
    """A step that knows its transposed Jacobian (what implicit gradients solve with)."""

    def adjoint(self, z: Tensor, fz: Tensor) -> Step:
        """Return ``u -> J(z)ᵀ u``, given ``fz`` = step(z).

        A step without this method is differentiated automatically.
        """
        ...


@runtime_checkable
class PartialStep(_AnyStep, Protocol):
    """A step that does more than add an update to its state, such as removing dead nodes."""

    def partial(self, z: Tensor, rate: OptTensor) -> Tensor:
        """Return the next state, its update multiplied by ``rate`` before all else is done."""
        ...


@runtime_checkable
class OrderedStep(_AnyStep, Protocol):
    """A step along an acyclic graph, which is solved by substitution, and its gradient, too."""

    @property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps each node is at rest."""
        ...

    def substitute(self) -> Tensor:
        """Return the equilibrium."""
        ...

    def substitute_adjoint(self, z: Tensor, cotangent: Tensor) -> Tensor:
        """Return the solution of ``u = v + J(z)ᵀ u``, given the equilibrium and ``v``."""
        ...


@runtime_checkable
class StagedStep(_AnyStep, Protocol):
    """A step whose state is parts in an order, of which each reads itself and earlier ones."""

    stages: list[Any]
    """The parts. Each has ``take(z)``, which returns its own state; ``rows``, the nodes of that
    state; and ``bind(states)``, which returns its step for given states of the earlier parts."""

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """Return the state of all parts."""
        ...
