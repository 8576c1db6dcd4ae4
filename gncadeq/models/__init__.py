"""Models: encoder, cell, dynamics and readout, ready to train."""

from gncadeq.models.node_classifier import NodeClassifier
from gncadeq.models.pixel_classifier import PixelGraphClassifier
from gncadeq.models.readout import MeanReadout

__all__ = ["MeanReadout", "NodeClassifier", "PixelGraphClassifier"]
