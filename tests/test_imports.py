"""Imports go one way: from the page of everything down to the checks, without circles."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "gncadeq"
# A module imports from its own level and from those above it in this list.
LEVELS = [
    {"check", "choices", "device", "files", "progress", "stateful"},
    {"graph", "typing"},
    {"certificate"},
    {"cell"},
    {"cells", "dynamics", "transforms"},
    {"datasets", "models", "growth", "analysis"},
    {"evaluation", "cell_labels", "export"},
    {"training", "viz"},
    {"report"},
    {"commands", "testing", "graphgym"},
    {"cli", "__main__"},
]
APART = [("cells", "dynamics"), ("cells", "transforms"), ("training", "viz")]  # on one level
EXCEPTIONS = {
    # GraphDEQ.from_conv(GATConv, ...) is what users of PyTorch Geometric begin with.
    ("dynamics.of_cell", "cells.pyg.from_conv"),
    # The two dynamics make each other of the cell that they share.
    ("dynamics.rollout", "dynamics.equilibrium"),
    # TorchDEQ's users ask its cores for the spectral radius, by sradius_mode.
    ("dynamics.graph_core", "analysis.spectrum"),
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").strip("."): path
    for path in ROOT.rglob("*.py")
}


def imported(path):
    """The names that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imports():
    """``(module, imported module)``, without the package itself, whose names load lazily."""
    pairs = set()
    for module, path in MODULES.items():
        inner = [n.removeprefix("gncadeq.") for n in imported(path) if n.startswith("gncadeq.")]
        pairs |= {(module, n if n in MODULES else n.rpartition(".")[0]) for n in inner}
    assert pairs >= EXCEPTIONS, "an exception that is no longer needed"
    return {(a, b) for a, b in pairs - EXCEPTIONS if a and b}


def level(module):
    found = [i for i, names in enumerate(LEVELS) if module.split(".")[0] in names]
    assert found, f"{module} has no level: add it to LEVELS"
    return found[0]


def test_imports_go_one_way():
    up = [(m, i) for m, i in imports() if level(i) > level(m)]
    assert not up, f"imports from a level above: {up}"


def test_neighbours_do_not_know_each_other():
    folders = {(m.split(".")[0], i.split(".")[0]) for m, i in imports()}
    assert not [p for p in APART if p in folders or p[::-1] in folders]


def test_there_are_no_circles():
    modules, folders = {}, {}
    for m, i in imports():
        modules.setdefault(m, set()).add(i)
        a, b = m.split(".")[0], i.split(".")[0]
        if a != b and {a, b} != {"graph", "typing"}:  # one level: an alias names a class of graph
            folders.setdefault(a, set()).add(b)
    TopologicalSorter({m: found - {m} for m, found in modules.items()}).prepare()
    TopologicalSorter(folders).prepare()


def test_numbers_know_no_pictures():
    for module, path in MODULES.items():
        if module.split(".")[0] in ("analysis", "graph", "cell", "cells", "dynamics", "models"):
            drawn = {name.split(".")[0] for name in imported(path)} & {"matplotlib", "PIL"}
            assert not drawn, module


FRESH = """
import json, os, sys, torch
def threads():
    return dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads()
before = threads()
import gncadeq, gncadeq.export
[getattr(gncadeq, name) for name in gncadeq.__all__]
modules = list(sys.modules)
import gncadeq.training.run, gncadeq.commands.threads
print(json.dumps([modules, before == threads()]))
"""


def test_an_import_is_light_and_leaves_threads_alone():
    """In a fresh process: all names of the package need none of the heavy packages."""
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH],
        capture_output=True, text=True, check=True, env=alone,
    )  # fmt: skip
    modules, same_threads = json.loads(done.stdout)
    heavy = {"lightning", "pytorch_lightning", "torchvision", "matplotlib", "sklearn", "trimesh",
             "skimage", "scipy.sparse", "scipy.spatial", "networkx", "onnx", "onnxscript",
             "onnxruntime"}  # fmt: skip
    assert not heavy & set(modules)
    assert same_threads
