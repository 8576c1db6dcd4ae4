"""Rules as JSON: what a kernel outside of Python needs to take the steps of a cell."""

from __future__ import annotations

import base64
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cells import (
    CascadeCell,
    Cell,
    ConvCell,
    DistanceCell,
    FeedForwardCell,
    GrowingCell,
    MaxPropagationCell,
    MicroCell,
    PropagationCell,
    StencilDrive,
    SweepCell,
    TotalisticCell,
)
from gncadeq.export.cascade import folded
from gncadeq.export.rules import rule, same_steps
from gncadeq.graph.levels import UP

Description = dict[str, Any]
_TYPES = {torch.float32: "f32", torch.int32: "i32", torch.uint8: "u8"}


def packed(value: Tensor) -> Description:
    """A tensor as JSON: its shape, and its numbers in base64, little-endian.

    Floating-point numbers become float32, booleans uint8 and other integers int32.

    Example:
        >>> packed(torch.tensor([[1.0, 2.0]]))
        {'shape': [1, 2], 'f32': 'AACAPwAAAEA='}
    """
    value = value.detach().cpu()
    if value.is_floating_point():
        value = value.float()
    elif value.dtype != torch.uint8:
        value = value.to(torch.uint8 if value.dtype == torch.bool else torch.int32)
    content = value.contiguous().numpy()
    content = content.astype(content.dtype.newbyteorder("<"), copy=False)
    text = base64.b64encode(content.tobytes()).decode()
    return {"shape": list(value.shape), _TYPES[value.dtype]: text}


def describe(cell: Cell) -> Description:
    """A cell as JSON: the kind of its rule, its constants, and its weights by :func:`packed`.

    The page of ``gncadeq play`` takes its steps from this. The weights are those that
    :func:`gncadeq.export.rule` keeps: the bound of a contraction is already in them.

    Args:
        cell: The cell; one of your own is added by
            ``gncadeq.export.description.description.register``.

    Raises:
        ValueError: If the cell has no description, or overrides the steps of one that has.

    Example:
        >>> description = describe(ConvCell(1, 4))
        >>> description["kind"], description["weight_z"]["shape"]
        ('conv', [9, 4, 4])
    """
    same_steps(cell, description)
    with torch.no_grad():
        found = description(cell)
    return {"in_channels": cell.in_channels, "channels": cell.channels, **found}


@singledispatch
def description(cell: Cell) -> Description:
    """What :func:`describe` says of a kind of cell, but for its channels."""
    raise ValueError(
        "Expected a cell that plays in a page: ConvCell, CascadeCell, SweepCell, GrowingCell, "
        "MicroCell, TotalisticCell, DistanceCell, PropagationCell or MaxPropagationCell (got "
        f"{type(cell).__name__}). Record it with gncadeq.viz.write_viewer"
    )


def _weights(module: nn.Module) -> Description:
    return {name: packed(value) for name, value in module.named_buffers(recurse=False)}


@description.register
def _(cell: ConvCell) -> Description:
    return {
        "kind": "conv", "residual": cell.update == "residual", "activation": cell.activation,
        **_weights(rule(cell)),
    }  # fmt: skip


@description.register
def _(cell: GrowingCell) -> Description:
    return {
        "kind": "growing", "kernels": cell.num_kernels,
        "hidden": cell.hidden_channels + cell.out_bias, "bound": cell.bound,
        "alive": cell.alive_channel, "threshold": cell.alive_threshold, **_weights(rule(cell)),
    }  # fmt: skip


@description.register
def _(cell: MicroCell) -> Description:
    return {
        "kind": "micro", "kernels": cell.num_kernels, "weight": packed(cell.weight),
        "bias": packed(cell.bias),
    }  # fmt: skip


@description.register
def _(cell: TotalisticCell) -> Description:
    return {"kind": "totalistic", "table": packed(cell.table)}


@description.register
def _(cell: DistanceCell) -> Description:
    return {"kind": "distance", "ceiling": cell.ceiling}


@description.register
def _(cell: PropagationCell) -> Description:
    return {"kind": "propagation", "alpha": cell.alpha, "normalization": cell.normalization}


@description.register
def _(cell: MaxPropagationCell) -> Description:
    return {"kind": "peak", "alpha": cell.alpha}


@description.register
def _(cell: FeedForwardCell) -> Description:
    return {"kind": "feedforward", "activation": cell.activation}


@description.register
def _(cell: SweepCell) -> Description:
    if cell.distances:
        raise ValueError(
            "Expected a SweepCell whose edges carry its weights (got one with distances=..., "
            "whose edges follow from its injection). Record it with gncadeq.viz.write_viewer"
        )
    bias = cell.weight.new_zeros(cell.channels) if cell.bias is None else cell.bias
    found = {
        "kind": "sweep", "groups": cell.groups, "kernels": cell.kernels,
        "weight": packed(cell.weight), "bias": packed(bias),
    }  # fmt: skip
    return found if cell.weight_x is None else {**found, "weight_x": packed(cell.weight_x)}


@description.register
def _(cell: CascadeCell) -> Description:
    level = [part.level for part in cell.parts]
    parts = []
    for part, reads, place in zip(cell.parts, cell.reads, cell.places, strict=True):
        first = 0 if reads[0] == "x" else level[reads[0]]
        plain = part.relations == "all"
        if not (plain or part.relations is None or set(range(UP)) <= set(part.relations)):
            raise ValueError(
                "Expected parts of a cascade that read all edges (got one of relations="
                f"{list(part.relations)})"
            )
        parts.append({
            "rule": describe(part.cell), "drive": _drive(part.drive), "reads": list(reads),
            "level": part.level, "rises": part.level != first, "plain": plain,
            "place": [place.start, place.stop],
        })  # fmt: skip
    return {"kind": "cascade", "levels": cell.levels, "parts": parts}


def _drive(drive: nn.Module | None) -> Description | None:
    if drive is None:
        return None
    if isinstance(drive, StencilDrive):
        conv: Any = folded(drive).conv
        return {"kind": "stencil", "weight": packed(conv.weight), "bias": packed(conv.bias)}
    return dense(drive)


def dense(module: nn.Module) -> Description:
    """A linear map, or linear maps with ReLU or tanh between them, as layers ``y W + b``.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> found = dense(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        >>> [layer["activation"] for layer in found["layers"]]
        ['relu']
    """
    layers: list[Description] = []
    for layer in module if isinstance(module, nn.Sequential) else [module]:
        if isinstance(layer, nn.Linear):
            bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
            weight = packed(layer.weight.t())
            layers.append({"weight": weight, "bias": packed(bias), "activation": "identity"})
        elif isinstance(layer, nn.ReLU | nn.Tanh) and layers:
            layers[-1]["activation"] = type(layer).__name__.lower()
        elif not isinstance(layer, nn.Identity):
            raise ValueError(
                "Expected a linear map, or a Sequential of linear maps, ReLU and Tanh (got "
                f"{type(layer).__name__})"
            )
    return {"kind": "dense", "layers": layers}
