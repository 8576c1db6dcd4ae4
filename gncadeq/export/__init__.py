"""Automata for other runtimes: ``torch.export`` and ONNX."""

from gncadeq.export.compare import check_onnx, graph_inputs
from gncadeq.export.description import describe
from gncadeq.export.onnx_file import to_onnx
from gncadeq.export.plain import neighbor_table
from gncadeq.export.program import StepProgram, to_exported_program
from gncadeq.export.rules import Rule, rule

__all__ = [
    "Rule",
    "StepProgram",
    "check_onnx",
    "describe",
    "graph_inputs",
    "neighbor_table",
    "rule",
    "to_exported_program",
    "to_onnx",
]
