"""Transforms: from images to graphs, and from relations to kernel weights."""

from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean
from gncadeq.transforms.kernels import PixelKernels

__all__ = ["ImageToGraph", "PixelKernels", "graph_to_image", "pixel_edges", "window_mean"]
