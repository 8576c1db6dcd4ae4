"""Training runs; Lightning is loaded when one starts."""

from gncadeq.training.config import TrainConfig
from gncadeq.training.losses import jacobian_penalty

__all__ = ["TrainConfig", "jacobian_penalty"]
