"""Whatever a command raises becomes one sentence on standard error and a non-zero exit code."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from gncadeq import ConvergenceError, __version__
from gncadeq.cli import main
from gncadeq.commands.failure import sentence

RAISED = {
    "ours": (ValueError("Expected 'a' (got 'b')"), "Expected 'a' (got 'b')"),
    "ours, of several lines": (TypeError("Expected\n  'a'"), "Expected\n  'a'"),
    "no convergence": (ConvergenceError("1 of 2 graphs"), "1 of 2 graphs"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "run/x"),
                  "(got No space left on device: run/x). Free some space"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "x"),
                      "(got Permission denied: x). Change the permissions"),
    "no memory": (MemoryError(), "Expected enough memory (got none left)"),
    "no memory for an array": (np._core._exceptions._ArrayMemoryError((9, 9), np.dtype(float)),
                               "Expected enough memory (got Unable to allocate 648 bytes"),
    "no memory for a tensor": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        "Expected enough memory (got [enforce fail]",
    ),
    "deep input": (RecursionError("maximum recursion depth exceeded"), "nested less deeply"),
    "linear algebra": (np.linalg.LinAlgError("Singular matrix"), "(got: Singular matrix)"),
    "torch's": (torch.linalg.LinAlgError("not converge"), "lower the learning rate"),
    "a pickle": (pickle.UnpicklingError("pickle data was truncated"), "UnpicklingError: pickle"),
    "a key": (KeyError("state_dict"), "(KeyError: 'state_dict'). Run it again with --debug"),
    "nothing said": (ValueError(), "ValueError"),
    "long": (RuntimeError("x" * 5000), "x…). Run it again"),
}  # fmt: skip


@pytest.fixture
def failing(monkeypatch, capsys):
    """``gncadeq doctor``, which raises what is given: its exit code and standard error."""

    def run(error: BaseException, *words: str) -> tuple[int, str]:
        def raise_it(*_, **__):
            raise error

        monkeypatch.setattr("gncadeq.commands.doctor.console.print", raise_it)
        monkeypatch.setattr(sys, "argv", ["gncadeq", "doctor", *words])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which main replaces
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", RAISED)
def test_every_exception_is_a_sentence(name, failing):
    error, expected = RAISED[name]
    code, said = failing(error)
    assert code == 1
    assert said.startswith("Error: ")
    assert expected in said
    assert "Traceback" not in said
    assert len(said) < 400


def test_debug_shows_where_it_came_from(failing):
    code, said = failing(KeyError("state_dict"), "--debug")
    assert code == 1
    assert said.startswith("Traceback")
    assert "in raise_it" in said
    assert said.splitlines()[-1].startswith("Error: Unexpected error of gncadeq (KeyError")


def test_an_interruption_is_no_error(failing):
    assert failing(KeyboardInterrupt())[0] == 130


def test_sentences_name_every_file():
    error = OSError(errno.ENOENT, "No such file or directory", "a", None, "b")
    assert sentence(error) == (
        "Expected to read or write files (got No such file or directory: a, b). Check the path"
    )


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gncadeq.cli", *words],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_version_and_short_help():
    assert run("--version").stdout == f"gncadeq {__version__}\n"
    assert "Usage" in run("-h").stdout
    assert "--epochs" in run("train", "-h").stdout


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m gncadeq.cli train --help | true",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
