"""Transforms: from images, meshes and points to graphs, their kernels, and graphs in parts."""

from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean
from gncadeq.transforms.kernels import PixelKernels
from gncadeq.transforms.mesh import MeshToGraph
from gncadeq.transforms.parts import halo, partition
from gncadeq.transforms.points import PointsToGraph

__all__ = [
    "ImageToGraph",
    "MeshToGraph",
    "PixelKernels",
    "PointsToGraph",
    "graph_to_image",
    "halo",
    "partition",
    "pixel_edges",
    "window_mean",
]
