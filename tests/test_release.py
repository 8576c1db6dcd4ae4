"""Files that name the version name the same one; the package runs as a program."""

from __future__ import annotations

import re
import runpy

import pytest
from conftest import REPOSITORY

from gncadeq import __version__


def test_the_version_stands_in_every_file_that_names_it():
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog(), re.M)
    assert released[0] == __version__


def changelog() -> str:
    return (REPOSITORY / "CHANGELOG.md").read_text()


def test_python_runs_the_package_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gncadeq", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gncadeq", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out == f"gncadeq {__version__}\n"
