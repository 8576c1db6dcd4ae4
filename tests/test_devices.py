"""What an accelerator would meet, without one: no tensor made on the default device, no double
precision where a device has none, and few operators and reads a step.
"""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, GCNConv

from benchmarks.overhead import host_reads, kernels
from gncadeq import (
    ConvCell,
    GraphDEQ,
    GraphNCA,
    GrowingCell,
    IGNNCell,
    PixelGraphClassifier,
    PyramidClassifier,
)
from gncadeq.datasets import primitives
from gncadeq.graph import precision
from gncadeq.transforms import ImageToGraph, MeshToGraph

SOLVERS = ("auto", "picard", "anderson", "broyden", "newton", "flow")


class NoDouble(TorchDispatchMode):
    """A device without double precision."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                assert value.dtype not in (torch.double, torch.complex128), func
        return out


def graphs(**options) -> Batch:
    torch.manual_seed(0)
    to_graph = ImageToGraph(**options)
    return Batch.from_data_list([to_graph(torch.rand(1, h, 12)) for h in (10, 14)])


def uses() -> dict:
    """The main uses, with all that they are given made beforehand."""
    torch.manual_seed(0)
    full, living = graphs(), graphs(living_threshold=0.3)
    found = {}

    def use(name: str, module, data: Batch, edge_attr=True, **given) -> None:
        def run() -> None:
            edges = data.edge_attr if edge_attr else None
            module(data.x, data.edge_index, edges, data.batch, **given).square().sum().backward()

        found[name] = run

    for solver in SOLVERS:
        use(solver, GraphDEQ(ConvCell(1, 4, contraction=0.9), solver), full)
    for criterion in ("node", "channel", "error"):
        cell = ConvCell(1, 4, contraction=0.9)
        use(criterion, GraphDEQ(cell, criterion=criterion), living)
    for gradient in ("phantom", "one_step"):
        use(gradient, GraphDEQ(ConvCell(1, 4, contraction=0.9), gradient=gradient), living)
    use("automaton", GraphNCA(ConvCell(1, 4, contraction=0.9), 5, fire_rate=0.5), living)
    for conv in (GCNConv(8, 8), GATConv(8, 8)):
        use(type(conv).__name__, GraphDEQ.from_conv(conv, 1), full, edge_attr=False)
    use("IGNN", GraphDEQ(IGNNCell(1, 8)), full, edge_attr=False)
    classifier = PixelGraphClassifier(channels=6, hidden_channels=8, contraction=0.9)
    use("classifier", classifier, living)
    pyramid = PyramidClassifier(
        channels=[4, 6], contraction=0.9,
        transform={"living_threshold": 0.02, "halo": 1, "levels": 2},
    )  # fmt: skip
    batch = Batch.from_data_list([pyramid.to_graph(torch.rand(1, 12, 12)) for _ in range(3)])
    use("pyramid", pyramid, batch)
    mesh = MeshToGraph("tangent")(primitives.icosphere(1))
    mesh.x, mesh.batch = torch.zeros(mesh.num_nodes, 0), None
    z0 = torch.rand(mesh.num_nodes, 16)
    use("growing", GraphNCA(GrowingCell(16, num_kernels=3), 3, fire_rate=0.5), mesh, z0=z0)
    return found


USES = uses()


@pytest.mark.parametrize("name", USES)
def test_no_tensor_is_made_on_the_default_device(name):
    with torch.device("meta"):
        USES[name]()


@pytest.mark.parametrize("name", USES)
def test_a_device_without_double_precision_is_enough(name, monkeypatch):
    monkeypatch.setattr(precision, "_SINGLE", {"cpu"})
    with warnings.catch_warnings(), NoDouble():  # where all solves converge as well
        warnings.simplefilter("error")
        USES[name]()


@pytest.mark.parametrize("solver", SOLVERS)
def test_solutions_do_not_need_double_precision(solver, monkeypatch):
    data, cell = graphs(living_threshold=0.3), ConvCell(1, 4, contraction=0.9)
    deq = GraphDEQ(cell, solver, tol=1e-5, max_steps=200)
    with torch.no_grad():
        expected = deq(data.x, data.edge_index, data.edge_attr, data.batch)
        monkeypatch.setattr(precision, "_SINGLE", {"cpu"})
        z = deq(data.x, data.edge_index, data.edge_attr, data.batch)
    torch.testing.assert_close(z, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("solver", "most"), [("picard", 12), ("anderson", 75), ("auto", 77)])
def test_a_step_takes_few_operators_and_one_read(solver, most):
    data, cell = graphs(living_threshold=0.3), ConvCell(1, 4, contraction=0.9)

    def count(of, steps: int) -> Counter:
        deq = GraphDEQ(
            cell, solver, tol=1e-30, atol=0.0, max_steps=steps, compact=False, on_failure="ignore"
        )
        with torch.no_grad():
            return of(
                lambda: deq(data.x, data.edge_index, data.edge_attr, data.batch, batch_size=2)
            )

    for of, least in ((kernels, most), (host_reads, 1)):
        count(of, 3)  # which finds the bound of the weights
        few, many = count(of, 6), count(of, 8)
        assert many.total() - few.total() <= 2 * least, many - few


def test_an_unchanged_weight_is_not_bounded_again():
    data, cell = graphs(living_threshold=0.3), ConvCell(1, 4, contraction=0.9)

    def prepare() -> None:
        cell.prepare(data.x, data.edge_index, data.edge_attr)

    with torch.no_grad():
        first, again = kernels(prepare), kernels(prepare)
    assert first["_linalg_svd"] == 3
    assert again["_linalg_svd"] == 1
    assert not again["linalg_cholesky_ex"]
