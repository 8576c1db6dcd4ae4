"""True residuals, evaluations and gradient errors: gncadeq, and TorchDEQ used the obvious way.

    python -m benchmarks solvers

The obvious way is ``torchdeq.get_deq(ift=True, ...)`` on a state ``[num_nodes, channels]``, with a
relative tolerance; everything else stays at its default. All is in float64. For each case:

- *residual*: the largest over the graphs, ``|f(z) - z| / |f(z)|`` of the returned state;
- *reported*: what the solver says it is;
- *evaluations*: how often the cell was evaluated before the gradient;
- *gradient*: relative error, all parameters and the injection together, against the rollout
  unrolled to convergence;
- *batch*: relative difference between a graph's state alone and in a batch.

Writes ``runs/benchmarks/solvers.json``.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from benchmarks._measure import save, show
from gncadeq import Cell, ConvCell, GraphDEQ, GraphNCA
from gncadeq.dynamics import Partition
from gncadeq.transforms import ImageToGraph

SOLVERS = ("picard", "anderson", "broyden")
STOCK = ("fixed_point_iter", "anderson", "broyden")


class LinearGCN(Cell):
    """``z' = A z W + x`` with the symmetric normalisation A and an orthogonal W times a factor."""

    def __init__(self, channels: int, factor: float = 0.97) -> None:
        super().__init__()
        self.in_channels = self.channels = channels
        self.factor = factor
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix."""
        nn.init.orthogonal_(self.weight, gain=self.factor)

    def prepare(self, x: Tensor, edge_index: Any, edge_attr: Any = None) -> Any:
        """Normalise the adjacency, with self-loops."""
        source, target = edge_index
        degree = x.new_ones(x.size(0)).index_add_(0, target, x.new_ones(target.numel()))
        norm = degree.rsqrt()
        weight = (norm[source] * norm[target]).unsqueeze(1)
        own = (1 / degree).unsqueeze(1)

        def step(z: Tensor) -> Tensor:
            message = z @ self.weight
            return (
                x
                + own * message
                + torch.zeros_like(z).index_add(0, target, weight * message[source])
            )

        return step


class Counted(Cell):
    """A cell that counts its evaluations."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.count = cell, 0
        self.in_channels, self.channels = cell.in_channels, cell.channels

    def prepare(self, x: Tensor, edge_index: Any, edge_attr: Any = None) -> Any:
        """Count from now on."""
        step = self.cell.prepare(x, edge_index, edge_attr)
        self.count = 0

        def counted(z: Tensor) -> Tensor:
            self.count += 1
            return step(z)

        return counted


@dataclass
class Case:
    """A cell on graphs, with a loss on some nodes."""

    name: str
    cell: Cell
    data: Data
    tol: float
    nodes: Tensor | slice | None = None
    scale: float = 1.0
    alone: Data | None = None
    """The first graph by itself, where batches are the question."""


@dataclass
class Row:
    """What was measured."""

    case: str
    library: str
    solver: str
    tol: float
    residual: float
    reported: float
    evaluations: int
    gradient: float
    batch: float | None = None
    evaluations_alone: int | None = None


def cases() -> list[Case]:
    """The cases; the same each time."""
    torch.manual_seed(0)
    to_graph = ImageToGraph()

    def picture(*shape: int) -> Data:
        return to_graph(torch.rand(1, *shape, dtype=torch.double))

    def cell() -> ConvCell:
        torch.manual_seed(1)
        return ConvCell(1, 8, contraction=0.9).double()

    lit = torch.zeros(1, 10, 10, dtype=torch.double)
    lit[0, 4, 5] = 1.0
    image = picture(10, 10)
    order = torch.randperm(100)
    path = torch.arange(59)
    edge_index = torch.cat([torch.stack([path, path + 1]), torch.stack([path + 1, path])], 1)
    paths = [
        Data(x=torch.randn(60, 4, dtype=torch.double), edge_index=edge_index) for _ in range(8)
    ]
    # Signs that alternate along a path die out at once; what varies slowly takes its time.
    first = paths[0].clone()
    first.x = first.x[:1] * (1 - 2 * (torch.arange(60) % 2)).unsqueeze(1)
    batch = Batch.from_data_list([first, *(paths[1:] * 3)[:15]])
    return [
        Case("one lit pixel on 10×10", cell(), to_graph(lit), 1e-6),
        Case("loss on 1 of 100 nodes", cell(), image, 1e-6, order[:1]),
        Case("loss on 10 of 100 nodes", cell(), image, 1e-6, order[:10]),
        Case("loss × 1e-6", cell(), image, 1e-6, scale=1e-6),
        Case("8 paths × 60 nodes", LinearGCN(4).double(), Batch.from_data_list(paths), 1e-3),
        Case(
            "1 path in a batch of 16", LinearGCN(4).double(), batch, 1e-3, slice(0, 60), 1.0, first
        ),
    ]


def _arguments(data: Data) -> tuple[Any, ...]:
    return data.x.detach().clone().requires_grad_(), data.edge_index, data.edge_attr


def _partition(data: Data) -> Partition:
    return Partition(getattr(data, "batch", None), data.num_nodes)


def solve_ours(case: Case, data: Data, solver: str) -> tuple[Tensor, Tensor, float, int]:
    """Solve with :class:`gncadeq.GraphDEQ`."""
    cell = Counted(case.cell)
    deq = GraphDEQ(cell, solver, tol=case.tol, max_steps=400, on_failure="ignore")
    x, *graph = _arguments(data)
    z, solution = deq(x, *graph, _partition(data).batch, return_solution=True)
    return z, x, float(solution.residual.max()), cell.count


def solve_torchdeq(case: Case, data: Data, solver: str) -> tuple[Tensor, Tensor, float, int]:
    """Solve with TorchDEQ, on the state as it is."""
    import torchdeq

    cell = Counted(case.cell)
    x, *graph = _arguments(data)
    deq = torchdeq.get_deq(
        ift=True, f_solver=solver, f_tol=case.tol, f_max_iter=400, b_max_iter=400, f_stop_mode="rel"
    )
    (z,), info = deq(cell.prepare(x, *graph), x.new_zeros(x.size(0), cell.channels))
    return z, x, float(info["rel_lowest"].max()), cell.count


def _gradient(case: Case, z: Tensor, x: Tensor) -> Tensor:
    picked = z if case.nodes is None else z[case.nodes]
    loss = case.scale * (picked.pow(2) + picked).sum()
    found = torch.autograd.grad(loss, [x, *case.cell.parameters()])
    return torch.cat([g.flatten() for g in found]) / case.scale


def _true_residual(case: Case, data: Data, z: Tensor) -> float:
    partition = _partition(data)
    with torch.no_grad():
        fz = case.cell(z, *_arguments(data))
        return float((partition.norm(fz - z) / partition.norm(fz)).max())


def measure(case: Case) -> list[Row]:
    """Run every solver on a case."""
    x, *graph = _arguments(case.data)
    unrolled = GraphNCA(case.cell, 1200)(x, *graph, _partition(case.data).batch)
    expected = _gradient(case, unrolled, x)
    rows = []
    ways = [("gncadeq", s, solve_ours) for s in SOLVERS]
    ways += [("TorchDEQ", s, solve_torchdeq) for s in STOCK]
    for library, solver, way in ways:
        z, x, reported, evaluations = way(case, case.data, solver)
        error = float((_gradient(case, z, x) - expected).norm() / expected.norm())
        row = Row(
            case.name, library, solver, case.tol, _true_residual(case, case.data, z.detach()),
            reported, evaluations, error,
        )  # fmt: skip
        if case.alone is not None:
            alone, _, _, row.evaluations_alone = way(case, case.alone, solver)
            row.batch = float((z[: len(alone)] - alone).norm() / alone.norm())
        rows.append(row)
    return rows


def _cells(row: Row) -> dict[str, str]:
    evaluations = str(row.evaluations)
    if row.evaluations_alone is not None:
        evaluations += f" (alone {row.evaluations_alone})"
    return {
        "case": row.case, "tol": f"{row.tol:.0e}", "solver": f"{row.library} {row.solver}",
        "residual": f"{row.residual:.1e}", "reported": f"{row.reported:.1e}",
        "evaluations": evaluations, "gradient": f"{row.gradient:.1e}",
        "batch": "" if row.batch is None else f"{row.batch:.1e}",
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for case in cases() for row in measure(case)]
    show("True residual, evaluations and gradient error (float64)", [_cells(row) for row in rows])
    save("solvers", [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
