"""Which cell makes a rule of a conv."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from torch import nn

from gncadeq.cells.base import Cell
from gncadeq.cells.hetero_conv import HeteroConvCell
from gncadeq.cells.wrap import WrappedConvCell


def cell_from_conv(
    conv: nn.Module,
    in_channels: int | Mapping[str, int],
    options: dict[str, Any],
    dynamics: type[nn.Module],
) -> tuple[Cell, dict[str, Any]]:
    """The cell of a conv, which takes its own of ``options``, and the others, for the dynamics.

    Args:
        conv: The conv; a heterogeneous one goes with a dictionary ``in_channels``.
        in_channels: Channels of the injection, or those of every node type.
        options: Of the cell and of the dynamics.
        dynamics: Who takes the others.

    Raises:
        TypeError: If ``conv`` is no module, ``in_channels`` no number or mapping, or an option is
            known to neither.

    Example:
        >>> from torch_geometric.nn import GCNConv
        >>> from gncadeq import GraphDEQ
        >>> cell_from_conv(GCNConv(4, 4), 2, {"contraction": 0.5, "tol": 1e-4}, GraphDEQ)
        (WrappedConvCell(...), {'tol': 0.0001})
    """
    if not isinstance(conv, nn.Module):
        got = f"the class {conv.__name__}" if isinstance(conv, type) else repr(conv)
        raise TypeError(
            f"Expected a conv that has been made, such as GCNConv(16, 16) (got {got}). Call "
            f"{dynamics.__name__}.from_conv(GCNConv(16, 16), in_channels=...)"
        )
    if not isinstance(in_channels, Integral | Mapping):
        raise TypeError(
            "Expected a whole number 'in_channels', or one for every node type (got "
            f"{in_channels!r})"
        )
    kind = HeteroConvCell if isinstance(in_channels, Mapping) else WrappedConvCell
    mine = inspect.signature(kind).parameters
    known = [*mine, *inspect.signature(dynamics).parameters]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"Expected options of {kind.__name__} or {dynamics.__name__} (got {name!r}){hint}"
            )
    own = {name: value for name, value in options.items() if name in mine}
    rest = {name: value for name, value in options.items() if name not in mine}
    return kind(conv, in_channels, **own), rest  # type: ignore[arg-type]


__all__ = ["cell_from_conv"]
