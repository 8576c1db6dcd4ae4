r"""How much a conv stretches distances, where nothing is proven: measured, and kept by the model.

A measured growth is a statistic of the model, as the running mean of a batch norm is: two buffers
in its state dict, estimated in training, constant in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cell import Cell
from gncadeq.stateful import scratch_buffers
from gncadeq.typing import OptTensor

_MOMENTUM = 0.1


class MeasuredGrowth(nn.Module):
    r"""The growth :math:`L` of a conv, as measured so far.

    The first call of the cell measures it, in training or evaluation mode. In training mode it is
    measured again whenever the parameters have changed: a larger value counts at once, a smaller
    one with the share 0.1, as in a batch norm. In evaluation mode it is a constant. A compiled call
    measures nothing. Each process of a data-parallel training measures its own graphs, and goes on
    from the first process's growth in the next step, as with a batch norm.

    It is ``total / weight``. Both are buffers, and ``weight`` is one, or zero if nothing has been
    measured: so that averages of models, over time or over processes, average what was.

    Example:
        >>> growth = MeasuredGrowth()
        >>> for rate in (2.0, 4.0, 3.0):
        ...     growth.update(torch.tensor(rate))
        >>> growth.value
        tensor(3.9000)
    """

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))
        self._measured_at: Any = None

    @property
    def value(self) -> Tensor:
        """The growth, a scalar; NaN before the first measurement."""
        return self.total / self.weight

    def beyond(self, bound: OptTensor) -> Tensor:
        """What a conv is scaled by: the growth; or, where it was measured in units of a ``bound``
        that may not hold, the bound times what goes beyond it.

        Forward hooks are why it may not hold. A hook that only looks on changes nothing.
        """
        value = self.value
        if not torch.compiler.is_compiling():
            value = value.nan_to_num(0.0)  # nothing that was measured grows
        return value if bound is None else bound * value.to(bound).clamp(min=1.0)

    def reset(self) -> None:
        """Forget what was measured."""
        self.total.zero_()
        self.weight.zero_()
        self._measured_at = None

    def is_due(self, cell: nn.Module) -> bool:
        """Whether ``cell`` is to be measured now."""
        if torch.compiler.is_compiling():
            return False
        now = tuple(
            0 if parameter.is_inference() else parameter._version for parameter in cell.parameters()
        )
        if not (cell.training and now != self._measured_at) and bool(self.weight > 0):
            return False
        self._measured_at = now
        return True

    @torch.no_grad()
    def update(self, rate: Tensor) -> None:
        """Take a new measurement into account, unless it says nothing: NaN, infinite or zero."""
        if not bool(rate.isfinite() & (rate > 0)):
            return
        rate, held = rate.to(self.total), self.value
        self.total.copy_(torch.where(rate < held, held.lerp(rate, _MOMENTUM), rate))
        self.weight.fill_(1.0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        # Weights saved before growth was part of the model have none: it is measured.
        for name in ("total", "weight"):
            state_dict.setdefault(prefix + name, torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)  # type: ignore[no-untyped-call]
        self._measured_at = None


class MeasuredCell(Cell):
    """A cell whose scale follows from a growth that is measured, and may be measured anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.growth = MeasuredGrowth()

    @torch.no_grad()
    def measure(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Any = None,
        batch: Any = None,
        **context: Tensor,
    ) -> Tensor:
        """Measure the growth on a graph, or a batch, and forget what was measured before.

        Use it after weights were loaded or set by hand, and where graphs are others than those of
        training. The arguments are those of a call of the dynamics.

        Returns:
            The growth, a scalar. The cell scales its conv by ``min(1, contraction / growth)``.

        Raises:
            ValueError: If the scale is proven on this graph, or there is none.

        Example:
            >>> from torch_geometric.nn import AGNNConv
            >>> from gncadeq import WrappedConvCell
            >>> cell = WrappedConvCell(AGNNConv(), in_channels=2, channels=4)
            >>> cell.measure(torch.rand(3, 2), torch.tensor([[0, 1, 2], [1, 2, 0]])).shape
            torch.Size([])
        """
        self.growth.reset()
        graph = self.flatten(x, edge_index, edge_attr, batch, context)
        if "batch" in self.context:
            single = torch.zeros(graph.x.size(0), dtype=torch.long, device=graph.x.device)
            graph.context.setdefault("batch", single if batch is None else batch)
        self.bind(graph.x, graph.edge_index, graph.edge_attr, **graph.context)
        if not bool(self.growth.weight > 0):
            raise ValueError(
                f"Expected a conv whose growth is measured, on a graph where it is finite (got "
                f"{type(self).__name__}, which measured nothing). A proven scale needs no "
                "measurement, and contraction=None has no scale"
            )
        return self.growth.value


@contextmanager
def measuring(cell: nn.Module) -> Iterator[None]:
    """Evaluate a cell to measure it.

    That is done apart from inference mode, which has no derivatives, from batch norms, which count
    evaluations, and from checkpoints, which compare what two calls save.

    Raises:
        ValueError: If the parameters were made in inference mode.
    """
    if any(parameter.is_inference() for parameter in cell.parameters()):
        raise ValueError(
            "Expected parameters that have derivatives, to measure the growth of a conv (got some "
            "made in torch.inference_mode()). Build the model outside of it"
        )
    plain = torch.autograd.graph.saved_tensors_hooks(lambda value: value, lambda value: value)
    with torch.inference_mode(False), torch.no_grad(), scratch_buffers(cell.modules()), plain:
        yield


def recorded(value: Tensor) -> Tensor:
    """A tensor apart from what it was computed from, which autograd may save for derivatives.

    Example:
        >>> with torch.inference_mode():
        ...     value = torch.ones(1)
        >>> recorded(value).is_inference()
        False
    """
    return value.clone() if value.is_inference() else value.detach()
