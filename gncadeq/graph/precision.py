"""Which devices compute in double precision."""

from __future__ import annotations

import torch

_SINGLE = {"mps"}  # kinds of devices without double precision


def widest(device: torch.device) -> torch.dtype:
    """The type of sums and of small systems of equations on a device: double precision, or single
    where there is no other.

    Example:
        >>> widest(torch.device("cpu")), widest(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type in _SINGLE else torch.float64


def widened(value: torch.Tensor) -> torch.Tensor:
    """``value`` in the widest type of its device."""
    return value.to(widest(value.device))
