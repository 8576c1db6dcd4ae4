"""Drives between the parts of a cascade, and parts without memory."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell
from gncadeq.cells.relation import Activation
from gncadeq.cells.separable import assign
from gncadeq.cells.stencil import StencilConv
from gncadeq.cells.window import stencil_gain
from gncadeq.certificate import Certificate
from gncadeq.check import check_choice, check_count
from gncadeq.typing import Adj, OptTensor, Step


class StencilDrive(nn.Module):
    r"""The drive of one part of a cascade by another: a stencil, and batch normalisation.

    .. math::
        \mathbf{d} = \mathrm{BN}(\mathbf{U} * \mathbf{y})

    The statistics are those of all nodes of a batch. In evaluation the normalisation is an affine
    map, which :meth:`fold` moves into the stencil and a bias.

    Args:
        in_channels: Channels of the part that drives.
        out_channels: Channels of the part that is driven.
        norm: Whether to normalise.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = StencilConv(in_channels, out_channels, bias=not norm)
        self.norm: nn.Module = nn.BatchNorm1d(out_channels, eps=1e-4) if norm else nn.Identity()

    def reset_parameters(self) -> None:
        """Draw a Gaussian stencil of variance ``2 / fan_in``."""
        self.conv.reset_parameters()
        fan = self.conv.in_channels * self.conv.num_relations
        std = (2.0 / fan) ** 0.5
        assign(self.conv, "weight", torch.empty_like(self.conv.weight).normal_(std=std))
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.reset_parameters()

    def forward(self, y: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Tensor:
        """The drive of the nodes that edges lead to."""
        out: Tensor = self.norm(self.conv(y, edge_index, edge_attr))
        return out

    @torch.no_grad()
    def bound(self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int) -> float:
        """How much it stretches Euclidean distances at most; infinite in training, where it depends
        on the batch."""
        weight: Tensor = self.conv.weight
        if isinstance(self.norm, nn.BatchNorm1d):
            if self.norm.training or self.norm.running_var is None:
                return float("inf")
            weight = weight * (self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt())
        return stencil_gain(weight, edge_index, edge_attr, num_nodes)

    @torch.no_grad()
    def fold(self) -> None:
        """Move the normalisation into the stencil and a bias; evaluations stay the same."""
        norm, conv = self.norm, self.conv
        if not isinstance(norm, nn.BatchNorm1d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        assign(conv, "weight", conv.weight * scale)
        conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        self.norm = nn.Identity()


class FeedForwardStep:
    """One step of a :class:`FeedForwardCell` with the injection bound: the same from all states."""

    def __init__(self, out: Tensor) -> None:
        self.out = out

    @property
    def depth(self) -> Tensor:
        """``[num_nodes]``, after how many steps each node is at rest: one."""
        return self.out.new_ones(self.out.size(0), dtype=torch.long)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the next state."""
        return self.out

    def substitute(self) -> Tensor:
        """The equilibrium."""
        return self.out.detach()

    def substitute_adjoint(self, z: Tensor, cotangent: Tensor) -> Tensor:
        """The solution of ``u = v + Jᵀ u``, where the Jacobian is zero."""
        return cotangent


class FeedForwardCell(Cell):
    r"""A cell without memory, :math:`\mathbf{z}' = \phi(\mathbf{x})`.

    Args:
        channels: Channels of injection and state.
        activation: :math:`\phi`: ``"relu"``, ``"tanh"`` or ``"identity"``.
    """

    def __init__(self, channels: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.channels = self.in_channels = check_count("channels", channels, 1)
        self.activation: Activation = check_choice("activation", activation, get_args(Activation))

    def lipschitz_bound(self, graph: Any = None) -> Tensor:
        """Zero: the next state depends on the injection alone."""
        return torch.zeros(())

    def injection_bound(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int
    ) -> float:
        """One: no activation stretches distances."""
        return 1.0

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> Certificate:
        """At rest after a step."""
        return Certificate(0.0)

    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Step:
        """Bind the injection; see :class:`Cell`."""
        return FeedForwardStep(
            x if self.activation == "identity" else getattr(x, self.activation)()
        )

    def extra_repr(self) -> str:
        """The arguments, shown by ``repr``."""
        return f"{self.channels}, activation={self.activation!r}"


def drive_bound(
    drive: nn.Module | None, edge_index: Adj, edge_attr: OptTensor, num_nodes: int
) -> float:
    """How much a drive stretches Euclidean distances on a graph at most."""
    if drive is None:
        return 1.0
    if isinstance(drive, StencilDrive):
        return drive.bound(edge_index, edge_attr, num_nodes=num_nodes)
    if type(drive) is nn.Linear:
        return float(torch.linalg.matrix_norm(drive.weight, 2))
    return float("inf")
