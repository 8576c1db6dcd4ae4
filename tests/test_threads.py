"""Commands run on one thread unless told otherwise; the library leaves threads alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gncadeq.commands import threads

# A misspelled command, which ends before it loads torch, which reads the environment.
SCRIPT = """
import os
import sys
from gncadeq.cli import main
try:
    main()
except SystemExit:
    assert "torch" not in sys.modules
    names = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    print(*(os.environ[name] for name in names))
"""
ALONE = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}


def run(script: str, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True, text=True, check=False, env={**ALONE, **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        ((), {}, "1 passive 1000"),
        (("--threads", "2"), {}, "2 passive 1000"),
        (("--threads=2",), {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, "2 passive 1000"),
        ((), {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"}, "2 active 1000"),
        ((), {"GOMP_SPINCOUNT": "7"}, "1 passive 7"),
    ],
)
def test_a_command_runs_on_one_thread_unless_told_otherwise(words, environment, expected):
    order = (*words, "train", "cifar") if environment else ("train", "cifar", *words)
    assert run(SCRIPT, *order, **environment) == expected


@pytest.mark.skipif(threads.usable_cores() < 2, reason="torch takes no more threads than cores")
def test_torch_takes_the_number_of_a_command():
    script = SCRIPT + "    import torch\n    print(torch.get_num_threads())"
    assert run(script, "train", "cifar", "--threads", "2").endswith("\n2")


def test_the_number_is_checked():
    script = "from gncadeq.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", "--threads", "0"],
        capture_output=True, text=True, check=False, env={**ALONE, "TERMINAL_WIDTH": "200"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--threads" in done.stderr


def test_doctor_compares_threads_with_the_load(monkeypatch):
    from gncadeq.commands import doctor

    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(threads, "_chosen", set())
    assert doctor._threads(2).endswith("2 in Python (OMP_NUM_THREADS), 4 cores")
    assert "Expected 3 idle cores for 3 threads" in doctor._threads(3)
    monkeypatch.setattr(threads, "_chosen", {"OMP_NUM_THREADS"})  # by a command, not the user
    assert "4 in Python" in doctor._threads(1)
    assert "Expected 4 idle cores for 4 threads" in doctor._threads(1)
