"""Whether derivatives may be asked of what is computed now."""

from __future__ import annotations

import torch


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is under way."""
    active: bool = torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined]
    return active or torch.autograd.forward_ad._current_level >= 0


def recorded() -> bool:
    """Whether what is computed may be differentiated, and memory must not be used again."""
    return torch.is_grad_enabled() or transforms_active()
