"""Where dynamics start from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gncadeq.check import check_type
from gncadeq.choices import StartName
from gncadeq.typing import Adj, OptTensor

Start = StartName | nn.Module


def check_start(start: str | nn.Module) -> Start:
    """Return ``start`` if it is a known name or a module, else raise ``ValueError``."""
    if not isinstance(start, nn.Module) and start not in ("zeros", "normal"):
        raise ValueError(
            "Expected 'start' to be 'zeros', 'normal' or a module called as "
            f"start(x, edge_index, edge_attr) (got {start!r})"
        )
    return start  # type: ignore[return-value]


def start_state(
    z0: OptTensor,
    x: Tensor,
    edge_index: Adj,
    edge_attr: OptTensor,
    channels: int,
    start: Start,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The given start, checked, or a new one on the device of the injection.

    Raises:
        ValueError: If ``z0``, or what a predictor returns, has another shape than
            ``[num_nodes, channels]``, or is elsewhere.
        TypeError: If it is of another type than the injection, half precision aside, or
            ``generator`` is none.
    """
    if generator is not None:
        check_type("generator", generator, torch.Generator)
    if z0 is not None:
        return _checked(z0, "'z0'", x, channels)
    if isinstance(start, nn.Module):
        predicted = start(x, edge_index, edge_attr)
        return _checked(predicted, f"'start' ({type(start).__name__})", x, channels)
    if start == "zeros":
        return x.new_zeros(x.size(0), channels)
    device = x.device if generator is None else generator.device
    noise = torch.randn(x.size(0), channels, dtype=x.dtype, device=device, generator=generator)
    return noise.to(x.device)


def _checked(z0: Tensor, name: str, x: Tensor, channels: int) -> Tensor:
    check_type(name.strip("'"), z0, Tensor)
    if list(z0.shape) != [x.size(0), channels]:
        raise ValueError(
            f"Expected {name} of shape [num_nodes, channels] = [{x.size(0)}, {channels}] "
            f"(got {list(z0.shape)})"
        )
    if z0.device != x.device:
        raise ValueError(
            f"Expected {name} on the device of 'x', {x.device} (got {z0.device}). Use .to(x.device)"
        )
    half = torch.float16, torch.bfloat16
    if z0.dtype != x.dtype and not (
        z0.is_floating_point() and (z0.dtype in half or x.dtype in half)
    ):
        raise TypeError(
            f"Expected {name} in the type of 'x', {x.dtype} (got {z0.dtype}). Use .to(x.dtype)"
        )
    return z0
