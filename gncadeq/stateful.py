"""Modules whose evaluation draws random numbers, or changes their buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


def drops(module: nn.Module) -> bool:
    """Whether a module itself applies dropout when it is evaluated.

    One of torch's dropouts in training mode does, and a module in training mode with a positive
    number (or several) for its attribute ``dropout``, as PyG's convs have.

    Example:
        >>> drops(nn.Dropout(0.5)), drops(nn.Dropout(0.5).eval())
        (True, False)
    """
    rate = getattr(module, "p" if isinstance(module, _DropoutNd) else "dropout", None)
    rates = rate if isinstance(rate, list | tuple) else [rate]
    return module.training and any(isinstance(r, int | float) and r > 0 for r in rates)


def has_statistics(module: nn.Module) -> bool:
    """Whether an evaluation in training mode changes the buffers of a module itself.

    Those of a batch norm change, and the power iteration of a spectral norm.

    Example:
        >>> has_statistics(nn.BatchNorm1d(2)), has_statistics(nn.LayerNorm(2))
        (True, False)
    """
    if isinstance(module, _NormBase):
        return bool(module.track_running_stats)
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(h, SpectralNorm) for h in hooks)


@contextmanager
def scratch_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules copies of their own buffers to update, and the old ones back afterwards.

    Args:
        modules: The modules; their submodules aren't included.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with scratch_buffers(norm.modules()):
        ...     _ = norm(torch.rand(3, 2))
        >>> int(norm.num_batches_tracked)
        0
    """
    # Writing the old values back into the same tensors would trip autograd's version checks.
    kept = [(m, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own afterwards.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluation_mode(model):
        ...     inside = model[0].training
        >>> inside, [module.training for module in model]
        (False, [True, False])
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
