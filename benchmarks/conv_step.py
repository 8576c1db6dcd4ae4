"""CPU time of a step of a wrapped conv, whose edges are normalised once, and of the conv itself.

    python -m benchmarks conv_step

(With MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824
in the environment glibc keeps freed memory; without, page faults may triple a time.)

On the grid graph of SIZE x SIZE pixels (eight neighbours), WIDTH channels, float32. *conv* is the
conv called as it is; *step* the whole step of the cell (conv, scale, injection, activation);
*prepare* what is computed once a solve; the first call, which may measure a growth, is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch_geometric.nn as pyg
from torch import nn

from gncadeq import WrappedConvCell
from gncadeq.transforms import ImageToGraph


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call, the first left out: the machine may be busy."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.manual_seed(0)
    c = args.width
    data = ImageToGraph()(torch.rand(1, args.size, args.size))
    x, edge_index = torch.randn(data.num_nodes, 3), data.edge_index
    convs = {
        "GCNConv": pyg.GCNConv(c, c),
        "SAGEConv": pyg.SAGEConv(c, c),
        "ChebConv, K=3": pyg.ChebConv(c, c, 3),
        "TAGConv": pyg.TAGConv(c, c),
        "LGConv": pyg.LGConv(),
        "GATConv": pyg.GATConv(c, c),
        "AGNNConv": pyg.AGNNConv(),
        "GINConv": pyg.GINConv(nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))),
    }
    print(f"{data.num_nodes} nodes, {data.num_edges} edges, {c} channels, {torch.get_num_threads()}"
          " thread(s); CPU milliseconds\n")  # fmt: skip
    print("| conv | conv | step | prepare |\n|---|---|---|---|")
    z = torch.randn(data.num_nodes, c)
    with torch.no_grad():
        for name, conv in convs.items():
            cell = WrappedConvCell(conv, 3, channels=c)
            step = cell.prepare(x, edge_index)
            runs = (
                lambda conv=conv: conv(z, edge_index),
                lambda step=step: step(z),
                lambda cell=cell: cell.prepare(x, edge_index),
            )
            row = (f"{milliseconds(run, args.repeats):.1f}" for run in runs)
            print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
