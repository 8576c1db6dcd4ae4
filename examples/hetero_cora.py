"""Papers and words of Cora as one typed graph: a stack of hetero convs, and equilibria of one.

    python examples/hetero_cora.py --data-root DATA     # DATA/Planetoid/Cora/raw
    python examples/hetero_cora.py --smoke               # seconds, on a synthetic graph

A paper cites papers and has words; a paper's features are its bag of words, a word has none. The
stack projects them and has two layers of three ``SAGEConv`` each. The equilibria have one layer and
the largest width with no more parameters than the stack: a measured ``HeteroConv``
(``GraphDEQ.from_conv``) and the certified ``RelationCell``. All get the public split, the same
optimiser, dropout and epochs; the validation papers, looked at every fifth epoch, choose the epoch.
*converged* is the share of all solves, of training and evaluation. The data are copied to a
temporary folder first. Prints a Markdown table, writes ``table.json`` and a picture of the
validation accuracies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from citation_graphs import citation, synthetic
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import HeteroConv, SAGEConv

from gncadeq import GraphDEQ, RelationCell
from gncadeq.training.losses import check_gradients

CITES, HAS, OF = ("paper", "cites", "paper"), ("paper", "has", "word"), ("word", "of", "paper")
RELATIONS = [CITES, HAS, OF]


def papers_and_words(data: Data) -> HeteroData:
    """The words of a paper as edges to nodes that papers share."""
    paper, word = (data.x > 0).nonzero().T
    typed = HeteroData()
    typed["paper"].x, typed["paper"].y = data.x, data.y
    for split in ("train_mask", "val_mask", "test_mask"):
        typed["paper"][split] = data[split]
    typed["word"].x = torch.ones(data.num_features, 1)
    typed[CITES].edge_index = data.edge_index
    typed[HAS].edge_index = torch.stack([paper, word])
    typed[OF].edge_index = torch.stack([word, paper])
    return typed


def layer(papers: int, words: int, channels: int) -> HeteroConv:
    """One conv a relation."""
    return HeteroConv(
        {
            CITES: SAGEConv(papers, channels),
            HAS: SAGEConv((papers, words), channels),
            OF: SAGEConv((words, papers), channels),
        }
    )


def inputs(data: HeteroData, training: bool) -> dict[str, Tensor]:
    """The features, those of papers with dropout."""
    return {**data.x_dict, "paper": F.dropout(data["paper"].x, 0.5, training)}


class Stack(nn.Module):
    """Two layers of hetero convs, the explicit model."""

    def __init__(self, data: HeteroData, width: int, classes: int) -> None:
        super().__init__()
        self.encode = nn.Linear(data["paper"].x.size(1), width)
        self.first, self.second = layer(width, 1, width), layer(width, width, width)
        self.linear = nn.Linear(width, classes)
        self.converged: list[bool] = []

    def forward(self, data: HeteroData) -> Tensor:
        """Return logits of papers."""
        x = inputs(data, self.training)
        x = self.first({**x, "paper": self.encode(x["paper"])}, data.edge_index_dict)
        x = {name: F.dropout(h.relu(), 0.5, self.training) for name, h in x.items()}
        h = self.second(x, data.edge_index_dict)["paper"].relu()
        return self.linear(F.dropout(h, 0.5, self.training))


class Equilibrium(nn.Module):
    """One layer, solved to its equilibrium."""

    def __init__(self, deq: GraphDEQ, width: int, classes: int) -> None:
        super().__init__()
        self.deq, self.linear = deq, nn.Linear(width, classes)
        self.converged: list[bool] = []

    def forward(self, data: HeteroData) -> Tensor:
        """Return logits of papers."""
        x = inputs(data, self.training)
        z, solution = self.deq(x, data.edge_index_dict, return_solution=True)
        self.converged += solution.converged.tolist()
        return self.linear(F.dropout(z["paper"], 0.5, self.training))


def hetero_conv(data: HeteroData, width: int, classes: int, contraction: float) -> Equilibrium:
    """The equilibrium of a layer of hetero convs."""
    conv = layer(width, width, width)
    in_channels = {name: x.size(1) for name, x in data.x_dict.items()}
    deq = GraphDEQ.from_conv(
        conv, in_channels, activation="relu", contraction=contraction, on_failure="ignore"
    )
    return Equilibrium(deq, width, classes)


def relation_cell(data: HeteroData, width: int, classes: int, contraction: float) -> Equilibrium:
    """The equilibrium of the certified cell."""
    in_channels = {name: x.size(1) for name, x in data.x_dict.items()}
    cell = RelationCell(in_channels, width, RELATIONS, kappa=contraction)
    return Equilibrium(GraphDEQ(cell, on_failure="ignore"), width, classes)


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def train(model: nn.Module, data: HeteroData, epochs: int, lr: float) -> dict:
    """Train on the training papers; the validation papers choose the epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=5e-4)
    paper, best, test, curve = data["paper"], -1.0, 0.0, []
    for epoch in range(1, epochs + 1):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(data)[paper.train_mask], paper.y[paper.train_mask]).backward()
        check_gradients(model, epoch)
        optimizer.step()
        if epoch % 5:
            continue
        model.eval()
        with torch.no_grad():
            right = model(data).argmax(1) == paper.y
        curve.append(float(right[paper.val_mask].float().mean()))
        if curve[-1] > best:
            best, test = curve[-1], float(right[paper.test_mask].float().mean())
    converged = mean(map(float, model.converged)) if model.converged else 1.0
    return {"valid": best, "test": test, "converged": converged, "parameters": size(model),
            "curve": curve}  # fmt: skip


def picture(table: dict[str, list[dict]], path: Path) -> None:
    """Validation accuracy over the epochs, a line a seed."""
    from matplotlib.figure import Figure

    from gncadeq.viz.figures import open_axes, save_figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for k, (name, runs) in enumerate(table.items()):
        for seed, run in enumerate(runs):
            label = name if seed == 0 else None
            axes.plot(
                range(5, 5 * len(run["curve"]) + 1, 5),
                run["curve"],
                color=f"C{k}",
                alpha=0.8,
                label=label,
            )
    axes.legend(frameon=False)
    open_axes(axes, xlabel="epoch", ylabel="validation accuracy")
    save_figure(figure, path)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="the folder that holds Planetoid/Cora/raw")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--width", type=int, default=16, help="of the stack")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--contraction", type=float, default=0.9)
    parser.add_argument("--models", nargs="*", choices=["stack", "relation", "hetero"],
                        default=["stack", "relation", "hetero"])  # fmt: skip
    parser.add_argument("--out", default="runs/hetero_cora")
    parser.add_argument("--smoke", action="store_true", help="a small synthetic graph")
    args = parser.parse_args()
    if args.smoke:
        plain, args.epochs, args.width, args.seeds = synthetic(), 5, 8, [0]
        plain.x = (plain.x > 0.8).float()
        if args.out == parser.get_default("out"):
            args.out = tempfile.mkdtemp(prefix="hetero_cora_")
    elif args.data_root is None:
        parser.error("expected --data-root, or --smoke")
    else:
        plain = citation(args.data_root, "Cora")
    data, classes = papers_and_words(plain), int(plain.y.max()) + 1
    budget = size(Stack(data, args.width, classes))

    def widest(build: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
        fitting = [w for w in range(4, 4 * args.width)
                   if size(build(data, w, classes, args.contraction)) <= budget]  # fmt: skip
        return lambda: build(data, fitting[-1], classes, args.contraction)

    models = {
        "stack": ("stack of 2 HeteroConv", lambda: Stack(data, args.width, classes)),
        "relation": ("equilibrium, RelationCell", widest(relation_cell)),
        "hetero": ("equilibrium, HeteroConv", widest(hetero_conv)),
    }
    print("| model | parameters | validation | test | converged |")
    print("|---|---|---|---|---|")
    table: dict[str, list[dict]] = {}
    for key in args.models:
        name, build = models[key]
        table[name] = runs = []
        for seed in args.seeds:
            torch.manual_seed(seed)
            runs.append(train(build(), data, args.epochs, args.lr))
        spread = stdev(r["test"] for r in runs) if len(runs) > 1 else 0.0
        print(
            f"| {name} | {runs[0]['parameters']:,} | {100 * mean(r['valid'] for r in runs):.1f} % "
            f"| {100 * mean(r['test'] for r in runs):.1f} ± {100 * spread:.1f} % "
            f"| {100 * mean(r['converged'] for r in runs):.1f} % |",
            flush=True,
        )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({"arguments": vars(args), "table": table}, indent=1))
    picture(table, out / "validation.png")


if __name__ == "__main__":
    main()
