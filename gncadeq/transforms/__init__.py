"""Transforms: from images, meshes and points to graphs, and the kernels of their edges."""

from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean
from gncadeq.transforms.kernels import PixelKernels
from gncadeq.transforms.mesh import MeshToGraph
from gncadeq.transforms.neighbors import NeighborKernels
from gncadeq.transforms.points import PointsToGraph

__all__ = [
    "ImageToGraph",
    "MeshToGraph",
    "NeighborKernels",
    "PixelKernels",
    "PointsToGraph",
    "graph_to_image",
    "pixel_edges",
    "window_mean",
]
