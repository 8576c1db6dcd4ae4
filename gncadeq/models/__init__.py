"""Models: encoder, cell, dynamics and readout, ready to train."""

from gncadeq.models.image_classifier import ImageClassifier
from gncadeq.models.maze_solver import MazeSolver
from gncadeq.models.node_classifier import NodeClassifier
from gncadeq.models.pixel_classifier import PixelGraphClassifier
from gncadeq.models.pyramid_classifier import PyramidClassifier
from gncadeq.models.readout import MeanReadout
from gncadeq.models.self_classifier import SelfClassifier

__all__ = [
    "ImageClassifier",
    "MazeSolver",
    "MeanReadout",
    "NodeClassifier",
    "PixelGraphClassifier",
    "PyramidClassifier",
    "SelfClassifier",
]
