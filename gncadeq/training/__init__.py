"""Training runs; Lightning is loaded when one starts."""

from gncadeq.training.config import TrainConfig
from gncadeq.training.grow_config import GrowConfig
from gncadeq.training.losses import jacobian_penalty
from gncadeq.training.pool import SamplePool

__all__ = ["GrowConfig", "SamplePool", "TrainConfig", "jacobian_penalty"]
