"""What both dynamics have in common: a cell that is shared, a start, and a measure of rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from gncadeq.cell import Cell
from gncadeq.choices import Criterion
from gncadeq.dynamics.solution import Solution
from gncadeq.dynamics.start import Start


class Dynamics(nn.Module):
    """A cell that is run, from a start, until it is at rest or its steps are over."""

    cell: Cell
    start: Start
    tol: float
    criterion: Criterion

    if TYPE_CHECKING:  # a call returns the state, and what was asked for beyond it

        @overload
        def __call__(
            self, x: Tensor, *args: Any, return_trajectory: Literal[False] = False,
            return_solution: Literal[False] = False, **options: Any,
        ) -> Tensor: ...  # fmt: skip
        @overload
        def __call__(
            self, x: Mapping[str, Tensor], *args: Any, return_trajectory: Literal[False] = False,
            return_solution: Literal[False] = False, **options: Any,
        ) -> dict[str, Tensor]: ...  # fmt: skip
        @overload
        def __call__(
            self, x: Tensor, *args: Any, return_trajectory: Literal[False] = False,
            return_solution: Literal[True], **options: Any,
        ) -> tuple[Tensor, Solution]: ...  # fmt: skip
        @overload
        def __call__(
            self, x: Mapping[str, Tensor], *args: Any, return_trajectory: Literal[False] = False,
            return_solution: Literal[True], **options: Any,
        ) -> tuple[dict[str, Tensor], Solution]: ...  # fmt: skip
        @overload
        def __call__(self, *args: Any, **options: Any) -> Any: ...
        def __call__(self, *args: Any, **options: Any) -> Any: ...  # noqa: D102

    @classmethod
    def from_conv(
        cls,
        conv: nn.Module | Callable[..., nn.Module],
        in_channels: int | Mapping[str, int],
        **options: Any,
    ) -> Self:
        r"""The dynamics of any conv of PyTorch Geometric: its equilibrium, or an automaton.

        .. math::
            \mathbf{z}^\star = \sigma \big( s \; \mathrm{conv}(\mathbf{z}^\star; \mathcal{G}) +
            \mathbf{U} \mathbf{x} + \mathbf{b} \big)

        with the conv scaled by :math:`s` such that it converges; see
        :class:`gncadeq.WrappedConvCell`.

        Args:
            conv: The class of a conv, of which a new one of width ``channels`` is made, whose
                matrices start as diagonals: the equilibrium starts as the input smoothed over the
                graph, from not at all in the first channel to as far as ``contraction`` allows in
                the last (``init="ranges"``), which trains well. Or a conv that maps
                :math:`[N, C]` to :math:`[N, C]`, whose weights stay as they are; a heterogeneous
                one keeps the width of every state (:class:`gncadeq.HeteroConvCell`).
            in_channels: Channels of the input ``x``; a dictionary by node types makes the conv a
                heterogeneous one.
            options: Of :class:`gncadeq.WrappedConvCell` (``activation``, ``norm``,
                ``contraction``, ...), of the dynamics (``solver``, ``tol``, ``steps``, ...),
                and for a class of convs its own (``heads``, ...).

        Example:
            >>> import torch
            >>> from gncadeq import GraphDEQ, GraphNCA
            >>> from torch_geometric.nn import GATConv, GCNConv
            >>> x, edge_index = torch.rand(4, 3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
            >>> deq = GraphDEQ.from_conv(GATConv, in_channels=3, channels=16, heads=2, tol=1e-4)
            >>> deq(x, edge_index).shape
            torch.Size([4, 16])
            >>> trained = GCNConv(16, 16)
            >>> GraphDEQ.from_conv(trained, in_channels=3)(x, edge_index).shape
            torch.Size([4, 16])
            >>> nca = GraphNCA.from_conv(GCNConv, in_channels=3, channels=16, steps=8)
            >>> nca(x, edge_index).shape
            torch.Size([4, 16])
        """
        from gncadeq.cells.pyg.from_conv import cell_from_conv

        cell, rest = cell_from_conv(conv, in_channels, options, cls)
        return cls(cell, **rest)

    def reset_parameters(self) -> None:
        """Draw fresh parameters of the cell, and of a start that is a module."""
        self.cell.reset_parameters()
        reset(self.start)
