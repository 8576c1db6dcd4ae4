"""What runs a rule: to its equilibrium, or step by step."""

from gncadeq.dynamics.best_of import best_of
from gncadeq.dynamics.equilibrium import GraphDEQ
from gncadeq.dynamics.fixed_point import solve
from gncadeq.dynamics.graph_core import GraphCore
from gncadeq.dynamics.rollout import GraphNCA
from gncadeq.dynamics.solution import ConvergenceError, ConvergenceWarning, Solution, Status
from gncadeq.dynamics.solvers import Solver, register_solver, solver_names
from gncadeq.graph.halo import Halo
from gncadeq.graph.partition import Partition

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "GraphCore",
    "GraphDEQ",
    "GraphNCA",
    "Halo",
    "Partition",
    "Solution",
    "Solver",
    "Status",
    "best_of",
    "register_solver",
    "solve",
    "solver_names",
]
