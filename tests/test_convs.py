"""Every conv of PyTorch Geometric as the rule of an equilibrium, and the page that lists them."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
import torch_geometric
import torch_geometric.nn as pyg
from conftest import REPOSITORY
from conv_table import CONVS, MODELS, C, Refused, Works, graph
from torch_geometric.data import Batch
from torch_geometric.nn import MessagePassing

from gncadeq import GraphDEQ
from gncadeq.testing import (
    assert_batch_independent,
    assert_gradients_exact,
    assert_permutation_equivariant,
)

PAGE = REPOSITORY / "docs" / "convs.md"
TABLE = {**CONVS, **MODELS}
WORKING = [name for name, entry in TABLE.items() if isinstance(entry, Works)]
REFUSED = [n for n, e in TABLE.items() if isinstance(e, Refused) and e.build is not None]


def make(name: str, **options) -> GraphDEQ:
    torch.manual_seed(1)
    options = {"tol": 1e-11, "max_steps": 300, "contraction": 0.3, "power_steps": 4, **options}
    return GraphDEQ.from_conv(TABLE[name].build(), 3, channels=C, **options).double().eval()


@pytest.mark.parametrize("name", WORKING)
def test_laws_of_every_conv(name):
    """It solves, exactly differentiates, and doesn't mind the order or the company of its graph."""
    deq, entry = make(name), TABLE[name]
    graphs = [graph(entry, 5, seed=1), graph(entry, 8, seed=2)]
    assert_permutation_equivariant(deq.cell, graphs[1])
    assert_batch_independent(deq, Batch.from_data_list(graphs), atol=1e-8, step_slack=2)
    assert_gradients_exact(deq, graphs[0], steps=30)


def solve_and_check(name: str) -> None:
    data, deq = graph(Works(lambda: None), 12), make(name)
    deq(data.x, data.edge_index)
    assert_permutation_equivariant(deq.cell, data)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_convs_are_refused(name):
    """By an error of ours or of the conv's, or by a broken law (a weight for every node)."""
    broken = AssertionError if name == "LINKX" else ValueError
    with pytest.raises((ValueError, RuntimeError, ImportError, TypeError, broken)):
        solve_and_check(name)


def test_every_conv_is_in_the_table():
    names = {n for n in pyg.conv.__all__ if n != "MessagePassing"}
    others = {
        n
        for n, k in vars(pyg).items()
        if inspect.isclass(k) and issubclass(k, MessagePassing) and k is not MessagePassing
    }
    assert names | others <= set(TABLE), "PyTorch Geometric has convs that nobody tried"


INTRODUCTION = """# Convs of PyTorch Geometric as rules

What `GraphDEQ.from_conv` makes of every conv of PyTorch Geometric {}, written by
`GNCADEQ_WRITE_DOCS=1 python -m pytest tests/test_convs.py`. Each row with a bound has been solved
in float64, its gradient compared with that of the automaton unrolled to convergence (relative error
1e-6), its nodes renumbered, and its graph solved alone and in a batch.

- *edge_attr is*: what the conv calls the third argument in `deq(x, edge_index, edge_attr)`.
- *by name*: what else it takes, as in `deq(x, edge_index, pos=pos)`.
- *bound*: *proven*, where convergence is proven (on undirected graphs, unless the remark names
  directed graphs, too), or *measured*, where the growth is measured and scaled away."""


def page() -> str:
    lines = [INTRODUCTION.format(minor_version())]
    for title, table in (("Convs", CONVS), ("Models that map states to states", MODELS)):
        lines += ["", f"## {title}", "", "| conv | edge_attr is | by name | bound | remark |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for name, entry in sorted(table.items(), key=lambda item: item[0].lower()):
            if isinstance(entry, Refused):
                lines.append(f"| {name} | | | not supported | {entry.reason} |")
                continue
            cell = make(name).cell
            proven = "proven" if cell.proven else "measured"
            edge = f"`{cell.signature.edge}`" if cell.signature.edge else ""
            context = ", ".join(f"`{n}`" for n in cell.signature.context if n != "batch")
            lines.append(f"| {name} | {edge} | {context} | {proven} | {entry.note} |")
    return "\n".join(lines) + "\n"


def minor_version() -> str:
    return ".".join(torch_geometric.__version__.split(".")[:2])


def test_the_page_is_up_to_date():
    if os.environ.get("GNCADEQ_WRITE_DOCS"):
        PAGE.write_text(page())
    if f"Geometric {minor_version()}," not in PAGE.read_text():
        pytest.skip(f"docs/convs.md is about another version than {torch_geometric.__version__}")
    assert PAGE.read_text() == page(), (
        "Run GNCADEQ_WRITE_DOCS=1 python -m pytest tests/test_convs.py"
    )
