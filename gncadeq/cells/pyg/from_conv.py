"""Choose the cell that wraps a conv, or a new conv of a class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

from torch import nn

from gncadeq.cell import Cell
from gncadeq.cells.pyg.hetero_conv import HeteroConvCell
from gncadeq.cells.pyg.wrap import WrappedConvCell
from gncadeq.check import check_count, did_you_mean

Conv = nn.Module | Callable[..., nn.Module]
"""A conv, or a class of convs (also with options bound by :func:`functools.partial`)."""


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def cell_from_conv(
    conv: Conv,
    in_channels: int | Mapping[str, int],
    options: dict[str, Any],
    dynamics: type[nn.Module],
) -> tuple[Cell, dict[str, Any]]:
    """The cell of a conv, which takes its own of ``options``, and the others, for the dynamics.

    Args:
        conv: The conv, whose weights stay as they are; or its class, of which a new one is made,
            with ``init="ranges"`` by default. A heterogeneous one goes with a dictionary
            ``in_channels``.
        in_channels: Channels of the injection, or those of every node type.
        options: Of the cell and of the dynamics; for a class also ``channels``, and options of the
            class.
        dynamics: Who takes the others.

    Raises:
        TypeError: If ``conv`` is neither a module nor a class of modules, ``in_channels`` no number
            or mapping, or an option is known to none.
        ValueError: If no conv of the wanted width can be made of the class.

    Example:
        >>> from torch_geometric.nn import GATConv, GCNConv
        >>> from gncadeq import GraphDEQ
        >>> cell_from_conv(GCNConv(4, 4), 2, {"contraction": 0.5, "tol": 1e-4}, GraphDEQ)
        (WrappedConvCell(...), {'tol': 0.0001})
        >>> cell_from_conv(GATConv, 2, {"channels": 8, "heads": 2}, GraphDEQ)[0].conv
        GATConv(8, 4, heads=2)
    """
    if not isinstance(in_channels, Integral | Mapping):
        raise TypeError(
            "Expected a whole number 'in_channels', or one for every node type (got "
            f"{in_channels!r})"
        )
    kind = HeteroConvCell if isinstance(in_channels, Mapping) else WrappedConvCell
    mine = inspect.signature(kind).parameters
    of_dynamics = inspect.signature(dynamics).parameters
    if isinstance(conv, nn.Module):
        of_conv: Mapping[str, Any] = {}
    elif not isinstance(in_channels, Mapping) and _makes_modules(conv):
        of_conv = inspect.signature(conv).parameters
    else:
        raise TypeError(
            "Expected a conv such as GCNConv(16, 16), or a class of convs with the width of the "
            f"state, {dynamics.__name__}.from_conv(GCNConv, in_channels=..., channels=16) (got "
            f"{conv!r})"
        )
    known = [*mine, *of_dynamics, *of_conv]
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(
                f"Expected options of {kind.__name__} or {dynamics.__name__} (got {name!r}){hint}"
            )
    own = {name: value for name, value in options.items() if name in mine}
    rest = {n: value for n, value in options.items() if n in of_dynamics and n not in mine}
    if not isinstance(conv, nn.Module):
        more = {n: value for n, value in options.items() if n not in mine and n not in rest}
        conv, own = new_conv(conv, own.get("channels"), more), {"init": "ranges", **own}
    return kind(conv, in_channels, **own), rest  # type: ignore[arg-type]


def new_conv(kind: Callable[..., nn.Module], channels: int | None, options: Any) -> nn.Module:
    """Make a conv that maps states of a width to the same.

    Args:
        kind: The class of the conv, or a function with its arguments.
        channels: The width :math:`C` of the state.
        options: Further arguments by name, such as ``heads``, which share the width if they are
            concatenated.

    Raises:
        ValueError: If the width isn't given, or heads don't divide it.
        TypeError: If the class needs other arguments.

    Example:
        >>> from torch_geometric.nn import GCN2Conv
        >>> new_conv(GCN2Conv, 8, {"alpha": 0.1})
        GCN2Conv(8, alpha=0.1, beta=1.0)
    """
    name = getattr(kind, "__name__", None) or getattr(getattr(kind, "func", kind), "__name__", "")
    if channels is None:
        raise ValueError(
            f"Expected 'channels', the width of the state, for a new {name} (got None). Pass "
            "channels=64"
        )
    channels = check_count("channels", channels, 1)
    parameters = inspect.signature(kind).parameters

    def value(option: str, otherwise: Any) -> Any:
        default = parameters[option].default if option in parameters else otherwise
        return options.get(option, default)

    heads = value("heads", 1) if value("concat", False) else 1
    if channels % heads:
        raise ValueError(f"Expected 'channels' that {heads} heads divide (got {channels})")
    widths = {"in_channels": channels, "out_channels": channels // heads, "channels": channels}
    given = {n: w for n, w in widths.items() if n in parameters} | options
    missing = [
        option
        for option, p in parameters.items()
        if p.default is p.empty and option not in given and p.kind not in _ANY_NUMBER
    ]
    if missing:
        raise TypeError(
            f"Expected {missing} for a new {name} (got none). Pass "
            f"{', '.join(f'{n}=...' for n in missing)}, or a conv that was made, {name}(...)"
        )
    return kind(**given)


def _makes_modules(conv: Any) -> bool:
    made = conv.func if isinstance(conv, functools.partial) else conv
    return isinstance(made, type) and issubclass(made, nn.Module)
