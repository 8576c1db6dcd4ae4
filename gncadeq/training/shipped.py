"""Grown rules that ship with the package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells import GrowingCell
from gncadeq.files.weights import load_pretrained
from gncadeq.training.grow_config import GrowConfig
from gncadeq.training.targets import anchor, picture_target, seed_node, seed_state


def load_shipped(
    name: str, on: str | None = None
) -> tuple[GrowingCell, Data, Tensor, dict[str, Any]]:
    """A shipped rule, its graph with the injection as ``x``, its seed state, and its card.

    Args:
        name: One of ``gncadeq.files.weights.pretrained_names("grown")``.
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
