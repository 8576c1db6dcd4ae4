"""Change the package in one small place at a time, and see whether its tests notice.

    python tests/mutate.py                       # 20 mutants, seed 0
    python tests/mutate.py --count 200 --seed 1 --under gncadeq/dynamics
    python tests/mutate.py --list --count 50     # only show them

A mutant is the package with one comparison, operator, constant, condition or returned value
changed, drawn by the seed among all such places in ``dynamics/``, ``cells/`` and the modules of the
prepared graph. The quick tests that belong to its file run in a copy, in a process of their own,
once as it is and then changed; a mutant is killed if one fails or the time is up. Messages,
representations and argument checks that only raise are left alone. Prints every mutant with its
line and what noticed it, and the share that was killed; exits with 1 if that is below ``--least``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Which tests belong to the files under a path, the quickest first. The longest path counts.
TESTS = {
    "gncadeq/dynamics": "right_values solvers start gradients laws maps robust_forms",
    "gncadeq/dynamics/frozen.py": "right_values gradients laws",
    "gncadeq/dynamics/rollout.py": "right_values gradients models automata laws",
    "gncadeq/cells": "right_values cells forms laws models",
    "gncadeq/cells/ignn.py": "ignn forms zero_gradients laws",
    "gncadeq/graph/adjacency.py": "ignn propagation forms zero_gradients laws",
    "gncadeq/cells/propagation.py": "propagation forms laws",
    "gncadeq/cells/monotone.py": "monotone forms laws",
    "gncadeq/cells/growing.py": "right_values growing automata",
    "gncadeq/graph/perception.py": "growing automata micro",
    "gncadeq/cells/micro.py": "micro growing",
    "gncadeq/cells/threshold.py": "automata",
    "gncadeq/cells/totalistic.py": "automata",
    "gncadeq/cells/binary.py": "automata",
    "gncadeq/cells/elastic.py": "elastic",
    "gncadeq/cells/equivariant.py": "equivariant",
    "gncadeq/cells/relation.py": "states",
    "gncadeq/cells/node_edge.py": "states",
    "gncadeq/cells/typed.py": "states rows",
    "gncadeq/cells/pyg/hetero_conv.py": "states wrap convs",
    "gncadeq/cells/pyg/wrap.py": "wrap rows sums convs",
    "gncadeq/cells/pyg/from_conv.py": "wrap rows convs",
    "gncadeq/cells/pyg/conv_attention.py": "attention wrap",
    "gncadeq/cells/pyg/conv_bounds.py": "wrap sums attention",
    "gncadeq/cells/pyg/conv_signature.py": "wrap rows convs",
    "gncadeq/cells/pyg/conv_sums.py": "sums wrap",
    "gncadeq/graph/neighborhood.py": "forms transforms laws models",
    "gncadeq/graph/layout.py": "forms transforms laws models",
    "gncadeq/graph/sparse.py": "forms ignn growing laws",
}
COMPARE = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
EDGE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip
QUIET = ("__repr__", "extra_repr", "_check", "check_")  # functions that only say or refuse


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """The nodes that may be changed, each with a kind of change."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.FunctionDef) and node.name.startswith(QUIET):
            continue
        if isinstance(node, ast.If) and all(isinstance(part, ast.Raise) for part in node.body):
            stack += node.orelse
            continue
        if isinstance(node, ast.Compare):
            yield node, "compare"
            if type(node.ops[0]) in EDGE:
                yield node, "edge"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in BINARY:
            yield node, "operator"
        elif isinstance(node, ast.BoolOp):
            yield node, "and/or"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, "sign"
        elif isinstance(node, ast.If | ast.IfExp):
            yield node, "condition"
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, "constant"
        elif isinstance(node, ast.Return) and not _is_none(node.value):
            yield node, "return"
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list", "slice_annotation"):
                parts = value if isinstance(value, list) else [value]
                stack += [part for part in parts if isinstance(part, ast.AST)]


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def change(node: ast.AST, kind: str) -> None:
    """Change one node in place."""
    if kind in ("compare", "edge"):
        table = COMPARE if kind == "compare" else EDGE
        node.ops[0] = table[type(node.ops[0])]()
    elif kind == "operator":
        node.op = BINARY[type(node.op)]()
    elif kind == "and/or":
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif kind == "sign":
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif kind == "condition":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif kind == "constant":
        old = node.value
        node.value = not old if isinstance(old, bool) else old + 1 if old in (0, 1) else old * 2
    else:
        node.value = ast.Constant(None)


def mutants(files: list[str], count: int, seed: int) -> list[tuple[str, int, str, str]]:
    """``(file, line, what, source)`` of mutants drawn among all places of all files."""
    everywhere = []
    for file in files:
        tree = ast.parse((ROOT / file).read_text())
        everywhere += [(file, index) for index in range(len(list(places(tree))))]
    drawn = random.Random(seed).sample(everywhere, min(count, len(everywhere)))
    found = []
    for file, index in drawn:
        tree = ast.parse((ROOT / file).read_text())
        node, kind = list(places(tree))[index]
        before = ast.unparse(copy.copy(node)).partition("\n")[0]
        change(node, kind)
        after = ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0]
        source = ast.unparse(ast.fix_missing_locations(tree))
        found.append((file, node.lineno, f"{kind}: {before}  →  {after}", source))
    return found


def tests_of(file: str) -> list[str]:
    """The test files that belong to a file."""
    path = max((p for p in TESTS if file.startswith(p)), key=len)
    return [f"tests/test_{name}.py" for name in TESTS[path].split()]


def noticed(place: Path, tests: list[str], seconds: float) -> str | None:
    """What fails in the copy at ``place``: a test or the time; ``None`` if all pass."""
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=place, env=environment, timeout=seconds, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "time"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].partition(" - ")[0] if lines else f"exit {done.returncode}"


def main() -> int:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--under", default="", help="only files under this path")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of one test run")
    parser.add_argument("--least", type=float, default=0.0, help="share that must be killed")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    args = parser.parse_args()
    files = sorted(
        str(path.relative_to(ROOT))
        for top in {name for name in TESTS if "/" not in name[8:]}
        for path in ([ROOT / top] if top.endswith(".py") else (ROOT / top).rglob("*.py"))
    )
    files = [f for f in files if f.startswith(args.under) and not f.endswith("__init__.py")]
    drawn = mutants(files, args.count, args.seed)
    if args.list:
        print("\n".join(f"{file}:{line}: {what}" for file, line, what, _ in drawn))
        return 0
    alive, passing = 0, set()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "copy"
        skip = shutil.ignore_patterns(".*", "__pycache__", "runs", "shared")
        shutil.copytree(ROOT, place, ignore=skip)
        for number, (file, line, what, source) in enumerate(drawn, start=1):
            tests = tests_of(file)
            if tuple(tests) not in passing:  # a test that fails anyway would kill every mutant
                failed = noticed(place, tests, 10 * args.seconds)
                if failed is not None:
                    print(f"Expected tests that pass on the unchanged package (got {failed})")
                    return 2
                passing.add(tuple(tests))
            target = place / file
            original = target.read_text()
            target.write_text(source)
            reason = noticed(place, tests, args.seconds)
            target.write_text(original)
            alive += reason is None
            word = "SURVIVED" if reason is None else "killed"
            print(f"{number:4d} {word:9s}{file}:{line}: {what}  ({reason})", flush=True)
    share = 1 - alive / max(1, len(drawn))
    print(f"{len(drawn) - alive} of {len(drawn)} mutants killed ({100 * share:.0f} %)")
    return int(share < args.least)


if __name__ == "__main__":
    sys.exit(main())
