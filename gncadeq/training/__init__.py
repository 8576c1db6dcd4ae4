"""Training runs; Lightning is loaded when one starts."""

from gncadeq.training.config import TrainConfig

__all__ = ["TrainConfig"]
