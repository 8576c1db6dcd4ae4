"""The E(n) automaton's rule: our cell against the same rule as a plain PyG layer.

    python -m benchmarks equivariant --data-root DATA

A step of ``EquivariantCell`` (5,328 parameters) on the bunny of ``DATA/meshes``, or on an icosphere
of as many vertices without it, against the same rule written message by message as a
``MessagePassing`` module with the same parameters: milliseconds and the peak of tensors alive,
without gradients and with the backward pass. The results are compared before anything is timed.
Writes ``runs/benchmarks/equivariant.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter

from benchmarks._measure import alternate, peak_bytes, save, show
from gncadeq import EquivariantCell, load_mesh
from gncadeq.datasets import primitives
from gncadeq.transforms import MeshToGraph


class PlainRule(MessagePassing):
    """The rule as one would write it down, around the parameters of a cell."""

    def __init__(self, cell: EquivariantCell) -> None:
        super().__init__(aggr=None)
        self.cell = cell

    def forward(self, z: Tensor, edge_index: Tensor) -> Tensor:
        """One step."""
        c = self.cell
        pos, h = z[:, : c.dim], z[:, c.dim :]
        move, heard = self.propagate(edge_index, pos=pos, h=h)
        hidden = torch.nn.functional.silu(c.update_in(torch.cat([h, heard], dim=1)))
        return torch.cat([pos + move, h + c.update_out(hidden)], dim=1)

    def message(self, pos_i, pos_j, h_i, h_j):
        """The messages and the moves that they ask for."""
        c, silu = self.cell, torch.nn.functional.silu
        offset = pos_i - pos_j
        square = offset.square().sum(1, keepdim=True)
        m = silu(c.message_out(silu(c.message_in(torch.cat([h_i, h_j, square], dim=1)))))
        return offset * (silu(c.move_in(m)) @ c.move_out.t()), m

    def aggregate(self, inputs, index, dim_size):
        """The mean of the moves and the sum of the messages."""
        offset, m = inputs
        return (
            scatter(offset, index, dim_size=dim_size, reduce="mean"),
            scatter(m, index, dim_size=dim_size, reduce="sum"),
        )


def surface(root: str | None) -> tuple[str, Data]:
    """The bunny, or a sphere."""
    path = Path(root or "") / "meshes" / "stanford-bunny.obj"
    if path.is_file():
        return "bunny", MeshToGraph(weights="uniform")(load_mesh(path))
    return "icosphere", MeshToGraph(weights="uniform")(primitives.icosphere(6))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    name, data = surface(args.data_root)
    torch.manual_seed(0)
    cell = EquivariantCell()
    z = torch.randn(data.num_nodes, cell.channels)
    step = cell.prepare(z[:, :0], data.edge_index)
    plain = PlainRule(cell)

    def ours() -> Tensor:
        return step(z)

    def theirs() -> Tensor:
        return plain(z, data.edge_index)

    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs(), atol=1e-4, rtol=1e-4)

    def training(way):
        def run() -> None:
            cell.zero_grad()
            way().square().mean().backward()

        return run

    rows = []
    for what, mine, other in (
        ("step", torch.no_grad()(ours), torch.no_grad()(theirs)),
        ("step and backward", training(ours), training(theirs)),
    ):
        ms = alternate({"mine": mine, "other": other}, args.rounds)
        peak = peak_bytes(mine) / 1e6, peak_bytes(other) / 1e6
        rows.append(
            {"what": what, "graph": name, "nodes": data.num_nodes, "ms": ms["mine"],
             "plain PyG ms": ms["other"], "faster": ms["other"] / ms["mine"],
             "peak MB": peak[0], "plain PyG peak MB": peak[1]}
        )  # fmt: skip
    show("The E(n) rule", rows)
    save("equivariant", rows)


if __name__ == "__main__":
    main()
