"""PyTorch Geometric's own scripts for Cora, and the same with an equilibrium for their convs.

    python examples/swapped_convs.py --data-root DATA                                  # 3 seeds
    python examples/swapped_convs.py --data-root DATA --scripts gat link_pred --seeds 10
    python examples/swapped_convs.py --smoke                                           # a minute

``DATA/Planetoid/Cora/raw`` holds the public split; it is copied to a temporary folder. Each script
(``gat.py``, ``arma.py``, ``gcn2_cora.py``, ``infomax_transductive.py``, ``link_pred.py`` of PyTorch
Geometric's examples) keeps its losses, dropout, optimiser and epochs. The equilibrium is that of a
new conv, with the most channels, a multiple of eight, that need no more parameters than the script;
for ``gcn2``, whose 64 layers have 354,375, with the layers' 64 channels. The epoch with the best
validation score gives the test score: accuracy; for ``link_pred`` the area under the ROC curve; for
``infomax`` the accuracy of a logistic regression on the embeddings, which saw no labels. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from citation_graphs import citation, synthetic
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    ARMAConv,
    DeepGraphInfomax,
    GATConv,
    GCN2Conv,
    GCNConv,
    Sequential,
)
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import negative_sampling

from gncadeq import GraphDEQ

Scores = Iterator[tuple[float, float]]  # of validation and test, epoch by epoch


class Stack(nn.Module):
    """Convs with dropout before each and an activation between them."""

    def __init__(self, rate: float, activation: nn.Module, *convs: nn.Module) -> None:
        super().__init__()
        self.rate, self.activation, self.convs = rate, activation, nn.ModuleList(convs)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits or embeddings."""
        for k, conv in enumerate(self.convs):
            x = self.activation(x) if k else x
            x = conv(F.dropout(x, self.rate, self.training), edge_index)
        return x


class GCNII(nn.Module):
    """64 layers with an initial residual, between two linear maps."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 64), nn.Linear(64, classes)
        self.convs = nn.ModuleList(GCN2Conv(64, 0.1, 0.5, k + 1, cached=True) for k in range(64))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits."""
        drop = nn.Dropout(0.6).train(self.training)
        x = x0 = self.first(drop(x)).relu()
        for conv in self.convs:
            x = conv(drop(x), x0, edge_index).relu()
        logits: Tensor = self.last(drop(x))
        return logits


class Swapped(nn.Module):
    """An equilibrium in the place of the convs, with a linear map or a conv for classes behind."""

    def __init__(self, deq: GraphDEQ, rate: float = 0.0, last: nn.Module | None = None) -> None:
        super().__init__()
        self.deq, self.rate, self.last = deq, rate, last

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits or embeddings."""
        z = self.deq(F.dropout(x, self.rate, self.training), edge_index)
        z = F.dropout(z, self.rate, self.training)
        if self.last is None:
            return z
        out: Tensor = self.last(z) if type(self.last) is nn.Linear else self.last(z, edge_index)
        return out


def classify(
    model: nn.Module, data: Data, epochs: int, lr: float, decay: dict[str, float]
) -> Scores:
    """Train on the labelled nodes, with a weight decay for the parameters of every prefix."""
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in decay}
    for name, parameter in model.named_parameters():
        groups[next(prefix for prefix in decay if name.startswith(prefix))].append(parameter)
    optimizer = torch.optim.Adam(
        [{"params": p, "weight_decay": decay[prefix]} for prefix, p in groups.items()], lr=lr
    )
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        F.cross_entropy(out, data.y[data.train_mask]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            right = (model(data.x, data.edge_index).argmax(1) == data.y).float()
        yield float(right[data.val_mask].mean()), float(right[data.test_mask].mean())


def link_pred(model: nn.Module, data: Data, epochs: int) -> Scores:
    """Tell edges from pairs that are none by the product of their ends' embeddings."""
    split = RandomLinkSplit(0.05, 0.1, is_undirected=True, add_negative_train_samples=False)
    train, valid, test = split(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def products(graph: Data, pairs: Tensor) -> Tensor:
        ends = model(graph.x, graph.edge_index)[pairs]
        return (ends[0] * ends[1]).sum(-1)

    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        pairs = train.edge_label_index
        other = negative_sampling(train.edge_index, data.num_nodes, pairs.size(1), method="sparse")
        label = torch.cat([torch.ones(pairs.size(1)), torch.zeros(other.size(1))])
        out = products(train, torch.cat([pairs, other], 1))
        F.binary_cross_entropy_with_logits(out, label).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            yield tuple(
                float(roc_auc_score(graph.edge_label, products(graph, graph.edge_label_index)))
                for graph in (valid, test)
            )  # type: ignore[misc]


def infomax(model: nn.Module, data: Data, epochs: int) -> Scores:
    """Tell the graph's embeddings from those of shuffled nodes by a summary of the graph."""
    width = model(data.x, data.edge_index).size(1)
    network = DeepGraphInfomax(
        width, model, summary=lambda z, *_: z.mean(0).sigmoid(),
        corruption=lambda x, edge_index: (x[torch.randperm(x.size(0))], edge_index),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    for _ in range(epochs):
        network.train()
        optimizer.zero_grad()
        network.loss(*network(data.x, data.edge_index)).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        z = model(data.x, data.edge_index).numpy()
    reader = LogisticRegression(max_iter=150).fit(z[data.train_mask], data.y[data.train_mask])
    yield tuple(reader.score(z[m], data.y[m]) for m in (data.val_mask, data.test_mask))  # type: ignore[misc]


@dataclass(frozen=True)
class Script:
    """One of PyTorch Geometric's examples, and its equilibrium.

    Attributes:
        epochs: How long it trains.
        train: Yields the scores of every epoch, given a model, data and epochs.
        stack: Makes its model, given numbers of inputs and classes.
        swapped: Makes the equilibrium, given a width as well; or a variant of it, by name.
        published: What the method's authors report on the public split of Cora.
        width: Channels of the equilibrium; by default as many as the script's size allows.
    """

    epochs: int
    train: Callable[..., Scores]
    stack: Callable[[int, int], nn.Module]
    swapped: dict[str, Callable[[int, int, int], nn.Module]]
    published: str = ""
    width: int | None = None


def new(kind: type[nn.Module], inputs: int, width: int, **options: Any) -> GraphDEQ:
    """The equilibrium of a new conv."""
    return GraphDEQ.from_conv(kind, inputs, channels=width, on_failure="ignore", **options)


SCRIPTS = {
    "gat": Script(
        200, lambda m, d, e: classify(m, d, e, 0.005, {"": 5e-4}),
        lambda i, c: Stack(
            0.6, nn.ELU(), GATConv(i, 8, heads=8, dropout=0.6),
            GATConv(64, c, concat=False, dropout=0.6),
        ),
        {
            "": lambda i, c, w: Swapped(
                new(GATConv, i, w, heads=8, dropout=0.6), 0.6, nn.Linear(w, c)
            ),
            ", attention without dropout": lambda i, c, w: Swapped(
                new(GATConv, i, w, heads=8), 0.6, nn.Linear(w, c)
            ),
            ", read by a GAT layer": lambda i, c, w: Swapped(
                new(GATConv, i, w, heads=8, dropout=0.6), 0.6, GATConv(w, c, dropout=0.6)
            ),
        },
        "83.0 ± 0.7",
    ),
    "arma": Script(
        400, lambda m, d, e: classify(m, d, e, 0.01, {"": 5e-4}),
        lambda i, c: Stack(
            0.5, nn.ReLU(), ARMAConv(i, 16, 3, 2, shared_weights=True, dropout=0.25),
            ARMAConv(16, c, 3, 2, shared_weights=True, dropout=0.25, act=None),
        ),
        {"": lambda i, c, w: Swapped(
            new(ARMAConv, i, w, num_stacks=3, num_layers=2, shared_weights=True, dropout=0.25),
            0.5, nn.Linear(w, c),
        )},
        "83.4 ± 0.6",
    ),
    "gcn2": Script(
        1000,
        lambda m, d, e: classify(m, d, e, 0.01, {"convs": 0.01, "": 5e-4}),
        GCNII,
        {"": lambda i, c, w: Swapped(
            new(GCN2Conv, i, w, alpha=0.1, theta=0.5, layer=1), 0.6, nn.Linear(w, c)
        )},
        "85.5 ± 0.5", width=64,
    ),
    "infomax": Script(
        300, infomax,
        lambda i, c: Sequential(
            "x, edge_index", [(GCNConv(i, 512), "x, edge_index -> x"), nn.PReLU(512)]
        ),
        {"": lambda i, c, w: Swapped(new(GCNConv, i, w))}, "82.3 ± 0.6",
    ),
    "link_pred": Script(
        100, link_pred, lambda i, c: Stack(0.0, nn.ReLU(), GCNConv(i, 128), GCNConv(128, 64)),
        {"": lambda i, c, w: Swapped(new(GCNConv, i, w))},
    ),
}  # fmt: skip


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def width_of(script: Script, inputs: int, classes: int) -> int:
    """The most channels, a multiple of eight, for which the equilibrium isn't larger, or fewer."""
    if script.width is not None:
        return script.width
    most, width = size(script.stack(inputs, classes)), 8
    while size(script.swapped[""](inputs, classes, width + 8)) <= most:
        width += 8
    return width


def main() -> None:
    """Train both of every script, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="the folder that holds Planetoid/Cora/raw")
    parser.add_argument("--scripts", nargs="*", default=list(SCRIPTS), choices=list(SCRIPTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="two epochs on a synthetic graph")
    args = parser.parse_args()
    if args.data_root is None and not args.smoke:
        parser.error("expected --data-root, or --smoke")
    data = synthetic() if args.smoke else citation(args.data_root, "Cora")
    inputs, classes, seeds = data.num_features, int(data.y.max()) + 1, args.seeds
    print(
        "| script | model | parameters | validation | test | seeds | published |\n"
        + "|---" * 7
        + "|"
    )
    for name in args.scripts:
        script = SCRIPTS[name]
        epochs, seeds = (2, 1) if args.smoke else (script.epochs, seeds)
        width = width_of(script, inputs, classes)
        models = {"unmodified": partial(script.stack, inputs, classes)}
        for variant, swapped in script.swapped.items():
            models[f"equilibrium of {width} channels{variant}"] = partial(
                swapped, inputs, classes, width
            )
        for kind, new_model in models.items():
            best: list[tuple[float, float]] = []
            for seed in range(seeds):
                torch.manual_seed(seed)
                model = new_model()
                best.append(max(script.train(model, data, epochs), key=lambda scores: scores[0]))
            valid, test = (100 * mean(s) for s in zip(*best, strict=True))
            spread = 100 * stdev(t for _, t in best) if seeds > 1 else 0.0
            print(
                f"| {name} | {kind} | {size(model):,} | {valid:.1f} | {test:.1f} ± {spread:.1f} | "
                f"{seeds} | {script.published if kind == 'unmodified' else ''} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
