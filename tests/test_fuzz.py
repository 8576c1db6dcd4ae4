"""Damaged files, wrong options and wrong arguments end with a result or with a named error.

``GNCADEQ_FUZZ=10000 pytest tests/test_fuzz.py`` (``make fuzz``) tries so many cases, and
``GNCADEQ_FUZZ_SEED`` draws others.
"""

from __future__ import annotations

import ast
import os
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from fuzz_targets import calls, commands, corpus
from fuzzing import Bomb, call_case, file_case, is_named, option_case, outcome

CASES = int(os.environ.get("GNCADEQ_FUZZ", "300"))
SEED = int(os.environ.get("GNCADEQ_FUZZ_SEED", "0"))
KINDS = {"file": 0.6, "call": 0.3, "option": 0.1}


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_ends_with_a_result_or_a_named_error(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = [str(tmp_path / "o"), str(tmp_path / "m.ply"), str(tmp_path / "m.ply" / "o"),
              "/dev/full", "/proc/none/x", str(tmp_path / ("x" * 300))]  # fmt: skip
    target = {
        "file": lambda: corpus(tmp_path / "right"),
        "call": calls,
        "option": lambda: commands(tmp_path),
    }[kind]()
    make = {
        "file": lambda draw: file_case(target, draw, tmp_path),
        "call": lambda draw: call_case(target, draw),
        "option": lambda draw: option_case(target, places, draw),
    }[kind]
    found: Counter[str] = Counter()
    count = int(CASES * KINDS[kind])
    for number in range(count):
        name, run = make(random.Random(f"{SEED} {kind} {number}"))
        if (wrong := outcome(run)) is not None:
            found[f"{name} [{number}] → {wrong}"] += 1
    with capsys.disabled():
        print(f"\n{count} cases of the kind {kind!r}: {found.total()} without a named error")
    assert not found, "\n".join(list(found)[:60])


def test_what_the_fuzzer_changes_is_right_before(tmp_path):
    for name, (content, read) in corpus(tmp_path / "right").items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        read(path)
    for function, arguments in calls().values():
        function(**arguments)


def numbers():
    for name, (_, arguments) in calls().items():
        for argument, value in arguments.items():
            if isinstance(value, int | float):
                yield name, argument


@pytest.mark.parametrize("wrong", [float("nan"), "x", [], -float("inf"), torch.zeros(2)], ids=repr)
def test_what_is_no_number_is_refused_wherever_a_number_is_expected(wrong):
    taken, table = [], calls()
    for name, argument in numbers():
        function, arguments = table[name]
        try:
            function(**{**arguments, argument: wrong})
        except Exception as error:
            if not is_named(error):
                taken.append((name, argument, repr(error)[:200]))
        else:
            taken.append((name, argument))
    assert not taken


def kinds(value) -> dict:
    return {name: type(each) for name, each in getattr(value, "__dict__", {"": value}).items()}


@pytest.mark.parametrize("scalar", [np.asarray, torch.tensor, np.float64])
def test_scalars_of_arrays_and_tensors_become_numbers_wherever_a_number_is_expected(scalar):
    kept, table = [], calls()
    for name, argument in numbers():
        function, arguments = table[name]
        value = arguments[argument]
        if isinstance(value, bool):
            continue
        given = np.int64(value) if isinstance(value, int) else scalar(value)
        if kinds(function(**{**arguments, argument: given})) != kinds(function(**arguments)):
            kept.append((name, argument))
    assert not kept


def test_what_a_check_returns_is_what_is_used():
    """A statement that only checks a variable would leave a scalar of a tensor as it came."""
    places = {"check_number": 1, "check_count": 1, "check_value": 1, "check_seed": 0}
    unused = []
    for path in sorted((REPOSITORY / "gncadeq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.value if isinstance(node, ast.Expr) else None
            name = getattr(getattr(called, "func", None), "id", None)
            if name in places and "files" not in path.parts:  # which has a check of its own
                value = called.args[places[name]]
                if isinstance(value, ast.Name | ast.Attribute):
                    unused.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not unused


def test_the_fuzzer_notices_what_it_looks_for(tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists()
    for run, said in (
        (lambda: {}["a"], "KeyError"),
        (lambda: [][0], "IndexError"),
        (lambda: bytearray(2 << 30), "MemoryError"),
        (lambda: torch.empty(2 << 30, dtype=torch.uint8), "RuntimeError"),
        (lambda: int("a"), "ValueError"),
    ):
        assert (outcome(run) or "").startswith(said)
    assert outcome(lambda: 3) is None
