"""Transforms: from images to graphs."""

from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean

__all__ = ["ImageToGraph", "graph_to_image", "pixel_edges", "window_mean"]
