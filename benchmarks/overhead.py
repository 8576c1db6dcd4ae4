"""What small solves cost beside arithmetic: our Python calls, values read back, processor time.

    python -m benchmarks overhead --data-root DATA

A value that Python reads of a tensor (``.item()``, ``bool(tensor)``, ``.tolist()``, and operators
whose result has a size that depends on values, such as ``nonzero``) makes an accelerator wait; here
it is one call more. Operators are counted without views: an accelerator runs a kernel or several
for each. Three uses: 16 test images of MNIST classified by the shipped model, a
conv of PyTorch Geometric solved on a random graph, and a step of training the MNIST model on 16
images. Writes ``runs/benchmarks/overhead.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, GCNConv
from torch_geometric.utils import to_undirected

import gncadeq
from benchmarks._measure import alternate, cora, save, show
from gncadeq import Cell, ConvCell, GraphDEQ, GrowingCell, PixelGraphClassifier, WrappedConvCell
from gncadeq.datasets import PixelGraphs, primitives
from gncadeq.transforms import ImageToGraph, MeshToGraph

_READS = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "unique_dim", "bincount")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")  # by booleans: nonzero

_VIEWS = {
    "_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach",
    "diagonal", "empty", "empty_like", "expand", "lift_fresh", "new_empty", "permute", "select",
    "slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class HostReads(TorchDispatchMode):
    """Counts operators that read values of a tensor, by the line of our code that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in _INDEXED and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        sized = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if name in _READS or by_mask or sized:
            self.count(name)
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> None:
        """Count a read of the line that is running."""
        frame = sys._getframe(1)
        while frame is not None and not _ours(frame.f_code):
            frame = frame.f_back
        where = "elsewhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self.lines[f"{where} {name}"] += 1


class Kernels(TorchDispatchMode):
    """Counts operators that compute something: each is a kernel of an accelerator, or several."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names[name] += name not in _VIEWS
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts ``tolist`` and ``numpy``, which call no operator."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.tolist, torch.Tensor.numpy):
            self.reads.count(func.__name__)
        return func(*args, **(kwargs or {}))


def _ours(code) -> bool:
    return code.co_filename.startswith(gncadeq.__path__[0])


def host_reads(use) -> Counter[str]:
    """The values that ``use()`` reads of tensors, by line."""
    with HostReads() as reads, Lists(reads):
        use()
    return reads.lines


def kernels(use) -> Counter[str]:
    """The operators that ``use()`` calls, views aside, by name."""
    with Kernels() as found:
        use()
    return found.names


def own_calls(use) -> int:
    """How many calls of functions of this package ``use()`` makes."""
    count = 0

    def event(frame, kind, _):
        nonlocal count
        count += kind == "call" and _ours(frame.f_code)

    sys.setprofile(event)
    try:
        use()
    finally:
        sys.setprofile(None)
    return count


def rules(data_root) -> dict[str, tuple[Cell, tuple, int]]:
    """Rules by name, with their graphs and numbers of graphs; without data those of Cora lack."""
    found = {}
    for name, options in (("two full grids", {}), ("living pixels", {"living_threshold": 0.3})):
        to_graph = ImageToGraph(**options)
        data = Batch.from_data_list([to_graph(torch.rand(1, 12, 12)) for _ in range(2)])
        graph = (data.x, data.edge_index, data.edge_attr, data.batch)
        found[f"`ConvCell`, {name}"] = ConvCell(1, 4, contraction=0.9), graph, 2
    if data_root:
        edges, x = cora(data_root).edge_index, torch.randn(2708, 8)
        for conv in (GCNConv(8, 8), GATConv(8, 8)):
            name = f"`{type(conv).__name__}` on Cora"
            found[name] = WrappedConvCell(conv, 8), (x, edges), 1
    mesh = MeshToGraph("tangent")(primitives.icosphere(2))
    cell = GrowingCell(16, num_kernels=mesh.edge_attr.size(1))
    torch.nn.init.normal_(cell.weight_out, std=0.1)
    graph = (torch.zeros(mesh.num_nodes, 0), mesh.edge_index, mesh.edge_attr)
    found["`GrowingCell` on an icosphere"] = cell, graph, 1
    return found


@torch.no_grad()
def step_operators(cell: Cell, graph: tuple, count: int) -> dict[str, int]:
    """Operators of one more step of a solve without gradient, and of the rule alone."""

    def solve(solver: str, steps: int) -> None:
        deq = GraphDEQ(
            cell, solver, tol=1e-30, atol=0.0, max_steps=steps, compact=False, on_failure="ignore"
        )
        deq(*graph, batch_size=count, z0=z0)

    z0 = torch.rand(graph[0].size(0), cell.channels)
    rows = {}
    for name, solver in (("plain", "picard"), ("Anderson", "anderson")):
        solve(solver, 8)  # which finds the bound of the weights
        few, many = (kernels(lambda k=k, s=solver: solve(s, k)).total() for k in (7, 8))
        rows[name] = many - few
    step = cell.bind(*graph[:3])
    step(z0)
    return {**rows, "of these the rule": kernels(lambda: step(z0)).total()}


def uses(data_root):
    """The three uses, by name."""
    model = PixelGraphClassifier.from_pretrained("mnist").eval()
    images = PixelGraphs(data_root, "mnist", False, model.to_graph).batch(torch.arange(16))
    arguments = (images.x, images.edge_index, images.edge_attr, images.batch)

    def classify() -> None:
        with torch.no_grad():
            model(*arguments, batch_size=16)

    generator = torch.Generator().manual_seed(0)
    edges = to_undirected(torch.randint(100, (2, 300), generator=generator))
    x = torch.randn(100, 16, generator=generator)
    conv = GraphDEQ.from_conv(GCNConv, in_channels=16, channels=16).eval()

    def solve() -> None:
        with torch.no_grad():
            conv(x, edges)

    trained = PixelGraphClassifier.from_pretrained("mnist").train()
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.0)

    def train() -> None:
        optimizer.zero_grad()
        logits = trained(*arguments, batch_size=16)
        F.cross_entropy(logits, images.y).backward()
        optimizer.step()

    return {"classify 16 images": classify, "solve GCNConv": solve, "train on 16 images": train}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--lines", action="store_true", help="show which lines read values")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name, use in uses(args.data_root).items():
        for _ in range(3):
            use()
        reads = host_reads(use)
        rows.append(
            {
                "use": name, "own calls": own_calls(use), "operators": kernels(use).total(),
                "reads": sum(reads.values()), "ms": alternate({name: use}, args.rounds)[name],
            }
        )  # fmt: skip
        if args.lines:
            for line, count in reads.most_common():
                print(f"{count:4}  {line}")
    show("Beside arithmetic", rows)
    more = [{"rule": name, **step_operators(*rule)} for name, rule in rules(args.data_root).items()]
    show("Operators of one step", more)
    save("overhead", rows, steps=more)


if __name__ == "__main__":
    main()
