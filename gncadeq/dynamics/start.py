"""Where dynamics start from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gncadeq.typing import OptTensor

Start = Literal["zeros", "normal"]


def check_start(start: str) -> Start:
    """Return ``start`` if it is known, else raise ``ValueError``."""
    if start not in ("zeros", "normal"):
        raise ValueError(f"Expected 'start' to be 'zeros' or 'normal' (got {start!r})")
    return start  # type: ignore[return-value]


def start_state(
    z0: OptTensor,
    x: Tensor,
    channels: int,
    start: Start,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The given start, checked, or a new one on the device of the injection.

    Raises:
        ValueError: If ``z0`` has another shape than ``[num_nodes, channels]``, or is elsewhere.
        TypeError: If ``z0`` is of another type than the injection, half precision aside.
    """
    if z0 is not None:
        if list(z0.shape) != [x.size(0), channels]:
            raise ValueError(
                f"Expected 'z0' of shape [num_nodes, channels] = [{x.size(0)}, {channels}] "
                f"(got {list(z0.shape)})"
            )
        if z0.device != x.device:
            raise ValueError(
                f"Expected 'z0' on the device of 'x', {x.device} (got {z0.device}). Use "
                "z0.to(x.device)"
            )
        half = torch.float16, torch.bfloat16
        if z0.dtype != x.dtype and not (
            z0.is_floating_point() and (z0.dtype in half or x.dtype in half)
        ):
            raise TypeError(
                f"Expected 'z0' in the type of 'x', {x.dtype} (got {z0.dtype}). Use z0.to(x.dtype)"
            )
        return z0
    if start == "zeros":
        return x.new_zeros(x.size(0), channels)
    return torch.randn(x.size(0), channels, dtype=x.dtype, device=x.device, generator=generator)


__all__ = ["Start", "check_start", "start_state"]
