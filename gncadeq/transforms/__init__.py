"""Transforms: from images, meshes and points to graphs, their kernels, and graphs in parts."""

from gncadeq.transforms.coarsen import Coarsen
from gncadeq.transforms.digits import FindDigits, FoundDigit, stroke_width
from gncadeq.transforms.directions import SoftDirections
from gncadeq.transforms.graph_laplacian import GraphLaplacian
from gncadeq.transforms.image import ImageToGraph, graph_to_image, pixel_edges, window_mean
from gncadeq.transforms.kernels import PixelKernels, TurnKernels, surface_filters
from gncadeq.transforms.mesh import MeshToGraph
from gncadeq.transforms.neighbors import NeighborKernels
from gncadeq.transforms.parts import halo, partition, split_graph
from gncadeq.transforms.points import PointsToGraph
from gncadeq.transforms.shortcuts import AddShortcuts
from gncadeq.transforms.superpixels import ImageToSuperpixels
from gncadeq.transforms.sweeps import NonBacktracking, SurfaceSweeps, Sweeps

__all__ = [
    "AddShortcuts",
    "Coarsen",
    "FindDigits",
    "FoundDigit",
    "GraphLaplacian",
    "ImageToGraph",
    "ImageToSuperpixels",
    "MeshToGraph",
    "NeighborKernels",
    "NonBacktracking",
    "PixelKernels",
    "PointsToGraph",
    "SoftDirections",
    "SurfaceSweeps",
    "Sweeps",
    "TurnKernels",
    "graph_to_image",
    "halo",
    "partition",
    "pixel_edges",
    "split_graph",
    "stroke_width",
    "surface_filters",
    "window_mean",
]
