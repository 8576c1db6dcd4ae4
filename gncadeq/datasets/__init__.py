"""Datasets, the way PyG has them."""

from gncadeq.datasets.pixel_graphs import PixelGraphs
from gncadeq.datasets.sources import default_root

__all__ = ["PixelGraphs", "default_root"]
