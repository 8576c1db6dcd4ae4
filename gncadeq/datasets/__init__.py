"""Datasets, the way PyG has them; meshes and graphs from files, and surfaces by formula."""

from gncadeq.datasets import primitives
from gncadeq.datasets.graph_files import load_graph
from gncadeq.datasets.mazes import maze
from gncadeq.datasets.mesh_files import load_mesh, load_points, save_mesh
from gncadeq.datasets.mesh_report import MeshReport, MeshWarning, mesh_report
from gncadeq.datasets.pixel_graphs import PixelGraphs
from gncadeq.datasets.sources import default_root
from gncadeq.datasets.superpixel_graphs import Superpixels

__all__ = [
    "MeshReport",
    "MeshWarning",
    "PixelGraphs",
    "Superpixels",
    "default_root",
    "load_graph",
    "load_mesh",
    "load_points",
    "maze",
    "mesh_report",
    "primitives",
    "save_mesh",
]
