"""Grown rules and rules of textures that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells import GrowingCell, MicroCell
from gncadeq.files.weights import load_pretrained
from gncadeq.training.grow_config import GrowConfig
from gncadeq.training.targets import anchor, picture_target, seed_node, seed_state

_PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
_FOLDER = _PRETRAINED / "grown"


def grown_names() -> list[str]:
    """The names of the grown rules that ship with the package.

    Example:
        >>> "gecko" in grown_names()
        True
    """
    return sorted(p.stem for p in _FOLDER.glob("*.safetensors"))


def load_shipped(
    name: str, on: str | None = None
) -> tuple[GrowingCell, Data, Tensor, dict[str, Any]]:
    """A shipped rule, its graph with the injection as ``x``, its seed state, and its card.

    Args:
        name: One of :func:`grown_names`.
        on: Another surface for a rule of a surface.

    Raises:
        ValueError: If the rule is one of pixels and ``on`` is given.

    Example:
        >>> cell, data, z0, card = load_shipped("gecko")
        >>> data.num_nodes, z0.shape
        (1024, torch.Size([1024, 16]))
    """
    cell = load_pretrained(GrowingCell, name)
    card: dict[str, Any] = cell.card  # type: ignore[assignment]
    config = GrowConfig(**card["config"])
    if config.on_surface():
        data = config.read_target(on)
    elif on is not None:
        raise ValueError(
            f"Expected no other surface for {name!r}, a rule of pixels (got {on!r}). Use 'spots', "
            "or train on 'plane'"
        )
    else:
        side = int(config.size)  # type: ignore[arg-type]
        data = picture_target(torch.zeros(4, side, side))
    node = seed_node(data, config.seed_node if on is None else None)
    data.x = anchor(data, node, cell.in_channels)
    return cell, data, seed_state(data, cell.channels, node), card


def texture_names() -> list[str]:
    """The names of the rules of textures that ship with the package.

    Example:
        >>> "giraffe" in texture_names()
        True
    """
    return sorted(p.stem for p in (_PRETRAINED / "textures").glob("*.safetensors"))


def load_texture(name: str) -> MicroCell:
    """A shipped rule of a texture, with its card as ``card``.

    Args:
        name: One of :func:`texture_names`.

    Example:
        >>> load_texture("giraffe")
        MicroCell(12, num_kernels=1, parameters=588)
    """
    return load_pretrained(MicroCell, name)
