"""Transforms: from images, meshes and points to graphs, and the kernels of their edges."""

from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean
from gncadeq.transforms.kernels import PixelKernels
from gncadeq.transforms.mesh import MeshToGraph
from gncadeq.transforms.points import PointsToGraph
from gncadeq.transforms.superpixels import ImageToSuperpixels

__all__ = [
    "ImageToGraph",
    "ImageToSuperpixels",
    "MeshToGraph",
    "PixelKernels",
    "PointsToGraph",
    "graph_to_image",
    "pixel_edges",
    "window_mean",
]
