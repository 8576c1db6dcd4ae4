"""Training runs; torch is loaded with the first loss or pool, Lightning when a run starts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gncadeq.training.config import TrainConfig
from gncadeq.training.grow_config import GrowConfig

if TYPE_CHECKING:
    from gncadeq.training.losses import jacobian_penalty
    from gncadeq.training.pool import SamplePool

__all__ = ["GrowConfig", "SamplePool", "TrainConfig", "jacobian_penalty"]

_PLACES = {"SamplePool": "pool", "jacobian_penalty": "losses"}


def __getattr__(name: str) -> Any:
    """A public name, loaded now (PEP 562)."""
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
