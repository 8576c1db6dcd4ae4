"""Cells: one local rule a file."""

from gncadeq.cell import Cell
from gncadeq.cells.attention import AttentionCell
from gncadeq.cells.cascade import CascadeCell, Part
from gncadeq.cells.conv import ConvCell
from gncadeq.cells.coordinate import CoordinateCell
from gncadeq.cells.distance import DistanceCell
from gncadeq.cells.drives import FeedForwardCell, StencilDrive
from gncadeq.cells.equivariant import EquivariantCell
from gncadeq.cells.growing import GrowingCell
from gncadeq.cells.hopfield import HopfieldCell
from gncadeq.cells.ignn import IGNNCell
from gncadeq.cells.max_propagation import MaxPropagationCell
from gncadeq.cells.micro import MicroCell
from gncadeq.cells.monotone import MonotoneCell
from gncadeq.cells.node_edge import NodeEdgeCell
from gncadeq.cells.propagation import PropagationCell
from gncadeq.cells.pyg.conv_attention import can_hold_attention, held_bound
from gncadeq.cells.pyg.conv_bounds import proven_bound
from gncadeq.cells.pyg.conv_growth import growth_rate
from gncadeq.cells.pyg.conv_scale import ScaledConvCell
from gncadeq.cells.pyg.conv_sums import node_bound, sums_neighbors
from gncadeq.cells.pyg.hetero_conv import HeteroConvCell
from gncadeq.cells.pyg.measured import MeasuredCell, MeasuredGrowth
from gncadeq.cells.pyg.wrap import WrappedConvCell
from gncadeq.cells.reach import ReachCell
from gncadeq.cells.relation import RelationCell
from gncadeq.cells.rewired import RewiredCell
from gncadeq.cells.separable import separate
from gncadeq.cells.stencil import (
    StencilConv,
    prepare_neighborhood,
    stencil_bound,
    stencil_norm,
    stencil_to_conv2d,
)
from gncadeq.cells.sweep import SweepCell
from gncadeq.cells.sweep_grower import SweepGrower
from gncadeq.cells.totalistic import TotalisticCell
from gncadeq.cells.typed import TypedCell
from gncadeq.graph.adjacency import WeightedAdjacency
from gncadeq.graph.perception import Perception

__all__ = [
    "AttentionCell",
    "CascadeCell",
    "Cell",
    "ConvCell",
    "CoordinateCell",
    "DistanceCell",
    "EquivariantCell",
    "FeedForwardCell",
    "GrowingCell",
    "HeteroConvCell",
    "HopfieldCell",
    "IGNNCell",
    "MaxPropagationCell",
    "MeasuredCell",
    "MeasuredGrowth",
    "MicroCell",
    "MonotoneCell",
    "NodeEdgeCell",
    "Part",
    "Perception",
    "PropagationCell",
    "ReachCell",
    "RelationCell",
    "RewiredCell",
    "ScaledConvCell",
    "StencilConv",
    "StencilDrive",
    "SweepCell",
    "SweepGrower",
    "TotalisticCell",
    "TypedCell",
    "WeightedAdjacency",
    "WrappedConvCell",
    "can_hold_attention",
    "growth_rate",
    "held_bound",
    "node_bound",
    "prepare_neighborhood",
    "proven_bound",
    "separate",
    "stencil_bound",
    "stencil_norm",
    "stencil_to_conv2d",
    "sums_neighbors",
]
