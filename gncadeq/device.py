"""Devices by name, and what is computed on them brought back."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

T = TypeVar("T")


def usable_device(name: str) -> torch.device:
    """The device of a name, if torch can compute on it here.

    Args:
        name: ``"cpu"``, or a kind of accelerator, such as ``"cuda"`` or ``"mps"``, with a number if
            there are several, ``"cuda:1"``.

    Raises:
        ValueError: If there is no such device.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    here = devices()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is not None and device.type == "cpu":
        return torch.device("cpu")
    if device is None or device.type not in {kind.partition(":")[0] for kind in here}:
        raise ValueError(
            f"Expected a device that torch can compute on here, one of {here} (got {name!r}). "
            "'gncadeq doctor' says what was found"
        )
    if device.index is not None and str(device) not in here:
        raise ValueError(f"Expected one of the devices that are here, {here} (got {name!r})")
    return device


def devices() -> list[str]:
    """The names of the devices that torch can compute on here.

    Example:
        >>> devices()[0]
        'cpu'
    """
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        found += [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())]
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are."""
    return next(model.parameters()).device


def beside(data: Data, model: nn.Module) -> Data:
    """A graph on the device of a model; the one that was given stays where it is."""
    return copy.copy(data).to(device_of(model))  # type: ignore[return-value]


def on_cpu(value: T) -> T:
    """What was found, with its tensors on the CPU: a tensor, a dataclass, or a list, tuple or
    dictionary of them.

    Example:
        >>> on_cpu([torch.ones(1), "one"])
        [tensor([1.]), 'one']
    """
    it: Any = value
    if isinstance(it, Tensor):
        it = it.cpu()
    elif dataclasses.is_dataclass(it) and not isinstance(it, type):
        fields = {f.name: on_cpu(getattr(it, f.name)) for f in dataclasses.fields(it) if f.init}
        it = dataclasses.replace(it, **fields)
    elif isinstance(it, list | tuple):
        it = type(it)(map(on_cpu, it))
    elif isinstance(it, dict):
        it = {key: on_cpu(each) for key, each in it.items()}
    return it  # type: ignore[no-any-return]
