"""Change the package in one small place at a time, and see whether its tests notice.

    python tests/mutate.py                       # 20 mutants, seed 0
    python tests/mutate.py --count 200 --seed 1 --under gncadeq/dynamics
    python tests/mutate.py --count 200 --from 107   # go on where a run was ended
    python tests/mutate.py --list --count 50     # only show them

A mutant is the package with one comparison, operator, constant, condition or returned value
changed, drawn by the seed among all such places in ``dynamics/``, ``graph/`` and ``cells/``.
Messages, representations and argument checks that only raise are left alone.

The tests of these folders run once as they are, in a copy, which also records the functions that
each test calls. For a mutant, those tests run which call the changed function, the quickest first,
for at most ``--seconds`` in sum; where no test calls it (a value set at import), those that call
any function of its file. A mutant is killed if one fails or takes far too long. Prints every mutant
with its line and what noticed it, and the share that was killed; exits with 1 if that is below
``--least``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("gncadeq/cells", "gncadeq/dynamics", "gncadeq/graph")
# The test files about them: quick ones that need neither data nor another program.
TESTS = (
    "right_values rows forms cells propagation ignn monotone micro growing automata "
    "equivariant states typed_input sums attention linear_step wrap from_conv cascade "
    "cascade_randomness sweep torchdeq torchdeq_cells solver_verdicts solver_methods start "
    "solvers error_bound options criteria certificates gradients precision randomness "
    "checkpointing zero_gradients robust_forms bounded_perception transforms maps models laws "
    "situations shortcuts self_classifying order_and_energy"
)
# Imported before a copy is: they are what takes long to import, and the same for every mutant.
HEAVY = ("torch", "torch_geometric.nn", "torchdeq", "torchvision", "pytest", "hypothesis", "scipy")
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


class Recorder:
    """A plugin of pytest that records how long each test takes and which functions it calls."""

    def __init__(self, place: Path) -> None:
        self.place, self.called = str(place) + os.sep, set()
        self.found: dict[str, dict] = {}
        self.failed: set[str] = set()

    def pytest_runtest_protocol(self, item, nextitem) -> None:
        """Begin to record a test, with its fixtures."""
        self.called, self.begun = set(), time.process_time()
        sys.settrace(self.trace)

    def trace(self, frame, event, _) -> None:
        """Take down a call."""
        code = frame.f_code
        if code.co_filename.startswith(self.place):
            self.called.add((code.co_filename, code.co_firstlineno))

    def pytest_runtest_logreport(self, report) -> None:
        """Take down a failure."""
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid, location) -> None:
        """End it."""
        sys.settrace(None)
        calls = [f"{file.removeprefix(self.place)}:{line}" for file, line in self.called]
        spent = time.process_time() - self.begun
        if nodeid not in self.failed:  # it would kill every mutant
            self.found[nodeid] = {"seconds": spent, "calls": sorted(set(calls))}


def _run(place: Path, tests: list[str], seconds: float, record: bool) -> None:
    """In a process of its own: run tests against the copy, and write what failed."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    os.chdir(place)
    sys.path.insert(0, str(place))
    sys.dont_write_bytecode = True
    with (place / "output").open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        recorder = Recorder(place)
        plugins = [recorder] if record else []
        how = ["-q", "-p", "no:cacheprovider"] + ([] if record else ["-x"])
        code = pytest.main([*how, *tests], plugins)
        (place / "recorded").write_text(json.dumps([recorder.found, sorted(recorder.failed)]))
        sys.stdout.flush()
        os._exit(int(code))


def noticed(place: Path, tests: list[str], seconds: float, record: bool = False) -> str | None:
    """What fails in the copy at ``place``: a test or the time; ``None`` if all pass."""
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(place, tests, seconds, record)
    )
    process.start()
    process.join()
    if process.exitcode == 0:
        return None
    lines = (place / "output").read_text(errors="replace").splitlines()
    lines = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if process.exitcode < 0:
        return "time"
    return lines[0].partition(" - ")[0] if lines else f"exit {process.exitcode}"


def function_at(source: str, line: int) -> int | None:
    """The first line of the innermost function around a line, as its code object has it."""
    found = None
    for node in ast.walk(ast.parse(source)):
        inside = isinstance(node, ast.FunctionDef) and node.lineno <= line <= node.end_lineno
        if inside and (found is None or node.lineno > found.lineno):
            found = node
    if found is None or line < found.body[0].lineno:  # a default is a value set at import
        return None
    return min([found.lineno, *(each.lineno for each in found.decorator_list)])


def tests_of(file: str, first: int | None, recorded: dict[str, dict], seconds: float) -> list[str]:
    """The tests of a function that begins at a line, or else of its file, the quickest first."""
    of_function = [t for t, r in recorded.items() if f"{file}:{first}" in r["calls"]]
    of_file = [t for t, r in recorded.items() if any(c.startswith(f"{file}:") for c in r["calls"])]
    chosen, spent = [], 0.0
    for test in sorted(of_function or of_file, key=lambda t: recorded[t]["seconds"]):
        spent += recorded[test]["seconds"]
        if chosen and spent > seconds:
            break
        chosen.append(test)
    return chosen


def record(place: Path, kept: Path | None) -> dict[str, dict]:
    """How long each test takes and which functions it calls, by its name.

    Args:
        place: The copy.
        kept: A file that keeps this, test file by test file, for the next time.
    """
    known = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    for name in TESTS.split():
        if name in known:
            continue
        noticed(place, [f"tests/test_{name}.py"], 7200, record=True)
        known[name], failed = json.loads((place / "recorded").read_text())
        for test in failed:
            print(f"left out, since it fails on the unchanged package: {test}", flush=True)
        if kept:
            kept.write_text(json.dumps(known))
    return {test: found for tests in known.values() for test, found in tests.items()}


def main() -> int:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=1, help="run from this one on")
    parser.add_argument("--under", default="", help="only files under this path")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for a mutant")
    parser.add_argument("--least", type=float, default=0.0, help="share that must be killed")
    parser.add_argument("--record", type=Path, help="keep what each test calls, or use it again")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    args = parser.parse_args()
    files = sorted(
        str(path.relative_to(ROOT)) for top in FOLDERS for path in (ROOT / top).rglob("*.py")
    )
    files = [f for f in files if f.startswith(args.under) and not f.endswith("__init__.py")]
    drawn = mutants(files, args.count, args.seed)
    if args.list:
        print("\n".join(f"{file}:{line}: {what}" for file, line, what, _ in drawn))
        return 0
    drawn = drawn[args.first - 1 :]
    for name in HEAVY:
        importlib.import_module(name)
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "copy"
        skip = shutil.ignore_patterns(".*", "__pycache__", "runs", "shared")
        shutil.copytree(ROOT, place, ignore=skip)
        recorded = record(place, args.record)
        for number, (file, line, what, source) in enumerate(drawn, start=args.first):
            target = place / file
            original = target.read_text()
            tests = tests_of(file, function_at(original, line), recorded, args.seconds)
            target.write_text(source)
            limit = 60 + 3 * sum(recorded[test]["seconds"] for test in tests)
            reason = noticed(place, tests, limit) if tests else None
            target.write_text(original)
            alive += reason is None
            word = "SURVIVED" if reason is None else "killed"
            reason = reason or f"of {len(tests)} tests"
            print(f"{number:4d} {word:9s}{file}:{line}: {what}  ({reason})", flush=True)
    share = 1 - alive / max(1, len(drawn))
    print(f"{len(drawn) - alive} of {len(drawn)} mutants killed ({100 * share:.0f} %)")
    return int(share < args.least)


if __name__ == "__main__":
    sys.exit(main())
