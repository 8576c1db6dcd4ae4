"""Every pixel says which digit it is part of: swapped digits, canvases, graphs of near pixels.

    python examples/self_classifying.py --data-root DATA
    python examples/self_classifying.py --data-root DATA --near runs/superpixels/pixels.safetensors
    python examples/self_classifying.py --smoke      # seconds, on scikit-learn's small digits

- *swap*: an automaton that updates half of the nodes in a step has come to rest on a digit, which
  another one replaces; nodes where both live keep their states, all others start at zero.
- *noise*: Gaussian noise, as large as the deviation of each channel, is added to such a state.
- *canvas*: five digits on a black canvas, each apart from the others.
- *near*: every bright pixel senses the 8 nearest by place and grey, on weights of
  ``python examples/superpixels.py --data-root DATA --graphs pixels --models equilibrium``. These
  edges have directions; averages also go back along them, and along one long edge a pixel.

What ``gncadeq evaluate NAME --labels cells`` measures is not repeated here. Writes
``runs/self_classifying/table.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq import GraphNCA, SelfClassifier
from gncadeq.cell_labels import CellLabels, cell_labels
from gncadeq.datasets import PixelGraphs, Superpixels
from gncadeq.files.json_files import write_json
from gncadeq.graph.partition import Partition
from gncadeq.transforms import AddShortcuts, ImageToSuperpixels

STEPS = (0, 20, 100, 200, 500, 1000, 2000)


def bright(data: Data) -> Tensor:
    """The pixels that count: level 0, brighter than 0.1."""
    ground = data.level == 0 if "level" in data else torch.ones_like(data.x[:, 0]).bool()
    return ground & (data.x[:, 0] > 0.1)


def kept(before: Data, after: Data, z: Tensor) -> Tensor:
    """The states of nodes that both graphs have; zero for all others."""

    def key(data: Data) -> Tensor:
        level = data.level if "level" in data else torch.zeros(data.num_nodes).long()
        place = data.pos.long()
        return (level * 1024 + place[:, 1]) * 1024 + place[:, 0]

    found = (key(after).unsqueeze(1) == key(before)).long()
    return torch.where(found.any(1, keepdim=True), z[found.argmax(1)], 0.0)


@torch.no_grad()
def labels_of(model: SelfClassifier, batch: Batch, z: Tensor) -> CellLabels:
    """What the pixels of a batch decide, given its state."""
    u, edges, _ = model.inject(batch.x, batch.edge_index, batch.edge_attr)
    partition = Partition(batch.batch, batch.num_nodes, batch.num_graphs)
    return cell_labels(model.read(u, z, edges, partition), batch.batch, batch.y, bright(batch))


@torch.no_grad()
def disturb(
    model: SelfClassifier, dataset: PixelGraphs, count: int, steps: tuple[int, ...]
) -> dict[str, dict]:
    """Measures after so many steps of digits that another digit replaces, and of a noisy state."""
    first = [dataset.get(i) for i in range(count)]
    second = [dataset.get(i) for i in range(count, 2 * count)]
    old, new = Batch.from_data_list(first), Batch.from_data_list(second)
    generator = torch.Generator().manual_seed(0)

    def run(batch: Batch, z: Tensor, number: int) -> Tensor:
        u, edges, relation = model.inject(batch.x, batch.edge_index, batch.edge_attr)
        nca = GraphNCA(model.cell, number, fire_rate=0.5)
        return nca(u, edges, relation, z0=z, generator=generator)

    def after(batch: Batch, z: Tensor) -> dict:
        table, done = {}, 0
        for number in steps:
            if number > done:
                z, done = run(batch, z, number - done), number
            table[f"{number} steps later"] = labels_of(model, batch, z).summary()
        state, _, _ = model.settle(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        partition = Partition(batch.batch, batch.num_nodes, count)
        error = partition.norm(z - state) / partition.norm(state)
        table["largest distance from the equilibrium"] = float(error.max())
        return table | {"equilibrium": labels_of(model, batch, state).summary()}

    z = run(old, torch.zeros(old.num_nodes, model.cell.channels), steps[-1])
    rest = {"on the first digits": labels_of(model, old, z).summary()}
    parts = [z[old.ptr[i] : old.ptr[i + 1]] for i in range(count)]
    kept_states = torch.cat([kept(*pair) for pair in zip(first, second, parts, strict=True)])
    noise = z.std(0) * torch.randn(z.shape, generator=generator)
    return {"swap": rest | after(new, kept_states), "noise": after(old, z + noise)}


@torch.no_grad()
def canvases(model: SelfClassifier, dataset: PixelGraphs, count: int) -> dict:
    """Five digits on each of so many canvases, at least 8 pixels and a multiple of 4 apart."""
    height, width = dataset.images.shape[2:]
    pitch = 4 * (-(-(max(height, width) + 8) // 4))
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(count):
        pick = torch.randint(len(dataset), (5,), generator=generator)
        slots = torch.randperm(9, generator=generator)[:5].sort().values
        canvas = torch.zeros(1, 3 * pitch, 3 * pitch)
        for digit, slot in zip(pick.tolist(), slots.tolist(), strict=True):
            top, left = slot // 3 * pitch, slot % 3 * pitch
            image = dataset.images[digit].float() / 255
            canvas[:, top : top + height, left : left + width] = image
        data = model.to_graph(canvas)
        logits = model(data.x, data.edge_index, data.edge_attr)
        column, row = (data.pos.long() // pitch).clamp(max=2).T
        number = torch.full((9,), 0).scatter(0, slots, torch.arange(5))[row * 3 + column]
        order = number.argsort(stable=True)
        found.append(
            cell_labels(logits[order], number[order], dataset.labels[pick], bright(data)[order])
        )
    return CellLabels.join(found).summary()


@torch.no_grad()
def near_pixels(weights: str, root: str, count: int) -> dict:
    """Graphs of the 8 nearest pixels: each alone, and with one long edge."""
    to_graph = ImageToSuperpixels(num_segments=None, living_threshold=0.02, edges="relation")
    test = Superpixels(root, "mnist", False, to_graph)
    model = SelfClassifier.from_pretrained(weights, deq={"on_failure": "ignore"})
    table = {}
    for name, long in (("the 8 nearest", 0), ("and one long edge", 1)):
        right, rows = 0, []
        for index in torch.arange(count).split(50):
            batch = test.batch(index)
            pooled = model.model(
                batch.x, batch.edge_index, batch.edge_attr, batch.batch, batch_size=len(index)
            )
            right += int((pooled.argmax(1) == batch.y).sum())
            back = both_ways(batch.clone())
            back = AddShortcuts(long)(back) if long else back
            logits = model(back.x, back.edge_index, back.edge_attr, batch=back.batch)
            rows.append(cell_labels(logits, back.batch, back.y, bright(back)))
        table[name] = {**CellLabels.join(rows).summary(), "pooled classifier": right / count}
    return table


def both_ways(data: Data) -> Data:
    """Every edge that goes one way also goes back, with a relation that averages alone read."""
    n, edges = data.num_nodes, data.edge_index
    there, back = edges[1] * n + edges[0], edges[0] * n + edges[1]
    lacking = edges[:, ~torch.isin(back, there)].flip(0)
    data.edge_index = torch.cat([edges, lacking], 1)
    data.edge_attr = torch.cat([data.edge_attr, data.edge_attr.new_full((lacking.size(1),), 18)])
    return data


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--weights", default="mnist-pyramid", help="shipped name or file")
    parser.add_argument("--near", help="weights on graphs of near pixels")
    parser.add_argument("--count", type=int, default=100, help="digits, and canvases of five")
    parser.add_argument("--out", default="runs/self_classifying")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    steps, alpha = STEPS, None
    if args.smoke:
        args.weights, args.count, steps, alpha = "digits", 5, (0, 20, 100), 0.05
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="self_classifying_")
    dataset = PixelGraphs(args.data_root, "digits" if args.smoke else "mnist", False)
    model = SelfClassifier.from_pretrained(args.weights, alpha=alpha)
    dataset.to_graph = model.to_graph
    table = {"canvas": canvases(model, dataset, args.count)}
    print(table, flush=True)
    table |= disturb(model, dataset, args.count, steps)
    if args.near:
        table["near"] = near_pixels(args.near, args.data_root, 10 * args.count)
    for name, rows in table.items():
        print(name, rows if name == "canvas" else "")
        for row, value in rows.items() if name != "canvas" else ():
            print(f"  {row}: {value}")
    write_json(Path(args.out) / "table.json", table)
    print("written to", Path(args.out) / "table.json")


if __name__ == "__main__":
    main()
